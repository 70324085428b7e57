//! Who is refused, and under which name that is counted.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose as Eku, IsCa, KeyUsagePurpose};
use rustls::{AlertDescription, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    authority::{Authority, Issued, Leaf},
    handshake::{CLIENT, WAYPOINT, id, mesh},
    peer::Peer,
    soon,
};
use crate::{HandshakeError, MeshTls, clock::Clock};

/// Every way for a certificate to be wrong at either end: what it is, the certificate, and the reason.
fn bad_certificates(authority: &Authority) -> Vec<(&'static str, Issued, &'static str)> {
    let stranger = Authority::root("root");
    let late = authority.intermediate("late", (-3600, -60));
    let good = Leaf::of(CLIENT);
    let of = |uris: &[&'static str]| Leaf { uris: uris.to_vec(), ..Leaf::default() };
    let ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signer = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    let lister = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    vec![
        ("another root of the same name", stranger.issue(&good), "untrusted"),
        ("expired", authority.issue(&Leaf { valid: (-120, -60), ..good.clone() }), "expired"),
        ("under an expired intermediate", late.issue(&good), "expired"),
        ("not valid yet", authority.issue(&Leaf { valid: (600, 1200), ..good.clone() }), "not_yet_valid"),
        ("two URIs", authority.issue(&of(&[CLIENT, "spiffe://td.example/other"])), "several_uris"),
        ("the same URI twice", authority.issue(&of(&[CLIENT, CLIENT])), "several_uris"),
        (
            "a second URI that is no SPIFFE ID",
            authority.issue(&of(&[CLIENT, "https://td.example/"])),
            "several_uris",
        ),
        ("no name", authority.issue(&of(&[])), "not_spiffe"),
        ("DNS only", authority.issue(&Leaf { dns: vec!["td.example"], ..of(&[]) }), "not_spiffe"),
        ("another scheme", authority.issue(&of(&["https://td.example/ns/a/sa/b"])), "not_spiffe"),
        ("a path that climbs", authority.issue(&of(&["spiffe://td.example/ns/../sa"])), "not_spiffe"),
        ("capitals in the trust domain", authority.issue(&of(&["spiffe://TD.example/ns/a"])), "not_spiffe"),
        ("a trust domain only", authority.issue(&of(&["spiffe://td.example"])), "not_spiffe"),
        ("a CA", authority.issue(&Leaf { is_ca: ca, key_usages: vec![], ..good.clone() }), "not_spiffe"),
        (
            "may sign certificates",
            authority.issue(&Leaf { key_usages: signer, ..good.clone() }),
            "not_spiffe",
        ),
        ("may sign lists", authority.issue(&Leaf { key_usages: lister, ..good.clone() }), "not_spiffe"),
        ("another trust domain", authority.issue(&of(&["spiffe://evil.example/ns/a/sa/b"])), "trust_domain"),
        ("a longer trust domain", authority.issue(&of(&["spiffe://td.example.evil/ns/a"])), "trust_domain"),
    ]
}

#[tokio::test]
async fn a_bad_client_is_refused_by_name_and_sees_only_an_alert() {
    let authority = Authority::root("root");
    let server = mesh(authority.svid(WAYPOINT));
    let serving_only = authority.issue(&Leaf { usages: vec![Eku::ServerAuth], ..Leaf::of(CLIENT) });
    let mut table = bad_certificates(&authority);
    table.push(("for servers only", serving_only, "usage"));
    for (what, issued, reason) in table {
        let (accepted, client) = Peer::showing(issued).calls(&server).await;
        assert_eq!(accepted.expect_err(what).reason(), reason, "{what}");
        let seen = client.expect_err(what);
        assert!(matches!(tls_error(&seen), Some(Error::AlertReceived(_))), "{what}: {seen}");
    }
}

#[tokio::test]
async fn a_bad_server_is_refused_by_name_though_its_identity_is_the_expected_one() {
    let authority = Authority::root("root");
    let client = mesh(authority.svid(WAYPOINT));
    let calling_only = authority.issue(&Leaf { usages: vec![Eku::ClientAuth], ..Leaf::of(CLIENT) });
    let mut table = bad_certificates(&authority);
    table.push(("for clients only", calling_only, "usage"));
    let expect = [id(CLIENT), id("spiffe://evil.example/ns/a/sa/b"), id("spiffe://td.example.evil/ns/a")];
    for (what, issued, reason) in table {
        let (connected, served) = Peer::showing(issued).called_by(&client, &expect).await;
        assert_eq!(connected.expect_err(what).reason(), reason, "{what}");
        let seen = served.expect_err(what);
        assert!(matches!(tls_error(&seen), Some(Error::AlertReceived(_))), "{what}: {seen}");
    }
}

#[tokio::test]
async fn a_server_must_bear_exactly_the_expected_identity() {
    let authority = Authority::root("root");
    let client = mesh(authority.svid(CLIENT));
    let server = Peer::showing(authority.issue(&Leaf::of("spiffe://td.example/ns/tools/sa/github")));
    let table = [
        ("another account", "spiffe://td.example/ns/tools/sa/gitlab", false),
        ("a prefix", "spiffe://td.example/ns/tools/sa/git", false),
        ("a longer one", "spiffe://td.example/ns/tools/sa/github2", false),
        ("other letters", "spiffe://td.example/ns/tools/sa/GitHub", false),
        ("itself", "spiffe://td.example/ns/tools/sa/github", true),
    ];
    for (what, expect, fits) in table {
        let (connected, _served) = server.called_by(&client, &[id(expect)]).await;
        match connected {
            Ok(_) => assert!(fits, "{what}"),
            Err(error) => assert!(!fits && error.reason() == "wrong_identity", "{what}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::root("root");
    let nobody = Peer { shows: None, ..Peer::showing(authority.issue(&Leaf::of(CLIENT))) };
    let (accepted, client) = nobody.calls(&mesh(authority.svid(WAYPOINT))).await;
    assert_eq!(accepted.unwrap_err().reason(), "no_certificate");
    assert_eq!(
        tls_error(&client.unwrap_err()),
        Some(&Error::AlertReceived(AlertDescription::CertificateRequired))
    );
}

#[tokio::test]
async fn only_h2_by_alpn_passes_in_both_directions() {
    let authority = Authority::root("root");
    let ours = mesh(authority.svid(WAYPOINT));
    let table: [(&str, Vec<&'static [u8]>, bool); 4] = [
        ("none offered", vec![], false),
        ("http/1.1", vec![b"http/1.1"], false),
        ("h2c", vec![b"h2c"], false),
        ("h2 as a second choice", vec![b"http/1.1", b"h2"], true),
    ];
    for (what, protocols, passes) in table {
        let peer = Peer { protocols, ..Peer::showing(authority.issue(&Leaf::of(CLIENT))) };
        let inbound = peer.calls(&ours).await.0.map(|_| ()).map_err(|e| e.reason());
        let outbound = peer.called_by(&ours, &[id(CLIENT)]).await.0.map(|_| ()).map_err(|e| e.reason());
        let expected = if passes { Ok(()) } else { Err("alpn") };
        assert_eq!((inbound, outbound), (expected, expected), "{what}");
    }
}

#[tokio::test]
async fn a_tls12_client_is_refused_with_the_alert_for_it() {
    let server = mesh(Authority::root("root").svid(WAYPOINT));
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(&tls12_client_hello()).await.unwrap();
    let refused = soon(server.accept(far)).await.unwrap_err();
    assert_eq!(refused.reason(), "tls");
    let mut record = [0; 7];
    soon(near.read_exact(&mut record)).await.unwrap();
    // An alert record: fatal (2), protocol_version (70).
    assert_eq!((record[0], &record[5..]), (21, [2, 70].as_slice()));
}

/// A ClientHello as of RFC 5246: two ECDHE suites, the groups and signatures for them, and no word of TLS 1.3.
fn tls12_client_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]); // random
    hello.push(0); // no session
    hello.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2f]); // ECDHE with AES-128-GCM, ECDSA and RSA
    hello.extend([1, 0]); // no compression
    let mut extensions = vec![0, 10, 0, 4, 0, 2, 0, 23]; // supported_groups: secp256r1
    extensions.extend([0, 13, 0, 4, 0, 2, 4, 3]); // signature_algorithms: ecdsa_secp256r1_sha256
    extensions.extend([0, 16, 0, 5, 0, 3, 2, b'h', b'2']); // ALPN
    hello.extend([0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

#[tokio::test]
async fn what_is_no_tls_is_refused() {
    let server = mesh(Authority::root("root").svid(WAYPOINT));
    for (what, bytes, reason) in [
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".as_slice(), "tls"),
        ("the h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "tls"),
        ("nothing", b"", "io"),
        ("half a record", &[22, 3, 1], "io"),
    ] {
        let (mut near, far) = tokio::io::duplex(1024);
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        assert_eq!(soon(server.accept(far)).await.unwrap_err().reason(), reason, "{what}");
    }
}

#[tokio::test]
async fn without_an_svid_or_with_an_expired_one_there_is_no_handshake() {
    use std::time::{Duration, SystemTime};
    let (near, far) = tokio::io::duplex(1024);
    let none = MeshTls::new(&Never, crate::TrustDomains::default(), crate::Revocations::none());
    assert_eq!(none.accept(near).await.unwrap_err().reason(), "no_svid");
    assert_eq!(none.connect(far, &[id(CLIENT)]).await.unwrap_err().reason(), "no_svid");
    assert_eq!(none.local_id(), None);

    let source = crate::StaticSource::new(Authority::root("root").svid(WAYPOINT));
    let clock = Clock::from_fn(|| SystemTime::now() + Duration::from_secs(7200));
    let stale =
        MeshTls::with_clock(&source, crate::TrustDomains::default(), crate::Revocations::none(), clock);
    let (near, far) = tokio::io::duplex(1024);
    let refused = stale.accept(near).await.unwrap_err();
    assert!(matches!(refused, HandshakeError::OwnExpired { .. }), "{refused}");
    assert_eq!(stale.connect(far, &[id(CLIENT)]).await.unwrap_err().reason(), "own_expired");
}

/// A source that has nothing yet.
struct Never;

impl crate::SvidSource for Never {
    fn watch(&self) -> tokio::sync::watch::Receiver<Option<std::sync::Arc<crate::X509Svid>>> {
        tokio::sync::watch::channel(None).1
    }
}

fn tls_error(error: &std::io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}
