//! Tests of what a filter left behind: claims of the verified token, and the facts of MCP and A2A.

use istio_protos::envoy::r#type::matcher::v3::list_matcher::MatchPattern as ListPattern;
use istio_protos::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use istio_protos::envoy::r#type::matcher::v3::value_matcher::MatchPattern;
use istio_protos::envoy::r#type::matcher::v3::{ListMatcher, MetadataMatcher, ValueMatcher};
use waypoint_model::{Expr, StringMatch, Test};

use super::expr::{any, not, test};
use super::strings::string;
use super::translated::{At, Refused};

/// Where the token's payload stands; [`super::jwt`] refuses providers that put it elsewhere.
const TOKEN_FILTER: &str = "envoy.filters.http.jwt_authn";
/// The first step of the path to a claim.
pub(super) const PAYLOAD: &str = "payload";
/// What filter names begin with; the rest is how policies of ours name their filter.
pub(super) const FILTERS: &str = "envoy.filters.";
/// Filters whose metadata we know: what our own protocol readers tell.
pub(super) const OURS: [&str; 2] = ["http.mcp", "http.a2a"];

/// A test of metadata.
pub(super) fn metadata(matcher: &MetadataMatcher) -> Result<Expr, Refused> {
    let holds = values(matcher).at(format!("metadata[{:?}]", matcher.filter))?;
    Ok(if matcher.invert { not(holds) } else { holds })
}

fn values(matcher: &MetadataMatcher) -> Result<Expr, Refused> {
    let path = path(matcher)?;
    let value = matcher.value.as_ref().ok_or_else(|| Refused::new("no value is asked for"))?;
    if matcher.filter == TOKEN_FILTER {
        return match path.split_first() {
            Some((first, claim)) if first == PAYLOAD && !claim.is_empty() => self::claim(claim, value),
            _ => Err(Refused::new("only claims of the payload are known").at("path")),
        };
    }
    let ours = matcher.filter.strip_prefix(FILTERS).filter(|name| OURS.contains(name));
    let filter =
        ours.ok_or_else(|| Refused::new("this filter is not here, so what it would tell is not known"))?;
    let [key] = path.as_slice() else {
        return Err(Refused::new("a fact has a path of one step").at("path"));
    };
    let values = facts(value).at("value")?;
    let leaf = |value| test(Test::Fact { filter: filter.to_owned(), key: key.clone(), value });
    Ok(any(values.into_iter().map(leaf).collect()))
}

fn path(matcher: &MetadataMatcher) -> Result<Vec<String>, Refused> {
    let key = |step: Option<&Segment>| match step {
        Some(Segment::Key(key)) => Ok(key.clone()),
        None => Err(Refused::new("a step without a key").at("path")),
    };
    matcher.path.iter().map(|step| key(step.segment.as_ref())).collect()
}

/// Claims are compared as a text or as any text of a list. istiod asks for both at once, save for `iss` and `sub`,
/// which are texts in every token that verifies.
fn claim(path: &[String], value: &ValueMatcher) -> Result<Expr, Refused> {
    let values = match (path, value.match_pattern.as_ref()) {
        ([name], Some(MatchPattern::StringMatch(text))) if name == "iss" || name == "sub" => {
            vec![string(text).at("value")?]
        }
        (_, Some(MatchPattern::OrMatch(alternatives))) => match alternatives.value_matchers.as_slice() {
            [list, single] if one_of(list) == Some(single) => texts(single).at("value")?,
            _ => return Err(unknown_value()),
        },
        _ => return Err(unknown_value()),
    };
    let leaf = |value| {
        test(match path {
            [name] if name == "aud" => Test::Audience(value),
            [name] if name == "azp" => Test::Presenter(value),
            path => Test::Claim { path: path.to_vec(), value },
        })
    };
    Ok(any(values.into_iter().map(leaf).collect()))
}

fn unknown_value() -> Refused {
    Refused::new("a claim is asked for its text or an entry of its list, in the way of istiod").at("value")
}

/// What a list must contain.
fn one_of(value: &ValueMatcher) -> Option<&ValueMatcher> {
    let Some(MatchPattern::ListMatch(list)) = value.match_pattern.as_ref() else { return None };
    let ListMatcher { match_pattern: Some(ListPattern::OneOf(inner)) } = list.as_ref() else { return None };
    Some(inner)
}

/// Alternatives of texts.
fn texts(value: &ValueMatcher) -> Result<Vec<StringMatch>, Refused> {
    match value.match_pattern.as_ref() {
        Some(MatchPattern::StringMatch(text)) => Ok(vec![string(text)?]),
        Some(MatchPattern::OrMatch(alternatives)) => {
            let parts: Result<Vec<_>, _> = alternatives.value_matchers.iter().map(texts).collect();
            Ok(parts?.into_iter().flatten().collect())
        }
        _ => Err(Refused::new("this kind of value is not supported")),
    }
}

/// Alternatives of a fact. A fact with several values matches if one of them does, so a list is asked as a text is.
fn facts(value: &ValueMatcher) -> Result<Vec<StringMatch>, Refused> {
    match value.match_pattern.as_ref() {
        Some(MatchPattern::StringMatch(text)) => Ok(vec![string(text)?]),
        Some(MatchPattern::ListMatch(_)) => {
            let inner = one_of(value).ok_or_else(|| Refused::new("a list test without its entry"))?;
            texts(inner)
        }
        Some(MatchPattern::OrMatch(alternatives)) => {
            let parts: Result<Vec<_>, _> = alternatives.value_matchers.iter().map(facts).collect();
            Ok(parts?.into_iter().flatten().collect())
        }
        None => Err(Refused::new("no value is asked for")),
    }
}
