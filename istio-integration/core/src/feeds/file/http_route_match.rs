//! Matches of an HTTPRoute.

use serde::Deserialize;
use waypoint_model::{HeaderMatch, PathMatch, Pattern, QueryMatch, RouteMatch, StringMatch};

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
            .map(|(name, value)| HeaderMatch { name, value, inverted: false })
            .collect(),
        query: query.into_iter().map(|(name, value)| QueryMatch { name, value }).collect(),
    }
}

fn path_match(written: &WrittenPath, path: &str, remarks: &mut Remarks) -> Option<PathMatch> {
    let value = written.value.clone().unwrap_or_else(|| "/".to_owned());
    if written.kind.as_deref() == Some("RegularExpression") {
        return pattern(&value, path, remarks).map(PathMatch::Regex);
    }
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
                format!("{other} is not supported: write Exact, PathPrefix or RegularExpression"),
            );
            None
        }
    }
}

/// A regular expression of the whole text; `path` is where its match stands.
fn pattern(text: &str, path: &str, remarks: &mut Remarks) -> Option<Pattern> {
    let parsed = Pattern::parse(text);
    if let Err(error) = &parsed {
        remarks.error(format!("{path}.value"), format!("`{text}` is no regular expression of RE2: {error}"));
    }
    parsed.ok()
}

/// Comparisons by name. Of several with one name the first counts, as the Gateway API says.
fn named(
    written: &[Named],
    path: &str,
    spell: fn(&str) -> String,
    remarks: &mut Remarks,
) -> Vec<(String, StringMatch)> {
    let mut found: Vec<(String, StringMatch)> = Vec::new();
    for (index, one) in written.iter().enumerate() {
        let exact = StringMatch::Exact(one.value.clone());
        let value = match one.kind.as_deref().unwrap_or("Exact") {
            "Exact" => exact,
            "RegularExpression" => {
                let pattern = pattern(&one.value, &format!("{path}[{index}]"), remarks);
                pattern.map_or(exact, StringMatch::Regex)
            }
            other => {
                let message = format!("{other} is not supported: write Exact or RegularExpression");
                remarks.error(format!("{path}[{index}].type"), message);
                exact
            }
        };
        let name = spell(&one.name);
        if found.iter().any(|(known, _)| *known == name) {
            remarks.warning(
                format!("{path}[{index}].name"),
                format!("`{name}` is there already: only the first counts"),
            );
        } else {
            found.push((name, value));
        }
    }
    found
}
