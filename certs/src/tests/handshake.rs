//! What a good handshake agrees upon.

use std::sync::Arc;

use rustls::{
    HandshakeKind, NamedGroup,
    crypto::{SupportedKxGroup, aws_lc_rs::kx_group},
};
use spiffe_id::SpiffeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    authority::{Authority, Leaf},
    peer::{Accepted, Connected, Peer, call},
    soon,
};
use crate::{HandshakeError, MeshTls, Revocations, StaticSource, TrustDomains, X509Svid};

pub(super) const WAYPOINT: &str = "spiffe://td.example/ns/tools/sa/waypoint";
pub(super) const CLIENT: &str = "spiffe://td.example/ns/agents/sa/researcher";

pub(super) fn mesh(svid: X509Svid) -> MeshTls {
    MeshTls::new(&StaticSource::new(svid), TrustDomains::default(), Revocations::none())
}

pub(super) fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// `client` calls `server`, both ours.
pub(super) async fn between(
    client: &MeshTls,
    server: &MeshTls,
    expect: &[SpiffeId],
) -> (Connected, Accepted) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    soon(async { tokio::join!(client.connect(near, expect), server.accept(far)) }).await
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is_and_bytes_flow() {
    let authority = Authority::root("root");
    let (server, client) = (mesh(authority.svid(WAYPOINT)), mesh(authority.svid(CLIENT)));
    let (connected, accepted) =
        between(&client, &server, &[id("spiffe://td.example/other"), id(WAYPOINT)]).await;
    let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());

    assert_eq!((connected.peer.id(), &connected.local), (&id(WAYPOINT), &id(CLIENT)));
    assert_eq!((accepted.peer.id(), &accepted.local), (&id(CLIENT), &id(WAYPOINT)));
    connected.stream.write_all(b"ping").await.unwrap();
    connected.stream.flush().await.unwrap();
    let mut read = [0; 4];
    soon(accepted.stream.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"ping");
}

#[tokio::test]
async fn ours_agree_on_tls13_the_post_quantum_group_and_h2_and_send_no_name() {
    let authority = Authority::root("root");
    let (server, client) = (mesh(authority.svid(WAYPOINT)), mesh(authority.svid(CLIENT)));
    let (connected, accepted) = between(&client, &server, &[id(WAYPOINT)]).await;
    let (connected, accepted) = (connected.unwrap(), accepted.unwrap());

    let at_server = accepted.stream.get_ref().1;
    let at_client = connected.stream.get_ref().1;
    assert_eq!(at_server.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(at_client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(at_server.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    assert_eq!(at_server.alpn_protocol(), Some(b"h2".as_slice()));
    assert_eq!(at_server.server_name(), None);
    let suite = at_server.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384);
}

#[tokio::test]
async fn each_of_our_groups_works_with_a_client_that_knows_no_other() {
    let authority = Authority::root("root");
    let server = mesh(authority.svid(WAYPOINT));
    let table: [(&dyn SupportedKxGroup, NamedGroup); 4] = [
        (kx_group::X25519MLKEM768, NamedGroup::X25519MLKEM768),
        (kx_group::X25519, NamedGroup::X25519),
        (kx_group::SECP256R1, NamedGroup::secp256r1),
        (kx_group::SECP384R1, NamedGroup::secp384r1),
    ];
    for (only, expected) in table {
        let client = Peer { groups: vec![only], ..Peer::showing(authority.issue(&Leaf::of(CLIENT))) };
        let (accepted, _client) = client.calls(&server).await;
        let accepted = accepted.unwrap();
        let group = accepted.stream.get_ref().1.negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, expected);
    }
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let authority = Authority::root("root");
    let server = mesh(authority.svid(WAYPOINT));
    // Bare rustls keeps tickets and would use one at the second call.
    let config = Arc::new(Peer::showing(authority.issue(&Leaf::of(CLIENT))).client_config());
    for _ in 0..2 {
        let (accepted, client) = call(Arc::clone(&config), &server).await;
        let (mut accepted, mut client) = (accepted.unwrap(), client.unwrap());
        accepted.stream.write_all(b"x").await.unwrap();
        accepted.stream.flush().await.unwrap();
        // Tickets would have come before the byte.
        soon(client.read_exact(&mut [0; 1])).await.unwrap();
        assert_eq!(client.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.get_ref().1.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn a_client_of_an_alias_domain_is_accepted() {
    let authority = Authority::root("root");
    let domains = TrustDomains { aliases: vec!["old.example".to_owned()] };
    let server = MeshTls::new(&StaticSource::new(authority.svid(WAYPOINT)), domains, Revocations::none());
    let client = Peer::showing(authority.issue(&Leaf::of("spiffe://old.example/ns/a/sa/b")));
    let (accepted, _client) = client.calls(&server).await;
    assert_eq!(accepted.unwrap().peer.id(), &id("spiffe://old.example/ns/a/sa/b"));
}

#[tokio::test]
async fn trust_domains_change_between_handshakes_and_what_is_open_stays() {
    let authority = Authority::root("root");
    let server = mesh(authority.svid(WAYPOINT));
    let client = Peer::showing(authority.issue(&Leaf::of("spiffe://old.example/ns/a/sa/b")));
    let refused = client.calls(&server).await.0.unwrap_err();
    assert_eq!(refused.reason(), "trust_domain");
    server.set_trust_domains(TrustDomains { aliases: vec!["old.example".to_owned()] });
    let open = client.calls(&server).await.0.unwrap();
    server.set_trust_domains(TrustDomains::default());
    assert!(client.calls(&server).await.0.is_err());
    assert!(server.recheck(&open.certificate).is_ok());
    let own = Peer::showing(authority.issue(&Leaf::of(CLIENT)));
    assert!(own.calls(&server).await.0.is_ok(), "our own domain, whatever else is named");
}

#[tokio::test]
async fn two_roots_in_the_bundle_are_a_union_in_both_directions() {
    let (old, new) = (Authority::root("root"), Authority::root("root"));
    let union = old.bundle().to_owned() + new.bundle();
    let server = mesh(new.issue(&Leaf::of(WAYPOINT)).svid(&union));
    for authority in [&old, &new] {
        let client = mesh(authority.issue(&Leaf::of(CLIENT)).svid(&union));
        let (connected, accepted) = between(&client, &server, &[id(WAYPOINT)]).await;
        assert_eq!(accepted.unwrap().peer.id(), &id(CLIENT));
        assert_eq!(connected.unwrap().peer.id(), &id(WAYPOINT));
    }
}

#[tokio::test]
async fn a_chain_over_an_intermediate_and_names_beside_the_uri_are_accepted() {
    let intermediate = Authority::root("root").intermediate("intermediate", (-60, 3600));
    let server = mesh(intermediate.svid(WAYPOINT));
    let client = Leaf { dns: vec!["researcher.agents.svc"], ..Leaf::of(CLIENT) };
    let (accepted, _client) = Peer::showing(intermediate.issue(&client)).calls(&server).await;
    assert_eq!(accepted.unwrap().peer.id(), &id(CLIENT));
}

#[tokio::test]
async fn without_an_expected_identity_nothing_is_sent() {
    let (near, mut far) = tokio::io::duplex(1024);
    let refused = mesh(Authority::root("root").svid(CLIENT)).connect(near, &[]).await;
    assert!(matches!(refused, Err(HandshakeError::NothingExpected)));
    assert_eq!(soon(far.read(&mut [0; 1])).await.unwrap(), 0);
}
