//! `envoy.config.endpoint.v3.ClusterLoadAssignment` → endpoints.

use std::net::{IpAddr, SocketAddr};

use istio_protos::Decoded;
use istio_protos::envoy::config::core::v3::address::Address as AddressKind;
use istio_protos::envoy::config::core::v3::envoy_internal_address::AddressNameSpecifier;
use istio_protos::envoy::config::core::v3::socket_address::PortSpecifier;
use istio_protos::envoy::config::core::v3::{Address, HealthStatus};
use istio_protos::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use istio_protos::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints};
use waypoint_model::{ClusterEndpoint, EndpointAddress, Locality, TunnelKind};

use super::{Refused, TranslatedEndpoints};

/// The listener that means: in a tunnel, to the workload at this address.
const TUNNEL: &str = "connect_originate";

/// Where an endpoint's metadata say how it is to be carried.
const SOCKET: &str = "envoy.transport_socket_match";

/// Translates the endpoints of a cluster. A field that is not known is refused; an endpoint that cannot be reached is left
/// out and noted: the others serve on.
#[must_use]
pub fn translate(decoded: &Decoded<ClusterLoadAssignment>) -> TranslatedEndpoints {
    let name = &decoded.message.cluster_name;
    let about = |why: String| Refused { path: name.clone(), why };
    let Read { endpoints, sidecars, unread } = read(&decoded.message);
    TranslatedEndpoints {
        endpoints,
        sidecars,
        refused: decoded.findings.iter().map(|finding| about(finding.to_string())).collect(),
        notes: unread.into_iter().map(about).collect(),
    }
}

/// Endpoints as they were read.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Those that can be used.
    pub(super) endpoints: Vec<ClusterEndpoint>,
    /// Those of them that have a sidecar and no tunnel.
    pub(super) sidecars: Vec<EndpointAddress>,
    /// Why the others cannot.
    pub(super) unread: Vec<String>,
}

/// Reads all endpoints of a message.
pub(super) fn read(wire: &ClusterLoadAssignment) -> Read {
    let mut read = Read::default();
    for group in &wire.endpoints {
        for one in &group.lb_endpoints {
            match endpoint(one, group) {
                Ok(endpoint) => {
                    if endpoint.tunnel == TunnelKind::Plain && has_sidecar(one) {
                        read.sidecars.push(endpoint.address.clone());
                    }
                    read.endpoints.push(endpoint);
                }
                Err(why) => read.unread.push(why),
            }
        }
    }
    read
}

/// Whether istiod marks it so: what `transport_socket_matches` of its cluster compare.
fn has_sidecar(wire: &LbEndpoint) -> bool {
    let told = wire.metadata.as_ref().and_then(|metadata| metadata.filter_metadata.get(SOCKET));
    let mode = told.and_then(|told| told.fields.get("tlsMode")).and_then(|mode| mode.kind.as_ref());
    matches!(mode, Some(prost_types::value::Kind::StringValue(mode)) if mode == "istio")
}

fn endpoint(wire: &LbEndpoint, group: &LocalityLbEndpoints) -> Result<ClusterEndpoint, String> {
    let Some(HostIdentifier::Endpoint(endpoint)) = &wire.host_identifier else {
        return Err("an endpoint has no address".to_owned());
    };
    let (address, tunnel) =
        endpoint.address.as_ref().map_or(Err("an endpoint has no address".to_owned()), at)?;
    if let Some(why) = our_own(&address) {
        return Err(why);
    }
    let ready = matches!(
        wire.health_status(),
        HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded
    );
    Ok(ClusterEndpoint {
        workload: None,
        address,
        tunnel,
        weight: wire.load_balancing_weight.unwrap_or(1),
        priority: group.priority,
        locality: group.locality.as_ref().map_or_else(Locality::default, |at| Locality {
            region: at.region.as_str().into(),
            zone: at.zone.as_str().into(),
            subzone: at.sub_zone.as_str().into(),
        }),
        locality_weight: group.load_balancing_weight,
        ready,
    })
}

/// An endpoint on this host would be our own admin port, or a neighbour that trusts the loopback. Nothing in a mesh is there.
pub(super) fn our_own(address: &EndpointAddress) -> Option<String> {
    let local = match address {
        EndpointAddress::Socket(socket) => is_local(socket.ip()),
        EndpointAddress::Host(host, _) => {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    };
    local.then(|| format!("endpoint {address:?} is on the waypoint's own host"))
}

fn is_local(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    link_local || ip.is_loopback() || ip.is_unspecified()
}

/// Where an endpoint listens and how it is reached.
fn at(address: &Address) -> Result<(EndpointAddress, TunnelKind), String> {
    match &address.address {
        Some(AddressKind::EnvoyInternalAddress(internal)) => {
            let AddressNameSpecifier::ServerListenerName(listener) =
                internal.address_name_specifier.as_ref().ok_or("an internal address names no listener")?;
            if listener != TUNNEL {
                return Err(format!("an endpoint behind the listener {listener} is not supported"));
            }
            let socket: SocketAddr = internal
                .endpoint_id
                .parse()
                .map_err(|_| format!("endpoint {:?} is no address with port", internal.endpoint_id))?;
            Ok((EndpointAddress::Socket(canonical(socket)), TunnelKind::Hbone))
        }
        Some(AddressKind::SocketAddress(socket)) => {
            let Some(PortSpecifier::PortValue(port)) = &socket.port_specifier else {
                return Err(format!("endpoint {:?} has no port", socket.address));
            };
            let port = u16::try_from(*port).map_err(|_| format!("port {port} is none"))?;
            let address = match socket.address.parse::<IpAddr>() {
                Ok(ip) => EndpointAddress::Socket(SocketAddr::new(ip.to_canonical(), port)),
                Err(_) => EndpointAddress::Host(socket.address.clone(), port),
            };
            Ok((address, TunnelKind::Plain))
        }
        None => Err("an endpoint has no address".to_owned()),
    }
}

fn canonical(socket: SocketAddr) -> SocketAddr {
    SocketAddr::new(socket.ip().to_canonical(), socket.port())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use istio_protos::decode;

    use super::*;

    fn dumped(name: &str) -> TranslatedEndpoints {
        let path = format!("{}/tests/dumps/ClusterLoadAssignment/{name}.bin", env!("CARGO_MANIFEST_DIR"));
        translate(&decode(fs::read(&path).expect(name).into()).unwrap())
    }

    #[test]
    fn endpoints_in_the_mesh_are_reached_through_tunnels() {
        let got = dumped("inbound-vip_80_http_cart.shop.svc.cluster.local");
        assert_eq!((got.refused, got.notes), (vec![], vec![]));
        let got: Vec<_> = got
            .endpoints
            .iter()
            .map(|endpoint| {
                let zone = endpoint.locality.zone.as_ref();
                (endpoint.address.clone(), endpoint.tunnel, endpoint.priority, zone, endpoint.ready)
            })
            .collect();
        let want = |address: &str, priority, zone| {
            let address = EndpointAddress::Socket(address.parse().unwrap());
            (address, TunnelKind::Hbone, priority, zone, true)
        };
        assert_eq!(got, [want("10.244.1.1:8080", 0, "z1"), want("10.244.1.2:8080", 1, "z2")]);
    }

    #[test]
    fn endpoints_with_sidecars_are_told_from_others() {
        let sidecars = |name| dumped(name).sidecars.len();
        assert_eq!(sidecars("inbound-vip_80_http_vm.example.com"), 1);
        assert_eq!(sidecars("inbound-vip_80_http_cart.shop.svc.cluster.local"), 0, "they have tunnels");
    }

    #[test]
    fn an_endpoint_on_our_own_host_is_none() {
        let rows = [
            ("127.0.0.1", true),
            ("::1", true),
            ("0.0.0.0", true),
            ("169.254.1.1", true),
            ("10.0.0.1", false),
        ];
        for (ip, want) in rows {
            let at = EndpointAddress::Socket(SocketAddr::new(ip.parse().unwrap(), 15000));
            assert_eq!(our_own(&at).is_some(), want, "{ip}");
        }
        for (host, want) in [("localhost", true), ("a.LOCALHOST.", true), ("api.example.com", false)] {
            assert_eq!(our_own(&EndpointAddress::Host(host.to_owned(), 80)).is_some(), want, "{host}");
        }
    }

    #[test]
    fn an_address_is_read_or_named() {
        let socket = |address: &str, port: u32| Address {
            address: Some(AddressKind::SocketAddress(istio_protos::envoy::config::core::v3::SocketAddress {
                address: address.to_owned(),
                port_specifier: Some(PortSpecifier::PortValue(port)),
            })),
        };
        let internal = |listener: &str, endpoint: &str| Address {
            address: Some(AddressKind::EnvoyInternalAddress(
                istio_protos::envoy::config::core::v3::EnvoyInternalAddress {
                    address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(
                        listener.to_owned(),
                    )),
                    endpoint_id: endpoint.to_owned(),
                },
            )),
        };
        let rows = [
            (socket("10.0.0.1", 80), Ok("10.0.0.1:80 Plain")),
            (socket("::ffff:10.0.0.1", 80), Ok("10.0.0.1:80 Plain")),
            (socket("api.example.com", 443), Ok("api.example.com:443 Plain")),
            (socket("10.0.0.1", 70_000), Err("port 70000 is none")),
            (internal("connect_originate", "[fd00::7]:80"), Ok("[fd00::7]:80 Hbone")),
            (internal("connect_originate", "x"), Err("endpoint \"x\" is no address with port")),
            (
                internal("inner_connect_originate", "10.0.0.1:80"),
                Err("an endpoint behind the listener inner_connect_originate is not supported"),
            ),
        ];
        for (address, want) in rows {
            let got = at(&address).map(|(address, tunnel)| match address {
                EndpointAddress::Socket(socket) => format!("{socket} {tunnel:?}"),
                EndpointAddress::Host(host, port) => format!("{host}:{port} {tunnel:?}"),
            });
            assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned));
        }
    }
}
