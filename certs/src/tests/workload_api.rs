//! SVIDs over the socket of an agent.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    agent::{Agent, SvidMessage, SvidResponse, concatenated},
    authority::{Authority, Leaf},
    handshake::{CLIENT, WAYPOINT, between, id, mesh},
    peer::Peer,
    soon,
};
use crate::{MeshTls, Revocations, SvidError, SvidSource as _, TrustDomains, WorkloadApiSource, X509Svid};

const FOREIGN: &str = "spiffe://partner.example/api";

struct Socket {
    directory: TempDir,
}

impl Socket {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn source(&self) -> WorkloadApiSource {
        WorkloadApiSource::connect(&format!("unix://{}", self.path().display())).unwrap()
    }
}

fn answer(authority: &Authority, ids: &[&'static str]) -> SvidResponse {
    let svid = |id: &&'static str| SvidMessage::new(id, &authority.issue(&Leaf::of(id)), authority.bundle());
    SvidResponse { svids: ids.iter().map(svid).collect(), federated_bundles: HashMap::new() }
}

async fn next(svid: &mut watch::Receiver<Option<Arc<X509Svid>>>) -> Arc<X509Svid> {
    soon(svid.changed()).await.unwrap();
    svid.borrow_and_update().clone().unwrap()
}

#[tokio::test]
async fn the_first_svid_is_used_and_renewed_by_a_second_message() {
    let (authority, socket) = (Authority::root("root"), Socket::new());
    let agent = Agent::start(&socket.path(), answer(&authority, &[WAYPOINT, CLIENT]));
    let source = socket.source();
    let ours = MeshTls::new(&source, TrustDomains::default(), Revocations::none());
    let mut svid = ours.svid();
    let first = next(&mut svid).await;
    assert_eq!(first.id(), &id(WAYPOINT));
    let client = mesh(authority.svid(CLIENT));
    let (connected, accepted) = between(&client, &ours, &[id(WAYPOINT)]).await;
    assert_eq!((connected.unwrap().peer.id(), accepted.unwrap().peer.id()), (&id(WAYPOINT), &id(CLIENT)));

    agent.push(answer(&authority, &[WAYPOINT]));
    let second = next(&mut svid).await;
    assert_ne!(first.serial(), second.serial());
    assert_eq!(agent.calls(), 1, "the same stream brought both");
    between(&client, &ours, &[id(WAYPOINT)]).await.0.unwrap();
}

#[tokio::test]
async fn an_agent_that_goes_and_comes_back_is_found_again_and_the_svid_stays_meanwhile() {
    let (authority, socket) = (Authority::root("root"), Socket::new());
    let source = socket.source();
    let mut error = source.error();
    let mut svid = source.watch();
    soon(error.wait_for(Option::is_some)).await.unwrap();
    assert!(svid.borrow().is_none(), "there is no agent yet");

    let agent = Agent::start(&socket.path(), answer(&authority, &[WAYPOINT]));
    let first = next(&mut svid).await;
    assert_eq!(source.last_error(), None);
    drop(agent);
    soon(error.wait_for(Option::is_some)).await.unwrap();
    assert!(Arc::ptr_eq(&first, svid.borrow().as_ref().unwrap()));

    let _agent = Agent::start(&socket.path(), answer(&authority, &[WAYPOINT]));
    assert_ne!(next(&mut svid).await.serial(), first.serial());
}

#[tokio::test]
async fn an_unusable_message_is_passed_over_and_the_next_one_on_the_same_stream_is_used() {
    let (authority, socket) = (Authority::root("root"), Socket::new());
    let agent = Agent::start(&socket.path(), answer(&authority, &[WAYPOINT]));
    let source = socket.source();
    let (mut svid, mut error) = (source.watch(), source.error());
    let first = next(&mut svid).await;

    let mut mixed = answer(&authority, &[WAYPOINT]);
    let other = answer(&authority, &[WAYPOINT]);
    mixed.svids[0].x509_svid_key = other.svids[0].x509_svid_key.clone();
    agent.push(mixed);
    let said = soon(error.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    assert!(said.contains("the private key does not fit the leaf certificate"), "{said}");
    assert!(Arc::ptr_eq(&first, svid.borrow().as_ref().unwrap()));

    agent.push(answer(&authority, &[WAYPOINT]));
    assert_ne!(next(&mut svid).await.serial(), first.serial());
    assert_eq!(agent.calls(), 1);
}

#[tokio::test]
async fn a_workload_without_a_registration_has_no_svid_until_it_gets_one() {
    let (authority, socket) = (Authority::root("root"), Socket::new());
    let agent = Agent::start(&socket.path(), SvidResponse::default());
    let source = socket.source();
    soon(source.error().wait_for(Option::is_some)).await.unwrap();
    assert!(source.watch().borrow().is_none());
    agent.push(answer(&authority, &[WAYPOINT]));
    assert_eq!(next(&mut source.watch()).await.id(), &id(WAYPOINT));
}

#[tokio::test]
async fn a_federated_bundle_serves_calls_to_its_domain_and_lets_nobody_of_it_in() {
    let (ours, theirs, socket) = (Authority::root("ours"), Authority::root("theirs"), Socket::new());
    let mut message = answer(&ours, &[WAYPOINT]);
    message.federated_bundles.insert("spiffe://partner.example".to_owned(), concatenated(theirs.bundle()));
    let _agent = Agent::start(&socket.path(), message);
    let source = socket.source();
    soon(source.watch().wait_for(Option::is_some)).await.unwrap();
    let plain = MeshTls::new(&source, TrustDomains::default(), Revocations::none());
    let aliased = MeshTls::new(
        &source,
        TrustDomains { aliases: vec!["partner.example".to_owned()] },
        Revocations::none(),
    );
    let partner = Peer::showing(theirs.issue(&Leaf::of(FOREIGN)));
    let impostor = Peer::showing(ours.issue(&Leaf::of(FOREIGN)));

    assert_eq!(partner.called_by(&plain, &[id(FOREIGN)]).await.0.unwrap().peer.id(), &id(FOREIGN));
    assert_eq!(partner.calls(&plain).await.0.unwrap_err().reason(), "trust_domain");
    assert_eq!(partner.calls(&aliased).await.0.unwrap().peer.id(), &id(FOREIGN));
    // Its own bundle, once there is one, and no other vouches for a domain.
    assert_eq!(impostor.called_by(&plain, &[id(FOREIGN)]).await.0.unwrap_err().reason(), "untrusted");
    assert_eq!(impostor.calls(&aliased).await.0.unwrap_err().reason(), "untrusted");
}

#[tokio::test]
async fn a_source_that_nobody_listens_to_hangs_up() {
    let (authority, socket) = (Authority::root("root"), Socket::new());
    let listener = tokio::net::UnixListener::bind(socket.path()).unwrap();
    let source = socket.source();
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    drop((source, authority));
    let mut sink = Vec::new();
    // The end of what the client sent is reached only when it hangs up.
    soon(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut sink)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_given_up_and_called_again() {
    let socket = Socket::new();
    let listener = tokio::net::UnixListener::bind(socket.path()).unwrap();
    let source = socket.source();
    // Both stay open, so that only the deadline can end the first.
    let _first = listener.accept().await.unwrap();
    let _second = listener.accept().await.unwrap();
    assert_eq!(source.last_error().unwrap(), "Workload API: no answer in time");
}

#[test]
fn a_bad_address_or_no_runtime_is_an_error_at_once() {
    for bad in ["", "agent.sock", "unix://host/agent.sock", "http://127.0.0.1/", "unix:///"] {
        let error = WorkloadApiSource::connect(bad).unwrap_err();
        assert!(matches!(error, SvidError::BadEndpoint { .. }), "{bad}: {error}");
    }
    let error = WorkloadApiSource::connect("unix:///run/agent.sock").unwrap_err();
    assert!(matches!(error, SvidError::NoRuntime), "{error}");
}
