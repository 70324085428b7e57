//! Matches of an HTTPRoute.

use serde::Deserialize;
use waypoint_model::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch};

use super::finding::Remarks;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WrittenMatch {
    path: Option<WrittenPath>,
    method: Option<String>,
    #[serde(default)]
    headers: Vec<Named>,
    #[serde(default)]
    query_params: Vec<Named>,
}

#[derive(Deserialize)]
struct WrittenPath {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    value: String,
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Translates one match; `path` is where it stands. After an error it means nothing.
pub(super) fn translate(written: &WrittenMatch, path: &str, remarks: &mut Remarks) -> RouteMatch {
    if let Some(method) = written.method.as_deref().filter(|method| !METHODS.contains(method)) {
        remarks.error(format!("{path}.method"), format!("`{method}` is not a method of the Gateway API"));
    }
    let headers = named(&written.headers, &format!("{path}.headers"), str::to_ascii_lowercase, remarks);
    let query = named(&written.query_params, &format!("{path}.queryParams"), str::to_owned, remarks);
    RouteMatch {
        path: written.path.as_ref().and_then(|written| path_match(written, &format!("{path}.path"), remarks)),
        ignore_path_case: false,
        method: written.method.clone(),
        headers: headers
            .into_iter()
            .map(|(name, value)| HeaderMatch { name, value: StringMatch::Exact(value), inverted: false })
            .collect(),
        query: query
            .into_iter()
            .map(|(name, value)| QueryMatch { name, value: StringMatch::Exact(value) })
            .collect(),
    }
}

fn path_match(written: &WrittenPath, path: &str, remarks: &mut Remarks) -> Option<PathMatch> {
    let value = written.value.clone().unwrap_or_else(|| "/".to_owned());
    if !value.starts_with('/') || value.contains("//") || value.contains(['?', '#']) {
        remarks.error(
            format!("{path}.value"),
            format!("`{value}` is no path: it starts with `/` and has no `//`, `?` or `#`"),
        );
        return None;
    }
    match written.kind.as_deref().unwrap_or("PathPrefix") {
        "Exact" => Some(PathMatch::Exact(value)),
        "PathPrefix" => Some(PathMatch::Prefix(value)),
        other => {
            remarks.error(
                format!("{path}.type"),
                format!("{other} is not supported: write Exact or PathPrefix"),
            );
            None
        }
    }
}

/// Exact comparisons by name. Of several with one name the first counts, as the Gateway API says.
fn named(
    written: &[Named],
    path: &str,
    spell: fn(&str) -> String,
    remarks: &mut Remarks,
) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for (index, one) in written.iter().enumerate() {
        if let Some(kind) = one.kind.as_deref().filter(|kind| *kind != "Exact") {
            remarks.error(format!("{path}[{index}].type"), format!("{kind} is not supported: write Exact"));
        }
        let name = spell(&one.name);
        if found.iter().any(|(known, _)| *known == name) {
            remarks.warning(
                format!("{path}[{index}].name"),
                format!("`{name}` is there already: only the first counts"),
            );
        } else {
            found.push((name, one.value.clone()));
        }
    }
    found
}
