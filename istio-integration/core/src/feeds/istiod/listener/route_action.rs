//! What a route does with its requests.

use std::time::Duration;

use istio_protos::envoy::config::core::v3::data_source::Specifier;
use istio_protos::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use istio_protos::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;
use istio_protos::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy,
};
use istio_protos::envoy::config::route::v3::route_match::PathSpecifier;
use istio_protos::envoy::config::route::v3::weighted_cluster::{ClusterWeight, cluster_weight};
use istio_protos::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, RouteAction as Action, RouteMatch,
};
use istio_protos::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use waypoint_model::{
    Backend, BackendTarget, ClusterKey, HashKey, HeaderChange, Mirror, PathRewrite, Redirect, Rewrite,
    RouteAction, RoutePolicy, RouteRule,
};

use super::duration::{limit, optional};
use super::header_change::changes;
use super::percent::millionths;
use super::route_configuration::bare;
use super::translated::{At, Refused};
use super::{re2, retry};

/// The usual port of a redirect that names no scheme: inside a tunnel it is http.
const HTTP: u16 = 80;

/// Envoy's limit where a route names none. istiod always names one, and 0 is none.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Sends to clusters.
pub(super) fn forward(action: &Action, asked: Option<&RouteMatch>) -> Result<RouteRule, Refused> {
    upgrades(action)?;
    let rewrite = Rewrite { hostname: hostname(action)?, path: path_rewrite(action, asked)? };
    let mirrors: Result<Vec<_>, _> = action.request_mirror_policies.iter().map(mirror).collect();
    let hash: Result<Vec<_>, _> = action.hash_policy.iter().map(hash).collect();
    let mut hash: Vec<HashKey> = hash.at("hash_policy")?.into_iter().flatten().collect();
    hash.dedup(); // istiod repeats it for each of several clusters
    let retries = action.retry_policy.as_ref().map(retry::retries).transpose().at("retry_policy")?;
    Ok(RouteRule {
        timeout: timeout(action)?,
        policy: RoutePolicy {
            retries,
            mirrors: mirrors.at("request_mirror_policies")?,
            hash,
            ..RoutePolicy::default()
        },
        action: RouteAction::Forward { backends: backends(action)?, rewrite },
        ..bare()
    })
}

fn backends(action: &Action) -> Result<Vec<Backend>, Refused> {
    match action.cluster_specifier.as_ref() {
        Some(ClusterSpecifier::Cluster(name)) => Ok(vec![Backend {
            target: target(name),
            weight: 1,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        }]),
        Some(ClusterSpecifier::WeightedClusters(split)) => {
            let shares: Result<Vec<_>, _> = split.clusters.iter().map(share).collect();
            shares.at("weighted_clusters")
        }
        Some(ClusterSpecifier::ClusterHeader(_) | ClusterSpecifier::ClusterSpecifierPlugin(_)) | None => {
            Err(Refused::new("a route names its cluster"))
        }
    }
}

/// What istiod calls a cluster that it does not know, so that Envoy finds none.
fn target(name: &str) -> BackendTarget {
    match name {
        "" | "BlackHoleCluster" => BackendTarget::Missing("istiod knows no destination".to_owned()),
        name => BackendTarget::Cluster(ClusterKey(name.into())),
    }
}

fn share(cluster: &ClusterWeight) -> Result<Backend, Refused> {
    let mut own = changes(
        (&cluster.request_headers_to_add, &cluster.request_headers_to_remove),
        (&cluster.response_headers_to_add, &cluster.response_headers_to_remove),
    )
    .at(&cluster.name)?;
    if let Some(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(host)) =
        cluster.host_rewrite_specifier.as_ref()
    {
        own.request.push(HeaderChange::Set(":authority".to_owned(), host.clone()));
    }
    Ok(Backend {
        target: target(&cluster.name),
        weight: cluster.weight.unwrap_or(0),
        request_headers: own.request,
        response_headers: own.response,
    })
}

fn hostname(action: &Action) -> Result<Option<String>, Refused> {
    match action.host_rewrite_specifier.as_ref() {
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Ok(Some(host.clone())),
        None => Ok(None),
        Some(HostRewriteSpecifier::HostRewriteHeader(_) | HostRewriteSpecifier::HostRewritePathRegex(_)) => {
            Err(Refused::new("a host that depends on the request is not supported").at("host_rewrite"))
        }
    }
}

/// Envoy's prefix rewrite replaces what the match matched: a prefix as text, or all of an exact path or expression.
fn path_rewrite(action: &Action, asked: Option<&RouteMatch>) -> Result<Option<PathRewrite>, Refused> {
    if let Some(regex) = action.regex_rewrite.as_ref() {
        return substitution(regex).map(Some).at("regex_rewrite");
    }
    if action.prefix_rewrite.is_empty() {
        return Ok(None);
    }
    prefix(&action.prefix_rewrite, asked).map(Some)
}

/// The root is no prefix of the model's, which takes everything, and so it is replaced as a substitution.
fn prefix(text: &str, asked: Option<&RouteMatch>) -> Result<PathRewrite, Refused> {
    Ok(match asked.and_then(|asked| asked.path_specifier.as_ref()) {
        Some(PathSpecifier::Path(_) | PathSpecifier::SafeRegex(_)) => PathRewrite::Full(text.to_owned()),
        Some(PathSpecifier::Prefix(root)) if root == "/" => {
            PathRewrite::Regex(re2::pattern("^/")?, text.replace('\\', "\\\\"))
        }
        _ => PathRewrite::Prefix(text.to_owned()),
    })
}

fn substitution(regex: &RegexMatchAndSubstitute) -> Result<PathRewrite, Refused> {
    let pattern = regex.pattern.as_ref().ok_or_else(|| Refused::new("a substitution without a pattern"))?;
    Ok(PathRewrite::Regex(re2::pattern(&pattern.regex)?, regex.substitution.clone()))
}

fn timeout(action: &Action) -> Result<Option<Duration>, Refused> {
    match action.timeout.as_ref() {
        None => Ok(Some(TIMEOUT)),
        timeout => limit(timeout).at("timeout"),
    }
}

/// Only the tunnel's own route has upgrades of its own.
fn upgrades(action: &Action) -> Result<(), Refused> {
    match action.upgrade_configs.first() {
        None => Ok(()),
        Some(other) => {
            Err(Refused::new(format!("the upgrade {} is not carried", other.upgrade_type))
                .at("upgrade_configs"))
        }
    }
}

fn mirror(policy: &RequestMirrorPolicy) -> Result<Mirror, Refused> {
    let share = policy.runtime_fraction.as_ref().and_then(|fraction| fraction.default_value.as_ref());
    Ok(Mirror { target: target(&policy.cluster), fraction: share.map_or(millionths::ALL, millionths::of) })
}

fn hash(policy: &HashPolicy) -> Result<Option<HashKey>, Refused> {
    Ok(Some(match policy.policy_specifier.as_ref() {
        Some(PolicySpecifier::Header(header)) => HashKey::Header(header.header_name.to_ascii_lowercase()),
        Some(PolicySpecifier::Cookie(cookie)) => HashKey::Cookie {
            name: cookie.name.clone(),
            path: cookie.path.clone(),
            ttl: optional(cookie.ttl.as_ref()).at("cookie.ttl")?,
        },
        Some(PolicySpecifier::QueryParameter(parameter)) => HashKey::Query(parameter.name.clone()),
        Some(PolicySpecifier::ConnectionProperties(connection)) if connection.source_ip => HashKey::SourceIp,
        Some(PolicySpecifier::ConnectionProperties(_)) => return Ok(None),
        None => return Err(Refused::new("a hash policy without a key")),
    }))
}

/// Answers with a redirect. To another host Envoy goes without the port of the request: with the usual one, unless the action
/// says which.
pub(super) fn redirect(action: &RedirectAction, asked: Option<&RouteMatch>) -> Result<RouteRule, Refused> {
    let scheme = match action.scheme_rewrite_specifier.as_ref() {
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => not_empty(scheme),
        None => None,
    };
    let path = match action.path_rewrite_specifier.as_ref() {
        Some(PathRewriteSpecifier::PathRedirect(path)) => not_empty(path).map(PathRewrite::Full),
        Some(PathRewriteSpecifier::PrefixRewrite(text)) if !text.is_empty() => Some(prefix(text, asked)?),
        Some(PathRewriteSpecifier::PrefixRewrite(_)) | None => None,
    };
    let status = match RedirectResponseCode::try_from(action.response_code) {
        Ok(RedirectResponseCode::MovedPermanently) => 301,
        Ok(RedirectResponseCode::Found) => 302,
        Ok(RedirectResponseCode::SeeOther) => 303,
        Ok(RedirectResponseCode::TemporaryRedirect) => 307,
        Ok(RedirectResponseCode::PermanentRedirect) => 308,
        Err(_) => return Err(Refused::new("this status is no redirect").at("response_code")),
    };
    let port =
        u16::try_from(action.port_redirect).map_err(|_| Refused::new("no port").at("port_redirect"))?;
    let hostname = not_empty(&action.host_redirect);
    let usual = (hostname.is_some() && scheme.is_none()).then_some(HTTP);
    Ok(RouteRule {
        action: RouteAction::Redirect(Redirect {
            scheme,
            hostname,
            port: Some(port).filter(|port| *port != 0).or(usual),
            path,
            status,
        }),
        ..bare()
    })
}

fn not_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Answers itself.
pub(super) fn respond(action: &DirectResponseAction) -> Result<RouteRule, Refused> {
    let status = u16::try_from(action.status).map_err(|_| Refused::new("no status").at("status"))?;
    let body = match action.body.as_ref().and_then(|body| body.specifier.as_ref()) {
        None => String::new(),
        Some(Specifier::InlineString(text)) => text.clone(),
        Some(Specifier::InlineBytes(bytes)) => String::from_utf8(bytes.to_vec())
            .map_err(|_| Refused::new("a body that is no text is not supported").at("body"))?,
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => {
            return Err(Refused::new("a body stands in the configuration itself").at("body"));
        }
    };
    Ok(RouteRule { action: RouteAction::Respond { status, body }, ..bare() })
}
