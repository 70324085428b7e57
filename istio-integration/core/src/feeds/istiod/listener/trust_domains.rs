//! Whose certificates the end of tunnels accepts: the trust domains that istiod names (`trustDomain`, `trustDomainAliases`
//! and `caCertificates[].trustDomains` of MeshConfig).

use istio_protos::envoy::config::core::v3::TransportSocket;
use istio_protos::envoy::config::core::v3::transport_socket::ConfigType;
use istio_protos::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use istio_protos::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use istio_protos::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, DownstreamTlsContext, SubjectAltNameMatcher,
};
use istio_protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use spiffe_id::check_trust_domain;

use super::translated::{At, Refused};
use super::unpack::unpack;

/// The trust domains of a listener that demands certificates; `None`: it names none (`PILOT_SKIP_VALIDATE_TRUST_DOMAIN`).
///
/// # Errors
/// A socket that is no TLS, that does not demand a certificate, or that tells peers apart by anything but trust domains.
pub(super) fn trust_domains(socket: Option<&TransportSocket>) -> Result<Option<Vec<String>>, Refused> {
    let config = socket.and_then(|socket| socket.config_type.as_ref());
    let context: DownstreamTlsContext = unpack(config.map(|ConfigType::TypedConfig(any)| any))?;
    if context.require_client_certificate != Some(true) {
        return Err(Refused::new("peers show a certificate, always").at("require_client_certificate"));
    }
    let validation = context.common_tls_context.and_then(|common| common.validation_context_type);
    let Some(ValidationContextType::CombinedValidationContext(combined)) = validation else {
        return Err(Refused::new("names beside roots are expected").at("common_tls_context"));
    };
    named(&combined.default_validation_context.unwrap_or_default())
        .at("common_tls_context.combined_validation_context.default_validation_context")
}

fn named(context: &CertificateValidationContext) -> Result<Option<Vec<String>>, Refused> {
    if context.crl.is_some() {
        return Err(Refused::new("lists of revoked certificates are a setting of the process").at("crl"));
    }
    if !context.match_subject_alt_names.is_empty() {
        return Err(Refused::new("names without a type").at("match_subject_alt_names"));
    }
    let names = &context.match_typed_subject_alt_names;
    let mut domains = Vec::new();
    for name in names {
        let domain = domain(name).ok_or_else(|| {
            Refused::new("only trust domains are told apart").at("match_typed_subject_alt_names")
        })?;
        // What is no name of a trust domain is in no certificate that is believed.
        domains.extend(check_trust_domain(domain).is_ok().then(|| domain.to_owned()));
    }
    Ok((!names.is_empty()).then_some(domains))
}

/// `spiffe://DOMAIN/` as the beginning of a URI is all that istiod writes.
fn domain(name: &SubjectAltNameMatcher) -> Option<&str> {
    let matcher = name.matcher.as_ref().filter(|matcher| !matcher.ignore_case)?;
    match &matcher.match_pattern {
        Some(MatchPattern::Prefix(prefix)) if name.san_type == SanType::Uri as i32 => {
            let domain = prefix.strip_prefix("spiffe://")?.strip_suffix('/')?;
            (!domain.contains('/')).then_some(domain)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use istio_protos::Any;
    use istio_protos::envoy::config::core::v3::DataSource;
    use istio_protos::envoy::extensions::transport_sockets::tls::v3::CommonTlsContext;
    use istio_protos::envoy::extensions::transport_sockets::tls::v3::common_tls_context::CombinedCertificateValidationContext;
    use istio_protos::envoy::r#type::matcher::v3::StringMatcher;

    use super::*;

    fn name(san_type: SanType, pattern: MatchPattern) -> SubjectAltNameMatcher {
        let matcher = StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() };
        SubjectAltNameMatcher { san_type: san_type as i32, matcher: Some(matcher) }
    }

    fn prefix(text: &str) -> SubjectAltNameMatcher {
        name(SanType::Uri, MatchPattern::Prefix(text.to_owned()))
    }

    fn of(names: Vec<SubjectAltNameMatcher>) -> CertificateValidationContext {
        CertificateValidationContext {
            match_typed_subject_alt_names: names,
            ..CertificateValidationContext::default()
        }
    }

    fn asked(context: CertificateValidationContext, demands: bool) -> Result<Option<Vec<String>>, Refused> {
        let combined = CombinedCertificateValidationContext {
            default_validation_context: Some(context),
            ..CombinedCertificateValidationContext::default()
        };
        let tls = DownstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
                ..CommonTlsContext::default()
            }),
            require_client_certificate: Some(demands),
        };
        let socket = TransportSocket {
            name: "tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(Any::pack(&tls))),
        };
        trust_domains(Some(&socket))
    }

    #[test]
    fn trust_domains_are_read_and_what_is_none_is_left_out() {
        let told = asked(of(vec![prefix("spiffe://cluster.local/"), prefix("spiffe://old/")]), true);
        assert_eq!(told, Ok(Some(vec!["cluster.local".to_owned(), "old".to_owned()])));
        assert_eq!(asked(of(vec![prefix("spiffe://*.old/")]), true), Ok(Some(Vec::new())));
        assert_eq!(asked(of(Vec::new()), true), Ok(None), "PILOT_SKIP_VALIDATE_TRUST_DOMAIN");
    }

    #[test]
    fn what_tells_peers_apart_otherwise_is_refused() {
        let exact = MatchPattern::Exact("spiffe://td/ns/a/sa/b".to_owned());
        let revoked = CertificateValidationContext {
            crl: Some(DataSource::default()),
            ..of(vec![prefix("spiffe://td/")])
        };
        let rows = [
            ("a part of a domain", asked(of(vec![prefix("spiffe://td/ns/a/")]), true)),
            ("not the end of a domain", asked(of(vec![prefix("spiffe://td")]), true)),
            ("an identity", asked(of(vec![name(SanType::Uri, exact)]), true)),
            (
                "another kind of name",
                asked(of(vec![name(SanType::Dns, MatchPattern::Prefix("spiffe://td/".to_owned()))]), true),
            ),
            ("a list of revoked certificates", asked(revoked, true)),
            ("no certificate demanded", asked(of(vec![prefix("spiffe://td/")]), false)),
            ("no TLS", trust_domains(None)),
        ];
        for (what, told) in rows {
            assert!(told.is_err(), "{what}: {told:?}");
        }
    }
}
