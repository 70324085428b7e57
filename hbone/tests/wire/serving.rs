//! The accepting side.

use crate::support::*;
use hbone::{BadTarget, ConnectionError, Settings};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

async fn frame(io: &mut (impl AsyncReadExt + Unpin)) -> (u8, u8, Vec<u8>) {
    let mut head = [0; 9];
    soon(io.read_exact(&mut head)).await.unwrap();
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    soon(io.read_exact(&mut payload)).await.unwrap();
    (head[3], head[4], payload)
}

#[tokio::test(start_paused = true)]
async fn the_settings_on_the_wire_are_the_contract() {
    let (mut near, far) = pipe();
    let _server = Server::start(far, Settings::default());
    near.write_all(PREFACE).await.unwrap();
    near.write_all(EMPTY_SETTINGS).await.unwrap();
    let (kind, _, settings) = frame(&mut near).await;
    assert_eq!(kind, 4);
    let mut told =
        settings.chunks(6).map(|s| (s[1], u32::from_be_bytes([s[2], s[3], s[4], s[5]]))).collect::<Vec<_>>();
    told.sort_unstable();
    assert_eq!(told, [(3, 200), (4, 4 << 20), (5, 1 << 20), (6, 64 << 10)]);
    let update = loop {
        if let (8, _, update) = frame(&mut near).await {
            break update;
        }
    };
    assert_eq!(u32::from_be_bytes(update.try_into().unwrap()), (16 << 20) - 65_535);
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_unusable_settings_is_not_made() {
    let (near, far) = pipe();
    let settings = Settings { max_streams: 99, ..Settings::default() };
    assert!(matches!(hbone::handshake(far, &settings).await.err(), Some(ConnectionError::Settings(_))));
    assert!(matches!(hbone::connect(near, &settings).await.err(), Some(ConnectionError::Settings(_))));
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_and_a_silent_server_time_out() {
    let (near, far) = pipe();
    let start = Instant::now();
    let settings = Settings::default();
    let (server, client) = tokio::join!(
        hbone::handshake(tokio::io::join(far, tokio::io::sink()), &settings),
        hbone::connect(
            tokio::io::join(tokio::io::empty().chain(pending_reader()), tokio::io::sink()),
            &settings
        )
    );
    assert!(matches!(server.err(), Some(ConnectionError::Timeout)));
    assert!(matches!(client.err(), Some(ConnectionError::Timeout)));
    assert_eq!(start.elapsed().as_secs(), 10);
    drop(near);
}

/// Never gives a byte, never ends.
fn pending_reader() -> tokio::io::DuplexStream {
    let (near, far) = pipe();
    std::mem::forget(far);
    near
}

#[tokio::test(start_paused = true)]
async fn two_hundred_streams_are_offered_and_a_hundred_and_fifty_run_at_once() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let mut client = raw_client(near).await;
    let mut streams = Vec::new();
    for _ in 0..150 {
        streams.push(client.open(&mut server).await);
    }
    assert_eq!(client.h2.current_max_send_streams(), 200);
    for (index, (raw, tunnel)) in streams.iter_mut().enumerate() {
        let sent = format!("to {index}");
        raw.push(sent.as_bytes());
        let mut got = vec![0; sent.len()];
        soon(tunnel.read_exact(&mut got)).await.unwrap();
        tunnel.write_all(&got).await.unwrap();
        assert_eq!(raw.read(sent.len()).await, sent.into_bytes());
    }
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_what_the_peer_reads() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let mut client = raw_client(near).await;

    for (given, read) in [(400, 400), (401, 401), (503, 503), (200, 500), (204, 500), (100, 500)] {
        let (response, _send) = client.connect().await;
        server.connect().await.refuse(StatusCode::from_u16(given).unwrap());
        let response = soon(response).await.unwrap();
        assert_eq!(response.status().as_u16(), read, "{given}");
        assert!(response.body().is_end_stream());
    }

    let (response, _send) = client.connect().await;
    server.connect().await.not_processed();
    assert_eq!(soon(response).await.unwrap_err().reason(), Some(h2::Reason::REFUSED_STREAM));

    let (response, _send) = client.connect().await;
    drop(server.connect().await);
    assert_eq!(soon(response).await.unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));

    let (response, _send) = client.connect().await;
    let headers =
        HeaderMap::from_iter([(http::HeaderName::from_static("baggage"), HeaderValue::from_static("a=b"))]);
    let _tunnel = server.connect().await.accept(headers).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["baggage"], "a=b");
    assert!(!response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn an_answer_with_a_forbidden_header_is_an_error_and_a_reset() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let mut client = raw_client(near).await;
    let (response, _send) = client.connect().await;
    let headers = HeaderMap::from_iter([(http::header::CONNECTION, HeaderValue::from_static("close"))]);
    assert!(server.connect().await.accept(headers).is_err());
    assert_eq!(soon(response).await.unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));
}

#[tokio::test(start_paused = true)]
async fn only_a_connect_has_a_target() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let client = raw_client(near).await;
    let table = [
        (Method::CONNECT, "10.96.4.7:80", true, Ok("10.96.4.7:80")),
        (Method::CONNECT, "[fd00::7]:80", true, Ok("[fd00::7]:80")),
        (Method::CONNECT, "Echo.ns.svc:80", true, Ok("echo.ns.svc:80")),
        (Method::CONNECT, "echo.ns.svc", true, Err(BadTarget::NoPort)),
        (Method::CONNECT, "echo:0", true, Err(BadTarget::Invalid)),
        (Method::GET, "http://10.96.4.7:80/", false, Err(BadTarget::Invalid)),
        (Method::POST, "https://10.96.4.7:80/x", false, Err(BadTarget::Invalid)),
    ];
    for (method, uri, is_connect, target) in table {
        let mut h2 = soon(client.h2.clone().ready()).await.unwrap();
        let _request = h2.send_request(request(method.clone(), uri), false).unwrap();
        let connect = server.connect().await;
        assert_eq!(connect.is_connect(), is_connect, "{method} {uri}");
        assert_eq!(connect.target().map(|t| t.to_string()), target.map(str::to_owned), "{method} {uri}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_connect_tells_when_its_client_is_gone() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let mut client = raw_client(near).await;

    let (_response, mut send) = client.connect().await;
    let mut connect = server.connect().await;
    assert!(tokio::time::timeout(Duration::from_secs(1), connect.gone()).await.is_err());
    send.send_reset(h2::Reason::CANCEL);
    soon(connect.gone()).await;
    assert!(connect.accept(HeaderMap::new()).is_err());

    let (_response, _send) = client.connect().await;
    let mut connect = server.connect().await;
    client.ended.abort();
    soon(connect.gone()).await;
}

#[tokio::test(start_paused = true)]
async fn streams_count_as_open_until_both_ends_are_done() {
    let (near, far) = pipe();
    let (accepted, mut tunnels) = tokio::sync::mpsc::channel(10);
    let (ask, mut asked) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<usize>>(1);
    let _server = tokio::spawn(async move {
        let mut connection = hbone::handshake(far, &Settings::default()).await.unwrap();
        loop {
            tokio::select! {
                Some(answer) = asked.recv() => answer.send(connection.open_streams()).unwrap(),
                connect = connection.next() => accepted.send(connect.unwrap().unwrap()).await.unwrap(),
            }
        }
    });
    let open = async || {
        let (answer, count) = tokio::sync::oneshot::channel();
        ask.send(answer).await.unwrap();
        soon(count).await.unwrap()
    };
    let mut client = raw_client(near).await;
    let (_one, _send_one) = client.connect().await;
    let (_two, _send_two) = client.connect().await;
    let first = soon(tunnels.recv()).await.unwrap();
    let second = soon(tunnels.recv()).await.unwrap();
    assert_eq!(open().await, 2);
    first.refuse(StatusCode::BAD_REQUEST);
    assert_eq!(open().await, 1);
    let (reader, mut writer) = second.accept(HeaderMap::new()).unwrap().into_split();
    writer.finish().unwrap();
    drop(writer);
    assert_eq!(open().await, 1);
    drop(reader);
    assert_eq!(open().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_graceful_end_lets_streams_finish_and_takes_no_new_ones() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let mut client = raw_client(near).await;
    let (mut raw, mut tunnel) = client.open(&mut server).await;

    server.order(Order::Graceful).await;
    settle().await;
    let refused = match client.h2.clone().ready().await {
        Ok(mut h2) => h2.send_request(request(Method::CONNECT, TARGET), false).err(),
        Err(error) => Some(error),
    };
    assert!(refused.is_some_and(|error| error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)));

    tokio::time::sleep(Duration::from_secs(3600)).await;
    raw.push(b"still here");
    let mut got = [0; 10];
    soon(tunnel.read_exact(&mut got)).await.unwrap();
    tunnel.write_all(&got).await.unwrap();
    tunnel.shutdown().await.unwrap();
    raw.end();
    assert_eq!(raw.read_all().await, (b"still here".to_vec(), None));
    assert_eq!(soon(tunnel.read(&mut got)).await.unwrap(), 0);
    drop((raw, tunnel));
    assert!(matches!(soon(server.ended).await.unwrap(), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn the_goaway_comes_in_two_steps() {
    let (mut near, far) = pipe();
    let server = Server::start(far, Settings::default());
    near.write_all(PREFACE).await.unwrap();
    near.write_all(EMPTY_SETTINGS).await.unwrap();
    settle().await;
    server.order(Order::Graceful).await;
    let (mut ids, mut pinged) = (Vec::new(), false);
    while ids.len() < 2 {
        match frame(&mut near).await {
            (7, _, goaway) => ids.push(u32::from_be_bytes(goaway[..4].try_into().unwrap())),
            (6, 0, ping) => {
                assert_eq!(ids, [(1 << 31) - 1], "the PING comes between");
                pinged = true;
                near.write_all(&[0, 0, 8, 6, 1, 0, 0, 0, 0]).await.unwrap();
                near.write_all(&ping).await.unwrap();
            }
            _ => {}
        }
    }
    assert!(pinged);
    assert_eq!(ids, [(1 << 31) - 1, 0]);
    assert!(matches!(soon(server.ended).await.unwrap(), Ok(())));
}

#[tokio::test(start_paused = true)]
async fn an_abrupt_end_fails_all_streams() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let mut client = raw_client(near).await;
    let (mut raw, mut tunnel) = client.open(&mut server).await;
    server.order(Order::Abrupt).await;
    assert_eq!(soon(tunnel.read_u8()).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(matches!(soon(server.ended).await.unwrap(), Ok(())));
    assert!(soon(raw.recv.data()).await.unwrap().is_err());
    assert_eq!(soon(client.ended).await.unwrap().unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));
}

/// HEADERS with END_HEADERS: `:method CONNECT` and `:authority a:1`, literal without indexing.
fn connect_frame(stream: u8) -> Vec<u8> {
    let block = b"\x02\x07CONNECT\x01\x03a:1";
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, stream];
    frame.extend(block);
    frame
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_answering_pings_is_dead_after_the_timeout() {
    let (mut near, far) = pipe();
    let start = Instant::now();
    let (send, mut connects) = tokio::sync::mpsc::channel(1);
    let serving = tokio::spawn(async move {
        let mut connection = hbone::handshake(far, &Settings::default()).await.unwrap();
        loop {
            match connection.next().await {
                Ok(connect) => send.send(connect.unwrap()).await.unwrap(),
                Err(error) => return (error, connection), // which lives on
            }
        }
    });
    near.write_all(PREFACE).await.unwrap();
    near.write_all(EMPTY_SETTINGS).await.unwrap();
    near.write_all(&connect_frame(1)).await.unwrap();
    let mut tunnel = soon(connects.recv()).await.unwrap().accept(HeaderMap::new()).unwrap();
    let reading = tokio::spawn(async move { tunnel.read_u8().await.unwrap_err().kind() });
    let (error, _connection) = serving.await.unwrap();
    assert!(matches!(error, ConnectionError::KeepaliveTimeout));
    assert_eq!(start.elapsed().as_secs(), 30, "10 s to the PING, 20 s for its answer");
    assert_eq!(soon(reading).await.unwrap(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_living_idle_peer_is_kept() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let settings = Settings::default();
    let (sender, driver) = hbone::connect(near, &settings).await.unwrap();
    let driver = tokio::spawn(driver.run());
    let opening = tokio::spawn({
        let sender = sender.clone();
        async move { sender.open(&target(), HeaderMap::new()).await }
    });
    let mut tunnel = server.accept().await;
    let mut opened = soon(opening).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!driver.is_finished() && !server.ended.is_finished());
    opened.write_all(b"x").await.unwrap();
    assert_eq!(soon(tunnel.read_u8()).await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn too_many_streams_reset_before_they_were_accepted_end_the_connection() {
    let (mut near, far) = pipe();
    let settings = Settings { max_pending_accept_reset_streams: 5, ..Settings::default() };
    let server = Server::start(far, settings);
    let mut flood = PREFACE.to_vec();
    flood.extend(EMPTY_SETTINGS);
    for id in (1..=13_u8).step_by(2) {
        flood.extend(connect_frame(id));
        flood.extend([0, 0, 4, 3, 0, 0, 0, 0, id, 0, 0, 0, 8]);
    }
    near.write_all(&flood).await.unwrap();
    match soon(server.ended).await.unwrap() {
        Err(ConnectionError::Flood(reason)) => assert_eq!(reason, "resets"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn one_stream_more_than_offered_is_refused() {
    let (mut near, far) = pipe();
    let mut server = Server::start(far, Settings { max_streams: 100, ..Settings::default() });
    near.write_all(PREFACE).await.unwrap();
    near.write_all(EMPTY_SETTINGS).await.unwrap();
    for id in (1..=201_u8).step_by(2) {
        near.write_all(&connect_frame(id)).await.unwrap();
    }
    let mut connects = Vec::new();
    for _ in 0..100 {
        connects.push(server.connect().await);
    }
    let reset = loop {
        if let (3, _, reset) = frame(&mut near).await {
            break reset;
        }
    };
    assert_eq!(reset, [0, 0, 0, 7], "REFUSED_STREAM");
}
