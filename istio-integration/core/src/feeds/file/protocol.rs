//! Istio's protocol selection: what a port is declared to carry (`istio-hbone` contract §1.12).

use waypoint_model::Protocol;

/// What a declaration means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selected {
    /// Carried.
    Carries(Protocol),
    /// Not TCP; does not pass through a waypoint.
    NotTcp,
}

/// Ports that carry a server-first protocol by custom, where waiting for the client's first bytes would stall.
const TCP_PORTS: [u16; 4] = [25, 53, 3306, 27017];

/// Selects for a port of a Kubernetes Service: `protocol`, then `appProtocol`, then the port's name up to its first
/// `-`, then the well-known numbers.
pub(super) fn of_service_port(
    transport: Option<&str>,
    app_protocol: Option<&str>,
    name: Option<&str>,
    port: u16,
) -> Selected {
    if !matches!(transport, None | Some("TCP")) {
        return Selected::NotTcp;
    }
    match app_protocol {
        Some("kubernetes.io/h2c") => return Selected::Carries(Protocol::Http2),
        Some("kubernetes.io/ws") => return Selected::Carries(Protocol::Http),
        Some("kubernetes.io/wss") => return Selected::Carries(Protocol::Tls),
        _ => {}
    }
    let declared = app_protocol.or(name).unwrap_or_default();
    match by_name(prefix(declared)) {
        Some(selected) => selected,
        None if TCP_PORTS.contains(&port) => Selected::Carries(Protocol::Tcp),
        None => Selected::Carries(Protocol::Undeclared),
    }
}

/// Selects for a port of a ServiceEntry: its `protocol` alone.
pub(super) fn of_entry_port(protocol: Option<&str>) -> Selected {
    by_name(protocol.unwrap_or_default()).unwrap_or(Selected::Carries(Protocol::Undeclared))
}

/// Whether Istio knows the name, so that a typing error can be told.
pub(super) fn is_known(name: &str) -> bool {
    name.starts_with("kubernetes.io/") || by_name(prefix(name)).is_some()
}

/// `grpc-web-x` is `grpc-web`, though a prefix ends at the first `-` otherwise.
fn prefix(name: &str) -> &str {
    match name.get(..8) {
        Some(start) if start.eq_ignore_ascii_case("grpc-web") => start,
        _ => name.split('-').next().unwrap_or(name),
    }
}

fn by_name(name: &str) -> Option<Selected> {
    let protocol = match name.to_ascii_lowercase().as_str() {
        "udp" => return Some(Selected::NotTcp),
        "http" | "http_proxy" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" | "grpc-web" => Protocol::Grpc,
        "https" | "tls" => Protocol::Tls,
        "tcp" | "mongo" | "redis" | "mysql" | "hbone" => Protocol::Tcp,
        _ => return None,
    };
    Some(Selected::Carries(protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_is_istios() {
        let carries = |protocol| Selected::Carries(protocol);
        let rows = [
            (None, None, None, 80, carries(Protocol::Undeclared)),
            (Some("UDP"), Some("http"), None, 80, Selected::NotTcp),
            (Some("SCTP"), None, None, 80, Selected::NotTcp),
            (Some("TCP"), Some("kubernetes.io/h2c"), None, 80, carries(Protocol::Http2)),
            (None, Some("kubernetes.io/ws"), None, 80, carries(Protocol::Http)),
            (None, Some("kubernetes.io/wss"), None, 80, carries(Protocol::Tls)),
            (None, Some("http"), Some("tcp-x"), 80, carries(Protocol::Http)),
            (None, Some("HTTP2"), None, 80, carries(Protocol::Http2)),
            (None, Some("unheard-of"), Some("http"), 80, carries(Protocol::Undeclared)),
            (None, Some("unheard-of"), None, 3306, carries(Protocol::Tcp)),
            (None, None, Some("http"), 1, carries(Protocol::Http)),
            (None, None, Some("http-mcp"), 1, carries(Protocol::Http)),
            (None, None, Some("httpx"), 1, carries(Protocol::Undeclared)),
            (None, None, Some("http_proxy"), 1, carries(Protocol::Http)),
            (None, None, Some("http2-a"), 1, carries(Protocol::Http2)),
            (None, None, Some("grpc"), 1, carries(Protocol::Grpc)),
            (None, None, Some("grpc-web"), 1, carries(Protocol::Grpc)),
            (None, None, Some("GRPC-Web-x"), 1, carries(Protocol::Grpc)),
            (None, None, Some("https"), 443, carries(Protocol::Tls)),
            (None, None, Some("tls-x"), 443, carries(Protocol::Tls)),
            (None, None, Some("mongo"), 1, carries(Protocol::Tcp)),
            (None, None, Some("redis"), 1, carries(Protocol::Tcp)),
            (None, None, Some("mysql"), 1, carries(Protocol::Tcp)),
            (None, None, Some("udp-dns"), 53, Selected::NotTcp),
            (None, None, Some("smtp"), 25, carries(Protocol::Tcp)),
            (None, None, None, 53, carries(Protocol::Tcp)),
            (None, None, None, 3306, carries(Protocol::Tcp)),
            (None, None, None, 27017, carries(Protocol::Tcp)),
            (None, None, Some("http"), 3306, carries(Protocol::Http)),
        ];
        for (transport, app_protocol, name, port, want) in rows {
            let got = of_service_port(transport, app_protocol, name, port);
            assert_eq!(got, want, "{transport:?} {app_protocol:?} {name:?} {port}");
        }
    }

    #[test]
    fn an_entry_declares_by_its_protocol_alone() {
        let rows = [
            (Some("HTTP"), Selected::Carries(Protocol::Http)),
            (Some("HTTPS"), Selected::Carries(Protocol::Tls)),
            (Some("TLS"), Selected::Carries(Protocol::Tls)),
            (Some("UDP"), Selected::NotTcp),
            (Some("http-x"), Selected::Carries(Protocol::Undeclared)),
            (None, Selected::Carries(Protocol::Undeclared)),
        ];
        for (protocol, want) in rows {
            assert_eq!(of_entry_port(protocol), want, "{protocol:?}");
        }
    }
}
