//! Workloads that are addressed by their own address: any port of them is a destination, made when it is first asked for.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use waypoint_model::{Endpoint, Map, MeshConfig, Service, ServiceKey, ServicePort};

use super::Destination;
use crate::routing::table::RouteTable;
use crate::upstream::{Cluster, Upstreams};

/// So many ports of workloads are remembered; beyond, all are forgotten and made again as they are asked for.
const MOST: usize = 10_000;

/// Destinations by address and port.
pub(crate) struct PodDestinations {
    /// What all of them share: policies, tokens, telemetry. Its service, cluster and port mean nothing.
    pub(super) shared: Arc<Destination>,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) made: Mutex<HashMap<SocketAddr, Arc<Destination>>>,
}

impl PodDestinations {
    /// The destination at an address; `None` where no such workload is fronted or known.
    pub(crate) fn at(&self, mesh: &MeshConfig, address: SocketAddr) -> Option<Arc<Destination>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&address) {
            return Some(Arc::clone(known));
        }
        let fresh = Arc::new(self.make(mesh, address)?);
        if made.len() >= MOST {
            made.clear();
        }
        made.insert(address, Arc::clone(&fresh));
        Some(fresh)
    }

    /// Makes again what another snapshot had, so that its connections are kept; returns its clusters.
    pub(super) fn take_over(&self, mesh: &MeshConfig, before: &Self) -> Vec<Arc<Cluster>> {
        let known: Vec<SocketAddr> = {
            let made = before.made.lock().unwrap_or_else(PoisonError::into_inner);
            made.keys().copied().collect()
        };
        known.into_iter().filter_map(|at| self.at(mesh, at)).map(|made| Arc::clone(&made.cluster)).collect()
    }

    fn make(&self, mesh: &MeshConfig, address: SocketAddr) -> Option<Destination> {
        let pods = mesh.pods.as_ref().filter(|pods| pods.addresses.contains(&address.ip()))?;
        let workload = mesh.workloads.at(address.ip())?;
        let port = address.port();
        let service = Arc::new(Service {
            key: ServiceKey::new(&workload.namespace, &address.ip().to_string()),
            name: workload.name.to_string(),
            fronted: true,
            aliases: Vec::new(),
            vips: vec![address.ip()],
            ports: Map::from([(port, ServicePort::new(None, pods.protocol))]),
            endpoints: vec![Endpoint {
                workload: workload.uid.clone(),
                ports: Map::from([(port, port)]),
                ready: true,
            }],
            policies: Vec::new(),
            routes: Vec::new(),
            jwt: Vec::new(),
        });
        let cluster = self.upstreams.cluster(&service, port, &|uid| mesh.workloads.get(uid).cloned());
        let routes = RouteTable::compile(port, &[], &cluster, &mut |_| Err("no routes here".to_owned()));
        Some(self.shared.of_workload(service, port, cluster, routes))
    }
}
