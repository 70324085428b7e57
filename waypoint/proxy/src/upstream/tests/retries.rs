use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::AsyncWriteExt;
use waypoint_model::{Retries, RetryOn};

use super::super::{Pick, UpstreamError};
use super::mesh::{Client, get, plain, post};
use super::servers::{Server, read_request, text};
use crate::body::{Body, BodyError};
use crate::limits::Limits;

/// Retries with hardly a pause.
fn retries(attempts: u32, on: RetryOn) -> Option<Arc<Retries>> {
    let backoff = Some(Duration::from_millis(1));
    Some(Arc::new(Retries { attempts, on: vec![on], per_try_timeout: None, backoff }))
}

fn client(server: &Server, retries: Option<Arc<Retries>>) -> Client {
    let client = Client::to(&[plain("a", server.address)]);
    Client { pick: Pick { retries, ..Pick::default() }, ..client }
}

/// Answers 503 so often, and then with what it received.
async fn unwell(times: usize) -> Server {
    Server::http(move |request, number| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut response = Response::new(Body::full(body));
        if number < times {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    })
    .await
}

/// A body that passes in two parts.
fn passing() -> Request<Body> {
    let parts = ["one ", "two"].map(|part| Ok::<_, BodyError>(Frame::data(Bytes::from(part))));
    let body = Body::Stream(Box::pin(StreamBody::new(stream::iter(parts))));
    Request::post("http://server/path").body(body).unwrap()
}

#[tokio::test]
async fn an_answer_that_the_route_names_is_tried_again_with_the_whole_body() {
    for (request, want) in [(get(), ""), (post("held"), "held"), (passing(), "one two")] {
        let server = unwell(2).await;
        let client = client(&server, retries(2, RetryOn::GatewayError));
        assert_eq!(client.fetch(request).await.unwrap(), (200, Bytes::from(want)));
        assert_eq!(server.seen.requests(), 3);
        assert_eq!(client.active(), 0);
    }
}

#[tokio::test]
async fn over_http2_too() {
    let server = unwell(1).await;
    let client = client(&server, retries(1, RetryOn::GatewayError)).http2();
    assert_eq!(client.fetch(passing()).await.unwrap(), (200, Bytes::from("one two")));
}

#[tokio::test]
async fn the_last_answer_is_the_answer() {
    let server = unwell(9).await;
    let client = client(&server, retries(2, RetryOn::GatewayError));
    assert_eq!(client.fetch(post("body")).await.unwrap(), (503, Bytes::from("body")));
    assert_eq!(server.seen.requests(), 3);
}

#[tokio::test]
async fn an_answer_that_no_route_names_is_not_tried_again() {
    for retries in [None, retries(2, RetryOn::Reset), retries(2, RetryOn::Statuses(vec![500]))] {
        let server = unwell(1).await;
        assert_eq!(client(&server, retries).fetch(post("body")).await.unwrap().0, 503);
        assert_eq!(server.seen.requests(), 1);
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_to_keep_is_sent_once() {
    let server = unwell(1).await;
    let limits = Limits { retry_replay: 5, ..Limits::default() };
    let bounded = Client::bounded(&limits, &[plain("a", server.address)]);
    let pick = Pick { retries: retries(2, RetryOn::GatewayError), ..Pick::default() };
    let bounded = Client { pick, ..bounded };
    assert_eq!(bounded.fetch(passing()).await.unwrap(), (503, Bytes::from("one two")));
    assert_eq!(server.seen.requests(), 1);
}

/// Reads a whole request and breaks off, the first time.
async fn breaks_off_once() -> Server {
    Server::raw(|mut tcp, number, seen| async move {
        read_request(&mut tcp).await;
        seen.requests.fetch_add(1, Ordering::SeqCst);
        if number > 0 {
            tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_post_that_was_lost_is_tried_again_only_where_the_route_says_so() {
    let server = breaks_off_once().await;
    let refused = client(&server, retries(2, RetryOn::ConnectFailure)).fetch(post("body")).await;
    assert!(matches!(refused, Err(UpstreamError::Reset { .. })), "{refused:?}");
    assert_eq!(server.seen.requests(), 1);
    let server = breaks_off_once().await;
    let client = client(&server, retries(2, RetryOn::Reset));
    assert_eq!(client.fetch(post("body")).await.unwrap(), (200, Bytes::from("ok")));
    assert_eq!(server.seen.requests(), 2);
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_tried_again_and_the_whole_request_ends_in_time() {
    let slow = || {
        Server::http(|_, number| async move {
            if number == 0 {
                std::future::pending::<()>().await;
            }
            text("late")
        })
    };
    let policy = |attempts| {
        let once = Retries {
            per_try_timeout: Some(Duration::from_millis(500)),
            ..(*retries(attempts, RetryOn::ServerError).unwrap()).clone()
        };
        Some(Arc::new(once))
    };
    let server = slow().await;
    let patient = client(&server, policy(1));
    assert_eq!(patient.fetch(passing()).await.unwrap(), (200, Bytes::from("late")));
    assert_eq!(patient.active(), 0);
    let server = slow().await;
    let hasty = Client { timeout: Some(Duration::from_millis(20)), ..client(&server, policy(1)) };
    let refused = hasty.fetch(post("body")).await;
    assert!(matches!(refused, Err(UpstreamError::Timeout)), "{refused:?}");
    assert!(server.seen.requests() <= 1, "not tried again; on a busy machine not even once");
}

#[tokio::test]
async fn another_endpoint_goes_first() {
    let (sick, well) = (unwell(9).await, unwell(0).await);
    let both = Client::to(&[plain("sick", sick.address), plain("well", well.address)]);
    let client =
        Client { pick: Pick { retries: retries(1, RetryOn::ServerError), ..Pick::default() }, ..both };
    for _ in 0..4 {
        assert_eq!(client.fetch(post("body")).await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn a_grpc_status_in_the_head_counts() {
    let server = Server::http(|_, number| async move {
        let mut response = text("answer");
        if number == 0 {
            response = Response::new(Body::Empty);
            response.headers_mut().insert("grpc-status", "14".parse().unwrap());
        }
        response
    })
    .await;
    let client = client(&server, retries(1, RetryOn::GrpcStatus(14))).http2();
    assert_eq!(client.fetch(post("call")).await.unwrap(), (200, Bytes::from("answer")));
}
