//! What a mesh's own settings (MeshConfig, and istiod's environment) mean for a waypoint.

use crate::stage::{Ask, Caller, HTTP, Stage, WAYPOINT, manifest};
use anyhow::{Context, Result};
use http::StatusCode;
use portcullis_tests::istio::{Istiod, IstiodSettings, Lab, PodSpec, WaypointSettings};
use portcullis_tests::tokens::{self, Issuer};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use serde_json::json;
use std::time::Duration;

const MESH: &str = "rootNamespace: istio-system
trustDomain: cluster.local
trustDomainAliases: [old.example]
pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
defaultConfig: {discoveryAddress: \"istiod.istio-system.svc:15012\"}
";

/// The mesh before it was renamed: it issues certificates of its old name, by the same root.
const OLD_MESH: &str = "rootNamespace: istio-system
trustDomain: old.example
defaultConfig: {discoveryAddress: \"istiod.istio-system.svc:15012\"}
";

/// A client with a certificate of the trust domain that `istiod` has.
async fn client_of(istiod: &Istiod, stage: &Stage) -> Result<Caller> {
    let pod = stage.namespace.pod(&PodSpec::new("renamed")).await?;
    let token = pod.token("istio-ca").await?;
    let identity =
        Lab::get()?.certificate_from(istiod.secure_address(), &token, Duration::from_secs(3600)).await?;
    let ztunnel =
        pod.ztunnel_with(&identity.svid, &identity.roots, stage.waypoint.hbone(), &stage.waypoint.id())?;
    Ok(Caller { pod, ztunnel })
}

#[tokio::test]
async fn trust_domains_path_normalization_and_keys_of_a_cluster_are_as_the_mesh_says() -> Result<()> {
    let lab = Lab::get()?;
    let settings = IstiodSettings::default().with("PILOT_JWT_ENABLE_REMOTE_JWKS", "envoy").mesh_config(MESH);
    let istiod = lab.istiod(settings).await?;
    let settings = WaypointSettings::default().istiod(istiod.address());
    let stage = Stage::with("settings", &manifest()?, &settings).await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;

    // Path normalization: what the policy does not say is written so that it would miss it.
    let policy = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: vault}
spec:
  targetRefs: [{group: \"\", kind: Service, name: server}]
  action: DENY
  rules: [{to: [{operation: {paths: [/vault/gold]}}]}]
";
    stage.namespace.apply(policy).await?;
    let rows = [
        ("as written", Ask::get("/vault/gold"), 403),
        ("merged", Ask::get("/vault//gold"), 403),
        ("decoded", Ask::get("/vault%2Fgold"), 403),
        ("decoded, and resolved", Ask::get("/vault%5Csilver%2f..%2fgold"), 403),
        ("another", Ask::get("/vault/silver"), 200),
    ];
    client.expect(&server.at(HTTP), &rows).await?;

    // Trust domains: the same certificate is a stranger's where the mesh names no alias.
    let old = lab.istiod(IstiodSettings::default().mesh_config(OLD_MESH)).await?;
    let renamed = client_of(&old, &stage).await?;
    assert_eq!(renamed.status(&server.at(HTTP), &Ask::get("/")).await?, 200);
    let plain = Stage::new("unaliased").await?;
    let stranger = client_of(&old, &plain).await?;
    let refused = stranger.ask(&server.at(HTTP), &Ask::get("/")).await;
    assert!(refused.is_err(), "{refused:?}");
    // The client sees the end of its connection before it is counted.
    wait::until_async("the refusal is counted", async || {
        let refusals = plain.waypoint.metrics().await?;
        let counted = refusals.sum("portcullis_handshake_failures_total", &[("reason", "trust_domain")]);
        Ok((counted > 0.0).then_some(()))
    })
    .await?;

    keys_of_a_cluster(&stage, &client, &server.at(HTTP)).await
}

/// Keys that the waypoint fetches itself, from a service of the mesh.
async fn keys_of_a_cluster(stage: &Stage, client: &Caller, at: &str) -> Result<()> {
    let issuer = Issuer::new("https://issuer.example")?;
    let pod = stage.namespace.pod(&PodSpec::new("keys").without_mesh()).await?;
    let jwks = issuer.jwks();
    let keys = Upstream::on(pod.network.listen(pod.port(8080))?, move |_| {
        upstream::text(StatusCode::OK, jwks.clone())
    })?;
    let service = "apiVersion: v1
kind: Service
metadata: {name: keys}
spec: {selector: {app: keys}, ports: [{name: http, port: 80, targetPort: 8080}]}
";
    stage.namespace.apply(service).await?;
    stage.namespace.endpoints("keys", &[&pod]).await?;
    let uri = format!("http://keys.{}.svc.cluster.local/jwks", stage.namespace.name);
    let rules = format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: issuer}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: {WAYPOINT}}}]
  jwtRules: [{{issuer: '{}', jwksUri: '{uri}'}}]
",
        issuer.name
    );
    stage.namespace.apply(&rules).await?;
    let claims = json!({"sub": "sub-1", "exp": tokens::now()? + 3600});
    let bearing = |token: String| Ask::get("/").header("authorization", &format!("Bearer {token}"));
    let forger = Issuer::new(&issuer.name)?;
    let rows =
        [("a stranger's signature", bearing(forger.token(&claims)?), 401), ("no token", Ask::get("/"), 200)];
    client.expect(at, &rows).await?;
    client.until_status(at, &bearing(issuer.token(&claims)?), 200).await?;
    let seen = keys.seen();
    let fetch = seen.first().context("a fetch")?;
    let host = fetch.headers.get("host").context("a host")?.to_str()?;
    assert_eq!((fetch.uri.path(), host), ("/jwks", uri.split('/').nth(2).context("a host")?));
    Ok(())
}
