//! What a cluster says of its connections.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use waypoint_model::{
    ClusterEndpoint, ConnectionLimits, HttpVersion, Retries, RetryOn, TrafficPolicy, UpstreamTls,
};

use super::super::{Pick, UpstreamError};
use super::mesh::{Client, get, plain, post, told};
use super::servers::{Server, gone, nobody, text};
use super::until;
use crate::body::Body;

fn client(server: &Server, limits: ConnectionLimits) -> Client {
    bounded(server, TrafficPolicy { limits, ..TrafficPolicy::default() })
}

fn bounded(server: &Server, policy: TrafficPolicy) -> Client {
    let at = plain("a", server.address);
    Client::to(std::slice::from_ref(&at)).with_cluster(vec![told(&at)], policy)
}

/// Answers one request for each permit.
async fn gated() -> (Server, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let server = Server::http(move |_, _| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            text("ok")
        }
    })
    .await;
    (server, gate)
}

fn is_overloaded<T>(sent: &Result<T, UpstreamError>) -> bool {
    matches!(sent, Err(UpstreamError::Overloaded))
}

#[tokio::test]
async fn requests_wait_for_a_connection_and_no_more_than_may() {
    let (server, gate) = gated().await;
    let limits = ConnectionLimits { connections: Some(1), pending: Some(1), ..ConnectionLimits::default() };
    let client = client(&server, limits);
    let mut first = Box::pin(client.get());
    while server.seen.requests() == 0 {
        assert!((&mut first).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    let mut second = Box::pin(client.get());
    assert!((&mut second).now_or_never().is_none(), "it waits");
    assert!(is_overloaded(&client.get().await), "one may wait");
    gate.add_permits(2);
    let (first, second) = tokio::join!(first, second);
    assert_eq!((first.unwrap().0, second.unwrap().0), (200, 200));
    assert_eq!((server.seen.connections(), server.seen.requests()), (1, 2));
}

#[tokio::test]
async fn a_connection_that_was_closed_makes_room_for_another() {
    let server = Server::named("a").await;
    let limits = ConnectionLimits { connections: Some(1), ..ConnectionLimits::default() };
    let client = client(&server, limits);
    let broken_off = client.send(get(), &mut None).await.unwrap();
    let mut next = Box::pin(client.get());
    assert!((&mut next).now_or_never().is_none());
    drop(broken_off);
    assert_eq!(next.await.unwrap().0, 200);
    assert_eq!(server.seen.connections(), 2);
}

#[tokio::test]
async fn every_endpoint_may_have_a_connection_whatever_the_others_hold() {
    let (one, two) = (Server::named("a").await, Server::named("b").await);
    let endpoints = [plain("a", one.address), plain("b", two.address)];
    let limits = ConnectionLimits { connections: Some(1), ..ConnectionLimits::default() };
    let policy = TrafficPolicy { limits, ..TrafficPolicy::default() };
    let client = Client::to(&endpoints).with_cluster(endpoints.iter().map(told).collect(), policy);
    let _held = client.send(get(), &mut None).await.unwrap();
    assert_eq!(client.get().await.unwrap().0, 200, "the less busy endpoint");
    assert_eq!((one.seen.connections(), two.seen.connections()), (1, 1));
}

#[tokio::test]
async fn http2_shares_the_connections_that_there_may_be() {
    let (server, gate) = gated().await;
    let limits = ConnectionLimits { connections: Some(1), ..ConnectionLimits::default() };
    let policy = TrafficPolicy { limits, http: Some(HttpVersion::Http2), ..TrafficPolicy::default() };
    let client = bounded(&server, policy);
    gate.add_permits(3);
    let (one, two, three) = tokio::join!(client.get(), client.get(), client.get());
    assert_eq!((one.unwrap().0, two.unwrap().0, three.unwrap().0), (200, 200, 200));
    assert_eq!(server.seen.connections(), 1);
}

#[tokio::test]
async fn opaque_streams_are_connections() {
    let server = Server::named("a").await;
    let client = client(&server, ConnectionLimits { connections: Some(1), ..ConnectionLimits::default() });
    let held = client.open().await.unwrap();
    assert!(is_overloaded(&client.open().await));
    drop(held);
    client.open().await.unwrap();
}

#[tokio::test]
async fn requests_at_once_are_bounded_over_all_endpoints_and_snapshots() {
    let (one, two) = (Server::named("a").await, Server::named("b").await);
    let endpoints = [plain("a", one.address), plain("b", two.address)];
    let told = || endpoints.iter().map(told).collect();
    let limits = ConnectionLimits { requests: Some(2), ..ConnectionLimits::default() };
    let policy = TrafficPolicy { limits, ..TrafficPolicy::default() };
    let client = Client::to(&endpoints).with_cluster(told(), policy.clone());
    let (first, _second) =
        (client.send(get(), &mut None).await.unwrap(), client.send(get(), &mut None).await.unwrap());
    assert!(is_overloaded(&client.get().await));
    let client = client.with_cluster(told(), policy);
    assert!(is_overloaded(&client.get().await), "another snapshot counts what runs");
    first.into_body().collect().await.unwrap();
    assert_eq!(client.get().await.unwrap().0, 200);
}

#[tokio::test]
async fn a_connection_carries_as_many_requests_as_it_may() {
    for (http, most, connections) in [
        (HttpVersion::Http1, Some(1), 4),
        (HttpVersion::Http1, Some(2), 2),
        (HttpVersion::Http2, Some(1), 4),
        (HttpVersion::Http2, Some(3), 2),
        (HttpVersion::Http1, Some(0), 1),
        (HttpVersion::Http2, None, 1),
    ] {
        let server = Server::named("a").await;
        let limits = ConnectionLimits { requests_per_connection: most, ..ConnectionLimits::default() };
        let policy = TrafficPolicy { limits, http: Some(http), ..TrafficPolicy::default() };
        let client = bounded(&server, policy);
        for _ in 0..4 {
            assert_eq!(client.get().await.unwrap().0, 200);
        }
        assert_eq!(server.seen.connections(), connections, "{http:?} {most:?}");
        until(|| server.seen.closed() >= server.seen.connections() - 1).await;
    }
}

#[tokio::test]
async fn retries_are_bounded() {
    let server = Server::named("a").await;
    for (retries, works) in [(Some(1), true), (Some(0), false)] {
        // Nobody listens where every request goes first.
        let endpoints = [plain("nobody", nobody().await), plain("a", server.address)];
        let in_order = (0..).zip(&endpoints);
        let in_order = in_order.map(|(priority, at)| ClusterEndpoint { priority, ..told(at) }).collect();
        let limits = ConnectionLimits { retries, ..ConnectionLimits::default() };
        let policy = TrafficPolicy { limits, ..TrafficPolicy::default() };
        let client = Client::to(&endpoints).with_cluster(in_order, policy);
        for _ in 0..3 {
            match client.fetch(post("x")).await {
                Ok(_) => assert!(works),
                Err(UpstreamError::Connect { .. }) => assert!(!works),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_answer_is_final_where_no_retry_may_run() {
    let server = Server::http(|_, number| async move {
        let status = if number % 2 == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        Response::builder().status(status).body(Body::Empty).unwrap()
    })
    .await;
    let policy =
        Retries { attempts: 1, on: vec![RetryOn::GatewayError], per_try_timeout: None, backoff: None };
    for (retries, status) in [(Some(1), 200), (Some(0), 503)] {
        let client = client(&server, ConnectionLimits { retries, ..ConnectionLimits::default() });
        let pick = Pick { retries: Some(Arc::new(policy.clone())), ..Pick::default() };
        assert_eq!(Client { pick, ..client }.get().await.unwrap().0, status, "{retries:?}");
    }
}

#[tokio::test]
async fn an_unused_connection_is_closed_after_the_clusters_own_time() {
    let server = Server::named("a").await;
    let idle_timeout = Some(Duration::from_millis(20));
    let client = client(&server, ConnectionLimits { idle_timeout, ..ConnectionLimits::default() });
    client.get().await.unwrap();
    until(|| server.seen.closed() == 1).await;
}

#[tokio::test]
async fn connecting_ends_with_the_clusters_own_time() {
    let silent = Server::raw(|mut tcp, _, _| async move { gone(&mut tcp).await }).await;
    let connect_timeout = Some(Duration::from_millis(20));
    let limits = ConnectionLimits { connect_timeout, ..ConnectionLimits::default() };
    let tls = Some(UpstreamTls { insecure: true, ..UpstreamTls::default() });
    let client = bounded(&silent, TrafficPolicy { limits, tls, ..TrafficPolicy::default() });
    for failed in [client.get().await.map(|_| ()), client.open().await.map(|_| ())] {
        let Err(UpstreamError::Connect { source, .. }) = failed else { panic!("{failed:?}") };
        assert_eq!(source.to_string(), "no answer in time");
    }
}
