//! Clusters whose streams go on to the address that they were sent to (`ORIGINAL_DST`).

use std::net::SocketAddr;
use std::sync::Arc;

use waypoint_model::{Cluster, ClusterEndpoint, EndpointAddress, Locality, Service, TunnelKind};

use super::endpoint;
use super::upstreams::Who;

/// The cluster with the one address of its service as endpoint. Only an address that the control plane told is ever
/// dialled, and never one of several: which of them a stream was sent to is not handed on.
pub(super) fn settle(cluster: &Cluster, service: Option<&Arc<Service>>, who: &Who<'_>) -> Cluster {
    let addresses = service.map_or(&[][..], |service| &service.vips);
    let [address] = addresses else {
        let why = format!(
            "streams go on to the address that they were sent to, and its service has {} addresses instead of one",
            addresses.len()
        );
        return Cluster { unusable: Some(why), ..cluster.clone() };
    };
    let at = EndpointAddress::Socket(SocketAddr::new(*address, cluster.port));
    if let Some(why) = endpoint::our_own(&at) {
        return Cluster { unusable: Some(why), ..cluster.clone() };
    }
    let endpoint = ClusterEndpoint {
        workload: who(*address),
        address: at,
        tunnel: TunnelKind::Plain,
        weight: 1,
        priority: 0,
        locality: Locality::default(),
        locality_weight: None,
        ready: true,
    };
    Cluster { endpoints: vec![endpoint], ..cluster.clone() }
}

#[cfg(test)]
mod tests {
    use waypoint_model::{ClusterKey, Map, ServiceKey, TrafficPolicy};

    use super::*;

    #[test]
    fn a_service_without_endpoints_is_reached_at_its_one_address_and_at_no_other() {
        let service = |vips: &[&str]| Service {
            key: ServiceKey::new("ns", "web"),
            name: "web".to_owned(),
            fronted: true,
            aliases: Vec::new(),
            vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
            ports: Map::new(),
            endpoints: Vec::new(),
            policies: Vec::new(),
            routes: Vec::new(),
            jwt: Vec::new(),
        };
        let cluster = Cluster {
            key: ClusterKey("inbound-vip|80|http|web".into()),
            service: ServiceKey::new("ns", "web"),
            port: 80,
            subset: None,
            endpoints: Vec::new(),
            traffic: TrafficPolicy::default(),
            unusable: None,
        };
        let settled = |vips: Option<&[&str]>| {
            let service = vips.map(service).map(Arc::new);
            settle(&cluster, service.as_ref(), &|_| None)
        };
        let found = settled(Some(&["203.0.113.7"]));
        let want = EndpointAddress::Socket("203.0.113.7:80".parse().unwrap());
        assert_eq!(found.endpoints.first().map(|at| &at.address), Some(&want));
        assert_eq!((found.endpoints.len(), found.unusable), (1, None));
        let none: [Option<&[&str]>; 5] = [
            None,
            Some(&[]),
            Some(&["203.0.113.7", "203.0.113.8"]),
            Some(&["127.0.0.1"]),
            Some(&["169.254.169.254"]),
        ];
        for vips in none {
            let found = settled(vips);
            assert!(found.endpoints.is_empty() && found.unusable.is_some(), "{vips:?}");
        }
    }
}
