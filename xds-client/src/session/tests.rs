//! Scripted sequences. That any order of things converges is in `tests/convergence.rs`.

use super::*;
use crate::proto::{Any, Resource as WireResource};

const CDS: &str = "type.test/Cluster";
const EDS: &str = "type.test/Endpoint";

fn node() -> Node {
    Node { id: "waypoint~1".into(), ..Node::default() }
}

fn session() -> Session {
    Session::new(node(), [(CDS.to_owned(), Names::All), (EDS.to_owned(), Names::listed::<String>([]))])
}

fn resource(type_url: &str, name: &str, version: &str) -> WireResource {
    let body = Any { type_url: type_url.into(), value: format!("{name}@{version}").into_bytes() };
    WireResource { name: name.into(), version: version.into(), resource: Some(body) }
}

fn response(nonce: &str, upserts: &[(&str, &str)], removals: &[&str]) -> DeltaDiscoveryResponse {
    typed(CDS, nonce, upserts, removals)
}

fn typed(type_url: &str, nonce: &str, upserts: &[(&str, &str)], gone: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources: upserts.iter().map(|(name, version)| resource(type_url, name, version)).collect(),
        removed_resources: gone.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn update(session: &mut Session, response: DeltaDiscoveryResponse) -> Update {
    match session.received(response) {
        Received::Update(update) => update,
        Received::Answer(answer) => panic!("answered at once: {answer:?}"),
    }
}

fn refused(name: &str) -> Refused {
    Refused { name: name.into(), reason: "not understood".into() }
}

fn initial(session: &Session, type_url: &str) -> Vec<(String, String)> {
    let mut versions: Vec<_> = session.initial_versions(type_url).into_iter().collect();
    versions.sort();
    versions
}

fn pairs(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(name, version)| (name.to_string(), version.to_string())).collect()
}

#[test]
fn the_first_request_says_who_asks_and_no_other() {
    let types = [(CDS.to_owned(), Names::All), (EDS.to_owned(), Names::listed(["b", "a"]))];
    let mut session = Session::new(node(), types);
    let first = session.connected();
    let said: Vec<_> = first.iter().map(|r| (r.type_url.as_str(), r.node.is_some())).collect();
    assert_eq!(said, [(CDS, true), (EDS, false)]);
    assert!(first[0].resource_names_subscribe.is_empty(), "no names means all");
    assert_eq!(first[1].resource_names_subscribe, ["a", "b"]);
    let more = session.want(EDS, Names::listed(["a"])).unwrap();
    assert_eq!((more.node, more.resource_names_unsubscribe), (None, vec!["b".to_owned()]));
}

#[test]
fn an_update_is_held_when_it_is_settled_and_not_before() {
    let mut session = session();
    session.connected();
    let update = update(&mut session, response("n1", &[("a", "1")], &[]));
    assert_eq!(&*update.upserts[0].body, b"a@1");
    assert_eq!(session.held_version(CDS, "a"), None);
    let ack = session.settle(update.token, vec![]).unwrap();
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("n1", None));
    assert_eq!(session.held_version(CDS, "a"), Some("1"));
}

#[test]
fn a_refusal_names_each_resource_and_the_rest_is_held() {
    let mut session = session();
    session.connected();
    let first = update(&mut session, response("n1", &[("a", "1"), ("b", "1")], &[]));
    session.settle(first.token, vec![]);
    let second = update(&mut session, response("n2", &[("a", "2"), ("b", "2"), ("new", "2")], &[]));
    let nack = session.settle(second.token, vec![refused("a"), refused("new")]).unwrap();
    assert_eq!(nack.response_nonce, "n2");
    let detail = nack.error_detail.unwrap();
    assert_eq!((detail.code, detail.message.as_str()), (3, "a: not understood; new: not understood"));
    assert_eq!(session.held_version(CDS, "a"), Some("1"), "the last good one");
    assert_eq!(session.held_version(CDS, "b"), Some("2"));
    assert_eq!(session.held_version(CDS, "new"), None);
    assert_eq!(initial(&session, CDS), pairs(&[("a", "1"), ("b", "2"), ("new", "")]));
}

#[test]
fn what_was_dropped_unanswered_is_asked_for_again() {
    let mut session = session();
    session.connected();
    let first = update(&mut session, response("n1", &[("a", "1"), ("gone", "1")], &[]));
    session.settle(first.token, vec![]);
    drop(update(&mut session, response("n2", &[("a", "2"), ("b", "2")], &["gone"])));
    assert_eq!(session.held_version(CDS, "a"), Some("1"));
    session.disconnected();
    assert_eq!(initial(&session, CDS), pairs(&[("a", ""), ("b", ""), ("gone", "")]));
}

#[test]
fn an_answer_that_overtakes_another_leaves_it_in_doubt() {
    let mut session = session();
    session.connected();
    let first = update(&mut session, response("n1", &[("a", "1"), ("b", "1")], &[]));
    let second = update(&mut session, response("n2", &[("b", "2")], &[]));
    assert_eq!(session.settle(second.token, vec![]).unwrap().response_nonce, "n2");
    assert_eq!(session.settle(first.token, vec![]).unwrap().response_nonce, "n1");
    assert_eq!(session.held_version(CDS, "b"), Some("2"), "the older one says nothing about the newer");
    assert_eq!(initial(&session, CDS), pairs(&[("a", ""), ("b", "2")]));
}

#[test]
fn an_answer_after_a_reconnect_says_nothing() {
    let mut session = session();
    session.connected();
    let old = update(&mut session, response("n1", &[("a", "1")], &[]));
    session.disconnected();
    let request = session.connected().remove(0);
    assert_eq!(request.initial_resource_versions.get("a").map(String::as_str), Some(""));
    // The nonce is the old one's on purpose: a restarted server may count from the same number.
    let new = update(&mut session, response("n1", &[("a", "2")], &[]));
    assert_eq!(session.settle(old.token, vec![]), None);
    assert_eq!(session.held_version(CDS, "a"), None);
    assert!(session.settle(new.token, vec![]).is_some());
    assert_eq!(session.held_version(CDS, "a"), Some("2"));
}

#[test]
fn one_nonce_for_two_responses_confuses_nobody() {
    let mut session = session();
    session.connected();
    let first = update(&mut session, response("n", &[("a", "1")], &[]));
    let second = update(&mut session, response("n", &[("a", "2")], &[]));
    assert!(session.settle(first.token, vec![]).is_some());
    assert_eq!(session.held_version(CDS, "a"), Some("1"));
    assert!(session.settle(second.token, vec![refused("a")]).unwrap().error_detail.is_some());
    assert_eq!(session.held_version(CDS, "a"), Some("1"));
}

#[test]
fn an_empty_response_is_an_answer_and_an_unknown_removal_harmless() {
    let mut session = session();
    session.connected();
    let empty = update(&mut session, response("n1", &[], &[]));
    assert!(empty.upserts.is_empty() && empty.removals.is_empty());
    assert_eq!(session.settle(empty.token, vec![]).unwrap().response_nonce, "n1");
    let removal = update(&mut session, response("n2", &[], &["never", "never"]));
    assert_eq!(removal.removals.len(), 1);
    assert!(session.settle(removal.token, vec![]).unwrap().error_detail.is_none());
    assert!(initial(&session, CDS).is_empty());
}

#[test]
fn an_envelope_that_contradicts_itself_is_refused_by_name() {
    let mut wrong_type = resource(CDS, "typed", "1");
    wrong_type.resource.as_mut().unwrap().type_url = EDS.into();
    let bodiless = WireResource { resource: None, ..resource(CDS, "bodiless", "1") };
    let rows: [(&str, Vec<WireResource>, &[&str], &str); 5] = [
        ("twice", vec![resource(CDS, "x", "1"), resource(CDS, "x", "2")], &[], "x: stands more than once"),
        (
            "both",
            vec![resource(CDS, "x", "1")],
            &["x"],
            "x: stands among the resources and among the removed",
        ),
        ("bodiless", vec![bodiless], &[], "bodiless: has no body"),
        ("wrong type", vec![wrong_type], &[], "typed: is a type.test/Endpoint in a response of"),
        ("unnamed", vec![resource(CDS, "", "1")], &[], ": has no name"),
    ];
    for (name, resources, removed, says) in rows {
        let mut session = session();
        session.connected();
        let mut bad = response("n1", &[("good", "1")], removed);
        bad.resources.extend(resources);
        let update = update(&mut session, bad);
        let handed: Vec<&str> = update.upserts.iter().map(|resource| &*resource.name).collect();
        assert_eq!(handed, ["good"], "{name}");
        assert!(update.removals.is_empty(), "{name}");
        let nack = session.settle(update.token, vec![]).unwrap().error_detail.expect(name);
        assert!(nack.message.contains(says), "{name}: {}", nack.message);
        assert_eq!(session.held_version(CDS, "good"), Some("1"), "{name}");
        assert_eq!(session.held_version(CDS, "x"), None, "{name}");
    }
}

#[test]
fn a_type_that_nobody_asked_for_is_refused() {
    let mut session = session();
    session.connected();
    for type_url in ["type.test/Other", EDS] {
        let Received::Answer(nack) = session.received(typed(type_url, "n", &[("a", "1")], &[])) else {
            panic!("{type_url} was taken");
        };
        assert_eq!((nack.type_url.as_str(), nack.response_nonce.as_str()), (type_url, "n"));
        assert!(nack.error_detail.unwrap().message.contains("nobody asked for this type"));
    }
}

#[test]
fn names_are_asked_for_by_difference_and_forgotten_when_unwanted() {
    let mut session = session();
    assert_eq!(session.connected().len(), 1, "nothing to ask for of endpoints");
    let first = session.want(EDS, Names::listed(["a", "b"])).unwrap();
    assert_eq!(first.resource_names_subscribe, ["a", "b"]);
    let both = update(&mut session, typed(EDS, "n1", &[("a", "1"), ("b", "1")], &[]));
    session.settle(both.token, vec![]);
    assert_eq!(session.want(EDS, Names::listed(["a", "b"])), None, "nothing changes");
    let change = session.want(EDS, Names::listed(["b", "c"])).unwrap();
    assert_eq!(change.resource_names_subscribe, ["c"]);
    assert_eq!(change.resource_names_unsubscribe, ["a"]);
    assert!(change.response_nonce.is_empty(), "a change of names answers nothing");
    assert_eq!(initial(&session, EDS), pairs(&[("b", "1")]));
    let late = update(&mut session, typed(EDS, "n2", &[("a", "2"), ("b", "2")], &["a"]));
    assert_eq!(late.upserts.len(), 1, "a was under way when it was unsubscribed");
    assert!(late.removals.is_empty());
}

#[test]
fn an_unsubscribed_resource_is_not_held_by_a_late_answer() {
    let mut session = session();
    session.connected();
    session.want(EDS, Names::listed(["a"]));
    let update = update(&mut session, typed(EDS, "n1", &[("a", "1")], &[]));
    session.want(EDS, Names::listed(["b"]));
    assert!(session.settle(update.token, vec![]).is_some());
    assert!(initial(&session, EDS).is_empty());
}

#[test]
fn an_answer_says_nothing_about_a_name_that_was_unwanted_in_between() {
    let mut session = session();
    session.connected();
    session.want(EDS, Names::listed(["a", "b"]));
    let first = update(&mut session, typed(EDS, "n1", &[("a", "1"), ("b", "1")], &[]));
    session.want(EDS, Names::listed(["b"]));
    session.want(EDS, Names::listed(["a", "b"]));
    session.settle(first.token, vec![]);
    assert_eq!(initial(&session, EDS), pairs(&[("a", ""), ("b", "1")]), "the owner forgot a in between");
}

#[test]
fn a_long_refusal_is_cut_and_counts_the_rest() {
    let mut session = session();
    session.connected();
    let update = update(&mut session, response("n", &[], &[]));
    let many = (0..1000).map(|n| refused(&format!("resource-{n}"))).collect();
    let message = session.settle(update.token, many).unwrap().error_detail.unwrap().message;
    assert!(message.len() < REFUSAL_LIMIT_BYTES + 100, "{}", message.len());
    let said = message.matches("not understood").count();
    assert!(message.ends_with(&format!("; and {} more", 1000 - said)), "{message}");
}
