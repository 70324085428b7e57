//! Clusters as a control plane gives them.

use http_body_util::BodyExt;
use waypoint_model::{ClusterEndpoint, EndpointAddress, HttpVersion, TrafficPolicy, TunnelKind};

use super::super::{Pick, UpstreamError};
use super::mesh::{At, Authority, Client, OTHER, SERVER, get, plain, post, tunnelled};
use super::servers::{Server, text};
use super::until;
use crate::limits::Limits;

/// An endpoint that knows its workload.
fn of(at: &At) -> ClusterEndpoint {
    super::mesh::told(at)
}

#[tokio::test]
async fn a_plain_address_of_which_nothing_else_is_known_is_reached_and_named_by_its_address() {
    let server = Server::named("a").await;
    let anyone = ClusterEndpoint { workload: None, ..of(&plain("a", server.address)) };
    let client = Client::to(&[]).with_cluster(vec![anyone], TrafficPolicy::default());
    let mut chosen = None;
    client.send(get(), &mut chosen).await.unwrap();
    let chosen = chosen.unwrap();
    assert_eq!((chosen.address, &*chosen.workload.name), (server.address, ""));
    let pinned = Pick { pinned: Some(chosen.workload.uid.clone()), ..Pick::default() };
    assert_eq!(Client { pick: pinned, ..client }.get().await.unwrap().0, 200);
}

#[tokio::test]
async fn a_tunnel_goes_to_exactly_the_identity_of_the_workload() {
    let authority = Authority::new();
    let (server, tunnels) = Server::ztunnel(authority.tls(SERVER).0).await;
    let (right, wrong) = (tunnelled("a", server.address, SERVER), tunnelled("a", server.address, OTHER));
    for (at, works) in [(&right, true), (&wrong, false)] {
        let client = Client::new(&authority, &Limits::default(), std::slice::from_ref(at));
        let client = client.with_cluster(vec![of(at)], TrafficPolicy::default());
        let sent = client.get().await;
        assert_eq!(sent.is_ok(), works, "{sent:?}");
    }
    assert_eq!(tunnels.authorities().len(), 1, "the impostor saw no CONNECT");
}

#[tokio::test]
async fn a_tunnel_to_nobody_knows_whom_is_never_dialled_and_says_so() {
    let authority = Authority::new();
    let (server, _) = Server::ztunnel(authority.tls(SERVER).0).await;
    let at = tunnelled("a", server.address, SERVER);
    let unknown = ClusterEndpoint { workload: None, ..of(&at) };
    let client = Client::new(&authority, &Limits::default(), &[]);
    let client = client.with_cluster(vec![unknown, of(&at)], TrafficPolicy::default());
    for error in [client.get().await.map(|_| ()), client.open().await.map(|_| ())] {
        let Err(UpstreamError::Unusable { why, .. }) = &error else { panic!("{error:?}") };
        assert!(why.contains("nobody told whose identity"), "{why}");
    }
    assert_eq!(server.seen.connections(), 0);
}

#[tokio::test]
async fn a_workload_that_takes_tunnels_is_never_sent_plain_bytes() {
    let authority = Authority::new();
    let (server, tunnels) = Server::ztunnel(authority.tls(SERVER).0).await;
    let at = tunnelled("a", server.address, SERVER);
    let plain = ClusterEndpoint { tunnel: TunnelKind::Plain, ..of(&at) };
    let client = Client::new(&authority, &Limits::default(), std::slice::from_ref(&at));
    client.with_cluster(vec![plain], TrafficPolicy::default()).get().await.unwrap();
    assert_eq!(tunnels.authorities(), [server.address.to_string()]);
}

#[tokio::test]
async fn an_address_that_became_anothers_gets_a_connection_of_its_own() {
    let authority = Authority::new();
    let (tls, source) = authority.tls(SERVER);
    let (server, tunnels) = Server::ztunnel(tls).await;
    let before = tunnelled("a", server.address, SERVER);
    let client = Client::new(&authority, &Limits::default(), std::slice::from_ref(&before));
    let client = client.with_cluster(vec![of(&before)], TrafficPolicy::default());
    client.get().await.unwrap();
    source.replace(authority.svid(OTHER));
    let after = tunnelled("a", server.address, OTHER);
    let client =
        client.knows(std::slice::from_ref(&after)).with_cluster(vec![of(&after)], TrafficPolicy::default());
    client.get().await.unwrap();
    assert_eq!(tunnels.peers().len(), 2);
    until(|| server.seen.closed() == 1).await;
}

#[tokio::test]
async fn a_clusters_connections_are_not_shared_with_another_cluster() {
    let server = Server::named("a").await;
    let at = plain("a", server.address);
    let client = Client::to(std::slice::from_ref(&at));
    client.get().await.unwrap();
    client.with_cluster(vec![of(&at)], TrafficPolicy::default()).get().await.unwrap();
    assert_eq!(server.seen.connections(), 2);
}

#[tokio::test]
async fn a_host_name_is_resolved_by_us_whichever_of_its_addresses_answers() {
    let server = Server::named("a").await;
    let address = EndpointAddress::Host("localhost".to_owned(), server.address.port());
    let named = ClusterEndpoint { workload: None, address, ..of(&plain("a", server.address)) };
    let client = Client::to(&[]).with_cluster(vec![named], TrafficPolicy::default());
    let mut chosen = None;
    for _ in 0..3 {
        client.send(get(), &mut chosen).await.unwrap().into_body().collect().await.unwrap();
    }
    assert_eq!(server.seen.connections(), 1, "the connection is used again");
    assert_eq!(chosen.unwrap().address.port(), server.address.port());
}

#[tokio::test]
async fn a_host_name_without_an_address_fails_by_name() {
    let address = EndpointAddress::Host("nowhere.invalid".to_owned(), 80);
    let named = ClusterEndpoint { workload: None, address, ..of(&plain("a", ([127, 0, 0, 1], 1).into())) };
    let client = Client::to(&[]).with_cluster(vec![named], TrafficPolicy::default());
    let error = client.get().await.unwrap_err();
    let UpstreamError::Connect { endpoint, source } = &error else { panic!("{error:?}") };
    assert_eq!(
        (endpoint.as_str(), &*source.to_string()),
        ("nowhere.invalid:80", "nowhere.invalid is not resolved")
    );
}

#[tokio::test]
async fn what_is_spoken_is_what_the_cluster_says() {
    let server = Server::http(|request, _| async move { text(&format!("{:?}", request.version())) }).await;
    let at = plain("a", server.address);
    let by = |version| {
        let mut request = post("x");
        *request.version_mut() = version;
        request
    };
    let (http1, http2) = (http::Version::HTTP_11, http::Version::HTTP_2);
    let rows = [
        (None, http2, "HTTP/1.1"),
        (Some(HttpVersion::Http1), http2, "HTTP/1.1"),
        (Some(HttpVersion::Http2), http1, "HTTP/2.0"),
        (Some(HttpVersion::AsClient), http1, "HTTP/1.1"),
        (Some(HttpVersion::AsClient), http2, "HTTP/2.0"),
    ];
    for (http, came_by, spoken) in rows {
        let policy = TrafficPolicy { http, ..TrafficPolicy::default() };
        let client = Client::to(std::slice::from_ref(&at)).with_cluster(vec![of(&at)], policy);
        assert_eq!(client.fetch(by(came_by)).await.unwrap().1, spoken, "{http:?}");
    }
}
