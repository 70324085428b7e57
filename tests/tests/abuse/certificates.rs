//! `x-forwarded-client-cert`: what a client says of itself never passes; what the waypoint says, it says once.

use crate::stage::{RULES, Scene, Stage, call, server};
use anyhow::Result;
use http::Request;
use portcullis_tests::http::{Client, full};
use portcullis_tests::upstream::Seen;

const CLAIM: &str =
    "By=spiffe://cluster.local/ns/tools/sa/waypoint;URI=spiffe://cluster.local/ns/admin/sa/root";
/// Judged by its head alone, so that nothing of MCP is read.
const PLAIN: &str = "- from: [{source: {namespaces: [agents]}}]";

#[tokio::test]
async fn a_clients_own_certificate_header_is_always_removed() -> Result<()> {
    for rules in [RULES, PLAIN] {
        let stage = Scene::under(rules, server).await?.start(&[]).await?;
        for seen in tried(&stage).await? {
            assert_eq!(said(&seen), [""; 0], "{rules}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn ours_names_the_peer_and_the_waypoint() -> Result<()> {
    for rules in [RULES, PLAIN] {
        let scene = Scene::under(rules, server).await?;
        let run = scene.setup.run().flag("--xfcc");
        let stage = scene.start_with(run).await?;
        for seen in tried(&stage).await? {
            let want =
                "By=spiffe://cluster.local/ns/tools/sa/waypoint;URI=spiffe://cluster.local/ns/agents/sa/bot";
            assert_eq!(said(&seen), [want], "{rules}");
        }
    }
    Ok(())
}

/// Requests that claim to be somebody else, in HTTP/1.1 and HTTP/2.
async fn tried(stage: &Stage) -> Result<Vec<Seen>> {
    let claims: [&[&str]; 5] = [
        &[],
        &["x-forwarded-client-cert"],
        &["X-Forwarded-Client-Cert", "x-forwarded-client-cert"],
        &["x_forwarded_client_cert"],
        &["x-forwarded_client-cert", "X-FORWARDED-CLIENT-CERT"],
    ];
    let peer = stage.peer("bot")?;
    let http1 = Client::http1(peer.stream().await?).await?;
    let http2 = Client::http2(peer.stream().await?).await?;
    for names in claims {
        for (client, uri) in [(&http1, "/mcp"), (&http2, "http://app/mcp")] {
            let mut request = Request::post(uri).header("content-type", "application/json");
            if uri == "/mcp" {
                request = request.header("host", "app");
            }
            let request = names.iter().fold(request, |request, name| request.header(*name, CLAIM));
            let reply = client.send(request.body(full(call("1", "alpha")))?).await?;
            assert_eq!(reply.status.as_u16(), 200, "{names:?}");
        }
    }
    let seen = stage.upstream.seen();
    assert_eq!(seen.len(), 2 * claims.len());
    Ok(seen)
}

/// All that the server is told of its client, under whatever spelling.
fn said(seen: &Seen) -> Vec<&str> {
    let is = |name: &http::HeaderName| name.as_str().replace('_', "-") == "x-forwarded-client-cert";
    let values =
        seen.headers.iter().filter(|(name, _)| is(name)).map(|(_, value)| value.to_str().unwrap_or("?"));
    values.collect()
}
