//! The routes of an HTTP chain, in the order in which istiod wrote them.

use istio_protos::envoy::config::route::v3::{Route as Entry, RouteConfiguration, VirtualHost, route};
use istio_protos::{Finding, Step};
use waypoint_model::{
    Backend, BackendTarget, ClusterKey, Retries, RetryOn, Rewrite, Route, RouteAction, RouteKey, RouteOrder,
    RoutePolicy, RouteRule,
};

use super::header_change::changes;
use super::translated::{At, Refused};
use super::{route_action, route_filters, route_match};

/// Namespace of routes that have no resource of their own: what istiod merged for a chain.
const NAMESPACE: &str = "(istiod)";

/// Where the requests of a chain go.
#[derive(Debug, PartialEq)]
pub(super) enum Ways {
    /// All of them to one cluster, with nothing to say about it: a service without routes.
    Cluster(ClusterKey),
    /// By rules.
    Routes(Box<Route>),
}

/// Translates a route configuration. `findings` are those of the connection manager that holds it.
///
/// # Errors
/// What makes it unclear which request takes which way. An action that is not understood is a rule that answers 500.
pub(super) fn ways(config: &RouteConfiguration, findings: &[Finding]) -> Result<Ways, Refused> {
    let [host] = config.virtual_hosts.as_slice() else {
        return Err(Refused::new("exactly one virtual host is expected").at("virtual_hosts"));
    };
    let rules: Result<Vec<RouteRule>, Refused> = host
        .routes
        .iter()
        .enumerate()
        .map(|(at, entry)| {
            let found = findings.iter().find(|finding| rule_of(finding) == Some(at));
            rule(entry, at, found).at(format!("routes[{at}]"))
        })
        .collect();
    let route = Route {
        key: RouteKey::new(NAMESPACE, &config.name),
        hostnames: hostnames(host),
        port: None,
        rules: rules?,
        order: RouteOrder::AsWritten,
    };
    Ok(plain(&route).map_or_else(|| Ways::Routes(Box::new(route)), Ways::Cluster))
}

/// The rule whose action a finding in the connection manager stands in; `None` for any other place, a match too.
pub(super) fn rule_of(finding: &Finding) -> Option<usize> {
    match finding.path.as_slice() {
        [
            Step::Field("route_config"),
            Step::Field("virtual_hosts"),
            Step::Index(_),
            Step::Field("routes"),
            Step::Index(at),
            Step::Field(inner),
            ..,
        ] if *inner != "match" => Some(*at),
        _ => None,
    }
}

fn hostnames(host: &VirtualHost) -> Vec<String> {
    host.domains.iter().filter(|domain| *domain != "*").cloned().collect()
}

/// What istiod calls the route of a service without routes.
const USUAL_NAME: &str = "default";

/// Outcomes after which istiod has every request sent again that no route says otherwise of.
const USUAL_RETRIES: [RetryOn; 4] =
    [RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::GrpcStatus(14), RetryOn::GrpcStatus(1)];

/// The cluster of what istiod writes for a service without routes: everything goes there. The retries that it adds are
/// what we do anyway where nothing was processed; gRPC's `unavailable` and `cancelled` tell no such thing, and a request
/// that may have been carried out is not sent again without being asked for by a route.
fn plain(route: &Route) -> Option<ClusterKey> {
    let [only] = route.rules.as_slice() else { return None };
    let RouteAction::Forward { backends, rewrite } = &only.action else { return None };
    let [Backend { target: BackendTarget::Cluster(cluster), request_headers, response_headers, .. }] =
        backends.as_slice()
    else {
        return None;
    };
    let usual = |retries: &Retries| {
        retries.on == USUAL_RETRIES && retries.per_try_timeout.is_none() && retries.backoff.is_none()
    };
    let changes = [&only.request_headers, &only.response_headers, request_headers, response_headers];
    let simple = only.name == USUAL_NAME
        && route.hostnames.is_empty()
        && only.matches.is_empty()
        && only.timeout.is_none()
        && *rewrite == Rewrite::default()
        && changes.iter().all(|changes| changes.is_empty())
        && only.policy.retries.as_ref().is_none_or(usual)
        && RoutePolicy { retries: None, ..only.policy.clone() } == RoutePolicy::default();
    simple.then(|| cluster.clone())
}

fn rule(entry: &Entry, at: usize, found: Option<&Finding>) -> Result<RouteRule, Refused> {
    let asked = entry.r#match.as_ref().ok_or_else(|| Refused::new("a route without a match"))?;
    let matches = route_match::route_match(asked).at("match")?;
    let name = if entry.name.is_empty() { at.to_string() } else { entry.name.clone() };
    let translated = match found {
        Some(finding) => Err(Refused::new(finding.to_string())),
        None => acted(entry),
    };
    let rule = translated.unwrap_or_else(|refused| broken(&refused));
    Ok(RouteRule { name, matches, ..rule })
}

/// A rule without its match.
fn acted(entry: &Entry) -> Result<RouteRule, Refused> {
    let own = changes(
        (&entry.request_headers_to_add, &entry.request_headers_to_remove),
        (&entry.response_headers_to_add, &entry.response_headers_to_remove),
    )?;
    let mut rule = match entry.action.as_ref() {
        Some(route::Action::Route(action)) => {
            route_action::forward(action, entry.r#match.as_ref()).at("route")?
        }
        Some(route::Action::Redirect(action)) => {
            route_action::redirect(action, entry.r#match.as_ref()).at("redirect")?
        }
        Some(route::Action::DirectResponse(action)) => route_action::respond(action).at("direct_response")?,
        Some(route::Action::NonForwardingAction(_)) | None => {
            return Err(Refused::new("a route without an action"));
        }
    };
    route_filters::apply(&entry.typed_per_filter_config, &mut rule.policy).at("typed_per_filter_config")?;
    rule.request_headers = own.request;
    rule.response_headers = own.response;
    Ok(rule)
}

/// A rule that keeps its place, so that its requests go no other way, and answers 500.
fn broken(refused: &Refused) -> RouteRule {
    let nowhere = Backend {
        target: BackendTarget::Missing(refused.to_string()),
        weight: 1,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
    };
    let action = RouteAction::Forward { backends: vec![nowhere], rewrite: Rewrite::default() };
    RouteRule { action, ..bare() }
}

/// A rule with nothing in it.
pub(super) fn bare() -> RouteRule {
    RouteRule {
        name: String::new(),
        matches: Vec::new(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        action: RouteAction::Forward { backends: Vec::new(), rewrite: Rewrite::default() },
        timeout: None,
        backend_timeout: None,
        policy: RoutePolicy::default(),
    }
}
