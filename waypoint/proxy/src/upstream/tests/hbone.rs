use http_body_util::BodyExt;

use super::super::UpstreamError;
use super::mesh::{At, Authority, Client, OTHER, SERVER, WAYPOINT, get, post, tunnelled};
use super::servers::Server;
use super::until;
use crate::limits::Limits;

#[tokio::test]
async fn requests_go_through_one_tunnel_connection_to_the_endpoints_address() {
    let authority = Authority::new();
    let (server, tunnels) = Server::ztunnel(authority.tls(SERVER).0).await;
    let client = Client::new(&authority, &Limits::default(), &[tunnelled("a", server.address, SERVER)]);
    let held = client.send(get(), &mut None).await.unwrap();
    for request in [get(), post("x")] {
        assert_eq!(client.fetch(request).await.unwrap().0, 200);
    }
    assert_eq!(held.into_body().collect().await.unwrap().to_bytes(), "tunnelled 0");
    let authority = server.address.to_string();
    assert_eq!(tunnels.authorities(), [authority.clone(), authority], "kept inside the tunnel, too");
    assert_eq!(tunnels.peers(), [WAYPOINT]);
    assert_eq!((server.seen.requests(), client.upstreams.connections()), (3, 1));
}

#[tokio::test]
async fn http2_goes_through_one_tunnel() {
    let authority = Authority::new();
    let (server, tunnels) = Server::ztunnel(authority.tls(SERVER).0).await;
    let endpoints = [tunnelled("a", server.address, SERVER)];
    let client = Client::new(&authority, &Limits::default(), &endpoints).http2();
    let (one, two) = tokio::join!(client.get(), client.get());
    assert_eq!((one.unwrap().0, two.unwrap().0), (200, 200));
    assert_eq!(tunnels.authorities().len(), 1);
}

#[tokio::test]
async fn an_endpoint_with_another_identity_is_refused_and_sees_no_byte() {
    let authority = Authority::new();
    let (impostor, tunnels) = Server::ztunnel(authority.tls(OTHER).0).await;
    let client = Client::new(&authority, &Limits::default(), &[tunnelled("a", impostor.address, SERVER)]);
    let refused = client.fetch(post("secret")).await;
    assert!(matches!(refused, Err(UpstreamError::Connect { .. })), "{refused:?}");
    let refused = client.open().await.map(|_| ());
    assert!(matches!(refused, Err(UpstreamError::Connect { .. })), "{refused:?}");
    assert!(impostor.seen.connections() > 0);
    assert_eq!((tunnels.authorities().len(), impostor.seen.requests()), (0, 0));
}

#[tokio::test]
async fn an_endpoint_of_another_authority_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (impostor, tunnels) = Server::ztunnel(theirs.tls(SERVER).0).await;
    let client = Client::new(&ours, &Limits::default(), &[tunnelled("a", impostor.address, SERVER)]);
    assert!(matches!(client.fetch(post("secret")).await, Err(UpstreamError::Connect { .. })));
    assert_eq!(tunnels.authorities().len(), 0);
}

#[tokio::test]
async fn an_endpoint_whose_identity_is_unknown_is_never_dialled() {
    let authority = Authority::new();
    let (server, _) = Server::ztunnel(authority.tls(SERVER).0).await;
    let unknown = At { identity: None, ..tunnelled("a", server.address, SERVER) };
    let client = Client::new(&authority, &Limits::default(), &[unknown]);
    assert!(matches!(client.get().await, Err(UpstreamError::Connect { .. })));
    assert!(matches!(client.open().await, Err(UpstreamError::Connect { .. })));
    assert_eq!(server.seen.connections(), 0);
}

#[tokio::test]
async fn an_impostor_beside_the_real_one_costs_an_attempt_and_no_request() {
    let authority = Authority::new();
    let (impostor, tunnels) = Server::ztunnel(authority.tls(OTHER).0).await;
    let (real, _) = Server::ztunnel(authority.tls(SERVER).0).await;
    let endpoints = [tunnelled("a", impostor.address, SERVER), tunnelled("b", real.address, SERVER)];
    let client = Client::new(&authority, &Limits::default(), &endpoints);
    for _ in 0..10 {
        client.fetch(post("call")).await.unwrap();
    }
    assert_eq!((real.seen.requests(), tunnels.authorities().len()), (10, 0));
}

#[tokio::test]
async fn an_address_that_became_anothers_gets_a_connection_of_its_own() {
    let authority = Authority::new();
    let (tls, source) = authority.tls(SERVER);
    let (server, tunnels) = Server::ztunnel(tls).await;
    let mut client = Client::new(&authority, &Limits::default(), &[tunnelled("a", server.address, SERVER)]);
    client.get().await.unwrap();
    source.replace(authority.svid(OTHER));
    client.apply(&[tunnelled("b", server.address, OTHER)]);
    client.get().await.unwrap();
    assert_eq!((server.seen.connections(), tunnels.peers().len()), (2, 2));
    until(|| server.seen.closed() == 1).await;
}

#[tokio::test]
async fn a_new_identity_of_ours_is_shown_on_new_connections_only() {
    let authority = Authority::new();
    let (server, tunnels) = Server::ztunnel(authority.tls(SERVER).0).await;
    let client = Client::new(&authority, &Limits::default(), &[tunnelled("a", server.address, SERVER)]);
    let running = client.send(get(), &mut None).await.unwrap();
    client.source.replace(authority.svid(WAYPOINT));
    client.get().await.unwrap();
    assert_eq!(tunnels.peers(), [WAYPOINT], "a renewed certificate keeps its connections");
    client.source.replace(authority.svid("spiffe://td/ns/w/sa/renamed"));
    client.get().await.unwrap();
    assert_eq!(tunnels.peers(), [WAYPOINT, "spiffe://td/ns/w/sa/renamed"]);
    assert_eq!(running.into_body().collect().await.unwrap().to_bytes(), "tunnelled 0");
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_any_more_resets_its_tunnel() {
    let authority = Authority::new();
    let (server, _) = Server::ztunnel(authority.tls(SERVER).0).await;
    let client = Client::new(&authority, &Limits::default(), &[tunnelled("a", server.address, SERVER)]);
    let response = client.send(get(), &mut None).await.unwrap();
    assert_eq!(client.active(), 1);
    drop(response);
    assert_eq!(client.active(), 0);
    let connections = || client.cluster.endpoints().map(|it| it.state.health.connections()).sum::<usize>();
    until(|| connections() == 0).await;
    client.get().await.unwrap();
    assert_eq!(client.upstreams.connections(), 1, "the tunnel's connection goes on");
}
