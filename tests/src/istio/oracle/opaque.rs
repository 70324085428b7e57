//! Chains for opaque bytes: istiod's network RBAC before an echo. The peer's identity comes in the PROXY header.

use super::super::objects::text;
use super::{Circumstances, kind};
use anyhow::{Context, Result};
use serde_json::{Value, json};

const RBAC: &str = "envoy.filters.network.rbac";

/// Filters that judge nothing: Istio's statistics, and the one that carries the bytes on.
const NOT_JUDGING: [&str; 2] = ["istio.", "envoy.filters.network.tcp_proxy"];

/// Type of the TLV that tells the identity: the first that the protocol leaves to applications (PROXY v2 §2.2.7).
const PRINCIPAL: u8 = 0xE0;

/// Where the listener filter keeps it.
const NAMESPACE: &str = "oracle";

/// What the listener filter takes from PROXY headers.
pub(super) fn proxy_protocol() -> Value {
    let told = json!({"metadataNamespace": NAMESPACE, "key": "principal"});
    json!({"name": "proxy_protocol", "typedConfig": {
        "@type": kind("extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"),
        "rules": [{"tlvType": PRINCIPAL, "onTlvPresent": told}],
    }})
}

/// Sees a ClientHello and its server name. istiod asks for it on ports of TLS only; our waypoint looks wherever a policy asks.
pub(super) fn tls_inspector() -> Value {
    json!({"name": "tls_inspector", "typedConfig":
        {"@type": kind("extensions.filters.listener.tls_inspector.v3.TlsInspector")}})
}

/// What istiod's chain does with opaque bytes, and an echo for those that pass. An unknown filter stays, and Envoy knows it
/// or does not start.
pub(super) fn filters(theirs: &[Value]) -> Vec<Value> {
    let judging = theirs.iter().filter(|filter| {
        let name = text(filter, "/name").unwrap_or_default();
        name == RBAC || !NOT_JUDGING.iter().any(|prefix| name.starts_with(prefix))
    });
    let principal = json!({
        "objectKey": "io.istio.peer_principal",
        "factoryKey": "envoy.string",
        "formatString": {"textFormatSource": {"inlineString": format!("%DYNAMIC_METADATA({NAMESPACE}:principal)%")}},
    });
    let told = json!({"name": "principal", "typedConfig": {
        "@type": kind("extensions.filters.network.set_filter_state.v3.Config"),
        "onNewConnection": [principal],
    }});
    let echo =
        json!({"name": "echo", "typedConfig": {"@type": kind("extensions.filters.network.echo.v3.Echo")}});
    [told].into_iter().chain(judging.cloned()).chain([echo]).collect()
}

/// A PROXY v2 header that tells addresses and the identity.
pub(super) fn header(under: &Circumstances<'_>) -> Result<Vec<u8>> {
    let identity = under.principal.as_bytes();
    let mut told = Vec::new();
    told.extend(under.source.address.octets());
    told.extend(under.destination.ip().octets());
    told.extend(40_000_u16.to_be_bytes());
    told.extend(under.destination.port().to_be_bytes());
    told.push(PRINCIPAL);
    told.extend(u16::try_from(identity.len()).context("a short identity")?.to_be_bytes());
    told.extend(identity);
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11".to_vec();
    header.extend(u16::try_from(told.len()).context("a short header")?.to_be_bytes());
    header.extend(told);
    Ok(header)
}
