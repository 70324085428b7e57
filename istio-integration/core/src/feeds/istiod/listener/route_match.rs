//! Which requests a route takes.

use istio_protos::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use istio_protos::envoy::config::route::v3::route_match::PathSpecifier;
use istio_protos::envoy::config::route::v3::{QueryParameterMatcher, RouteMatch as Asked};
use waypoint_model::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, StringMatch};

use super::strings::{string, whatever};
use super::translated::{At, Refused};
use super::{header, re2};

/// The model's matches: none for a route that takes everything.
pub(super) fn route_match(asked: &Asked) -> Result<Vec<RouteMatch>, Refused> {
    if !asked.dynamic_metadata.is_empty() {
        return Err(Refused::new("a route by claims of a token is not supported").at("dynamic_metadata"));
    }
    let mut found =
        RouteMatch { ignore_path_case: asked.case_sensitive == Some(false), ..RouteMatch::default() };
    found.path = path(asked.path_specifier.as_ref())?;
    for matcher in &asked.headers {
        found.headers.extend(header::route(matcher).at("headers")?);
    }
    found.method = take_method(&mut found.headers);
    let query: Result<Vec<_>, _> = asked.query_parameters.iter().map(query).collect();
    found.query = query.at("query_parameters")?;
    if found.path.is_none() {
        found.ignore_path_case = false;
    }
    Ok(if found == RouteMatch::default() { Vec::new() } else { vec![found] })
}

fn path(specifier: Option<&PathSpecifier>) -> Result<Option<PathMatch>, Refused> {
    Ok(Some(match specifier {
        Some(PathSpecifier::Prefix(prefix)) if prefix == "/" || prefix.is_empty() => return Ok(None),
        Some(PathSpecifier::Prefix(prefix)) => PathMatch::TextPrefix(prefix.clone()),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => PathMatch::Prefix(prefix.clone()),
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.clone()),
        Some(PathSpecifier::SafeRegex(regex)) => {
            PathMatch::Regex(re2::pattern(&regex.regex).at("safe_regex")?)
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            return Err(Refused::new("CONNECT inside a tunnel is not carried").at("connect_matcher"));
        }
        None => return Err(Refused::new("a match without a path")),
    }))
}

/// An exact method has a place of its own in the model.
fn take_method(headers: &mut Vec<HeaderMatch>) -> Option<String> {
    let exact = |header: &HeaderMatch| match &header.value {
        StringMatch::Exact(method) if header.name == ":method" && !header.inverted => Some(method.clone()),
        _ => None,
    };
    let at = headers.iter().position(|header| exact(header).is_some())?;
    exact(&headers.remove(at))
}

fn query(matcher: &QueryParameterMatcher) -> Result<QueryMatch, Refused> {
    let value = match matcher.query_parameter_match_specifier.as_ref() {
        Some(QueryParameterMatchSpecifier::StringMatch(text)) => string(text)?,
        Some(QueryParameterMatchSpecifier::PresentMatch(true)) | None => whatever(),
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err(Refused::new("the absence of a query parameter is not supported").at(&matcher.name));
        }
    };
    Ok(QueryMatch { name: matcher.name.clone(), value })
}
