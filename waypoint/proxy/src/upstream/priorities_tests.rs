use std::collections::{BTreeMap, HashMap};

use tokio_util::sync::CancellationToken;
use waypoint_model::{
    Cluster as Model, ClusterKey, EndpointAddress, OutlierDetection, ServiceKey, TrafficPolicy, TunnelKind,
};

use super::super::cluster::{Cluster, Sources};
use super::super::endpoints::{EndpointKey, State};
use super::super::health::{Clock, Outcome};
use super::super::resolve::Resolver;
use super::super::terms::{Budget, Terms};
use super::super::{Pick, UpstreamError};
use super::*;
use crate::limits::Limits;

const NOW: u64 = 1;

/// An endpoint by its last octet.
fn at(octet: u8) -> ClusterEndpoint {
    ClusterEndpoint {
        workload: None,
        address: EndpointAddress::Socket(([10, 0, 0, octet], 80).into()),
        tunnel: TunnelKind::Plain,
        weight: 1,
        priority: 0,
        locality: Locality::default(),
        locality_weight: None,
        ready: true,
    }
}

fn weighted(octet: u8, weight: u32) -> ClusterEndpoint {
    ClusterEndpoint { weight, ..at(octet) }
}

fn after(octet: u8, priority: u32) -> ClusterEndpoint {
    ClusterEndpoint { priority, ..at(octet) }
}

fn local(octet: u8, zone: &str, weight: Option<u32>) -> ClusterEndpoint {
    let locality = Locality { zone: zone.into(), ..Locality::default() };
    ClusterEndpoint { locality, locality_weight: weight, ..at(octet) }
}

/// One 5xx ejects, for as many percent of the endpoints as it says.
fn outlier(max_ejection_percent: u32, min_health_percent: u32) -> Option<OutlierDetection> {
    Some(OutlierDetection {
        consecutive_5xx: Some(1),
        consecutive_gateway: None,
        consecutive_local: None,
        base_ejection: std::time::Duration::from_secs(30),
        max_ejection_percent,
        min_health_percent,
    })
}

/// A cluster as a control plane gives it, with at most so many requests on an endpoint at once.
fn bounded(max: usize, policy: TrafficPolicy, endpoints: Vec<ClusterEndpoint>) -> Cluster {
    let (key, service) = (ClusterKey("c".into()), ServiceKey::new("ns", "svc"));
    let budget = Budget::new(key.clone());
    let limits = Limits { endpoint_requests: max, ..Limits::default() };
    let terms = Arc::new(Terms::of_cluster(&limits, &policy, None, budget));
    let model = Model { key, service, port: 80, subset: None, endpoints, traffic: policy, unusable: None };
    let mut known: HashMap<EndpointKey, Arc<State>> = HashMap::new();
    let resolver = Resolver::system(Clock::start(), CancellationToken::new());
    let mut states = |key: EndpointKey| {
        let fresh = || Arc::new(State::new(key.clone(), &limits, &resolver, Default::default()));
        Arc::clone(known.entry(key.clone()).or_insert_with(fresh))
    };
    let mut sources = Sources { workloads: &|_| None, states: &mut states };
    Cluster::of_model(&model, None, terms, &mut sources)
}

fn cluster(balancing: Balancing, endpoints: Vec<ClusterEndpoint>) -> Cluster {
    bounded(100, TrafficPolicy { balancing, ..TrafficPolicy::default() }, endpoints)
}

fn watched(outlier: Option<OutlierDetection>, endpoints: Vec<ClusterEndpoint>) -> Cluster {
    bounded(100, TrafficPolicy { outlier, ..TrafficPolicy::default() }, endpoints)
}

fn octet(endpoint: &Endpoint) -> u8 {
    match endpoint.address().ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => unreachable!(),
    }
}

/// Whether it was ejected.
fn fail(cluster: &Cluster, which: u8) -> bool {
    let endpoint = cluster.endpoints().find(|endpoint| octet(endpoint) == which).unwrap();
    endpoint.terms.note(&endpoint.state.health, Outcome::ServerError, NOW)
}

/// How often each endpoint is picked in ten thousand times, nothing staying in flight.
fn shares(cluster: &Cluster) -> BTreeMap<u8, usize> {
    fastrand::seed(5);
    let mut counts = BTreeMap::new();
    for _ in 0..10_000 {
        let picked = cluster.pick(&Pick::default(), &[], NOW).unwrap();
        *counts.entry(octet(&picked.endpoint)).or_default() += 1;
    }
    counts
}

/// Percent of picks by endpoint, within two of what is wanted.
#[track_caller]
fn assert_shares(cluster: &Cluster, wanted: &[(u8, usize)]) {
    let shares = shares(cluster);
    let close = |(octet, percent): &(u8, usize)| {
        shares.get(octet).copied().unwrap_or(0).abs_diff(percent * 100) <= 200
    };
    assert!(wanted.iter().all(close) && shares.len() == wanted.len(), "{shares:?}, not {wanted:?}");
}

#[test]
fn idle_endpoints_share_by_weight_however_they_are_balanced() {
    for balancing in [Balancing::LeastRequest, Balancing::RoundRobin, Balancing::Random] {
        let three = cluster(balancing.clone(), vec![weighted(1, 1), weighted(2, 2), weighted(3, 7)]);
        assert_shares(&three, &[(1, 10), (2, 20), (3, 70)]);
        let even = cluster(balancing, vec![weighted(1, 0), at(2)]);
        assert_shares(&even, &[(1, 50), (2, 50)]);
    }
}

#[test]
fn in_turn_means_each_before_any_comes_again() {
    let cluster = cluster(Balancing::RoundRobin, (1..=5).map(at).collect());
    let turn: Vec<u8> =
        (0..10).map(|_| octet(&cluster.pick(&Pick::default(), &[], NOW).unwrap().endpoint)).collect();
    let mut first = turn[..5].to_vec();
    first.sort_unstable();
    assert_eq!(first, [1, 2, 3, 4, 5]);
    assert_eq!(turn[..5], turn[5..]);
}

#[test]
fn the_less_busy_of_two_gets_the_request() {
    let cluster = cluster(Balancing::LeastRequest, vec![at(1), at(2)]);
    let busy = cluster.endpoints().next().unwrap();
    let _held = busy.state.health.start(10);
    assert_shares(&cluster, &[(2, 100)]);
}

#[test]
fn requests_in_flight_are_shared_by_weight() {
    let cluster = cluster(Balancing::LeastRequest, vec![weighted(1, 1), weighted(2, 4)]);
    let held: Vec<Picked> = (0..50).map(|_| cluster.pick(&Pick::default(), &[], NOW).unwrap()).collect();
    let light = held.iter().filter(|picked| octet(&picked.endpoint) == 1).count();
    assert!((8..=12).contains(&light), "{light}");
}

#[test]
fn a_hash_always_leads_to_the_same_endpoint_until_that_is_ejected_and_then_only_its_keys_move() {
    let policy = TrafficPolicy {
        balancing: Balancing::ConsistentHash,
        outlier: outlier(100, 0),
        ..TrafficPolicy::default()
    };
    let cluster = bounded(100, policy, (1..=5).map(at).collect());
    let owner = |hash| {
        let pick = Pick { hash: Some(hash), ..Pick::default() };
        octet(&cluster.pick(&pick, &[], NOW).unwrap().endpoint)
    };
    let before: Vec<u8> = (0..1_000).map(owner).collect();
    assert_eq!(before, (0..1_000).map(owner).collect::<Vec<_>>());
    assert!(fail(&cluster, 3));
    for (hash, was) in (0..).zip(&before) {
        let is = owner(hash);
        assert!(is != 3 && (is == *was || *was == 3), "{hash}: {was} became {is}");
    }
}

#[test]
fn a_hash_goes_on_to_the_next_endpoint_when_its_own_was_tried() {
    let cluster = cluster(Balancing::ConsistentHash, (1..=3).map(at).collect());
    let pick = Pick { hash: Some(7), ..Pick::default() };
    let first = cluster.pick(&pick, &[], NOW).unwrap().endpoint;
    let second = cluster.pick(&pick, std::slice::from_ref(&first), NOW).unwrap().endpoint;
    assert!(!first.is_same(&second));
}

#[test]
fn without_a_hash_any_endpoint_will_do() {
    let shares = shares(&cluster(Balancing::ConsistentHash, (1..=3).map(at).collect()));
    assert!(shares.len() == 3 && shares.values().all(|count| *count > 2_000), "{shares:?}");
}

/// Envoy's table: with 1.4 overprovisioning a priority keeps everything until less than 71 percent of it is healthy.
#[test]
fn a_priority_spills_over_as_it_loses_endpoints() {
    let unready = |octet| ClusterEndpoint { ready: false, ..at(octet) };
    let first = |ready: u8| (1..=10).map(move |it| if it <= ready { at(it) } else { unready(it) });
    let rows = [(10, 0), (8, 0), (7, 2), (5, 30), (2, 72), (0, 100)];
    for (ready, second) in rows {
        let cluster = watched(outlier(100, 0), first(ready).chain([after(20, 1)]).collect());
        let spilled = shares(&cluster).get(&20).copied().unwrap_or(0);
        assert!(spilled.abs_diff(second * 100) <= 150, "{ready} ready: {spilled}, not {second} percent");
    }
}

#[test]
fn priorities_that_together_are_not_well_share_in_proportion() {
    let unready = |octet, priority| ClusterEndpoint { ready: false, ..after(octet, priority) };
    let endpoints = vec![at(1), unready(2, 0), unready(3, 0), unready(4, 0), after(5, 1), unready(6, 1)];
    // Health 35 and 70 is more than 100: the first keeps 35, the second takes the rest.
    assert_shares(&watched(outlier(100, 0), endpoints), &[(1, 35), (5, 65)]);
    let endpoints = vec![at(1), unready(2, 0), unready(3, 0), unready(4, 0), unready(5, 1)];
    assert_shares(&watched(outlier(100, 0), endpoints), &[(1, 100)]);
}

#[test]
fn localities_share_by_weight_and_lose_it_with_their_endpoints() {
    let places = vec![local(1, "a", Some(80)), local(2, "a", Some(80)), local(3, "b", Some(20))];
    assert_shares(&cluster(Balancing::RoundRobin, places.clone()), &[(1, 40), (2, 40), (3, 20)]);
    let unready = ClusterEndpoint { ready: false, ..places[0].clone() };
    let half = vec![unready, places[1].clone(), places[2].clone()];
    // 80 × 0.7 against 20 × 1.
    assert_shares(&cluster(Balancing::Random, half), &[(2, 74), (3, 26)]);
    let unweighted = vec![local(1, "a", None), local(2, "a", None), local(3, "b", Some(1))];
    assert_shares(&cluster(Balancing::Random, unweighted), &[(3, 100)]);
}

#[test]
fn ejections_stop_at_their_share_of_the_endpoints() {
    let rows = [(10, 10, 1), (10, 9, 0), (50, 5, 2), (100, 3, 3), (0, 10, 0), (34, 3, 1)];
    for (percent, count, want) in rows {
        let cluster = watched(outlier(percent, 0), (1..=count).map(at).collect());
        let ejected = (1..=count).filter(|which| fail(&cluster, *which)).count();
        assert_eq!(ejected, want, "{percent} percent of {count}");
    }
}

#[test]
fn an_ejection_that_ended_makes_room_for_another() {
    let cluster = watched(outlier(50, 0), vec![at(1), at(2)]);
    assert!(fail(&cluster, 1) && !fail(&cluster, 2));
    let later = NOW + 30_000;
    let second = cluster.endpoints().nth(1).unwrap();
    assert!(second.terms.note(&second.state.health, Outcome::ServerError, later));
}

#[test]
fn with_all_ejected_there_is_no_endpoint_unless_the_cluster_panics() {
    let all = |min_health| {
        let cluster = watched(outlier(100, min_health), vec![at(1), at(2)]);
        assert!(fail(&cluster, 1) && fail(&cluster, 2));
        cluster
    };
    let none = all(0).pick(&Pick::default(), &[], NOW).map(|_| ());
    assert!(matches!(none, Err(UpstreamError::NoEndpoint)), "{none:?}");
    assert_shares(&all(1), &[(1, 50), (2, 50)]);
}

#[test]
fn below_the_minimum_of_health_also_the_unready_are_used() {
    let unready = ClusterEndpoint { ready: false, ..at(3) };
    let cluster = watched(outlier(100, 50), vec![at(1), at(2), unready]);
    assert_eq!(shares(&cluster).len(), 2);
    assert!(fail(&cluster, 1));
    assert_eq!(shares(&cluster).len(), 3);
}

#[test]
fn the_process_rule_uses_ejected_endpoints_when_no_other_is_left_but_never_the_unready() {
    let unready = ClusterEndpoint { ready: false, ..at(2) };
    let cluster = watched(None, vec![at(1), unready.clone()]);
    for _ in 0..5 {
        let endpoint = cluster.endpoints().next().unwrap();
        endpoint.terms.note(&endpoint.state.health, Outcome::NoAnswer, NOW);
    }
    assert!(cluster.endpoints().next().unwrap().is_ejected(NOW));
    assert_shares(&cluster, &[(1, 100)]);
    let none = watched(None, vec![unready]).pick(&Pick::default(), &[], NOW).map(|_| ());
    assert!(matches!(none, Err(UpstreamError::NoEndpoint)));
}

#[test]
fn another_attempt_goes_to_what_was_ejected_unless_the_cluster_says_when_to_panic() {
    let picked_after_one = |outlier| {
        let cluster = watched(outlier, vec![at(1), at(2)]);
        let endpoints: Vec<_> = cluster.endpoints().map(Arc::clone).collect();
        for _ in 0..5 {
            endpoints[1].terms.note(&endpoints[1].state.health, Outcome::NoAnswer, NOW);
        }
        assert!(endpoints[1].is_ejected(NOW) && !endpoints[0].is_ejected(NOW));
        octet(&cluster.pick(&Pick::default(), &endpoints[..1], NOW).unwrap().endpoint)
    };
    assert_eq!(picked_after_one(None), 2);
    assert_eq!(picked_after_one(outlier(100, 0)), 1, "as Envoy");
}

#[test]
fn full_endpoints_spill_over_and_a_full_cluster_is_overloaded() {
    let cluster = bounded(1, TrafficPolicy::default(), vec![at(1), after(2, 1)]);
    let one = || cluster.pick(&Pick::default(), &[], NOW);
    let held = (one().unwrap(), one().unwrap());
    assert_eq!((octet(&held.0.endpoint), octet(&held.1.endpoint)), (1, 2));
    assert!(matches!(one(), Err(UpstreamError::Overloaded)));
}

#[test]
fn what_was_tried_is_left_out_also_where_another_priority_has_to_help() {
    let cluster = cluster(Balancing::LeastRequest, vec![at(1), after(2, 1)]);
    let tried: Vec<Arc<Endpoint>> = cluster.endpoints().map(Arc::clone).collect();
    let pick = |tried: &[Arc<Endpoint>]| octet(&cluster.pick(&Pick::default(), tried, NOW).unwrap().endpoint);
    assert_eq!(pick(&tried[..1]), 2);
    assert_eq!(pick(&tried), 1);
}
