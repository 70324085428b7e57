//! Clusters and their endpoints, joined with the workload API. What did not change stays the same `Arc`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use waypoint_model::{Cluster, ClusterEndpoint, ClusterKey, EndpointAddress, Map, WorkloadUid};

use super::MutualTls;
use super::transport::unused;

/// Who stands at an address.
pub(super) type Who<'a> = dyn Fn(IpAddr) -> Option<WorkloadUid> + 'a;

/// All clusters and endpoints.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    clusters: BTreeMap<Arc<str>, Known>,
    endpoints: BTreeMap<Arc<str>, Endpoints>,
    joined: Map<ClusterKey, Arc<Cluster>>,
    /// Clusters to be joined anew.
    stale: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
struct Known {
    cluster: Cluster,
    endpoints_from: Option<Arc<str>>,
    mutual_tls: MutualTls,
}

/// What istiod says of the endpoints of a cluster.
#[derive(Debug, Default)]
struct Endpoints {
    all: Vec<ClusterEndpoint>,
    /// Those that have a sidecar and no tunnel.
    sidecars: Vec<EndpointAddress>,
}

impl Upstreams {
    /// `endpoints_from`: the name under which its endpoints are asked for; `None`: they stand in the cluster, without those
    /// that `mutual_tls` leaves out.
    pub(super) fn set_cluster(
        &mut self,
        name: Arc<str>,
        cluster: Cluster,
        endpoints_from: Option<Arc<str>>,
        mutual_tls: MutualTls,
    ) {
        let key = cluster.key.clone();
        let before = self.clusters.insert(Arc::clone(&name), Known { cluster, endpoints_from, mutual_tls });
        if let Some(before) = before.filter(|before| before.cluster.key != key) {
            self.joined.remove(&before.cluster.key);
        }
        self.stale.insert(name);
    }

    pub(super) fn remove_cluster(&mut self, name: &str) {
        let Some(gone) = self.clusters.remove(name) else { return };
        self.joined.remove(&gone.cluster.key);
        self.stale.remove(name);
    }

    /// Whether there is a cluster of this name.
    pub(super) fn has_cluster(&self, name: &str) -> bool {
        self.clusters.contains_key(name)
    }

    /// `sidecars`: those of `all` that have a sidecar and no tunnel.
    pub(super) fn set_endpoints(
        &mut self,
        name: Arc<str>,
        all: Vec<ClusterEndpoint>,
        sidecars: Vec<EndpointAddress>,
    ) {
        self.touch(&name);
        self.endpoints.insert(name, Endpoints { all, sidecars });
    }

    pub(super) fn remove_endpoints(&mut self, name: &str) {
        self.touch(name);
        self.endpoints.remove(name);
    }

    /// Names under which endpoints are to be asked for; endpoints of others are forgotten.
    pub(super) fn wanted(&mut self) -> BTreeSet<String> {
        let from = |known: &Known| known.endpoints_from.as_deref().map(str::to_owned);
        let wanted: BTreeSet<String> = self.clusters.values().filter_map(from).collect();
        self.endpoints.retain(|name, _| wanted.contains(&**name));
        wanted
    }

    /// Whether istiod has said who serves this cluster.
    pub(super) fn has_endpoints(&self, name: &str) -> bool {
        self.endpoints.contains_key(name)
    }

    /// All clusters, each with its endpoints. `moved`: addresses at which someone else may stand than before.
    pub(super) fn joined(
        &mut self,
        who: &Who<'_>,
        moved: &HashSet<IpAddr>,
    ) -> &Map<ClusterKey, Arc<Cluster>> {
        let mut stale = std::mem::take(&mut self.stale);
        if !moved.is_empty() {
            let stands =
                |(_, known): &(&Arc<str>, &Known)| self.of(known).iter().any(|at| stands_at(at, moved));
            stale.extend(self.clusters.iter().filter(stands).map(|(name, _)| Arc::clone(name)));
        }
        for name in stale {
            let Some(known) = self.clusters.get(&name) else { continue };
            let fresh = self.join(known, who);
            let same = self.joined.get(&fresh.key).is_some_and(|before| **before == fresh);
            if !same {
                self.joined.insert(fresh.key.clone(), Arc::new(fresh));
            }
        }
        &self.joined
    }

    fn join(&self, known: &Known, who: &Who<'_>) -> Cluster {
        let endpoint = |endpoint: &ClusterEndpoint| ClusterEndpoint {
            workload: ip(endpoint).and_then(who),
            ..endpoint.clone()
        };
        let mut endpoints = self.of(known).iter().map(endpoint).collect();
        let told = known.endpoints_from.as_ref().and_then(|name| self.endpoints.get(name));
        let unused = told.and_then(|told| unused(known.mutual_tls, &mut endpoints, &told.sidecars));
        let unusable = known.cluster.unusable.clone().or(unused.map(str::to_owned));
        Cluster { endpoints, unusable, ..known.cluster.clone() }
    }

    fn of<'a>(&'a self, known: &'a Known) -> &'a [ClusterEndpoint] {
        match &known.endpoints_from {
            Some(name) => self.endpoints.get(name).map(|told| told.all.as_slice()).unwrap_or_default(),
            None => &known.cluster.endpoints,
        }
    }

    /// Clusters with these endpoints are to be joined anew.
    fn touch(&mut self, endpoints: &str) {
        if self
            .clusters
            .get(endpoints)
            .is_some_and(|known| known.endpoints_from.as_deref() == Some(endpoints))
        {
            // istiod names endpoints after their cluster.
            self.stale.insert(endpoints.into());
        } else {
            let with = |(_, known): &(&Arc<str>, &Known)| known.endpoints_from.as_deref() == Some(endpoints);
            self.stale.extend(self.clusters.iter().filter(with).map(|(name, _)| Arc::clone(name)));
        }
    }
}

fn ip(endpoint: &ClusterEndpoint) -> Option<IpAddr> {
    match &endpoint.address {
        EndpointAddress::Socket(at) => Some(at.ip()),
        EndpointAddress::Host(..) => None,
    }
}

fn stands_at(endpoint: &ClusterEndpoint, addresses: &HashSet<IpAddr>) -> bool {
    ip(endpoint).is_some_and(|ip| addresses.contains(&ip.to_canonical()))
}

#[cfg(test)]
mod tests {
    use waypoint_model::{Locality, ServiceKey, TrafficPolicy, TunnelKind};

    use super::*;

    fn cluster(name: &str) -> Cluster {
        Cluster {
            key: ClusterKey(name.into()),
            service: ServiceKey::new("ns", "web"),
            port: 80,
            subset: None,
            endpoints: Vec::new(),
            traffic: TrafficPolicy::default(),
            unusable: None,
        }
    }

    fn set(upstreams: &mut Upstreams, name: &str, from: Option<&str>) {
        upstreams.set_cluster(name.into(), cluster(name), from.map(Into::into), MutualTls::Nowhere);
    }

    fn endpoint(at: &str) -> ClusterEndpoint {
        ClusterEndpoint {
            workload: None,
            address: EndpointAddress::Socket(at.parse().unwrap()),
            tunnel: TunnelKind::Hbone,
            weight: 1,
            priority: 0,
            locality: Locality::default(),
            locality_weight: None,
            ready: true,
        }
    }

    fn nobody(_: IpAddr) -> Option<WorkloadUid> {
        None
    }

    fn named(ip: IpAddr) -> Option<WorkloadUid> {
        Some(WorkloadUid(ip.to_string().into()))
    }

    fn get(upstreams: &mut Upstreams, who: &Who<'_>, moved: &[&str], name: &str) -> Option<Arc<Cluster>> {
        let moved = moved.iter().map(|ip| ip.parse().unwrap()).collect();
        upstreams.joined(who, &moved).get(&ClusterKey(name.into())).cloned()
    }

    #[test]
    fn a_change_touches_only_the_clusters_that_it_is_about() {
        let mut upstreams = Upstreams::default();
        for (name, from) in [("a", "a"), ("b", "other"), ("c", "other")] {
            set(&mut upstreams, name, Some(from));
        }
        assert_eq!(upstreams.wanted(), ["a", "other"].map(str::to_owned).into());
        upstreams.set_endpoints("a".into(), vec![endpoint("10.0.0.1:80")], vec![]);
        upstreams.set_endpoints("other".into(), vec![endpoint("10.0.0.2:80")], vec![]);
        let first = ["a", "b", "c"].map(|name| get(&mut upstreams, &nobody, &[], name).unwrap());
        assert_eq!(first[2].endpoints[0].address, endpoint("10.0.0.2:80").address);

        upstreams.set_endpoints("other".into(), vec![endpoint("10.0.0.3:80")], vec![]);
        let second = ["a", "b", "c"].map(|name| get(&mut upstreams, &nobody, &[], name).unwrap());
        let same = [0, 1, 2].map(|n| Arc::ptr_eq(&first[n], &second[n]));
        assert_eq!(same, [true, false, false]);

        upstreams.set_endpoints("a".into(), vec![endpoint("10.0.0.1:80")], vec![]);
        set(&mut upstreams, "a", Some("a"));
        let third = get(&mut upstreams, &nobody, &[], "a").unwrap();
        assert!(Arc::ptr_eq(&first[0], &third), "sent again, and nothing new in it");
    }

    #[test]
    fn who_stands_at_an_address_is_asked_again_when_someone_moves() {
        let mut upstreams = Upstreams::default();
        set(&mut upstreams, "a", Some("a"));
        upstreams.set_endpoints("a".into(), vec![endpoint("10.0.0.1:80")], vec![]);
        let workload = |cluster: Arc<Cluster>| cluster.endpoints[0].workload.clone();
        assert_eq!(workload(get(&mut upstreams, &nobody, &[], "a").unwrap()), None);
        assert_eq!(workload(get(&mut upstreams, &named, &["10.0.0.9"], "a").unwrap()), None, "someone else");
        let known = workload(get(&mut upstreams, &named, &["10.0.0.1"], "a").unwrap());
        assert_eq!(known, Some(WorkloadUid("10.0.0.1".into())));
    }

    #[test]
    fn a_cluster_that_is_gone_is_gone_and_so_are_its_endpoints() {
        let mut upstreams = Upstreams::default();
        set(&mut upstreams, "a", Some("a"));
        upstreams.set_endpoints("a".into(), vec![endpoint("10.0.0.1:80")], vec![]);
        assert!(get(&mut upstreams, &nobody, &[], "a").is_some() && upstreams.has_endpoints("a"));
        upstreams.remove_cluster("a");
        assert!(get(&mut upstreams, &nobody, &[], "a").is_none());
        assert!(upstreams.wanted().is_empty() && !upstreams.has_endpoints("a"));
    }

    #[test]
    fn endpoints_behind_the_tls_of_sidecars_are_left_out_and_said_to_be() {
        let [first, second] = ["10.0.0.1:80", "10.0.0.2:80"]
            .map(|at| ClusterEndpoint { tunnel: TunnelKind::Plain, ..endpoint(at) });
        let tunnelled = endpoint("10.0.0.3:80");
        let got = |mutual: MutualTls, all: &[&ClusterEndpoint], sidecars: &[&ClusterEndpoint]| {
            let mut upstreams = Upstreams::default();
            upstreams.set_cluster("a".into(), cluster("a"), Some("a".into()), mutual);
            let all = all.iter().copied().cloned().collect();
            let sidecars = sidecars.iter().map(|endpoint| endpoint.address.clone()).collect();
            upstreams.set_endpoints("a".into(), all, sidecars);
            let joined = get(&mut upstreams, &nobody, &[], "a").unwrap();
            (joined.endpoints.len(), joined.unusable.is_some())
        };
        let all = [&first, &second, &tunnelled];
        assert_eq!(got(MutualTls::Nowhere, &all, &[&first]), (3, false));
        assert_eq!(got(MutualTls::Sidecars, &all, &[&first]), (2, false));
        assert_eq!(got(MutualTls::Untunnelled, &all, &[&first]), (1, false));
        assert_eq!(got(MutualTls::Sidecars, &[&first], &[&first]), (0, true), "nothing remains");
        assert_eq!(got(MutualTls::Sidecars, &[], &[]), (0, false), "there was nothing");
    }

    #[test]
    fn endpoints_that_stand_in_the_cluster_are_its_own() {
        let mut upstreams = Upstreams::default();
        let inline = Cluster { endpoints: vec![endpoint("10.0.0.1:80")], ..cluster("a") };
        upstreams.set_cluster("a".into(), inline, None, MutualTls::Nowhere);
        assert!(upstreams.wanted().is_empty());
        let joined = get(&mut upstreams, &named, &[], "a").unwrap();
        assert_eq!(joined.endpoints[0].workload, Some(WorkloadUid("10.0.0.1".into())));
    }
}
