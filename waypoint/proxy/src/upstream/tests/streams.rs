use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::{Transport, UpstreamError};
use super::mesh::{Authority, Client, SERVER, plain, tunnelled};
use super::servers::{Server, nobody};
use super::soon;
use crate::limits::Limits;

async fn asks(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    io.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon(io.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn an_opaque_stream_goes_through_a_tunnel_and_is_counted_while_held() {
    let authority = Authority::new();
    let (server, tunnels) = Server::ztunnel(authority.tls(SERVER).0).await;
    let client = Client::new(&authority, &Limits::default(), &[tunnelled("a", server.address, SERVER)]);
    let (peer, chosen) = client.open().await.unwrap();
    let Transport::Tunnel(mut tunnel) = peer else { panic!("an HBONE endpoint is not reached by TCP") };
    assert!(asks(&mut tunnel).await.ends_with("tunnelled 0"));
    assert_eq!(tunnels.authorities(), [server.address.to_string()]);
    assert_eq!(chosen.address, server.address);
    let again = chosen.clone();
    drop(chosen);
    assert_eq!(client.active(), 1);
    drop(again);
    assert_eq!(client.active(), 0);
}

#[tokio::test]
async fn a_stream_that_cannot_connect_goes_to_another_endpoint() {
    let server = Server::named("plain").await;
    let client = Client::to(&[plain("nobody", nobody().await), plain("a", server.address)]);
    for _ in 0..10 {
        let (peer, chosen) = client.open().await.unwrap();
        let Transport::Tcp(mut tcp) = peer else { panic!("a plain endpoint is not reached by a tunnel") };
        assert!(tcp.nodelay().unwrap());
        assert!(asks(&mut tcp).await.ends_with("plain"));
        assert_eq!(&*chosen.workload.name, "a");
    }
    assert_eq!(client.active(), 0);
}

#[tokio::test]
async fn streams_are_bounded_like_connections() {
    let server = Server::named("a").await;
    let limits = Limits { endpoint_connections: 1, ..Limits::default() };
    let client = Client::bounded(&limits, &[plain("a", server.address)]);
    let held = client.open().await.unwrap();
    assert!(matches!(client.open().await, Err(UpstreamError::Overloaded)));
    drop(held);
    client.open().await.unwrap();
    assert!(matches!(Client::to(&[]).open().await, Err(UpstreamError::NoEndpoint)));
}
