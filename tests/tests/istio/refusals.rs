//! What an EnvoyFilter adds that we do not know: how far it reaches, and who says so.

use crate::stage::{Ask, Caller, HTTP, Service, Stage, WAYPOINT};
use anyhow::{Context, Result};
use http::Method;
use portcullis_tests::istio::Lab;
use portcullis_tests::wait;
use serde_json::Value;

const RBAC: &str = "envoy.filters.http.rbac";
const HTTP_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// An EnvoyFilter of the waypoint that does `patch` to the filter `name` of one chain's HTTP.
fn filter(chain: &str, name: &str, patch: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: strange}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: {WAYPOINT}}}]
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {{filterChain: {{name: \"{chain}\", filter: {{name: {HTTP_MANAGER}, subFilter: {{name: {name}}}}}}}}}
    patch: {patch}
"
    )
}

/// A policy of a Service that allows one method; its name is the Service's.
fn policy(service: &str, method: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {service}}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]
  rules: [{{to: [{{operation: {{methods: [{method}]}}}}]}}]
"
    )
}

/// A waypoint before two Services.
struct Scene {
    stage: Stage,
    server: Service,
    other: Service,
    client: Caller,
}

impl Scene {
    async fn new(name: &str) -> Result<Self> {
        let stage = Stage::new(name).await?;
        let server = stage.service("server", &["v1"]).await?;
        let other = stage.service("other", &["v1"]).await?;
        let client = stage.client("client").await?;
        for service in [&server, &other] {
            client.until_status(&service.at(HTTP), &Ask::get("/"), 200).await?;
        }
        Ok(Self { stage, server, other, client })
    }

    /// The name of the chain of `server`.
    fn chain(&self) -> String {
        format!("inbound-vip|{HTTP}|http|server.{}.svc.cluster.local", self.stage.namespace.name)
    }

    /// An EnvoyFilter that merges `rules` into the policies of `server`.
    fn rules(&self, rules: &str) -> String {
        let patch = format!(
            "{{operation: MERGE, value: {{name: {RBAC}, typed_config: {{
      \"@type\": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {rules}}}}}}}"
        );
        filter(&self.chain(), RBAC, &patch)
    }

    async fn dump(&self) -> Result<Value> {
        self.stage.waypoint.admin(Method::GET, "/config_dump").await?.json()
    }

    /// The dump once it has said something of `text`.
    async fn dump_that_finds(&self, text: &str) -> Result<Value> {
        wait::until_async(&format!("{text} in the findings"), async || {
            let dump = self.dump().await?;
            Ok(finding(&dump, text).is_some().then_some(dump))
        })
        .await
    }

    /// What `istioctl proxy-status` says of the waypoint, once `wanted` holds of it.
    async fn status(&self, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let lab = Lab::get()?;
        let (pod, istiod) = (&self.stage.waypoint.pod, lab.istiod_address().to_string());
        let args = ["proxy-status", "--xds-address", &istiod, "--namespace", &pod.namespace, "--verbosity=1"];
        let mut last = String::new();
        // Not every call is answered in the time that istioctl gives it: istiod may be busy with others' pushes.
        let found = wait::within_time(wait::PATIENCE, "istiod's view of the waypoint", async {
            loop {
                match lab.istioctl(&args).await {
                    Ok(table) => last = table,
                    Err(error) => last = format!("{error:#}"),
                }
                let row = last.lines().find(|line| line.contains(&pod.name));
                if let Some(row) = row.filter(|row| wanted(row)) {
                    return row.to_owned();
                }
            }
        });
        let found = found.await;
        found.with_context(|| last)
    }
}

/// What the dump found, if its message has `text`.
fn finding<'a>(dump: &'a Value, text: &str) -> Option<&'a str> {
    let mut messages = dump["findings"].as_array()?.iter().filter_map(|finding| finding["message"].as_str());
    messages.find(|message| message.contains(text))
}

/// All types are taken.
fn in_step(row: &str) -> bool {
    row.matches("SYNCED").count() >= 3 && !row.contains("ERROR")
}

/// The listener of the dump that carries what is permitted.
fn main_internal(dump: &Value) -> Result<&Value> {
    let configs = dump["configs"].as_array().context("configs")?;
    let mut listeners = configs.iter().filter_map(|config| config["dynamic_listeners"].as_array()).flatten();
    listeners.find(|listener| listener["name"] == "main_internal").context("main_internal")
}

#[tokio::test]
async fn an_unknown_field_of_a_policy_is_refused_istiod_shows_it_and_the_last_good_version_stays()
-> Result<()> {
    let scene = Scene::new("nack").await?;
    let namespace = &scene.stage.namespace;
    namespace.apply(&policy("server", "GET")).await?;
    let (at, other, get, post) = (scene.server.at(HTTP), scene.other.at(HTTP), Ask::get("/"), Ask::post("/"));
    scene.client.until_status(&at, &post, 403).await?;
    scene.status(in_step).await?;

    // A rule for everybody, but for a condition in a language that we do not read.
    let rule = format!("ns[{}]-policy[server]-rule[0]", namespace.name);
    let rules = format!(
        "{{policies: {{\"{rule}\": {{permissions: [{{any: true}}], principals: [{{any: true}}],
        condition: {{const_expr: {{bool_value: false}}}}}}}}}}"
    );
    namespace.apply(&scene.rules(&rules)).await?;
    let named = format!("{rule}\"]: field 3 unknown");
    let dump = scene.dump_that_finds(&named).await?;
    let listener = main_internal(&dump)?;
    assert_eq!(listener["client_status"], "NACKED");
    let error = &listener["error_state"];
    assert!(error["details"].as_str().is_some_and(|details| details.contains(&named)), "{error}");
    assert!(error["version_info"].is_string() && error["last_update_attempt"].is_string(), "{error}");
    assert!(error["failed_configuration"].to_string().contains(&scene.chain()), "what was refused: {error}");
    assert!(listener["active_state"]["listener"].to_string().contains(&scene.chain()), "the one before");
    let refused = |line: &String| line.contains(&named).then_some(());
    scene.stage.waypoint.process.stderr.clone().find("why it is refused", refused).await?;
    scene.status(|row| row.contains("ERROR")).await?;
    wait::until_async("istiod's log says why", async || {
        Ok(Lab::get()?.istiod_log()?.contains(&named).then_some(()))
    })
    .await?;

    // What is good of the same listener still arrives.
    namespace.apply(&policy("other", "POST")).await?;
    scene
        .client
        .expect(&other, &[("of the other", get.clone(), 403), ("its own", post.clone(), 200)])
        .await?;
    for (ask, status) in [(&get, 200), (&post, 403)] {
        assert_eq!(scene.client.status(&at, ask).await?, status, "{ask:?}");
    }

    namespace.apply(&policy("server", "POST")).await?;
    namespace.delete("envoyfilter/strange").await?;
    scene.client.expect(&at, &[("changed since", post, 200), ("no longer", get, 403)]).await?;
    scene.status(in_step).await?;
    let dump = scene.dump().await?;
    let listener = main_internal(&dump)?;
    assert_eq!((&listener["client_status"], listener.get("error_state")), (&"ACKED".into(), None));
    assert_eq!(finding(&dump, &named), None);
    Ok(())
}

#[tokio::test]
async fn an_unknown_field_of_a_filter_that_judges_closes_its_chain_and_istiod_shows_it() -> Result<()> {
    let scene = Scene::new("closed").await?;
    let namespace = &scene.stage.namespace;
    namespace.apply(&policy("server", "GET")).await?;
    let (at, other, get) = (scene.server.at(HTTP), scene.other.at(HTTP), Ask::get("/"));
    scene.client.until_status(&at, &Ask::post("/"), 403).await?;
    // Envoy would write a log of decisions.
    namespace.apply(&scene.rules("{audit_logging_options: {audit_condition: ON_DENY}}")).await?;
    scene.client.until_status(&at, &get, 503).await?;
    assert_eq!(scene.client.status(&other, &get).await?, 200);
    let row = scene.status(|row| row.contains("ERROR")).await?;
    assert_eq!(row.matches("ERROR").count(), 1, "of listeners alone: {row}");
    let dump =
        scene.dump_that_finds("envoy.extensions.filters.http.rbac.v3.RBAC.rules: field 3 unknown").await?;
    assert_eq!(main_internal(&dump)?["client_status"], "NACKED");
    namespace.delete("envoyfilter/strange").await?;
    scene.client.expect(&at, &[("open again", get, 200), ("as before", Ask::post("/"), 403)]).await?;
    scene.status(in_step).await?;
    Ok(())
}

#[tokio::test]
async fn an_unknown_filter_closes_its_chain_and_no_other_and_is_named() -> Result<()> {
    let scene = Scene::new("unknown").await?;
    let namespace = &scene.stage.namespace;
    let (at, other, ask) = (scene.server.at(HTTP), scene.other.at(HTTP), Ask::get("/"));
    let name = "envoy.filters.http.buffer";
    let patch = format!(
        "{{operation: INSERT_BEFORE, value: {{name: {name}, typed_config: {{
      \"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 100}}}}}}"
    );
    namespace.apply(&filter(&scene.chain(), "envoy.filters.http.router", &patch)).await?;
    scene.client.until_status(&at, &ask, 503).await?;
    for _ in 0..3 {
        assert_eq!(scene.client.status(&other, &ask).await?, 200);
        assert_eq!(scene.client.status(&at, &ask).await?, 503);
    }
    let dump = scene.dump_that_finds(name).await?;
    let finding = finding(&dump, name).context("a finding")?;
    let place = format!("server.{}.svc.cluster.local:{HTTP}", namespace.name);
    assert!(finding.contains(&place), "it says where: {finding}");
    let named = |line: &String| (line.contains(name) && line.contains(&place)).then_some(());
    scene.stage.waypoint.process.stderr.clone().find("the filter's name", named).await?;
    // It was taken: what is closed is ours to say, and istiod has nothing to complain of.
    assert_eq!(main_internal(&dump)?["client_status"], "ACKED");
    scene.status(in_step).await?;

    namespace.delete("envoyfilter/strange").await?;
    scene.client.until_status(&at, &ask, 200).await?;
    Ok(())
}
