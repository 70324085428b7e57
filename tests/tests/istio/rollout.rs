//! Two waypoints behind their Service are replaced one after the other, and nobody notices.

use crate::load::{
    self, Calls, Fresh, GRPC, Grpc, HTTP, Kept, Listens, Load, Site, WAYPOINT, follower, initialize, manifest,
};
use anyhow::Result;
use base64::Engine as _;
use portcullis_tests::istio::{PodSpec, Waypoint};

/// Keys that both have, and a shutdown of four seconds instead of 25: two to leave the endpoints, two to finish.
const CONTAINER: &str = "env:
- {name: PORTCULLIS_SESSION_KEYS, value: /etc/portcullis/session-keys/key}
- {name: TERMINATION_DRAIN_DURATION_SECONDS, value: \"4\"}
volumeMounts:
- {name: session-keys, mountPath: /etc/portcullis/session-keys, readOnly: true}";
const VOLUMES: &str = "volumes:
- {name: session-keys, secret: {secretName: session-keys}}";

/// A rule for tools: the waypoint reads MCP then, and sessions are its own.
const NOT_THE_VAULT: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-the-vault}
spec:
  targetRefs: [{group: \"\", kind: Service, name: app}]
  action: DENY
  rules:
  - to: [{operation: {paths: [/mcp], ports: [\"80\"]}}]
    when: [{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [open_vault]}]
";

/// The Secret with the key of all replicas, as `openssl rand -base64 32` writes one.
fn keys() -> String {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let key = encode(&[7; 32]);
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: session-keys}}\ndata: {{key: {}}}\n",
        encode(key.as_bytes())
    )
}

#[tokio::test]
async fn two_waypoints_are_replaced_and_no_request_fails_and_no_session_is_lost() -> Result<()> {
    let site = Site::new("rollout", &manifest(CONTAINER, VOLUMES)).await?;
    site.namespace.apply(&keys()).await?;
    site.namespace.apply(NOT_THE_VAULT).await?;
    let mut old = [site.namespace.waypoint(WAYPOINT).await?, site.namespace.waypoint(WAYPOINT).await?];
    let client = site.namespace.pod(&PodSpec::new("client")).await?;
    let follower = follower(&client, &old[0]).await?;
    follower.knows(&[old[0].hbone(), old[1].hbone()]).await?;
    let way = follower.way(&site.at(HTTP));
    for waypoint in &old {
        Site::is_known(&follower.way_through(waypoint.hbone(), &site.at(HTTP))).await?;
    }
    let session = initialize(&way).await?;
    assert_ne!(
        site.sessions.opened(),
        std::slice::from_ref(&session),
        "it is sealed with the key of all replicas"
    );
    let mut loads = vec![
        Load::start("HTTP/1.1, kept connection", Kept::new(&way)),
        Load::start("HTTP/1.1, new connections", Fresh(way.clone())),
        Load::start("gRPC", Grpc::new(&follower.way(&site.at(GRPC)))),
        Load::start("MCP calls, kept connection", Calls::new(&way, &session)),
        Load::start("MCP calls, new connections", Calls::anew(&way, &session)),
        Load::start("MCP events", Listens::new(&way, &session)),
    ];
    load::all_go_on(&mut loads, 20).await?;
    let mut new: Vec<Waypoint> = Vec::new();
    for leaving in &mut old {
        new.push(site.namespace.waypoint(WAYPOINT).await?);
        let ended = leaving.stop().await?;
        assert_eq!(ended.code(), Some(0), "{ended:?}");
        load::all_go_on(&mut loads, 20).await?;
    }
    follower.knows(&[new[0].hbone(), new[1].hbone()]).await?;
    load::all_go_on(&mut loads, 20).await?;
    load::end_all(loads).await?;
    assert_eq!(site.sessions.opened().len(), 1, "no client had to begin again");
    for waypoint in &new {
        let scrape = waypoint.metrics().await?;
        let calls = scrape.sum("portcullis_mcp_operations_total", &[("method", "tools/call")]);
        assert!(calls > 0.0, "both carry the session, whoever opened it");
    }
    Ok(())
}
