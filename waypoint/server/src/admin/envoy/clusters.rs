//! `/clusters`: the endpoints of istiod's clusters and how they fare (`envoy.admin.v3.Clusters`).

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use waypoint_model::{Cluster, ClusterEndpoint, ClusterKey, EndpointAddress, MeshConfig, TunnelKind};
use waypoint_proxy::upstream::EndpointStatus;

use super::Each;

/// The listener by which Envoy names an endpoint that is reached through a tunnel.
const TUNNEL: &str = "connect_originate";

/// Clusters and what is known of their endpoints.
pub(in crate::admin) struct Clusters {
    mesh: Option<Arc<MeshConfig>>,
    statuses: HashMap<(ClusterKey, EndpointAddress), EndpointStatus>,
}

impl Clusters {
    /// `mesh`: what serves; `statuses`: of [`waypoint_proxy::upstream::Upstreams::cluster_endpoints`].
    pub(in crate::admin) fn new(
        mesh: Option<Arc<MeshConfig>>,
        statuses: HashMap<(ClusterKey, EndpointAddress), EndpointStatus>,
    ) -> Self {
        Self { mesh, statuses }
    }

    fn clusters(&self) -> impl Iterator<Item = &Cluster> {
        self.mesh.iter().flat_map(|mesh| mesh.clusters.values()).map(AsRef::as_ref)
    }

    fn status(&self, cluster: &Cluster, endpoint: &ClusterEndpoint) -> EndpointStatus {
        let key = (cluster.key.clone(), endpoint.address.clone());
        self.statuses.get(&key).copied().unwrap_or_default()
    }

    fn cluster(&self, cluster: &Cluster) -> Value {
        let hosts = cluster.endpoints.iter().map(|endpoint| host(endpoint, self.status(cluster, endpoint)));
        json!({
            "name": cluster.key.to_string(),
            "added_via_api": true,
            "host_statuses": hosts.collect::<Vec<_>>(),
        })
    }

    /// One fact a line, `cluster::endpoint::name::value`.
    ///
    /// # Errors
    /// Never: a `String` takes everything.
    pub(in crate::admin) fn write_text(&self, text: &mut String) -> fmt::Result {
        for cluster in self.clusters() {
            writeln!(text, "{}::added_via_api::true", cluster.key)?;
            for endpoint in &cluster.endpoints {
                let status = self.status(cluster, endpoint);
                let at = format!("{}::{}", cluster.key, name(endpoint));
                writeln!(text, "{at}::cx_active::{}", status.connections)?;
                writeln!(text, "{at}::rq_active::{}", status.active)?;
                writeln!(text, "{at}::health_flags::{}", flags(endpoint, status))?;
                writeln!(text, "{at}::weight::{}", endpoint.weight)?;
                writeln!(text, "{at}::region::{}", endpoint.locality.region)?;
                writeln!(text, "{at}::zone::{}", endpoint.locality.zone)?;
                writeln!(text, "{at}::sub_zone::{}", endpoint.locality.subzone)?;
                writeln!(text, "{at}::priority::{}", endpoint.priority)?;
            }
        }
        Ok(())
    }
}

impl Serialize for Clusters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Statuses<C> {
            cluster_statuses: C,
        }
        let cluster_statuses = Each(|| self.clusters().map(|cluster| self.cluster(cluster)));
        Statuses { cluster_statuses }.serialize(serializer)
    }
}

/// `HostStatus`.
fn host(endpoint: &ClusterEndpoint, status: EndpointStatus) -> Value {
    let told = if endpoint.ready { "HEALTHY" } else { "UNHEALTHY" };
    let mut health = json!({"eds_health_status": told});
    if let (true, Some(health)) = (status.ejected, health.as_object_mut()) {
        health.insert("failed_outlier_check".to_owned(), true.into());
    }
    let locality = &endpoint.locality;
    json!({
        "address": address(endpoint),
        "stats": [
            {"name": "cx_active", "value": status.connections.to_string(), "type": "GAUGE"},
            {"name": "rq_active", "value": status.active.to_string(), "type": "GAUGE"},
        ],
        "health_status": health,
        "weight": endpoint.weight,
        "priority": endpoint.priority,
        "locality": {"region": locality.region, "zone": locality.zone, "sub_zone": locality.subzone},
    })
}

fn address(endpoint: &ClusterEndpoint) -> Value {
    match (&endpoint.address, endpoint.tunnel) {
        (EndpointAddress::Socket(socket), TunnelKind::Hbone) => json!({
            "envoy_internal_address": {"server_listener_name": TUNNEL, "endpoint_id": socket.to_string()}
        }),
        (EndpointAddress::Socket(socket), TunnelKind::Plain) => {
            json!({"socket_address": {"address": socket.ip(), "port_value": socket.port()}})
        }
        (EndpointAddress::Host(host, port), _) => {
            json!({"socket_address": {"address": host, "port_value": port}})
        }
    }
}

fn name(endpoint: &ClusterEndpoint) -> String {
    match (&endpoint.address, endpoint.tunnel) {
        (EndpointAddress::Socket(socket), TunnelKind::Hbone) => format!("envoy://{TUNNEL}/{socket}"),
        (EndpointAddress::Socket(socket), TunnelKind::Plain) => socket.to_string(),
        (EndpointAddress::Host(host, port), _) => format!("{host}:{port}"),
    }
}

/// As Envoy writes them: `healthy`, or what is wrong, each behind a slash.
fn flags(endpoint: &ClusterEndpoint, status: EndpointStatus) -> String {
    let ejected = if status.ejected { "/failed_outlier_check" } else { "" };
    let unready = if endpoint.ready { "" } else { "/failed_eds_health" };
    match format!("{ejected}{unready}") {
        none if none.is_empty() => "healthy".to_owned(),
        flags => flags,
    }
}

#[cfg(test)]
mod tests {
    use waypoint_model::{Locality, Map, ServiceKey, TrafficPolicy};

    use super::*;

    fn endpoint(address: EndpointAddress, tunnel: TunnelKind, ready: bool) -> ClusterEndpoint {
        let locality = Locality { region: "r".into(), zone: "z".into(), subzone: "".into() };
        ClusterEndpoint {
            workload: None,
            address,
            tunnel,
            weight: 2,
            priority: 1,
            locality,
            locality_weight: None,
            ready,
        }
    }

    fn shown() -> Clusters {
        let socket = |text: &str| EndpointAddress::Socket(text.parse().unwrap());
        let key = ClusterKey("inbound-vip|80|http|a".into());
        let cluster = Cluster {
            key: key.clone(),
            service: ServiceKey::new("ns", "a"),
            port: 80,
            subset: None,
            endpoints: vec![
                endpoint(socket("10.0.0.1:8080"), TunnelKind::Hbone, true),
                endpoint(socket("[fd00::1]:80"), TunnelKind::Plain, false),
                endpoint(EndpointAddress::Host("h.example".into(), 443), TunnelKind::Plain, true),
            ],
            traffic: TrafficPolicy::default(),
            unusable: None,
        };
        let mesh = MeshConfig {
            clusters: Map::from_iter([(key.clone(), Arc::new(cluster))]),
            ..MeshConfig::default()
        };
        let ejected = EndpointStatus { ejected: true, active: 3, connections: 1 };
        let statuses = [((key, socket("10.0.0.1:8080")), ejected)].into();
        Clusters::new(Some(Arc::new(mesh)), statuses)
    }

    #[test]
    fn endpoints_are_shown_with_what_is_told_and_what_was_seen_of_them() {
        let json = serde_json::to_value(shown()).unwrap();
        let cluster = &json["cluster_statuses"][0];
        assert_eq!(cluster["name"], "inbound-vip|80|http|a");
        let hosts: Vec<_> = (0..3)
            .map(|at| {
                (&cluster["host_statuses"][at]["address"], &cluster["host_statuses"][at]["health_status"])
            })
            .collect();
        let tunnelled = json!({"envoy_internal_address": {"server_listener_name": "connect_originate", "endpoint_id": "10.0.0.1:8080"}});
        assert_eq!(
            hosts,
            [
                (&tunnelled, &json!({"eds_health_status": "HEALTHY", "failed_outlier_check": true})),
                (
                    &json!({"socket_address": {"address": "fd00::1", "port_value": 80}}),
                    &json!({"eds_health_status": "UNHEALTHY"})
                ),
                (
                    &json!({"socket_address": {"address": "h.example", "port_value": 443}}),
                    &json!({"eds_health_status": "HEALTHY"})
                ),
            ]
        );
        assert_eq!(
            cluster["host_statuses"][0]["stats"][1],
            json!({"name": "rq_active", "value": "3", "type": "GAUGE"})
        );
    }

    #[test]
    fn the_text_has_one_fact_a_line() {
        let mut text = String::new();
        shown().write_text(&mut text).unwrap();
        for line in [
            "inbound-vip|80|http|a::added_via_api::true",
            "inbound-vip|80|http|a::envoy://connect_originate/10.0.0.1:8080::health_flags::/failed_outlier_check",
            "inbound-vip|80|http|a::[fd00::1]:80::health_flags::/failed_eds_health",
            "inbound-vip|80|http|a::h.example:443::health_flags::healthy",
            "inbound-vip|80|http|a::h.example:443::weight::2",
        ] {
            assert!(text.lines().any(|got| got == line), "{line} in\n{text}");
        }
        assert_eq!(Clusters::new(None, HashMap::new()).clusters().count(), 0);
    }
}
