//! The filter `jwt_authn`: tokens that are accepted (Istio `RequestAuthentication`).

use std::sync::Arc;
use std::time::Duration;

use istio_protos::Any;
use istio_protos::envoy::config::core::v3::data_source::Specifier;
use istio_protos::envoy::config::core::v3::http_uri::HttpUpstreamType;
use istio_protos::envoy::config::route::v3::route_match::PathSpecifier;
use istio_protos::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use istio_protos::envoy::extensions::filters::http::jwt_authn::v3::jwt_requirement::RequiresType;
use istio_protos::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;
use istio_protos::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtProvider, JwtRequirement, RemoteJwks, RequirementRule,
};
use waypoint_model::{ClusterKey, Jwks, JwtLocations, JwtRule};

use super::duration::{optional, required};
use super::metadata::PAYLOAD;
use super::translated::{At, Refused};
use super::unpack::unpack;

/// Envoy's default for clock skew; istiod sets none.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Envoy's default for how long fetched keys are used.
const CACHE: Duration = Duration::from_secs(600);

/// The rules of a filter, in the order of its providers' names.
///
/// # Errors
/// Anything but the shape that istiod writes: on every path, a token of any provider or none at all.
pub(super) fn rules(config: Option<&Any>) -> Result<Vec<Arc<JwtRule>>, Refused> {
    let filter: JwtAuthentication = unpack(config)?;
    if !filter.bypass_cors_preflight {
        return Err(
            Refused::new("a preflight carries no token and is not asked for one").at("bypass_cors_preflight")
        );
    }
    requirement(&filter)?;
    let mut providers: Vec<_> = filter.providers.iter().collect();
    providers.sort_by_key(|(name, _)| (name.len(), *name)); // origins-2 before origins-10, as the resources stand
    providers
        .into_iter()
        .map(|(name, provider)| rule(provider).map(Arc::new).at(format!("providers[{name:?}]")))
        .collect()
}

fn requirement(filter: &JwtAuthentication) -> Result<(), Refused> {
    let unknown = |why| Refused::new(why).at("rules");
    let [
        RequirementRule { r#match: Some(path), requirement_type: Some(RequirementType::Requires(requires)) },
    ] = filter.rules.as_slice()
    else {
        return Err(unknown("one rule that requires something is expected"));
    };
    let everywhere = matches!(&path.path_specifier, Some(PathSpecifier::Prefix(prefix)) if prefix == "/");
    if !everywhere || !path.headers.is_empty() || !path.query_parameters.is_empty() {
        return Err(unknown("a token is asked for on every path"));
    }
    let mut asked = Asked::default();
    asked.collect(requires).at("rules[0].requires")?;
    let mut named: Vec<&str> = asked.providers;
    named.sort_unstable();
    named.dedup();
    let complete = named.iter().copied().eq(filter.providers.keys().map(String::as_str));
    match (asked.missing, complete) {
        (true, true) => Ok(()),
        (false, _) => Err(unknown("a request without a token must pass; policies refuse it")),
        (true, false) => Err(unknown("every provider is to be accepted, and no other")),
    }
}

#[derive(Default)]
struct Asked<'a> {
    providers: Vec<&'a str>,
    missing: bool,
}

impl<'a> Asked<'a> {
    /// istiod writes any-of `providers, allow_missing`; with several providers, all-of such pairs, one for each: a
    /// token is judged by the provider of its issuer then, and others find none that is theirs.
    fn collect(&mut self, requirement: &'a JwtRequirement) -> Result<(), Refused> {
        match requirement.requires_type.as_ref() {
            Some(RequiresType::ProviderName(name)) => self.providers.push(name),
            Some(RequiresType::AllowMissing(())) => self.missing = true,
            Some(RequiresType::RequiresAny(list)) => {
                for part in &list.requirements {
                    self.collect(part)?;
                }
            }
            Some(RequiresType::RequiresAll(list)) => {
                for part in &list.requirements {
                    let mut pair = Asked::default();
                    pair.collect(part)?;
                    if !pair.missing || pair.providers.len() != 1 {
                        return Err(Refused::new("each part names one provider and allows a missing token"));
                    }
                    self.providers.extend(pair.providers);
                    self.missing = true;
                }
            }
            None => return Err(Refused::new("nothing is required")),
        }
        Ok(())
    }
}

fn rule(provider: &JwtProvider) -> Result<JwtRule, Refused> {
    if provider.payload_in_metadata != PAYLOAD {
        return Err(Refused::new(format!("claims stand in `{PAYLOAD}`")).at("payload_in_metadata"));
    }
    let normalized = provider.normalize_payload_in_metadata.as_ref();
    Ok(JwtRule {
        issuer: provider.issuer.clone(),
        audiences: provider.audiences.clone(),
        keys: keys(provider)?,
        locations: locations(provider),
        forward: provider.forward,
        payload_header: not_empty(&provider.forward_payload_header).map(|name| name.to_ascii_lowercase()),
        claim_headers: provider
            .claim_to_headers
            .iter()
            .map(|pair| (pair.claim_name.clone(), pair.header_name.to_ascii_lowercase()))
            .collect(),
        space_delimited: normalized.map(|payload| payload.space_delimited_claims.clone()).unwrap_or_default(),
        clock_skew: CLOCK_SKEW,
    })
}

fn locations(provider: &JwtProvider) -> JwtLocations {
    JwtLocations {
        headers: provider
            .from_headers
            .iter()
            .map(|header| (header.name.to_ascii_lowercase(), header.value_prefix.clone()))
            .collect(),
        params: provider.from_params.clone(),
        cookies: provider.from_cookies.clone(),
    }
}

fn keys(provider: &JwtProvider) -> Result<Jwks, Refused> {
    match provider.jwks_source_specifier.as_ref() {
        Some(JwksSourceSpecifier::LocalJwks(source)) => match source.specifier.as_ref() {
            Some(Specifier::InlineString(text)) => Ok(Jwks::Inline(text.as_str().into())),
            Some(Specifier::InlineBytes(bytes)) => std::str::from_utf8(bytes)
                .map(|text| Jwks::Inline(text.into()))
                .map_err(|_| Refused::new("keys are no text").at("local_jwks")),
            _ => Err(Refused::new("keys stand in the configuration itself").at("local_jwks")),
        },
        Some(JwksSourceSpecifier::RemoteJwks(remote)) => self::remote(remote).at("remote_jwks"),
        None => Err(Refused::new("a provider without keys")),
    }
}

/// The fetch's own retries and its start before the first request are our fetcher's matter.
fn remote(remote: &RemoteJwks) -> Result<Jwks, Refused> {
    let from = remote.http_uri.as_ref().ok_or_else(|| Refused::new("keys without a URI"))?;
    let cluster = from
        .http_upstream_type
        .as_ref()
        .map(|HttpUpstreamType::Cluster(name)| ClusterKey(name.as_str().into()));
    Ok(Jwks::Remote {
        uri: from.uri.clone(),
        cluster,
        timeout: required(from.timeout.as_ref()).at("http_uri.timeout")?,
        cache: optional(remote.cache_duration.as_ref()).at("cache_duration")?.unwrap_or(CACHE),
    })
}

fn not_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
