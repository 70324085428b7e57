use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::super::UpstreamError;
use super::mesh::{Client, endless, get, plain, post};
use super::servers::{Seen, Server, gone, text};
use super::{soon, until};
use crate::body::{Body, BodyError};
use crate::limits::Limits;

#[tokio::test]
async fn requests_at_once_share_one_connection() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let server = Server::http(move |_, _| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            text("a")
        }
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]).http2();
    let sent = join_all((0..20).map(|_| client.get()));
    let all_there = async {
        until(|| server.seen.requests() == 20).await;
        assert_eq!((server.seen.connections(), client.active()), (1, 20));
        opened.add_permits(20);
    };
    let (answers, ()) = tokio::join!(sent, all_there);
    assert!(answers.into_iter().all(|answer| answer.unwrap() == (200, Bytes::from("a"))));
    assert_eq!(client.active(), 0);
}

#[tokio::test]
async fn a_peer_that_allows_few_streams_gets_more_connections() {
    let server = Server::narrow(1, |_, _| async { Response::new(endless("a")) }).await;
    let client = Client::to(&[plain("a", server.address)]).http2();
    drop(client.send(get(), &mut None).await.unwrap());
    let held = client.send(get(), &mut None).await.unwrap();
    assert_eq!(server.seen.connections(), 1);
    let other = client.send(get(), &mut None).await.unwrap();
    assert_eq!(server.seen.connections(), 2);
    drop((held, other));
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let server = Server::http(|request, _| async move {
        assert_eq!(request.headers()["te"], "trailers");
        let collected = request.into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap().clone();
        let frames = [Ok(Frame::data(collected.to_bytes())), Ok(Frame::trailers(trailers))];
        stream(frames)
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]).http2();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "7".parse().unwrap());
    let frames = [Ok(Frame::data(Bytes::from("x"))), Ok(Frame::trailers(trailers.clone()))];
    let body = stream(frames).into_body();
    let request = Request::post("http://server/").header("te", "trailers").body(body).unwrap();
    let response = client.send(request, &mut None).await.unwrap();
    let collected = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers(), Some(&trailers));
    assert_eq!(collected.to_bytes(), "x");
    assert_eq!(client.active(), 0);
}

fn stream(frames: [Result<Frame<Bytes>, BodyError>; 2]) -> Response<Body> {
    Response::new(Body::Stream(Box::pin(StreamBody::new(futures_util::stream::iter(frames)))))
}

#[tokio::test]
async fn a_response_dropped_in_the_middle_resets_its_stream_only() {
    let server = Server::http(|_, number| async move {
        if number == 0 { Response::new(endless("part")) } else { text("next") }
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]).http2();
    let mut response = client.send(get(), &mut None).await.unwrap();
    assert_eq!(soon(response.frame()).await.unwrap().unwrap().into_data().unwrap(), "part");
    drop(response);
    assert_eq!(client.active(), 0);
    assert_eq!(client.get().await.unwrap().1, "next");
    assert_eq!(server.seen.connections(), 1);
}

/// Refuses the first stream of all with REFUSED_STREAM, and echoes the bodies of the others.
async fn refuses_first() -> Server {
    Server::raw(|tcp, _, seen| async move {
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        let mut streams = tokio::task::JoinSet::new();
        while let Some(Ok((request, mut reply))) = connection.accept().await {
            if seen.requests.fetch_add(1, Ordering::SeqCst) == 0 {
                reply.send_reset(h2::Reason::REFUSED_STREAM);
                continue;
            }
            streams.spawn(async move {
                let mut body = request.into_body();
                let mut received = Vec::new();
                while let Some(Ok(data)) = body.data().await {
                    received.extend_from_slice(&data);
                }
                let mut send = reply.send_response(Response::new(()), false).unwrap();
                send.send_data(received.into(), true).unwrap();
            });
        }
    })
    .await
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_even_if_it_is_a_post() {
    let server = refuses_first().await;
    let client = Client::to(&[plain("a", server.address)]).http2();
    assert_eq!(client.fetch(post("call")).await.unwrap(), (200, Bytes::from("call")));
    assert_eq!(server.seen.requests(), 2);
}

#[tokio::test]
async fn a_refused_stream_whose_body_went_out_is_not_sent_again() {
    let server = refuses_first().await;
    let client = Client::to(&[plain("a", server.address)]).http2();
    let request = Request::post("http://server/").body(endless("call")).unwrap();
    let refused = client.fetch(request).await;
    assert!(matches!(refused, Err(UpstreamError::Reset { .. })), "{refused:?}");
    assert_eq!(server.seen.requests(), 1);
}

#[tokio::test]
async fn a_post_whose_stream_is_reset_otherwise_is_not_sent_again() {
    let server = Server::raw(|tcp, _, seen| async move {
        let mut connection = h2::server::handshake(tcp).await.unwrap();
        while let Some(Ok((_, mut reply))) = connection.accept().await {
            seen.requests.fetch_add(1, Ordering::SeqCst);
            reply.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let client = Client::to(&[plain("a", server.address)]).http2();
    let refused = client.fetch(post("call")).await;
    assert!(matches!(refused, Err(UpstreamError::Reset { .. })), "{refused:?}");
    assert_eq!(server.seen.requests(), 1);
    assert!(client.get().await.is_err());
    assert_eq!(server.seen.requests(), 4, "a GET may be tried again, twice");
}

const HEADERS: u8 = 1;
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// GOAWAY with last stream 0 and NO_ERROR: nothing was processed.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Reads frames until HEADERS came.
async fn until_headers(tcp: &mut TcpStream) {
    let mut preface = [0; 24];
    tcp.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        tcp.read_exact(&mut payload).await.unwrap();
        if head[3] == HEADERS {
            return;
        }
    }
}

async fn goes_away(mut tcp: TcpStream, seen: Arc<Seen>) {
    tcp.write_all(&SETTINGS).await.unwrap();
    until_headers(&mut tcp).await;
    seen.requests.fetch_add(1, Ordering::SeqCst);
    tcp.write_all(&GOAWAY).await.unwrap();
    gone(&mut tcp).await;
}

#[tokio::test]
async fn a_post_above_the_last_id_of_a_goaway_is_sent_again() {
    let leaving = Server::raw(|tcp, _, seen| goes_away(tcp, seen)).await;
    let staying = Server::named("staying").await;
    let client = Client::to(&[plain("leaving", leaving.address), plain("staying", staying.address)]).http2();
    for _ in 0..10 {
        assert_eq!(client.fetch(post("call")).await.unwrap().1, "staying");
    }
    assert!(leaving.seen.requests() > 0);
}

#[tokio::test]
async fn a_request_whose_body_breaks_off_is_not_the_endpoints_fault() {
    let server = Server::http(|request, _| async move {
        let _broken = request.into_body().collect().await;
        text("a")
    })
    .await;
    let limits = Limits { ejection_failures: 1, ..Limits::default() };
    let client = || Client::bounded(&limits, &[plain("a", server.address)]);
    for client in [client(), client().http2()] {
        let frames = [Ok(Frame::data(Bytes::from("x"))), Err("the client left".into())];
        let request = Request::post("http://server/").body(stream(frames).into_body()).unwrap();
        let before = server.seen.requests();
        let refused = client.fetch(request).await;
        assert!(matches!(refused, Err(UpstreamError::Reset { .. })), "{refused:?}");
        assert!(server.seen.requests() <= before + 1);
        assert_eq!((client.active(), client.has_ejected()), (0, false));
    }
}
