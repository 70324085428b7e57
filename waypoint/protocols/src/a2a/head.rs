//! What the head of a request on an A2A port says: binding, version, extensions, and for REST the operation.

use super::fields::Named;
use super::operation::{Binding, Operation, Vocabulary};
use super::path::{self, Place, Rest, Tenant};
use super::spelling::bare;
use crate::http::{essence, is_coded, single};
use crate::json::folds_to;
use crate::mcp::{check_bodiless, check_framing, check_method, check_override, check_upgrade};
use crate::reply::Malformed;
use ::http::request::Parts;
use ::http::{HeaderMap, HeaderName, Method, StatusCode, header};

const VERSION: HeaderName = HeaderName::from_static("a2a-version");
const EXTENSIONS: [HeaderName; 2] =
    [HeaderName::from_static("a2a-extensions"), HeaderName::from_static("x-a2a-extensions")];
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// JSON-RPC code of *VersionNotSupportedError* (A2A 1.0 §5.4).
pub(super) const VERSION_NOT_SUPPORTED: i32 = -32009;
/// Members of a query that name something.
const QUERY: [&str; 5] = ["tenant", "contextId", "taskId", "id", "name"];

/// The head of a request on an A2A port.
#[derive(Clone, Debug)]
pub struct Head {
    pub(super) route: Route,
    /// `A2A-Version` as declared.
    pub(super) version: Option<String>,
    /// What head, path and query name.
    pub(super) named: Named,
    /// A tenant may stand in the path, and where cannot be told.
    pub(super) tenant_unclear: bool,
    has_content_type: bool,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    JsonRpc,
    Rest(Operation, Vocabulary, Method),
    /// `None`: no operation of A2A, such as reflection.
    Grpc(Option<(Operation, Vocabulary)>, String),
    /// Plain HTTP on this port: every fact is absent.
    Plain,
}

impl Head {
    /// Reads the head; its URI is the path as it is sent on.
    ///
    /// # Errors
    /// [`Malformed`] for other HTTP methods (405), doubtful framing, upgrades, a body that is coded or not of its binding's
    /// type (415), a path that routers read differently, a version that is not known or told twice (`-32009`).
    pub fn read(parts: &Parts) -> Result<Self, Malformed> {
        let headers = &parts.headers;
        check_method(&parts.method)?;
        check_override(parts.uri.query())?;
        check_framing(headers)?;
        check_upgrade(headers)?;
        let mut named = Named::default();
        let mut query = Query::read(parts.uri.query())?;
        let version = version(headers, query.version.take())?;
        let (route, tenant_unclear) = route(parts, &mut named)?;
        if let Route::Rest(operation, ..) = route {
            query.name(operation, &mut named)?;
        }
        extensions(headers, &mut named)?;
        let has_content_type = headers.contains_key(header::CONTENT_TYPE);
        let head = Self { route, version, named, tenant_unclear, has_content_type };
        if head.has_body() {
            head.check_content(headers)?
        } else {
            check_bodiless(headers)?
        }
        Ok(head)
    }

    /// How the request came; plain HTTP is answered as REST.
    #[must_use]
    pub fn binding(&self) -> Binding {
        match self.route {
            Route::JsonRpc => Binding::JsonRpc,
            Route::Rest(..) | Route::Plain => Binding::Rest,
            Route::Grpc(..) => Binding::Grpc,
        }
    }

    /// The binding that a head shows which cannot be read.
    #[must_use]
    pub fn binding_of(parts: &Parts) -> Binding {
        if is_grpc(&parts.headers) {
            Binding::Grpc
        } else if parts.method == Method::POST && !parts.uri.path().contains(':') {
            Binding::JsonRpc
        } else {
            Binding::Rest
        }
    }

    /// Whether a body belongs to it, which is to be read. Any other has none: a body that only frames announce is the
    /// caller's to refuse.
    #[must_use]
    pub fn has_body(&self) -> bool {
        match &self.route {
            Route::JsonRpc | Route::Grpc(..) => true,
            Route::Rest(_, _, method) => *method == Method::POST,
            Route::Plain => false,
        }
    }

    /// Whether it is plain HTTP, and no request of A2A.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.route == Route::Plain
    }

    /// A body of JSON has to say so. Only an operation without one may leave its type out.
    pub(super) fn check_body(&self, body: &[u8]) -> Result<(), Malformed> {
        if body.is_empty() || self.has_content_type { Ok(()) } else { Err(Malformed::media("content_type")) }
    }

    fn check_content(&self, headers: &HeaderMap) -> Result<(), Malformed> {
        if is_coded(headers) {
            return Err(Malformed::media("content_encoding"));
        }
        let repeated = |_| Malformed::invalid("repeated_content_type");
        let Some(line) = single(headers, header::CONTENT_TYPE).map_err(repeated)? else { return Ok(()) };
        let (essence, charset) = essence(line).ok_or_else(|| Malformed::media("content_type"))?;
        let wanted: &[&str] = match self.binding() {
            Binding::Grpc => &["application/grpc", "application/grpc+proto"],
            Binding::JsonRpc | Binding::Rest => &["application/json", "application/a2a+json"],
        };
        if !wanted.iter().any(|wanted| essence.eq_ignore_ascii_case(wanted)) {
            return Err(Malformed::media("content_type"));
        }
        if charset.is_some_and(|charset| !charset.eq_ignore_ascii_case("utf-8")) {
            return Err(Malformed::media("charset"));
        }
        let coding = single(headers, GRPC_ENCODING).map_err(|_| Malformed::invalid("repeated_header"))?;
        if coding.is_some_and(|coding| coding != "identity") {
            return Err(Malformed::media("grpc_compressed"));
        }
        Ok(())
    }
}

/// Whether a request is of gRPC or of its kin for browsers, by its content type.
fn is_grpc(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::CONTENT_TYPE).iter();
    let prefix = b"application/grpc";
    lines.any(|line| line.as_bytes().get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix)))
}

fn route(parts: &Parts, named: &mut Named) -> Result<(Route, bool), Malformed> {
    let path = parts.uri.path();
    if is_grpc(&parts.headers) {
        if parts.method != Method::POST {
            return Err(Malformed::new("http_method", StatusCode::METHOD_NOT_ALLOWED, -32600));
        }
        return Ok((Route::Grpc(Operation::of_grpc(path), path.to_owned()), false));
    }
    match path::tell(&parts.method, path)? {
        Place::Other if parts.method == Method::POST => Ok((Route::JsonRpc, false)),
        Place::Other => Ok((Route::Plain, false)),
        Place::Rest(Rest { operation, task, tenant, old }) => {
            named.about(task)?;
            let unclear = tenant == Tenant::Unclear;
            if let Tenant::Segment(tenant) = tenant {
                named.of_tenant(Some(tenant))?;
            }
            let vocabulary = if old { Vocabulary::Old } else { Vocabulary::New };
            Ok((Route::Rest(operation, vocabulary, parts.method.clone()), unclear))
        }
    }
}

#[derive(Default)]
struct Query {
    version: Option<String>,
    told: [Option<String>; QUERY.len()],
}

impl Query {
    fn read(query: Option<&str>) -> Result<Self, Malformed> {
        let mut read = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let bare = bare(&key);
            let slot = if folds_to(&bare, "A2AVersion") {
                &mut read.version
            } else if let Some(at) = QUERY.iter().position(|known| folds_to(&bare, known)) {
                let Some(slot) = read.told.get_mut(at) else { continue };
                slot
            } else {
                continue;
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(Malformed::invalid("repeated_query"));
            }
        }
        Ok(read)
    }

    fn name(self, operation: Operation, named: &mut Named) -> Result<(), Malformed> {
        let [tenant, context, task, id, name] = self.told;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        named.of_tenant(given(tenant))?;
        // These stand in the path, and readers would differ in which they take.
        if operation.needs_task() && (task.is_some() || id.is_some() || name.is_some()) {
            return Err(Malformed::invalid("task_in_query"));
        }
        if operation == Operation::ListTasks { named.in_context(given(context)) } else { Ok(()) }
    }
}

/// The version that header and query agree on. One that is not known may name things otherwise.
fn version(headers: &HeaderMap, query: Option<String>) -> Result<Option<String>, Malformed> {
    let refused = |name| Malformed::new(name, StatusCode::BAD_REQUEST, VERSION_NOT_SUPPORTED);
    let header = single(headers, VERSION).map_err(|_| refused("version_mismatch"))?;
    let header = header.map(|value| value.to_str().map(str::to_owned)).transpose();
    let header = header.map_err(|_| refused("version_unknown"))?;
    let version = match (header, query) {
        (Some(header), Some(query)) if header != query => return Err(refused("version_mismatch")),
        (header, query) => header.or(query),
    };
    match version.filter(|version| !version.is_empty()) {
        Some(version) if !is_known(&version) => Err(refused("version_unknown")),
        version => Ok(version),
    }
}

/// `0.2`, `0.3`, `1.0`, each with or without a patch number.
fn is_known(version: &str) -> bool {
    let mut numbers = version.splitn(3, '.');
    let (major, minor, patch) = (numbers.next(), numbers.next(), numbers.next());
    let is_patch = |patch: &str| (1..=4).contains(&patch.len()) && patch.bytes().all(|b| b.is_ascii_digit());
    matches!((major, minor), (Some("0"), Some("2" | "3")) | (Some("1"), Some("0")))
        && patch.is_none_or(is_patch)
}

/// Extensions that the head asks for, from every line.
fn extensions(headers: &HeaderMap, named: &mut Named) -> Result<(), Malformed> {
    for line in EXTENSIONS.iter().flat_map(|name| headers.get_all(name)) {
        let line = line.to_str().map_err(|_| Malformed::invalid("bad_header_value"))?;
        for extension in line.split(',').map(str::trim).filter(|extension| !extension.is_empty()) {
            named.extends(extension.to_owned());
        }
    }
    Ok(())
}
