use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_model::WorkloadUid;

use super::super::{Pick, UpstreamError};
use super::mesh::{Client, endless, get, plain, post};
use super::servers::{Server, gone, nobody, read_request, text};
use super::{soon, until};
use crate::body::Body;
use crate::limits::Limits;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_is_used_again_after_its_response() {
    let server = Server::named("a").await;
    let client = Client::to(&[plain("a", server.address)]);
    for request in [get(), post("body"), get()] {
        assert_eq!(client.fetch(request).await.unwrap(), (200, Bytes::from("a")));
    }
    assert_eq!((server.seen.connections(), server.seen.requests()), (1, 3));
    assert_eq!(client.active(), 0);
    assert_eq!(client.upstreams.connections(), 1);
}

#[tokio::test]
async fn requests_at_once_have_a_connection_each() {
    let server = Server::named("a").await;
    let client = Client::to(&[plain("a", server.address)]);
    let first = client.send(get(), &mut None).await.unwrap();
    client.get().await.unwrap();
    assert_eq!(server.seen.connections(), 2);
    assert_eq!(client.active(), 1);
    drop(first);
    assert_eq!(client.active(), 0);
}

#[tokio::test]
async fn a_request_goes_out_in_origin_form_with_its_host_and_body() {
    let server = Server::raw(|mut tcp, _, _| async move {
        let request = read_request(&mut tcp).await;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.len());
        tcp.write_all(answer.as_bytes()).await.unwrap();
        tcp.write_all(&request).await.unwrap();
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]);
    let (_, seen) = client.fetch(post("abc")).await.unwrap();
    let seen = String::from_utf8(seen.to_vec()).unwrap();
    assert!(seen.starts_with("POST /path HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains("host: server\r\n") && seen.contains("content-length: 3\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nabc"), "{seen}");
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_even_for_a_post() {
    let server = Server::raw(|mut tcp, _, seen| async move {
        read_request(&mut tcp).await;
        seen.requests.fetch_add(1, Ordering::SeqCst);
        tcp.write_all(OK).await.unwrap();
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]);
    for _ in 0..5 {
        assert_eq!(client.fetch(post("body")).await.unwrap().0, 200);
        until(|| server.seen.closed() == server.seen.connections()).await;
    }
    assert_eq!((server.seen.connections(), server.seen.requests()), (5, 5));
}

/// Reads a whole request and then breaks off.
async fn reads_and_closes() -> Server {
    Server::raw(|mut tcp, _, seen| async move {
        if !read_request(&mut tcp).await.is_empty() {
            seen.requests.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await
}

#[tokio::test]
async fn a_post_is_not_replayed_after_bytes_went_out() {
    let (one, two) = (reads_and_closes().await, reads_and_closes().await);
    let client = Client::to(&[plain("a", one.address), plain("b", two.address)]);
    let refused = client.fetch(post("call")).await;
    assert!(matches!(refused, Err(UpstreamError::Reset { .. })), "{refused:?}");
    assert_eq!(one.seen.requests() + two.seen.requests(), 1);
    assert_eq!(client.active(), 0);
}

#[tokio::test]
async fn a_post_is_not_replayed_on_a_kept_connection_either() {
    let server = Server::raw(|mut tcp, _, seen| async move {
        for number in 0..2 {
            read_request(&mut tcp).await;
            seen.requests.fetch_add(1, Ordering::SeqCst);
            if number == 0 {
                tcp.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]);
    client.fetch(post("first")).await.unwrap();
    let refused = client.fetch(post("second")).await;
    assert!(matches!(refused, Err(UpstreamError::Reset { .. })), "{refused:?}");
    assert_eq!((server.seen.connections(), server.seen.requests()), (1, 2));
}

#[tokio::test]
async fn a_get_that_was_lost_before_its_response_goes_to_another_endpoint() {
    let (bad, good) = (reads_and_closes().await, Server::named("good").await);
    let client = Client::to(&[plain("bad", bad.address), plain("good", good.address)]);
    for _ in 0..20 {
        assert_eq!(client.get().await.unwrap(), (200, Bytes::from("good")));
    }
    assert!(bad.seen.requests() > 0);
}

#[tokio::test]
async fn a_get_is_tried_three_times_and_no_more() {
    let server = reads_and_closes().await;
    let client = Client::to(&[plain("a", server.address)]);
    assert!(matches!(client.get().await, Err(UpstreamError::Reset { .. })));
    assert_eq!(server.seen.requests(), 3);
}

#[tokio::test]
async fn what_could_not_connect_goes_to_another_endpoint_with_its_body_whole() {
    let echo = |request: Request<hyper::body::Incoming>, _| async move {
        Response::new(Body::full(request.into_body().collect().await.unwrap().to_bytes()))
    };
    let server = Server::http(echo).await;
    let client = Client::to(&[plain("nobody", nobody().await), plain("a", server.address)]);
    for _ in 0..10 {
        let body = http_body_util::Full::new(Bytes::from("streamed")).map_err(|never| match never {});
        let request = Request::post("http://server/").body(Body::Stream(Box::pin(body))).unwrap();
        let mut chosen = None;
        let response = client.send(request, &mut chosen).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "streamed");
        assert_eq!(&*chosen.unwrap().workload.name, "a");
    }
}

#[tokio::test]
async fn without_anybody_there_it_fails_as_a_connect() {
    let client = Client::to(&[plain("nobody", nobody().await)]);
    let mut chosen = None;
    let refused = client.send(post("x"), &mut chosen).await.map(|_| ());
    assert!(matches!(refused, Err(UpstreamError::Connect { .. })), "{refused:?}");
    assert_eq!(&*chosen.unwrap().workload.name, "nobody");
}

#[tokio::test]
async fn a_session_whose_endpoint_is_gone_goes_nowhere_else() {
    let server = Server::named("a").await;
    let mut client = Client::to(&[plain("nobody", nobody().await), plain("a", server.address)]);
    client.pick = Pick { pinned: Some(WorkloadUid("nobody".into())), ..Pick::default() };
    assert!(matches!(client.get().await, Err(UpstreamError::Connect { .. })));
    client.pick = Pick { pinned: Some(WorkloadUid("unknown".into())), ..Pick::default() };
    assert!(matches!(client.get().await, Err(UpstreamError::PinnedGone)));
    assert_eq!(server.seen.connections(), 0);
}

/// Sends a head, part of a body, and waits until it is let go.
async fn starts_and_waits() -> Server {
    Server::raw(|mut tcp, _, seen| async move {
        read_request(&mut tcp).await;
        seen.requests.fetch_add(1, Ordering::SeqCst);
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await.unwrap();
        gone(&mut tcp).await;
    })
    .await
}

#[tokio::test]
async fn a_response_dropped_in_the_middle_closes_its_connection() {
    let server = starts_and_waits().await;
    let client = Client::to(&[plain("a", server.address)]);
    let mut response = client.send(get(), &mut None).await.unwrap();
    assert_eq!(soon(response.frame()).await.unwrap().unwrap().into_data().unwrap(), "part");
    assert_eq!((server.seen.closed(), client.active()), (0, 1));
    drop(response);
    until(|| server.seen.closed() == 1).await;
    assert_eq!(client.active(), 0);
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_any_more_is_cancelled_at_once() {
    let server = Server::raw(|mut tcp, _, seen| async move {
        read_request(&mut tcp).await;
        seen.requests.fetch_add(1, Ordering::SeqCst);
        gone(&mut tcp).await;
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]);
    let mut chosen = None;
    let mut sending = Box::pin(client.send(post("x"), &mut chosen));
    tokio::select! {
        _ = &mut sending => panic!("nothing answers"),
        () = until(|| server.seen.requests() == 1) => {}
    }
    drop(sending);
    until(|| server.seen.closed() == 1).await;
    assert_eq!((client.active(), server.seen.requests()), (0, 1));
}

#[tokio::test]
async fn a_deadline_ends_waiting_and_reading_and_closes_the_connection() {
    let silent = Server::raw(|mut tcp, _, _| async move { gone(&mut tcp).await }).await;
    let mut client = Client::to(&[plain("a", silent.address)]);
    client.timeout = Some(Duration::from_millis(150));
    assert!(matches!(client.get().await, Err(UpstreamError::Timeout)));
    until(|| silent.seen.closed() == 1).await;

    client.timeout = None;
    client.pick.backend_timeout = Some(Duration::from_millis(150));
    assert!(matches!(client.get().await, Err(UpstreamError::Timeout)));
    assert_eq!(silent.seen.connections(), 2, "a timeout is not retried");

    let slow = starts_and_waits().await;
    let mut client = Client::to(&[plain("a", slow.address)]);
    client.timeout = Some(Duration::from_millis(400));
    let response = client.send(get(), &mut None).await.unwrap();
    let error = soon(response.into_body().collect()).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(UpstreamError::Timeout)), "{error}");
    until(|| slow.seen.closed() == 1).await;
    assert_eq!(client.active(), 0);
}

#[tokio::test]
async fn an_answer_before_the_request_was_sent_whole_ends_its_connection() {
    let server = Server::raw(|mut tcp, _, _| async move {
        read_request(&mut tcp).await;
        tcp.write_all(OK).await.unwrap();
        gone(&mut tcp).await;
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]);
    let request = Request::post("http://server/").body(endless("first")).unwrap();
    assert_eq!(client.fetch(request).await.unwrap().1, "ok");
    until(|| server.seen.closed() == 1).await;
    assert_eq!(client.active(), 0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_its_time() {
    let server = Server::named("a").await;
    let limits = Limits { upstream_idle: Duration::from_millis(20), ..Limits::default() };
    let client = Client::bounded(&limits, &[plain("a", server.address)]);
    client.get().await.unwrap();
    until(|| server.seen.closed() == 1).await;
    until(|| client.upstreams.connections() == 0).await;
}

#[tokio::test]
async fn no_more_idle_connections_are_kept_than_allowed() {
    let server = Server::named("a").await;
    let limits = Limits { upstream_idle_connections: 1, ..Limits::default() };
    let client = Client::bounded(&limits, &[plain("a", server.address)]);
    let one = client.send(get(), &mut None).await.unwrap();
    let two = client.send(get(), &mut None).await.unwrap();
    for response in [one, two] {
        response.into_body().collect().await.unwrap();
    }
    until(|| server.seen.closed() == 1).await;
    client.get().await.unwrap();
    assert_eq!(server.seen.connections(), 2);
}

#[tokio::test]
async fn circuit_breakers_bound_requests_and_connections() {
    let server = Server::named("a").await;
    for limits in [
        Limits { endpoint_requests: 1, ..Limits::default() },
        Limits { endpoint_connections: 1, ..Limits::default() },
    ] {
        let client = Client::bounded(&limits, &[plain("a", server.address)]);
        let held = client.send(get(), &mut None).await.unwrap();
        let refused = client.get().await;
        assert!(matches!(refused, Err(UpstreamError::Overloaded)), "{refused:?}");
        held.into_body().collect().await.unwrap();
        client.get().await.unwrap();
    }
}

#[tokio::test]
async fn an_endpoint_that_keeps_answering_503_is_left_alone() {
    let bad = Server::http(|_, _| async {
        let mut response = text("no");
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    })
    .await;
    let good = Server::named("good").await;
    let limits =
        Limits { ejection_failures: 2, ejection_time: Duration::from_secs(3_600), ..Limits::default() };
    let client = Client::bounded(&limits, &[plain("bad", bad.address), plain("good", good.address)]);
    while bad.seen.requests() < 2 {
        client.get().await.unwrap();
    }
    for _ in 0..20 {
        assert_eq!(client.get().await.unwrap().1, "good");
    }
    assert_eq!(bad.seen.requests(), 2);
}

#[tokio::test]
async fn a_response_that_breaks_off_counts_against_its_endpoint() {
    let server = Server::raw(|mut tcp, _, _| async move {
        read_request(&mut tcp).await;
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await.unwrap();
    })
    .await;
    let limits = Limits { ejection_failures: 1, ..Limits::default() };
    let client = Client::bounded(&limits, &[plain("a", server.address)]);
    let response = client.send(get(), &mut None).await.unwrap();
    assert!(!client.has_ejected());
    assert!(soon(response.into_body().collect()).await.is_err(), "a cut response must not look whole");
    assert!(client.has_ejected());
    assert_eq!(client.upstreams.ejected(), 1);
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_and_never_comes_back() {
    let server = Server::http(|mut request, _| async move {
        if !request.headers().contains_key("upgrade") {
            return text("plain");
        }
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
            tokio::io::copy(&mut read, &mut write).await.ok();
        });
        let switching = Response::builder().status(101).header("connection", "upgrade");
        switching.header("upgrade", "websocket").body(Body::Empty).unwrap()
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]);
    let request =
        Request::get("http://server/").header("connection", "upgrade").header("upgrade", "websocket");
    let mut chosen = None;
    let mut response = client.send(request.body(Body::Empty).unwrap(), &mut chosen).await.unwrap();
    assert_eq!(response.status(), 101);
    let mut upgraded = TokioIo::new(soon(hyper::upgrade::on(&mut response)).await.unwrap());
    drop(response);
    client.get().await.unwrap();
    assert_eq!(server.seen.connections(), 2);
    upgraded.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    soon(upgraded.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"ping");
    assert_eq!((client.active(), client.upstreams.connections()), (1, 2));
    drop((upgraded, chosen));
    until(|| server.seen.closed() == 1).await;
    assert_eq!((client.active(), client.upstreams.connections()), (0, 1));
}

#[tokio::test]
async fn connections_of_a_forgotten_endpoint_are_closed() {
    let server = Server::named("a").await;
    let mut client = Client::to(&[plain("a", server.address)]);
    client.get().await.unwrap();
    let running = client.send(get(), &mut None).await.unwrap();
    client.get().await.unwrap();
    assert_eq!(server.seen.connections(), 2);
    // Requests that started with the last snapshot still hold it.
    let _before = Arc::clone(&client.cluster);
    client.apply(&[]);
    until(|| server.seen.closed() == 1).await;
    assert!(matches!(client.get().await, Err(UpstreamError::NoEndpoint)));
    assert_eq!(running.into_body().collect().await.unwrap().to_bytes(), "a", "what runs goes on");
    until(|| server.seen.closed() == 2).await;
}

#[tokio::test]
async fn connections_outlive_a_snapshot_that_keeps_their_endpoint() {
    let server = Server::named("a").await;
    let mut client = Client::to(&[plain("a", server.address)]);
    for _ in 0..3 {
        client.get().await.unwrap();
        client.apply(&[plain("a", server.address)]);
    }
    assert_eq!(server.seen.connections(), 1);
}
