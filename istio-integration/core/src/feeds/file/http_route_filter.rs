//! Filters of an HTTPRoute: changes of headers, redirects, rewrites, mirrors and cross-origin requests.

use serde::Deserialize;
use waypoint_model::{Cors, HeaderChange, PathRewrite, Redirect, Rewrite};

use super::finding::Remarks;
use super::http_route_policy::{self, MirrorDoc, WrittenCors, WrittenMirror};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WrittenFilter {
    #[serde(rename = "type")]
    kind: String,
    request_header_modifier: Option<Modifier>,
    response_header_modifier: Option<Modifier>,
    request_redirect: Option<WrittenRedirect>,
    url_rewrite: Option<WrittenRewrite>,
    request_mirror: Option<WrittenMirror>,
    cors: Option<WrittenCors>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Modifier {
    set: Vec<Header>,
    add: Vec<Header>,
    remove: Vec<String>,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRedirect {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<PathModifier>,
    port: Option<u16>,
    status_code: Option<u16>,
}

#[derive(Deserialize)]
struct WrittenRewrite {
    hostname: Option<String>,
    path: Option<PathModifier>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PathModifier {
    #[serde(rename = "type")]
    kind: String,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

/// What the filters of one rule or backend do together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Filters {
    pub(super) request_headers: Vec<HeaderChange>,
    pub(super) response_headers: Vec<HeaderChange>,
    pub(super) redirect: Option<Redirect>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) mirrors: Vec<MirrorDoc>,
    pub(super) cors: Option<Cors>,
}

impl Filters {
    /// Whether they change headers and do nothing else.
    pub(super) fn are_of_headers(&self) -> bool {
        let (redirect, rewrite, cors) = (&self.redirect, &self.rewrite, &self.cors);
        redirect.is_none() && rewrite.is_none() && cors.is_none() && self.mirrors.is_empty()
    }

    /// Whether a prefix that matched is replaced, which needs one to have matched.
    pub(super) fn replaces_prefix(&self) -> bool {
        let redirect = self.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        let rewrite = self.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        [redirect, rewrite].into_iter().flatten().any(|path| matches!(path, PathRewrite::Prefix(_)))
    }
}

/// Translates a list of filters; `path` is where it stands. After an error the result means nothing.
pub(super) fn translate(
    written: &[WrittenFilter],
    namespace: &str,
    path: &str,
    remarks: &mut Remarks,
) -> Filters {
    let mut filters = Filters::default();
    let mut seen = Vec::new();
    for (index, filter) in written.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if filter.kind != "RequestMirror" && seen.contains(&filter.kind.as_str()) {
            remarks.error(format!("{path}.type"), format!("{} is there already: merge the two", filter.kind));
        }
        seen.push(filter.kind.as_str());
        if apply(filter, namespace, &path, &mut filters, remarks).is_none() {
            let message = format!("{} lacks the member that says what it does", filter.kind);
            remarks.error(path, message);
        }
    }
    if filters.redirect.is_some() && filters.rewrite.is_some() {
        remarks.error(path, "RequestRedirect cannot stand beside URLRewrite: remove one of them");
    }
    filters
}

/// `None` where the member that goes with the type is missing.
fn apply(
    filter: &WrittenFilter,
    namespace: &str,
    path: &str,
    filters: &mut Filters,
    remarks: &mut Remarks,
) -> Option<()> {
    match filter.kind.as_str() {
        "RequestHeaderModifier" => {
            let path = format!("{path}.requestHeaderModifier");
            filters.request_headers = changes(filter.request_header_modifier.as_ref()?, &path, remarks);
        }
        "ResponseHeaderModifier" => {
            let path = format!("{path}.responseHeaderModifier");
            filters.response_headers = changes(filter.response_header_modifier.as_ref()?, &path, remarks);
        }
        "RequestRedirect" => {
            let path = format!("{path}.requestRedirect");
            filters.redirect = redirect(filter.request_redirect.as_ref()?, &path, remarks);
        }
        "URLRewrite" => {
            let written = filter.url_rewrite.as_ref()?;
            let to = written
                .path
                .as_ref()
                .and_then(|to| path_rewrite(to, &format!("{path}.urlRewrite.path"), remarks));
            filters.rewrite = Some(Rewrite { hostname: written.hostname.clone(), path: to });
        }
        "RequestMirror" => {
            let path = format!("{path}.requestMirror");
            let written = filter.request_mirror.as_ref()?;
            filters.mirrors.push(http_route_policy::mirror(written, namespace, &path, remarks));
        }
        "CORS" => {
            let path = format!("{path}.cors");
            filters.cors = Some(http_route_policy::cors(filter.cors.as_ref()?, &path, remarks));
        }
        other => {
            remarks.error(format!("{path}.type"), format!("{other} is not supported: remove the filter"))
        }
    }
    Some(())
}

/// Headers that frame a message or name its destination: to change them is to change where a request ends or goes.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
];

fn changes(written: &Modifier, path: &str, remarks: &mut Remarks) -> Vec<HeaderChange> {
    let mut changes = Vec::new();
    for (list, headers) in [("set", &written.set), ("add", &written.add)] {
        for (index, header) in headers.iter().enumerate() {
            let path = format!("{path}.{list}[{index}]");
            let name = header_name(&header.name, &format!("{path}.name"), remarks);
            if !header.value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b)) {
                remarks.error(format!("{path}.value"), "holds a character that no header value may hold");
            }
            let change = if list == "set" { HeaderChange::Set } else { HeaderChange::Add };
            // A value of the Gateway API is literal; to the model a single percent begins an operator.
            changes.push(change(name, header.value.replace('%', "%%")));
        }
    }
    for (index, name) in written.remove.iter().enumerate() {
        changes.push(HeaderChange::Remove(header_name(name, &format!("{path}.remove[{index}]"), remarks)));
    }
    changes
}

fn header_name(name: &str, path: &str, remarks: &mut Remarks) -> String {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || !name.bytes().all(token) {
        remarks.error(path, format!("`{name}` is no header name"));
    } else if FRAMING.contains(&lower.as_str()) {
        remarks.error(path, format!("{lower} belongs to the connection and cannot be changed by a route"));
    }
    lower
}

fn redirect(written: &WrittenRedirect, path: &str, remarks: &mut Remarks) -> Option<Redirect> {
    let status = written.status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        remarks.error(
            format!("{path}.statusCode"),
            format!("{status} is no redirect: write 301, 302, 303, 307 or 308"),
        );
    }
    if let Some(scheme) = written.scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
        remarks.error(format!("{path}.scheme"), format!("`{scheme}` is neither http nor https"));
    }
    let to = written.path.as_ref().and_then(|to| path_rewrite(to, &format!("{path}.path"), remarks));
    Some(Redirect {
        scheme: written.scheme.clone(),
        hostname: written.hostname.clone(),
        port: written.port,
        path: to,
        status,
    })
}

fn path_rewrite(written: &PathModifier, path: &str, remarks: &mut Remarks) -> Option<PathRewrite> {
    let rewrite = match written.kind.as_str() {
        "ReplaceFullPath" => written.replace_full_path.clone().map(PathRewrite::Full),
        "ReplacePrefixMatch" => written.replace_prefix_match.clone().map(PathRewrite::Prefix),
        _ => None,
    };
    if rewrite.is_none() {
        let message =
            "is not one of ReplaceFullPath and ReplacePrefixMatch with the member that goes with it";
        remarks.error(path, message);
    }
    rewrite
}
