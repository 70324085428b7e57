//! One connection to istiod, made for one call: calls are hours apart, and each must see the root of its moment.

use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig};

use super::CaError;
use crate::bootstrap::Endpoint;

/// DNS, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(5);

/// Connects, and checks istiod's certificate by the root file as it is now.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Channel, CaError> {
    let roots = roots(endpoint).await?;
    let tls = ClientTlsConfig::new().ca_certificate(roots).domain_name(&endpoint.server_name);
    let unusable = |error: tonic::transport::Error| CaError::unreachable(endpoint, &error);
    let dial = Channel::from_shared(format!("https://{}", endpoint.authority()))
        .map_err(|error| CaError::Address { address: endpoint.authority(), why: error.to_string() })?
        .connect_timeout(CONNECT)
        .tls_config(tls)
        .map_err(unusable)?;
    // The transport's own bound is for TCP alone.
    match tokio::time::timeout(CONNECT, dial.connect()).await {
        Ok(connected) => connected.map_err(unusable),
        Err(_) => Err(CaError::Silent { address: endpoint.authority(), within: CONNECT }),
    }
}

/// Roots that are none would make every server unknown, and the fault would be looked for there.
async fn roots(endpoint: &Endpoint) -> Result<Certificate, CaError> {
    let path = &endpoint.root;
    let read = tokio::fs::read(path).await;
    let pem = read.map_err(|cause| CaError::Unreadable {
        what: "istiod's root certificate",
        path: path.clone(),
        cause,
        fix: ROOT_FIX,
    })?;
    match certs::check_roots(&pem) {
        Ok(()) => Ok(Certificate::from_pem(pem)),
        Err(cause) => Err(CaError::Roots { path: path.clone(), cause }),
    }
}

pub(super) const ROOT_FIX: &str =
    "mount the ConfigMap istio-ca-root-cert at /var/run/secrets/istio, or name the file in CA_ROOT_CA";
