use std::collections::HashMap;
use std::net::IpAddr;

use tokio_util::sync::CancellationToken;

use waypoint_model::{Endpoint as Backend, Map};

use super::super::health::{Clock, Outcome};
use super::super::nearest::distance;
use super::super::resolve::Resolver;
use super::*;
use crate::limits::Limits;

const NOW: u64 = 1;

fn locality(region: &str, zone: &str) -> Locality {
    Locality { region: region.into(), zone: zone.into(), subzone: "".into() }
}

fn workload(name: &str, last_octet: u8, locality: Locality) -> Arc<Workload> {
    Arc::new(Workload {
        uid: WorkloadUid(name.into()),
        name: name.into(),
        namespace: "ns".into(),
        addresses: vec![IpAddr::from([127, 0, 0, last_octet])],
        identity: None,
        tunnel: TunnelKind::Plain,
        locality,
        workload_name: name.into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        app: None,
        version: None,
        cluster: "c".into(),
    })
}

/// Builds clusters as [`super::super::Upstreams`] does, with states that are kept by key.
struct Mesh {
    states: HashMap<EndpointKey, Arc<State>>,
    limits: Limits,
}

impl Default for Mesh {
    fn default() -> Self {
        Self::bounded(10)
    }
}

impl Mesh {
    /// So many requests on an endpoint at once; one failure ejects.
    fn bounded(endpoint_requests: usize) -> Self {
        let limits = Limits { endpoint_requests, ejection_failures: 1, ..Limits::default() };
        Self { states: HashMap::new(), limits }
    }

    /// A waypoint in `r/z` and endpoints by name, locality and readiness.
    fn cluster(&mut self, endpoints: &[(&str, (&str, &str), bool)]) -> Cluster {
        let mut service = (*Cluster::without_endpoints(&ServiceKey::new("ns", "svc"), 80).service).clone();
        let mut workloads = HashMap::new();
        for (octet, (name, (region, zone), ready)) in (1..).zip(endpoints) {
            let workload = workload(name, octet, locality(region, zone));
            let ports = Map::from([(80, 8080)]);
            service.endpoints.push(Backend { workload: workload.uid.clone(), ports, ready: *ready });
            workloads.insert(workload.uid.clone(), workload);
        }
        let (terms, own) = (Arc::new(Terms::of_process(&self.limits)), locality("r", "z"));
        let workloads = |uid: &WorkloadUid| workloads.get(uid).cloned();
        let resolver = Resolver::system(Clock::start(), CancellationToken::new());
        let mut states = |key: EndpointKey| {
            let fresh = || Arc::new(State::new(key.clone(), &self.limits, &resolver, Default::default()));
            Arc::clone(self.states.entry(key.clone()).or_insert_with(fresh))
        };
        let mut sources = Sources { workloads: &workloads, states: &mut states };
        Cluster::of_service(&Arc::new(service), 80, &own, terms, &mut sources)
    }
}

const HERE: (&str, &str) = ("r", "z");
const REGION: (&str, &str) = ("r", "y");
const FAR: (&str, &str) = ("q", "z");

fn cluster(endpoints: &[(&str, (&str, &str), bool)]) -> Cluster {
    Mesh::default().cluster(endpoints)
}

fn endpoint(cluster: &Cluster, name: &str) -> Arc<Endpoint> {
    Arc::clone(cluster.endpoints().find(|endpoint| &*endpoint.workload.name == name).unwrap())
}

fn eject(cluster: &Cluster, name: &str) {
    let endpoint = endpoint(cluster, name);
    assert!(endpoint.terms.note(&endpoint.state.health, Outcome::NoAnswer, NOW));
}

/// How often each endpoint is picked in a thousand times, nothing staying in flight.
fn picks(cluster: &Cluster, tried: &[Arc<Endpoint>]) -> Vec<(String, usize)> {
    fastrand::seed(3);
    let mut counts: std::collections::BTreeMap<String, usize> = Default::default();
    for _ in 0..1_000 {
        let picked = cluster.pick(&Pick::default(), tried, NOW).unwrap();
        *counts.entry(picked.endpoint.workload.name.to_string()).or_default() += 1;
    }
    counts.into_iter().collect()
}

fn picked(cluster: &Cluster, tried: &[Arc<Endpoint>]) -> Vec<String> {
    picks(cluster, tried).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn idle_endpoints_share_evenly() {
    let counts = picks(&cluster(&[("a", FAR, true), ("b", FAR, true), ("c", FAR, true)]), &[]);
    assert_eq!(counts.len(), 3);
    assert!(counts.iter().all(|(_, count)| (270..=400).contains(count)), "{counts:?}");
}

#[test]
fn the_less_busy_of_two_is_chosen() {
    let cluster = cluster(&[("busy", FAR, true), ("idle", FAR, true)]);
    let busy = endpoint(&cluster, "busy");
    let held = busy.state.health.start(10);
    assert_eq!(picked(&cluster, &[]), ["idle"]);
    drop(held);
    assert_eq!(picked(&cluster, &[]), ["busy", "idle"]);
}

#[test]
fn load_spreads_while_requests_stay_in_flight() {
    let endpoints = [("a", FAR, true), ("b", FAR, true), ("c", FAR, true), ("d", FAR, true)];
    let cluster = Mesh::bounded(100).cluster(&endpoints);
    let held: Vec<Picked> = (0..40).map(|_| cluster.pick(&Pick::default(), &[], NOW).unwrap()).collect();
    let busy: Vec<usize> = cluster.endpoints().map(|endpoint| endpoint.state.health.active()).collect();
    assert!(busy.iter().all(|active| (7..=13).contains(active)), "{busy:?}");
    drop(held);
    assert!(cluster.endpoints().all(|endpoint| endpoint.state.health.active() == 0));
}

#[test]
fn the_nearest_locality_with_a_healthy_endpoint_is_used() {
    let cluster =
        cluster(&[("far", FAR, true), ("region", REGION, true), ("zone", HERE, true), ("down", HERE, false)]);
    assert_eq!(picked(&cluster, &[]), ["zone"]);
    eject(&cluster, "zone");
    assert_eq!(picked(&cluster, &[]), ["region"]);
    eject(&cluster, "region");
    assert_eq!(picked(&cluster, &[]), ["far"]);
}

#[test]
fn an_unknown_locality_prefers_nothing() {
    assert_eq!(distance(&Locality::default(), &Locality::default()), 2);
    assert_eq!(distance(&locality("r", ""), &locality("r", "")), 1);
    assert_eq!(distance(&locality("", "z"), &locality("", "z")), 2);
}

#[test]
fn ejected_endpoints_are_left_out_unless_all_are() {
    let cluster = cluster(&[("a", FAR, true), ("b", FAR, true)]);
    eject(&cluster, "a");
    assert_eq!(picked(&cluster, &[]), ["b"]);
    eject(&cluster, "b");
    assert_eq!(picked(&cluster, &[]), ["a", "b"]);
}

#[test]
fn endpoints_that_are_not_ready_are_never_picked() {
    assert!(matches!(
        cluster(&[("a", FAR, false)]).pick(&Pick::default(), &[], NOW),
        Err(UpstreamError::NoEndpoint)
    ));
    assert!(matches!(cluster(&[]).pick(&Pick::default(), &[], NOW), Err(UpstreamError::NoEndpoint)));
}

#[test]
fn what_was_tried_is_picked_again_only_when_there_is_no_other() {
    let cluster = cluster(&[("a", HERE, true), ("b", FAR, true)]);
    let (a, b) = (endpoint(&cluster, "a"), endpoint(&cluster, "b"));
    assert_eq!(picked(&cluster, std::slice::from_ref(&a)), ["b"]);
    assert_eq!(picked(&cluster, &[a, b]), ["a"]);
}

#[test]
fn another_attempt_rather_goes_to_what_was_ejected_than_to_what_failed_just_now() {
    let cluster = Mesh::bounded(1).cluster(&[("a", HERE, true), ("b", FAR, true), ("down", HERE, false)]);
    let (a, b) = (endpoint(&cluster, "a"), endpoint(&cluster, "b"));
    eject(&cluster, "b");
    assert_eq!(picked(&cluster, &[]), ["a"]);
    assert_eq!(picked(&cluster, std::slice::from_ref(&a)), ["b"]);
    assert_eq!(picked(&cluster, &[a, Arc::clone(&b)]), ["a"], "what is well, when all were tried");
    let _held = b.state.health.start(1);
    assert_eq!(picked(&cluster, &[endpoint(&cluster, "a")]), ["a"], "the other is full");
}

#[test]
fn a_full_endpoint_spills_over_and_a_full_service_is_overloaded() {
    let cluster = Mesh::bounded(1).cluster(&[("a", HERE, true), ("b", FAR, true)]);
    let one = || cluster.pick(&Pick::default(), &[], NOW);
    let first = one().unwrap();
    assert_eq!(&*first.endpoint.workload.name, "a");
    let second = one().unwrap();
    assert_eq!(&*second.endpoint.workload.name, "b");
    assert!(matches!(one(), Err(UpstreamError::Overloaded)));
    drop(first);
    assert_eq!(&*one().unwrap().endpoint.workload.name, "a");
}

#[test]
fn a_full_service_does_not_fall_back_to_ejected_endpoints() {
    let cluster = Mesh::bounded(1).cluster(&[("a", FAR, true), ("b", FAR, true)]);
    eject(&cluster, "b");
    let _held = endpoint(&cluster, "a").state.health.start(1);
    assert!(matches!(cluster.pick(&Pick::default(), &[], NOW), Err(UpstreamError::Overloaded)));
}

#[test]
fn a_session_stays_with_its_workload_whatever_its_health() {
    let cluster = Mesh::bounded(1).cluster(&[("a", HERE, true), ("b", FAR, false)]);
    let pinned = |name: &str| {
        cluster.pick(&Pick { pinned: Some(WorkloadUid(name.into())), ..Pick::default() }, &[], NOW)
    };
    eject(&cluster, "b");
    let picked = pinned("b").unwrap();
    assert_eq!(&*picked.endpoint.workload.name, "b");
    assert!(matches!(pinned("b"), Err(UpstreamError::Overloaded)));
    assert!(matches!(pinned("gone"), Err(UpstreamError::PinnedGone)));
}

#[test]
fn health_survives_a_new_snapshot_but_not_a_new_identity_or_address() {
    let mut mesh = Mesh::default();
    let old = mesh.cluster(&[("a", FAR, true), ("b", FAR, true)]);
    eject(&old, "a");
    let same = mesh.cluster(&[("a", HERE, true), ("b", HERE, true)]);
    assert_eq!(picked(&same, &[]), ["b"]);
    let moved = mesh.cluster(&[("b", FAR, true), ("a", FAR, true)]);
    assert_eq!(picked(&moved, &[]), ["a", "b"]);
}

#[test]
fn an_endpoint_without_the_port_or_the_workload_is_no_endpoint() {
    let mut service = (*Cluster::without_endpoints(&ServiceKey::new("ns", "svc"), 80).service).clone();
    let other_port = Backend { workload: WorkloadUid("a".into()), ports: Map::from([(81, 1)]), ready: true };
    let unknown = Backend { workload: WorkloadUid("x".into()), ports: Map::from([(80, 1)]), ready: true };
    service.endpoints = vec![other_port, unknown];
    let known = workload("a", 1, Locality::default());
    let find = |uid: &WorkloadUid| (*uid == known.uid).then(|| Arc::clone(&known));
    let terms = Arc::new(Terms::of_process(&Limits::default()));
    let mut sources = Sources { workloads: &find, states: &mut |_| unreachable!() };
    let cluster = Cluster::of_service(&Arc::new(service), 80, &Locality::default(), terms, &mut sources);
    assert_eq!(cluster.endpoints().count(), 0);
}
