//! What is seen of a connection while nobody reads from its streams.

use crate::support::{Server, pipe, raw_client, raw_client_with, settle, soon};
use bytes::Bytes;
use hbone::{Bound, Broken, ConnectionError, Observer, Settings};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

fn is_broken(broken: &mut Pin<Box<Broken>>) -> bool {
    broken.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Settings whose observer writes down what it is told.
fn observed(settings: Settings) -> (Settings, Arc<Mutex<Vec<Bound>>>) {
    let told = Arc::<Mutex<Vec<Bound>>>::default();
    let writes = Arc::clone(&told);
    let observer = Observer::new(move |bound| writes.lock().unwrap().push(bound));
    (Settings { observer, ..settings }, told)
}

#[tokio::test(start_paused = true)]
async fn a_reset_and_a_lost_connection_are_heard_although_nobody_reads() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let mut client = raw_client(near).await;
    let (mut first, first_tunnel) = client.open(&mut server).await;
    let (mut second, second_tunnel) = client.open(&mut server).await;
    let (third, third_tunnel) = client.open(&mut server).await;
    for raw in [&mut first, &mut second] {
        raw.send.send_data(Bytes::from_static(b"unread"), false).unwrap();
    }
    first.send.send_reset(h2::Reason::CANCEL);
    soon(first_tunnel.broken()).await;
    let (mut second_broken, mut third_broken) =
        (Box::pin(second_tunnel.broken()), Box::pin(third_tunnel.broken()));
    settle().await;
    assert!(!is_broken(&mut second_broken), "a sibling goes on");
    client.ended.abort();
    drop((second, third, client));
    soon(&mut second_broken).await;
    soon(&mut third_broken).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ended_in_order_is_not_broken() {
    let (near, far) = pipe();
    let mut server = Server::start(far, Settings::default());
    let mut client = raw_client(near).await;
    let (mut raw, mut tunnel) = client.open(&mut server).await;
    let mut broken = Box::pin(tunnel.broken());
    raw.send.send_data(Bytes::new(), true).unwrap();
    tokio::io::AsyncWriteExt::shutdown(&mut tunnel).await.unwrap();
    settle().await;
    assert!(!is_broken(&mut broken));
}

#[tokio::test(start_paused = true)]
async fn windows_that_are_used_up_are_told_of_once() {
    let (near, far) = pipe();
    let (settings, told) =
        observed(Settings { stream_window: 65_535, connection_window: 100_000, ..Settings::default() });
    let mut server = Server::start(far, settings);
    let mut client = raw_client_with(near, &h2::client::Builder::new()).await;
    let (mut first, _unread) = client.open(&mut server).await;
    let (mut second, _also_unread) = client.open(&mut server).await;
    settle().await;
    for raw in [&mut first, &mut second] {
        raw.send.send_data(Bytes::from(vec![0; 80_000]), false).unwrap();
    }
    settle().await;
    assert_eq!(*told.lock().unwrap(), [Bound::StreamWindow, Bound::ConnectionWindow]);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_frames_that_carry_nothing_ends_the_connection_by_name() {
    let (near, far) = pipe();
    let (settings, told) = observed(Settings { idle_frames: 10, ..Settings::default() });
    let mut server = Server::start(far, settings);
    let mut client = raw_client(near).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        let (mut raw, tunnel) = client.open(&mut server).await;
        raw.send.send_reset(h2::Reason::CANCEL);
        held.push((raw, tunnel));
        if server.ended.is_finished() {
            break;
        }
        settle().await;
        if told.lock().unwrap().contains(&Bound::IdleFrames) {
            break;
        }
    }
    match soon(server.ended).await.unwrap() {
        Err(error @ ConnectionError::Flood(_)) => assert_eq!(error.reason(), "idle_frames"),
        other => panic!("{other:?}"),
    }
}
