//! The stream around the session, against a control plane that does what a test wants.

#![expect(clippy::unwrap_used, clippy::large_futures, reason = "a test may fail loudly, and runs once")]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use support::*;
use xds_client::{BearerToken, Client, Event, Failure, Names, Refused, Roots, Security, Settings};

const PLAIN: Security = Security::Plaintext;

/// A client with an open stream, which has said its first requests.
async fn opened(control_plane: &ControlPlane, client: &mut Client) -> Stream {
    let mut call = meanwhile(client, control_plane.call()).await;
    let first = meanwhile(client, call.hear()).await;
    assert_eq!((first.type_url.as_str(), first.node.unwrap().id.as_str()), (CDS, "waypoint~test"));
    let second = meanwhile(client, call.hear()).await;
    assert_eq!((second.type_url.as_str(), second.node), (EDS, None));
    let stream = call.accept();
    connected(client).await;
    stream
}

fn said(failure: &Failure) -> String {
    format!("{failure}; fix: {}", failure.fix())
}

#[tokio::test]
async fn the_first_requests_do_not_wait_for_an_answer_and_an_ack_waits_for_the_owner() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(settings(&control_plane, PLAIN));
    let mut stream = opened(&control_plane, &mut client).await;
    stream.say(&response(CDS, "c1", &[("c", "1")]));
    stream.say(&response(EDS, "e1", &[("e1", "1")]));
    let clusters = update(&mut client).await;
    let endpoints = update(&mut client).await;
    assert_eq!((&*clusters.type_url, &*clusters.upserts[0].body), (CDS, b"c@1".as_slice()));
    assert_eq!(&*endpoints.type_url, EDS);
    client.want(EDS, Names::listed(["e1"]));
    client.settle(endpoints.token, vec![]);
    client.settle(clusters.token, vec![Refused { name: "c".into(), reason: "odd".into() }]);
    let next = meanwhile(&mut client, stream.hear()).await;
    assert_eq!(next.resource_names_unsubscribe, ["e2"], "the first word after the update was the owner's");
    let ack = meanwhile(&mut client, stream.hear()).await;
    assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("e1", None));
    let nack = meanwhile(&mut client, stream.hear()).await;
    assert_eq!(nack.response_nonce, "c1");
    assert_eq!(nack.error_detail.unwrap().message, "c: odd");
}

#[tokio::test]
async fn a_new_stream_begins_with_what_is_held() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(settings(&control_plane, PLAIN));
    let mut stream = opened(&control_plane, &mut client).await;
    stream.say(&response(CDS, "1", &[("good", "1"), ("bad", "1")]));
    let first = update(&mut client).await;
    client.settle(first.token, vec![Refused { name: "bad".into(), reason: "odd".into() }]);
    meanwhile(&mut client, stream.hear()).await;
    stream.say(&response(CDS, "2", &[("unanswered", "1")]));
    drop(update(&mut client).await);
    stream.cut();
    let (why, _) = failure(&mut client).await;
    assert!(matches!(why, Failure::Broken { .. }), "{why:?}");
    assert!(said(&why).contains("broke: the other end is gone; fix: "), "{}", said(&why));

    let mut call = meanwhile(&mut client, control_plane.call()).await;
    let request = meanwhile(&mut client, call.hear()).await;
    assert!(request.node.is_some());
    assert_eq!(versions(&request), HashMap::from([("good", "1"), ("bad", ""), ("unanswered", "")]));
}

#[tokio::test]
async fn token_and_roots_are_read_for_each_connection() {
    let authority = Authority::new();
    let control_plane = ControlPlane::tls(&authority, "istiod.test").await;
    let folder = tempfile::tempdir().unwrap();
    let (roots, token) = (folder.path().join("roots.pem"), folder.path().join("token"));
    std::fs::write(&roots, Authority::new().root).unwrap();
    let server_name = Some("istiod.test".to_owned());
    let security = Security::Tls { roots: Roots::File(roots.clone()), server_name };
    let mut client = client(Settings {
        token: Some(BearerToken::File(token.clone())),
        headers: vec![("clusterid".into(), "Kubernetes".into()), ("x-extra".into(), "1".into())],
        ..settings(&control_plane, security)
    });
    let (why, _) = failure(&mut client).await;
    assert!(said(&why).contains("token cannot be read; fix: mount"), "{}", said(&why));

    std::fs::write(&token, "first\n").unwrap();
    let ((why, _), ()) = tokio::join!(failure(&mut client), control_plane.handshake_fails());
    assert!(said(&why).contains("fix: give the root certificate of the CA"), "{}", said(&why));

    std::fs::write(&roots, &authority.root).unwrap();
    for expected in ["first", "second"] {
        std::fs::write(&token, expected).unwrap();
        let call = meanwhile(&mut client, control_plane.call()).await;
        assert_eq!(call.headers["authorization"], format!("Bearer {expected}"));
        assert_eq!(
            (&call.headers["clusterid"], &call.headers["x-extra"]),
            (&"Kubernetes".parse().unwrap(), &"1".parse().unwrap())
        );
        let stream = call.accept();
        connected(&mut client).await;
        stream.end(0, "");
        let (why, _) = failure(&mut client).await;
        assert!(matches!(why, Failure::Ended { .. }), "{why:?}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_name_is_refused_with_both_names() {
    let authority = Authority::new();
    let control_plane = ControlPlane::tls(&authority, "istiod.test").await;
    let security = Security::Tls { roots: Roots::Pem(authority.root.clone()), server_name: None };
    let mut client = client(settings(&control_plane, security));
    let ((why, _), ()) = tokio::join!(failure(&mut client), control_plane.handshake_fails());
    let text = said(&why);
    assert!(text.starts_with(&control_plane.address.to_string()), "{text}");
    assert!(text.contains("istiod.test") && text.contains("fix: override the server name"), "{text}");
}

#[tokio::test]
async fn a_port_without_tls_is_said_to_be_one() {
    let control_plane = ControlPlane::plain().await;
    let security = Security::Tls { roots: Roots::Pem(Authority::new().root), server_name: None };
    let mut client = client(settings(&control_plane, security));
    let hang_up = async { drop(control_plane.take_silently().await) };
    let ((why, _), ()) = tokio::join!(failure(&mut client), hang_up);
    assert!(said(&why).contains("fix: check the port"), "{}", said(&why));
}

#[tokio::test]
async fn a_listener_that_never_shakes_hands_is_given_up() {
    let authority = Authority::new();
    let control_plane = ControlPlane::tls(&authority, "istiod.test").await;
    let security = Security::Tls { roots: Roots::Pem(authority.root.clone()), server_name: None };
    let connect_timeout = Duration::from_millis(50);
    let mut client = client(Settings { connect_timeout, ..settings(&control_plane, security) });
    let ((why, _), _open) = tokio::join!(failure(&mut client), control_plane.take_silently());
    let text = said(&why);
    assert!(text.contains("did not accept a connection within 50ms") || text.contains("timed out"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn refused_connections_are_tried_ever_more_rarely() {
    let address = ControlPlane::plain().await.address;
    let mut client = client(Settings::new(address.to_string(), PLAIN));
    let mut full = Duration::from_millis(10);
    for attempt in 0..14 {
        let begun = tokio::time::Instant::now();
        // No deadline here: it would be the next timer, and time that stands still jumps there.
        let Event::Disconnected { why, retry_in } = client.next().await else { panic!("it connected") };
        let text = said(&why);
        assert!(
            text.starts_with(&address.to_string()) && text.contains("whether the control plane runs"),
            "{text}"
        );
        assert!(retry_in >= full / 2 && retry_in <= full, "{attempt}: {retry_in:?} of {full:?}");
        assert!(attempt == 0 || begun.elapsed() >= full / 4, "it did not wait");
        full = (full * 2).min(Duration::from_secs(15));
    }
}

#[tokio::test]
async fn a_refused_token_is_said_in_words() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(settings(&control_plane, PLAIN));
    let rows = [
        (16, "bad token", "says Unauthenticated: bad token; fix: check that the token is valid"),
        (
            7,
            "no identities matched",
            "says PermissionDenied: no identities matched; fix: check that the namespace",
        ),
        (12, "", "fix: check the address: what answers there does not speak delta ADS"),
        (
            14,
            "server is not ready",
            "says Unavailable: server is not ready; fix: look into the control plane's log",
        ),
    ];
    for (code, message, expected) in rows {
        meanwhile(&mut client, control_plane.call()).await.refuse(code, message);
        let (why, _) = failure(&mut client).await;
        assert!(said(&why).contains(expected), "{code}: {}", said(&why));
    }
}

#[tokio::test]
async fn a_response_that_is_too_large_ends_the_stream_and_nothing_else() {
    let control_plane = ControlPlane::plain().await;
    let longest = Duration::from_secs(15);
    let mut client = client(Settings {
        message_limit_bytes: 1024,
        backoff_longest: longest,
        ..settings(&control_plane, PLAIN)
    });
    let long = "x".repeat(2000);
    let (mut held, mut waits) = (HashMap::new(), Vec::new());
    for _ in 0..4 {
        let mut call = meanwhile(&mut client, control_plane.call()).await;
        let first = meanwhile(&mut client, call.hear()).await;
        assert_eq!(versions(&first), held);
        let mut stream = call.accept();
        connected(&mut client).await;
        stream.say(&response(CDS, "1", &[("small", "1")]));
        let small = update(&mut client).await;
        client.settle(small.token, vec![]);
        held = HashMap::from([("small", "1")]);
        stream.say(&response(CDS, "2", &[(&long, "1")]));
        let (why, retry_in) = failure(&mut client).await;
        assert!(matches!(why, Failure::Unreadable { .. }), "{why:?}");
        assert!(
            said(&why).contains("1024") && said(&why).contains("fix: look at the size of the mesh"),
            "{}",
            said(&why)
        );
        waits.push(retry_in);
    }
    assert!(waits[3] > Duration::from_millis(20), "it would be asked for again and again: {waits:?}");
}

#[tokio::test]
async fn what_is_no_message_ends_the_stream() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(settings(&control_plane, PLAIN));
    let mut stream = opened(&control_plane, &mut client).await;
    stream.say_bytes(b"\0\0\0\0\x02\x0a\xff".as_slice().into());
    let (why, _) = failure(&mut client).await;
    assert!(matches!(why, Failure::Unreadable { .. }), "{why:?}");
}

#[tokio::test]
async fn half_a_message_and_then_silence_is_noticed() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(Settings {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(50),
        ..settings(&control_plane, PLAIN)
    });
    let mut stream = opened(&control_plane, &mut client).await;
    let whole = framed(&response(CDS, "1", &[("a", "1")]));
    stream.say_bytes(whole.slice(..whole.len() / 2));
    // The first pings are answered: half a message alone is no reason to hang up.
    tokio::time::timeout(Duration::from_millis(300), client.next())
        .await
        .expect_err("the stream still lives");
    stream.freeze();
    let (why, _) = failure(&mut client).await;
    assert!(matches!(why, Failure::Broken { .. }), "{why:?}");
}

#[tokio::test]
async fn half_a_message_survives_an_owner_who_stops_listening() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(settings(&control_plane, PLAIN));
    let mut stream = opened(&control_plane, &mut client).await;
    let whole = framed(&response(CDS, "1", &[("a", "1")]));
    for byte in whole.iter() {
        stream.say_bytes(bytes::Bytes::copy_from_slice(&[*byte]));
        if tokio::time::timeout(Duration::from_millis(1), client.next()).await.is_ok() {
            // Only the last byte makes it whole; it is checked below that this was it.
            return assert_eq!(byte, whole.last().unwrap());
        }
    }
    let update = update(&mut client).await;
    assert_eq!(&*update.upserts[0].body, b"a@1");
}

#[tokio::test]
async fn half_a_message_and_then_the_end_is_a_broken_stream() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(settings(&control_plane, PLAIN));
    let mut stream = opened(&control_plane, &mut client).await;
    let whole = framed(&response(CDS, "1", &[("a", "1")]));
    stream.say_bytes(whole.slice(..whole.len() / 2));
    stream.cut();
    let (why, _) = failure(&mut client).await;
    assert!(matches!(why, Failure::Broken { .. }), "{why:?}");
    assert!(client.session().initial_versions(CDS).is_empty());
}

#[tokio::test]
async fn a_control_plane_that_never_answers_is_given_up() {
    let control_plane = ControlPlane::plain().await;
    let answer_timeout = Duration::from_millis(50);
    let mut client = client(Settings { answer_timeout, ..settings(&control_plane, PLAIN) });
    let _call = meanwhile(&mut client, control_plane.call()).await;
    let (why, _) = failure(&mut client).await;
    assert!(said(&why).contains("answered nothing within 50ms"), "{}", said(&why));
}

#[tokio::test]
async fn an_owner_who_does_not_answer_is_told_nothing_more() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(Settings { unsettled_limit: 2, ..settings(&control_plane, PLAIN) });
    let mut stream = opened(&control_plane, &mut client).await;
    for nonce in ["1", "2", "3"] {
        stream.say(&response(CDS, nonce, &[("a", nonce)]));
    }
    let (first, _second) = (update(&mut client).await, update(&mut client).await);
    tokio::time::timeout(Duration::from_millis(50), client.next()).await.expect_err("the third has to wait");
    client.settle(first.token, vec![]);
    assert_eq!(&*update(&mut client).await.upserts[0].version, "3");
}

#[tokio::test]
async fn a_type_that_nobody_asked_for_is_refused_and_the_stream_goes_on() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(settings(&control_plane, PLAIN));
    let mut stream = opened(&control_plane, &mut client).await;
    stream.say(&response("type.test/Other", "o", &[("a", "1")]));
    let nack = meanwhile(&mut client, stream.hear()).await;
    assert_eq!((nack.type_url.as_str(), nack.response_nonce.as_str()), ("type.test/Other", "o"));
    assert!(nack.error_detail.is_some());
    stream.say(&response(CDS, "c", &[("a", "1")]));
    assert_eq!(&*update(&mut client).await.upserts[0].name, "a");
}

#[tokio::test]
async fn an_answer_that_comes_after_its_stream_is_not_sent_on_the_next() {
    let control_plane = ControlPlane::plain().await;
    let mut client = client(settings(&control_plane, PLAIN));
    let mut stream = opened(&control_plane, &mut client).await;
    stream.say(&response(CDS, "old", &[("a", "1")]));
    let old = update(&mut client).await;
    stream.end(14, "shutting down");
    let (why, _) = failure(&mut client).await;
    assert!(said(&why).contains("says Unavailable: shutting down"), "{}", said(&why));
    let mut stream = opened(&control_plane, &mut client).await;
    client.settle(old.token, vec![]);
    stream.say(&response(CDS, "new", &[("a", "2")]));
    let new = update(&mut client).await;
    client.settle(new.token, vec![]);
    assert_eq!(meanwhile(&mut client, stream.hear()).await.response_nonce, "new");
}
