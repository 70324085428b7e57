//! A session without a stream, and resources written by hand.

use istio_protos::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use istio_protos::envoy::config::cluster::v3::{Cluster, cluster::EdsClusterConfig};
use istio_protos::envoy::config::core::v3::address::Address as At;
use istio_protos::envoy::config::core::v3::envoy_internal_address::AddressNameSpecifier;
use istio_protos::envoy::config::core::v3::{Address as EnvoyAddress, EnvoyInternalAddress};
use istio_protos::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use istio_protos::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use istio_protos::istio::workload::{Address, Workload, address};
use prost::Message;
use waypoint_model::{ClusterKey, WorkloadUid};
use xds_client::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Received, Session, WireResource};

use super::super::Emitted;
use super::super::apply::Severity;
use super::super::feed::session;
use super::*;

const WEB: &str = "inbound-vip|80|http|web.app.svc.cluster.local";

/// What was applied, newest last.
#[derive(Default)]
struct Applied(Vec<Emitted>);

impl Apply for Applied {
    fn apply(&mut self, emitted: Emitted) {
        self.0.push(emitted);
    }
}

/// An intake that is told things, and what it says.
struct Desk {
    session: Session,
    intake: Intake,
    applied: Applied,
    nonce: u32,
}

impl Desk {
    fn new() -> Self {
        let mut session = session(Node::default());
        session.connected();
        Self { session, intake: Intake::new(Own::default(), 64), applied: Applied::default(), nonce: 0 }
    }

    /// istiod says this; returns what is asked for because of it.
    fn told(
        &mut self,
        kind: Kind,
        upserts: &[(&str, Vec<u8>)],
        gone: &[&str],
    ) -> Option<DeltaDiscoveryRequest> {
        self.nonce += 1;
        let resource = |(name, value): &(&str, Vec<u8>)| WireResource {
            name: (*name).to_owned(),
            version: self.nonce.to_string(),
            resource: Some(Any { type_url: kind.type_url().to_owned(), value: value.clone() }),
        };
        let response = DeltaDiscoveryResponse {
            type_url: kind.type_url().to_owned(),
            nonce: self.nonce.to_string(),
            resources: upserts.iter().map(resource).collect(),
            removed_resources: gone.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        let Received::Update(update) = self.session.received(response) else {
            panic!("not asked for: {kind}")
        };
        let names = self.intake.take(update)?;
        self.session.want(Kind::Endpoint.type_url(), names)
    }

    /// The burst is over: what is answered.
    fn quiet(&mut self) -> Vec<DeltaDiscoveryRequest> {
        let answers = self.intake.serve(&mut self.applied);
        answers.into_iter().filter_map(|(token, refused)| self.session.settle(token, refused)).collect()
    }

    fn newest(&self) -> &Emitted {
        self.applied.0.last().expect("a configuration")
    }

    fn served() -> Self {
        let mut desk = Self::new();
        desk.told(Kind::Cluster, &[(WEB, cluster(WEB))], &[]);
        desk.told(Kind::Listener, &[], &[]);
        desk.told(Kind::Address, &[("uid/web", pod("uid/web", [10, 0, 0, 1]))], &[]);
        desk.told(Kind::Endpoint, &[(WEB, endpoints(WEB, &["10.0.0.1:8080"]))], &[]);
        assert_eq!(desk.quiet().len(), 4);
        desk
    }
}

fn cluster(name: &str) -> Vec<u8> {
    let eds = EdsClusterConfig { service_name: name.to_owned(), ..EdsClusterConfig::default() };
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(eds),
        ..Cluster::default()
    };
    cluster.encode_to_vec()
}

fn endpoints(name: &str, at: &[&str]) -> Vec<u8> {
    let endpoint = |at: &&str| {
        let internal = EnvoyInternalAddress {
            address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(
                "connect_originate".into(),
            )),
            endpoint_id: (*at).to_owned(),
        };
        let address = EnvoyAddress { address: Some(At::EnvoyInternalAddress(internal)) };
        let endpoint = Endpoint { address: Some(address), ..Endpoint::default() };
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() }
    };
    let group = LocalityLbEndpoints {
        lb_endpoints: at.iter().map(endpoint).collect(),
        ..LocalityLbEndpoints::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![group],
        ..ClusterLoadAssignment::default()
    };
    assignment.encode_to_vec()
}

fn pod(uid: &str, ip: [u8; 4]) -> Vec<u8> {
    let workload = Workload {
        uid: uid.to_owned(),
        name: "web".to_owned(),
        namespace: "app".to_owned(),
        service_account: "web".to_owned(),
        addresses: vec![ip.to_vec().into()],
        ..Workload::default()
    };
    Address { r#type: Some(address::Type::Workload(workload)) }.encode_to_vec()
}

/// A field that no message of istiod has: number 2000, of varints.
fn with_unknown_field(mut message: Vec<u8>) -> Vec<u8> {
    message.extend([0x80, 0x7d, 0x01]);
    message
}

#[test]
fn the_first_configuration_waits_for_every_type_and_is_answered_after_it_serves() {
    let mut desk = Desk::new();
    let asked = desk.told(Kind::Cluster, &[(WEB, cluster(WEB))], &[]).expect("endpoints are asked for");
    assert_eq!(asked.resource_names_subscribe, [WEB]);
    assert!(desk.intake.more_due());
    assert!(desk.quiet().is_empty());
    desk.told(Kind::Listener, &[], &[]);
    desk.told(Kind::Address, &[("uid/web", pod("uid/web", [10, 0, 0, 1]))], &[]);
    assert_eq!(desk.intake.awaited(), [Kind::Endpoint].into());
    assert!(desk.quiet().is_empty() && desk.applied.0.is_empty());
    desk.told(Kind::Endpoint, &[(WEB, endpoints(WEB, &["10.0.0.1:8080"]))], &[]);
    let answers = desk.quiet();
    assert!(answers.iter().all(|answer| answer.error_detail.is_none()), "{answers:?}");
    let nonces: Vec<&str> = answers.iter().map(|answer| answer.response_nonce.as_str()).collect();
    assert_eq!(nonces, ["1", "2", "3", "4"]);
    let [emitted] = desk.applied.0.as_slice() else { panic!("once") };
    let web = &emitted.mesh.clusters[&ClusterKey(WEB.into())];
    assert_eq!(web.endpoints[0].workload, Some(WorkloadUid("uid/web".into())));
    assert!(emitted.findings.is_empty());
}

#[test]
fn without_clusters_no_endpoints_are_waited_for() {
    let mut desk = Desk::new();
    for kind in [Kind::Cluster, Kind::Listener, Kind::Address] {
        assert_eq!(desk.told(kind, &[], &[]), None);
    }
    assert_eq!(desk.quiet().len(), 3);
    assert_eq!(desk.applied.0.len(), 1);
}

#[test]
fn a_type_that_never_comes_does_not_stop_the_answers_to_the_others() {
    let mut desk = Desk::new();
    for _ in 0..UNANSWERED - 1 {
        desk.told(Kind::Cluster, &[], &[]);
        assert!(desk.quiet().is_empty());
    }
    desk.told(Kind::Cluster, &[], &[]);
    assert_eq!(desk.quiet().len(), UNANSWERED);
    assert!(desk.applied.0.is_empty());
}

#[test]
fn what_is_not_understood_is_refused_by_name_and_its_last_good_version_stays() {
    let mut desk = Desk::served();
    let other = "inbound-vip|81|http|web.app.svc.cluster.local";
    let bad = with_unknown_field(endpoints(WEB, &["10.0.0.9:8080"]));
    desk.told(Kind::Endpoint, &[(WEB, bad)], &[]);
    let broken = vec![0xff];
    desk.told(Kind::Cluster, &[(other, cluster(other)), ("broken", broken)], &[]);
    let answers = desk.quiet();
    let said =
        |n: usize| answers[n].error_detail.as_ref().map(|detail| detail.message.clone()).unwrap_or_default();
    assert!(said(0).contains(WEB) && said(0).contains("field 2000 unknown"), "{}", said(0));
    assert!(said(1).contains("broken") && !said(1).contains(other), "{}", said(1));
    let emitted = desk.newest();
    let web = &emitted.mesh.clusters[&ClusterKey(WEB.into())];
    assert_eq!(web.endpoints[0].workload, Some(WorkloadUid("uid/web".into())), "the last good endpoints");
    assert!(emitted.mesh.clusters.contains_key(&ClusterKey(other.into())), "the good one of that response");
    let refused: Vec<&str> = emitted
        .findings
        .iter()
        .filter(|f| f.severity == Severity::Refused)
        .map(|f| f.resource.as_str())
        .collect();
    assert_eq!(refused, ["broken", WEB]);
    assert_eq!(desk.session.held_version(Kind::Endpoint.type_url(), WEB), Some("4"));
    assert_eq!(desk.session.held_version(Kind::Cluster.type_url(), "broken"), None);
    let held: Vec<_> = emitted
        .held
        .iter()
        .map(|(kind, name, held)| (kind, name, held.good.is_some(), held.refused.is_some()))
        .collect();
    assert!(
        held.contains(&(Kind::Endpoint, WEB, true, true))
            && held.contains(&(Kind::Cluster, "broken", false, true)),
        "{held:?}"
    );

    desk.told(Kind::Endpoint, &[(WEB, endpoints(WEB, &["10.0.0.9:8080"]))], &[]);
    desk.told(Kind::Cluster, &[], &["broken"]);
    assert!(desk.quiet().iter().all(|answer| answer.error_detail.is_none()));
    assert!(desk.newest().findings.is_empty(), "{:?}", desk.newest().findings);
}

#[test]
fn a_workload_that_moves_is_found_at_its_new_address() {
    let mut desk = Desk::served();
    let workload =
        |desk: &Desk| desk.newest().mesh.clusters[&ClusterKey(WEB.into())].endpoints[0].workload.clone();
    desk.told(Kind::Address, &[("uid/new", pod("uid/new", [10, 0, 0, 1]))], &["uid/web"]);
    desk.quiet();
    assert_eq!(workload(&desk), Some(WorkloadUid("uid/new".into())));
    desk.told(Kind::Address, &[], &["uid/new"]);
    desk.quiet();
    assert_eq!(workload(&desk), None);
}

#[test]
fn a_field_that_istiod_added_to_workloads_is_noted_once_and_passed_over() {
    let mut desk = Desk::served();
    let pods = [("uid/a", [10, 0, 0, 2]), ("uid/b", [10, 0, 0, 3])];
    let newer = pods.map(|(uid, ip)| (uid, with_unknown_field(pod(uid, ip))));
    desk.told(Kind::Address, &newer, &[]);
    assert!(desk.quiet()[0].error_detail.is_none());
    assert_eq!(desk.newest().mesh.workloads.len(), 3);
    let [finding] = desk.newest().findings.as_slice() else { panic!("{:?}", desk.newest().findings) };
    assert!(finding.severity == Severity::Note && finding.message.contains("2000"), "{finding}");
}

#[test]
fn nothing_that_stayed_the_same_becomes_another_object_when_istiod_starts_anew() {
    let mut desk = Desk::served();
    let before = desk.newest().mesh.clone();
    desk.session.disconnected();
    desk.session.connected();
    desk.told(Kind::Cluster, &[(WEB, cluster(WEB))], &[]);
    desk.told(Kind::Endpoint, &[(WEB, endpoints(WEB, &["10.0.0.1:8080"]))], &[]);
    desk.told(Kind::Listener, &[], &[]);
    desk.told(Kind::Address, &[], &[]);
    assert_eq!(desk.quiet().len(), 4);
    let after = &desk.newest().mesh;
    let key = ClusterKey(WEB.into());
    assert!(std::sync::Arc::ptr_eq(&before.clusters[&key], &after.clusters[&key]));
    assert_eq!(after.workloads, before.workloads);
}

#[test]
fn a_cluster_that_is_gone_takes_its_endpoints_with_it() {
    let mut desk = Desk::served();
    let asked = desk.told(Kind::Cluster, &[], &[WEB]).expect("endpoints are no longer asked for");
    assert_eq!(asked.resource_names_unsubscribe, [WEB]);
    desk.quiet();
    assert!(desk.newest().mesh.clusters.is_empty());
    assert_eq!(desk.newest().held.iter().count(), 0, "nothing to be dumped either");
}
