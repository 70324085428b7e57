//! How bytes are carried to endpoints: Envoy's transport sockets → [`UpstreamTls`], and small pieces that several
//! translators need.

use std::time::Duration;

use istio_protos::envoy::config::cluster::v3::Cluster as Wire;
use istio_protos::envoy::config::core::v3::TransportSocket;
use istio_protos::envoy::config::core::v3::transport_socket::ConfigType;
use istio_protos::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use istio_protos::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use istio_protos::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use istio_protos::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, UpstreamTlsContext,
};
use istio_protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use istio_protos::{Any, unpack};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use waypoint_model::{ClusterEndpoint, EndpointAddress, ServiceKey, TunnelKind, UpstreamTls};

/// `file-root:<path>` names roots in a file, `file-cert:<chain>~<key>` our own certificate (istio pkg/security).
const ROOTS_FILE: &str = "file-root:";
const OWN_FILES: &str = "file-cert:";

/// The time in a protobuf duration; a negative one is none.
pub(super) fn duration(wire: &prost_types::Duration) -> Duration {
    Duration::try_from(*wire).unwrap_or_default()
}

/// The first service that istiod names in the metadata `istio` of a cluster.
pub(super) fn first_service(istio: &Struct) -> Option<ServiceKey> {
    let Some(Kind::ListValue(services)) = &istio.fields.get("services")?.kind else { return None };
    let Some(Kind::StructValue(service)) = &services.values.first()?.kind else { return None };
    let text = |name: &str| match service.fields.get(name) {
        Some(Value { kind: Some(Kind::StringValue(text)) }) => Some(text.as_str()),
        _ => None,
    };
    Some(ServiceKey::new(text("namespace")?, text("host")?))
}

/// The entry of `transport_socket_matches` that is Istio's mutual TLS between sidecars (`pilot/pkg/networking/core`).
const SIDECARS: &str = "tlsMode-istio";

/// Which of its endpoints a cluster reaches by the mutual TLS of sidecars, which we do not speak: our own is that of tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MutualTls {
    /// None.
    #[default]
    Nowhere,
    /// Those that are marked to have a sidecar, unless they are reached by a tunnel.
    Sidecars,
    /// All that are not reached by a tunnel: a DestinationRule says so.
    Untunnelled,
}

/// See [`MutualTls`].
pub(super) fn mutual_tls(wire: &Wire) -> MutualTls {
    match wire.transport_socket_matches.iter().find(|entry| entry.name == SIDECARS) {
        None => MutualTls::Nowhere,
        Some(entry) if entry.r#match.as_ref().is_some_and(|asked| !asked.fields.is_empty()) => {
            MutualTls::Sidecars
        }
        Some(_) => MutualTls::Untunnelled,
    }
}

/// Takes out the endpoints that a cluster reaches by mutual TLS of sidecars. Why it cannot be used, if none remains.
pub(super) fn unused(
    mutual: MutualTls,
    endpoints: &mut Vec<ClusterEndpoint>,
    sidecars: &[EndpointAddress],
) -> Option<&'static str> {
    let before = endpoints.len();
    endpoints.retain(|endpoint| match mutual {
        MutualTls::Nowhere => true,
        MutualTls::Sidecars => !sidecars.contains(&endpoint.address),
        MutualTls::Untunnelled => endpoint.tunnel != TunnelKind::Plain,
    });
    (before > 0 && endpoints.is_empty()).then_some("mutual TLS to sidecars without HBONE is not supported")
}

/// TLS to the endpoints of a cluster; `None` where plain bytes are carried (in a tunnel, to endpoints that have one).
/// Endpoint by endpoint differences (`transport_socket_matches`) are those of tunnelled and plain endpoints; both carry the
/// same inside. Endpoints of [`mutual_tls`] are not used.
pub(super) fn tls(wire: &Wire, faults: &mut Vec<String>) -> Option<UpstreamTls> {
    let entries = wire.transport_socket_matches.iter().filter(|entry| entry.name != SIDECARS);
    let sockets = entries.filter_map(|entry| entry.transport_socket.as_ref());
    let mut found: Option<Option<UpstreamTls>> = None;
    for socket in wire.transport_socket.iter().chain(sockets) {
        match socket_tls(socket) {
            Ok(tls) if found.as_ref().is_some_and(|before| *before != tls) => {
                faults.push("endpoints with and without TLS in one cluster are not supported".to_owned());
            }
            Ok(tls) => found = Some(tls),
            Err(fault) => faults.push(fault),
        }
    }
    found.flatten()
}

fn socket_tls(socket: &TransportSocket) -> Result<Option<UpstreamTls>, String> {
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(format!("transport {} has no configuration", socket.name));
    };
    match any.type_name() {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(None),
        "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport" => {
            let outer: InternalUpstreamTransport = clean(any)?;
            outer.transport_socket.as_ref().map_or(Ok(None), socket_tls)
        }
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => {
            upstream_tls(&clean(any)?).map(Some)
        }
        other => Err(format!("transport {} of type {other} is not supported", socket.name)),
    }
}

/// A message with nothing in it that we do not understand.
pub(super) fn clean<M: prost::Message + prost::Name + Default>(any: &Any) -> Result<M, String> {
    let decoded = unpack::<M>(any).map_err(|error| error.to_string())?;
    match decoded.findings.first() {
        None => Ok(decoded.message),
        Some(finding) => Err(finding.to_string()),
    }
}

fn upstream_tls(context: &UpstreamTlsContext) -> Result<UpstreamTls, String> {
    let none = CommonTlsContext::default();
    let common = context.common_tls_context.as_ref().unwrap_or(&none);
    let mut tls = UpstreamTls {
        sni: Some(context.sni.clone()).filter(|sni| !sni.is_empty()),
        alpn: common.alpn_protocols.iter().filter(|name| !name.starts_with("istio")).cloned().collect(),
        ..UpstreamTls::default()
    };
    let versions = common.tls_params.as_ref().map(|params| params.tls_minimum_protocol_version());
    if versions == Some(TlsProtocol::TlSv13) {
        return Err("TLS 1.3 and no other toward a server is not supported".to_owned());
    }
    if let Some(own) = common.tls_certificate_sds_secret_configs.first() {
        tls.client_files = Some(own_files(own)?);
    }
    match &common.validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(both)) => {
            if let Some(secret) = &both.validation_context_sds_secret_config {
                tls.ca_file = roots_file(secret)?;
            }
            if let Some(context) = &both.default_validation_context {
                validation(context, &mut tls)?;
            }
        }
        // An empty one is what istiod writes for `insecureSkipVerify`: without roots Envoy checks nothing.
        Some(ValidationContextType::ValidationContext(context)) => {
            validation(context, &mut tls)?;
            if !tls.subject_alt_names.is_empty() {
                return Err("names of a certificate without roots are not supported".to_owned());
            }
            tls.insecure = true;
        }
        Some(ValidationContextType::ValidationContextSdsSecretConfig(secret)) => {
            tls.ca_file = roots_file(secret)?;
        }
        None => tls.insecure = true,
    }
    Ok(tls)
}

fn validation(context: &CertificateValidationContext, tls: &mut UpstreamTls) -> Result<(), String> {
    for name in &context.match_subject_alt_names {
        match &name.match_pattern {
            Some(MatchPattern::Exact(exact)) if !name.ignore_case => {
                tls.subject_alt_names.push(exact.clone())
            }
            _ => {
                return Err(
                    "names of a certificate by anything but an exact value are not supported".to_owned()
                );
            }
        }
    }
    if !context.match_typed_subject_alt_names.is_empty() {
        return Err("names of a certificate by type are not supported".to_owned());
    }
    if context.trusted_ca.is_some() || context.crl.is_some() {
        return Err("roots and revocation lists inside the configuration are not supported".to_owned());
    }
    Ok(())
}

/// `None`: the system's roots, which istiod names where a DestinationRule names none.
fn roots_file(secret: &SdsSecretConfig) -> Result<Option<String>, String> {
    match secret.name.strip_prefix(ROOTS_FILE) {
        None | Some("") => Err(unsupported(secret)),
        Some("system") => Ok(None),
        Some(path) => Ok(Some(path.to_owned())),
    }
}

fn own_files(secret: &SdsSecretConfig) -> Result<(String, String), String> {
    let files = secret.name.strip_prefix(OWN_FILES).and_then(|files| files.split_once('~'));
    files.map(|(chain, key)| (chain.to_owned(), key.to_owned())).ok_or_else(|| unsupported(secret))
}

fn unsupported(secret: &SdsSecretConfig) -> String {
    format!("the certificate {:?} is not supported: name files instead", secret.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_a_file_or_the_systems_and_nothing_else() {
        let named =
            |name: &str| roots_file(&SdsSecretConfig { name: name.to_owned(), ..SdsSecretConfig::default() });
        assert_eq!(named("file-root:/etc/certs/ca.pem"), Ok(Some("/etc/certs/ca.pem".to_owned())));
        assert_eq!(named("file-root:system"), Ok(None));
        for name in ["file-root:", "ROOTCA", "kubernetes://vm-ca"] {
            assert!(named(name).is_err(), "{name}");
        }
    }
}
