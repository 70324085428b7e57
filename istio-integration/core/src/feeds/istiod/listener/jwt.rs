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

#[cfg(test)]
mod tests {
    use super::*;
    use istio_protos::envoy::config::core::v3::{DataSource, HttpUri};
    use istio_protos::envoy::config::route::v3::RouteMatch;
    use istio_protos::envoy::extensions::filters::http::jwt_authn::v3::{
        JwtRequirementAndList, JwtRequirementOrList,
    };

    fn provider() -> JwtProvider {
        JwtProvider {
            issuer: "https://issuer".to_owned(),
            payload_in_metadata: PAYLOAD.to_owned(),
            jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(DataSource {
                specifier: Some(Specifier::InlineString("{\"keys\":[]}".to_owned())),
            })),
            ..JwtProvider::default()
        }
    }

    fn requires(requires_type: RequiresType) -> JwtRequirement {
        JwtRequirement { requires_type: Some(requires_type) }
    }

    fn named(name: &str) -> JwtRequirement {
        requires(RequiresType::ProviderName(name.to_owned()))
    }

    fn missing() -> JwtRequirement {
        requires(RequiresType::AllowMissing(()))
    }

    fn any_of(requirements: Vec<JwtRequirement>) -> JwtRequirement {
        requires(RequiresType::RequiresAny(JwtRequirementOrList { requirements }))
    }

    fn all_of(requirements: Vec<JwtRequirement>) -> JwtRequirement {
        requires(RequiresType::RequiresAll(JwtRequirementAndList { requirements }))
    }

    fn filter(providers: &[(&str, JwtProvider)], requirement: JwtRequirement) -> JwtAuthentication {
        let everywhere = RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        };
        JwtAuthentication {
            providers: providers
                .iter()
                .map(|(name, provider)| ((*name).to_owned(), provider.clone()))
                .collect(),
            rules: vec![RequirementRule {
                r#match: Some(everywhere),
                requirement_type: Some(RequirementType::Requires(requirement)),
            }],
            bypass_cors_preflight: true,
            ..JwtAuthentication::default()
        }
    }

    fn translate(filter: &JwtAuthentication) -> Result<Vec<Arc<JwtRule>>, Refused> {
        rules(Some(&Any::pack(filter)))
    }

    #[test]
    fn both_shapes_of_istiod_are_read_in_the_order_of_the_resources() {
        let one = filter(&[("origins-0", provider())], any_of(vec![named("origins-0"), missing()]));
        let rule = translate(&one).unwrap().remove(0);
        assert_eq!((rule.issuer.as_str(), rule.clock_skew), ("https://issuer", Duration::from_secs(60)));

        let each = |name| any_of(vec![named(name), missing()]);
        let several = any_of(vec![
            named("origins-2"),
            named("origins-10"),
            all_of(vec![each("origins-2"), each("origins-10")]),
        ]);
        let tenth = JwtProvider { issuer: "ten".to_owned(), ..provider() };
        let both = translate(&filter(&[("origins-10", tenth), ("origins-2", provider())], several)).unwrap();
        let issuers: Vec<&str> = both.iter().map(|rule| rule.issuer.as_str()).collect();
        assert_eq!(issuers, ["https://issuer", "ten"]);
    }

    #[test]
    fn keys_of_a_cluster_are_fetched_through_it() {
        let uri = HttpUri {
            uri: "http://keys.example/jwks".to_owned(),
            timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            http_upstream_type: Some(HttpUpstreamType::Cluster("outbound|80||keys.example".to_owned())),
        };
        let remote = RemoteJwks { http_uri: Some(uri), ..RemoteJwks::default() };
        let provider = JwtProvider {
            jwks_source_specifier: Some(JwksSourceSpecifier::RemoteJwks(remote)),
            ..provider()
        };
        let rules = translate(&filter(&[("p", provider)], any_of(vec![named("p"), missing()]))).unwrap();
        let want = Jwks::Remote {
            uri: "http://keys.example/jwks".to_owned(),
            cluster: Some(ClusterKey("outbound|80||keys.example".into())),
            timeout: Duration::from_secs(5),
            cache: CACHE,
        };
        assert_eq!(rules.first().map(|rule| &rule.keys), Some(&want));
    }

    #[test]
    fn any_other_shape_is_refused() {
        let usual = || any_of(vec![named("p"), missing()]);
        let fine = || filter(&[("p", provider())], usual());
        let changed = |change: &dyn Fn(&mut JwtAuthentication)| {
            let mut filter = fine();
            change(&mut filter);
            translate(&filter)
        };
        assert!(translate(&fine()).is_ok());
        let rows: [(&str, Result<_, Refused>); 8] = [
            ("a token is demanded", translate(&filter(&[("p", provider())], named("p")))),
            ("a provider is left out", translate(&filter(&[("p", provider()), ("q", provider())], usual()))),
            ("a provider is not there", translate(&filter(&[], usual()))),
            (
                "only some paths",
                changed(&|filter| {
                    filter.rules.iter_mut().for_each(|rule| rule.r#match = Some(RouteMatch::default()));
                }),
            ),
            ("no rule", changed(&|filter| filter.rules.clear())),
            ("preflights need a token", changed(&|filter| filter.bypass_cors_preflight = false)),
            (
                "claims elsewhere",
                changed(&|filter| {
                    filter.providers.values_mut().for_each(|provider| provider.payload_in_metadata.clear());
                }),
            ),
            (
                "no keys",
                changed(&|filter| {
                    filter.providers.values_mut().for_each(|provider| provider.jwks_source_specifier = None);
                }),
            ),
        ];
        for (what, translated) in rows {
            assert!(translated.is_err(), "{what}");
        }
    }
}
