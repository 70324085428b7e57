//! Many streams of all fates at once, over real sockets and threads: nothing may leak.

use crate::support::*;
use bytes::Bytes;
use hbone::{Connector, Counters, Peer, Pool, PoolSettings, Settings, Tunnel};
use http::{HeaderMap, StatusCode};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Tcp(SocketAddr);

impl Connector<()> for Tcp {
    type Io = TcpStream;
    type Error = io::Error;

    async fn connect(&self, (): &()) -> io::Result<TcpStream> {
        TcpStream::connect(self.0).await
    }
}

/// An endpoint whose tunnels are copied to an echoing socket; it shows how many streams its connections have open.
async fn endpoint(open: Arc<AtomicUsize>) -> SocketAddr {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let echo_at = echo.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            });
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, echo_at, Arc::clone(&open)));
        }
    });
    at
}

async fn serve(socket: TcpStream, echo: SocketAddr, open: Arc<AtomicUsize>) {
    let mut connection = hbone::handshake(socket, &Settings::default()).await.unwrap();
    let mut shown = 0;
    loop {
        let next = tokio::time::timeout(Duration::from_millis(20), connection.next()).await;
        let now = connection.open_streams();
        open.fetch_add(now, Ordering::SeqCst);
        open.fetch_sub(std::mem::replace(&mut shown, now), Ordering::SeqCst);
        match next {
            Err(_) => {}
            Ok(Ok(Some(connect))) => drop(tokio::spawn(async move {
                let upstream = TcpStream::connect(echo).await.unwrap();
                if connect.headers().contains_key("x-refuse") {
                    return connect.refuse(StatusCode::SERVICE_UNAVAILABLE);
                }
                if let Ok(tunnel) = connect.accept(HeaderMap::new()) {
                    let _ = hbone::copy(
                        tunnel,
                        Bytes::new(),
                        Peer::Tcp(upstream),
                        hbone::LARGEST_READ,
                        &Counters::default(),
                    )
                    .await;
                }
            })),
            Ok(_) => {
                open.fetch_sub(shown, Ordering::SeqCst);
                return;
            }
        }
    }
}

/// One client's fate, by its number.
async fn client(number: usize, pool: Arc<Pool<(), Tcp>>) {
    let mut headers = HeaderMap::new();
    if number % 7 == 6 {
        headers.insert("x-refuse", http::HeaderValue::from_static("1"));
    }
    let to = target();
    let opening = pool.open(&(), &to, headers);
    if number % 11 == 10 {
        let _ = tokio::time::timeout(Duration::from_micros(number as u64), opening).await;
        return;
    }
    match (opening.await, number % 7) {
        (Err(hbone::OpenError::Status(status)), 6) => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
        (Ok(tunnel), 0..=3) => echo_whole(tunnel, number * 997 % 300_000).await,
        (Ok(mut tunnel), 4) => {
            let _ = tunnel.write_all(&vec![1; 100_000]).await;
        }
        (Ok(mut tunnel), 5) => {
            tunnel.write_all(b"x").await.unwrap();
            assert_eq!(tunnel.read_u8().await.unwrap(), b'x');
            tunnel.reset(hbone::Reset::Cancel);
        }
        (opened, fate) => panic!("{number}, {fate}: {opened:?}"),
    }
}

async fn echo_whole(tunnel: Tunnel, size: usize) {
    let sent: Vec<u8> = (0..size).map(|n| n as u8).collect();
    let (mut read, mut write) = tokio::io::split(tunnel);
    let sending = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let (read, ()) = tokio::join!(read.read_to_end(&mut got), sending);
    assert_eq!(read.unwrap(), size);
    assert!(got == sent, "other bytes came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_all_fates_leave_nothing_behind() {
    let open = Arc::new(AtomicUsize::new(0));
    let at = endpoint(Arc::clone(&open)).await;
    let pool = Arc::new(Pool::new(Tcp(at), PoolSettings::default()));
    let clients: Vec<_> = (0..250).map(|number| tokio::spawn(client(number, Arc::clone(&pool)))).collect();
    for client in clients {
        tokio::time::timeout(Duration::from_secs(20), client).await.expect("a client hangs").unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while pool.open_streams() + open.load(Ordering::SeqCst) > 0 {
        assert!(
            Instant::now() < deadline,
            "{} here, {} there",
            pool.open_streams(),
            open.load(Ordering::SeqCst)
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!((1..=3).contains(&pool.connections()), "{}", pool.connections());
}
