//! HTTP routes of a service (Gateway API `HTTPRoute` with a Service as parent).

use std::time::Duration;

use serde::Serialize;

use crate::{ClusterKey, Pattern, RouteKey, RoutePolicy, ServiceKey, StringMatch};

/// A route resource: rules in the order written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// `namespace/name`.
    pub key: RouteKey,
    /// Host names it is limited to; empty: all. `*.example.com` matches one or more labels.
    pub hostnames: Vec<String>,
    /// Only this port of the parent service; `None`: every port.
    pub port: Option<u16>,
    /// Rules.
    pub rules: Vec<RouteRule>,
    /// In which order rules are tried.
    pub order: RouteOrder,
}

/// In which order the rules of a route are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum RouteOrder {
    /// The most specific match first (Gateway API `HTTPRouteRule.matches`).
    #[default]
    Precedence,
    /// As written: the first that matches (Istio `VirtualService`, and whatever istiod sorted).
    AsWritten,
}

/// One rule: any of its matches selects it. An empty list matches everything.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteRule {
    /// Its name, or `<route>.<index>`; access log `%ROUTE_NAME%`.
    pub name: String,
    /// Matches, any of which suffices.
    pub matches: Vec<RouteMatch>,
    /// Header changes of the request.
    pub request_headers: Vec<HeaderChange>,
    /// Header changes of the response.
    pub response_headers: Vec<HeaderChange>,
    /// What to do.
    pub action: RouteAction,
    /// Whole request, from the last byte of the request to the last byte of the response; `None`: no limit.
    pub timeout: Option<Duration>,
    /// One attempt.
    pub backend_timeout: Option<Duration>,
    /// What else holds on the way: retries, mirrors, CORS, faults, affinity.
    pub policy: RoutePolicy,
}

/// A conjunction; precedence between matches is the Gateway API's (exact path, longest prefix, method, headers, query).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteMatch {
    /// Path.
    pub path: Option<PathMatch>,
    /// Whether the path is compared without regard to case.
    pub ignore_path_case: bool,
    /// Method.
    pub method: Option<String>,
    /// Headers, all of them; `:authority` and `:scheme` are asked for by these names.
    pub headers: Vec<HeaderMatch>,
    /// Query parameters, all of them.
    pub query: Vec<QueryMatch>,
}

/// How a route compares a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// On segment boundaries: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// Any path that starts with this text: `/a` matches `/ab`.
    TextPrefix(String),
    /// The whole path matches.
    Regex(Pattern),
}

/// One header that a route compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderMatch {
    /// Lower-case name.
    pub name: String,
    /// What its value must be; an absent header fails.
    pub value: StringMatch,
    /// Holds where the comparison fails, also where the header is absent.
    pub inverted: bool,
}

/// One query parameter that a route compares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueryMatch {
    /// Name.
    pub name: String,
    /// What its value must be; an absent parameter fails.
    pub value: StringMatch,
}

/// One change of a header. In a value `%%` is a percent and `%NAME%` one of Envoy's operators; the data plane knows
/// `DOWNSTREAM_REMOTE_ADDRESS`, `DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT` (and both with `DIRECT_`), `PROTOCOL`, `HOSTNAME`,
/// `REQ(name)`, `REQ(name?other):length` and `START_TIME(%s)`, and does not carry out a rule that has another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum HeaderChange {
    /// Replaces all lines of that name.
    Set(String, String),
    /// Adds a line.
    Add(String, String),
    /// Removes all lines.
    Remove(String),
}

/// What a rule does with its requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum RouteAction {
    /// Sends to one of these by weight. Empty, or all weights zero: 500 (Gateway API).
    Forward {
        /// Where to.
        backends: Vec<Backend>,
        /// Rewrites on the way.
        rewrite: Rewrite,
    },
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers itself.
    Respond {
        /// Status.
        status: u16,
        /// Body, `text/plain` unless a response header says otherwise.
        body: String,
    },
}

/// One weighted backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Backend {
    /// Where to.
    pub target: BackendTarget,
    /// Share among its siblings.
    pub weight: u32,
    /// Header changes for this backend only.
    pub request_headers: Vec<HeaderChange>,
    /// Header changes of the response from this backend only.
    pub response_headers: Vec<HeaderChange>,
}

/// Where a backend leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum BackendTarget {
    /// A port of a service.
    Service(ServiceKey, u16),
    /// A cluster of the control plane.
    Cluster(ClusterKey),
    /// A reference that leads nowhere: answered with 500 (Gateway API), and named in the log.
    Missing(String),
}

/// Rewrites of host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// New `:authority`.
    pub hostname: Option<String>,
    /// New path.
    pub path: Option<PathRewrite>,
}

/// A new path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum PathRewrite {
    /// The whole path; the query stays.
    Full(String),
    /// The prefix that matched.
    Prefix(String),
    /// What a pattern matches, by a substitution with `\\1` for its groups (RE2 syntax).
    Regex(Pattern, String),
}

/// A redirect; parts not given are kept from the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host.
    pub hostname: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}
