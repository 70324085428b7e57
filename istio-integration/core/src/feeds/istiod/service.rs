//! `istio.workload.Service`: names, addresses and declared ports.

use std::net::IpAddr;

use istio_protos::istio::workload::{AppProtocol, Service as Wire};
use waypoint_model::{Map, Protocol, ServiceKey};

use super::index::AddressError;
use super::workload::{Own, ip};

/// What the workload API says of a service. What holds on its ports comes with the listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshService {
    /// `namespace/hostname`.
    pub key: ServiceKey,
    /// Short name.
    pub name: String,
    /// Virtual addresses in our network.
    pub vips: Vec<IpAddr>,
    /// Declared ports.
    pub ports: Map<u16, Protocol>,
    /// Further identities that its endpoints may have.
    pub subject_alt_names: Vec<String>,
}

/// Translates one service.
pub(super) fn translate(wire: &Wire, own: &Own) -> Result<MeshService, AddressError> {
    let ours = |network: &str| network.is_empty() || own.network.is_empty() || network == own.network;
    let addresses = wire.addresses.iter().filter(|at| ours(&at.network));
    let vips = addresses.map(|at| ip("addresses", &at.address)).collect::<Result<_, _>>()?;
    let ports = wire.ports.iter().filter_map(|port| {
        let number = u16::try_from(port.service_port).ok().filter(|number| *number > 0)?;
        Some((number, protocol(port.app_protocol())))
    });
    Ok(MeshService {
        key: ServiceKey::new(&wire.namespace, &wire.hostname),
        name: wire.name.clone(),
        vips,
        ports: ports.collect(),
        subject_alt_names: wire.subject_alt_names.clone(),
    })
}

fn protocol(declared: AppProtocol) -> Protocol {
    match declared {
        AppProtocol::Unknown => Protocol::Undeclared,
        AppProtocol::Http11 => Protocol::Http,
        AppProtocol::Http2 => Protocol::Http2,
        AppProtocol::Grpc => Protocol::Grpc,
        AppProtocol::Tcp => Protocol::Tcp,
        AppProtocol::Tls => Protocol::Tls,
    }
}

#[cfg(test)]
mod tests {
    use istio_protos::istio::workload::{NetworkAddress, Port};

    use super::*;

    #[test]
    fn ports_and_addresses_of_our_network_are_kept() {
        let at = |network: &str, ip: &[u8]| NetworkAddress {
            network: network.to_owned(),
            address: ip.to_vec().into(),
            length: None,
        };
        let port = |number, protocol: AppProtocol| Port {
            service_port: number,
            target_port: 1,
            app_protocol: protocol.into(),
        };
        let wire = Wire {
            name: "web".to_owned(),
            namespace: "ns".to_owned(),
            hostname: "web.ns.svc.cluster.local".to_owned(),
            addresses: vec![at("", &[10, 96, 0, 1]), at("there", &[10, 96, 0, 2])],
            ports: vec![
                port(80, AppProtocol::Http11),
                port(81, AppProtocol::Unknown),
                port(70_000, AppProtocol::Tcp),
            ],
            ..Wire::default()
        };
        let got = translate(&wire, &Own { network: "here".to_owned() }).unwrap();
        assert_eq!(got.vips, ["10.96.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(got.ports, Map::from([(80, Protocol::Http), (81, Protocol::Undeclared)]));
        assert_eq!(got.key.to_string(), "ns/web.ns.svc.cluster.local");
    }
}
