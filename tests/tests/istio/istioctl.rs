//! `istioctl` reads our admin port as it reads Envoy's, and istiod shows us as one that is in step.
//!
//! A port-forward needs a kubelet, which the lab has not: what the port says goes through a file, as `--file` has it.

use anyhow::{Context, Result, ensure};
use http::Method;
use portcullis_tests::istio::{Lab, Namespace, Pod, PodSpec, Waypoint};
use portcullis_tests::wait;
use serde_json::Value;

const SERVER: &str = "apiVersion: v1
kind: Service
metadata: {name: server, labels: {istio.io/use-waypoint: portcullis}}
spec: {selector: {app: server}, ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  targetRefs: [{group: '', kind: Service, name: server}]
  rules: [{to: [{operation: {methods: [GET]}}]}]
";

/// A waypoint before a service of one pod, with all that in its dump.
struct Scene {
    lab: Lab,
    namespace: Namespace,
    server: Pod,
    waypoint: Waypoint,
    files: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Result<Self> {
        let lab = Lab::get()?;
        let namespace = lab.namespace("istioctl").await?;
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/istio/waypoint.yaml");
        namespace.apply(&std::fs::read_to_string(manifest)?).await?;
        namespace.apply(SERVER).await?;
        let server = namespace.pod(&PodSpec::new("server")).await?;
        namespace.endpoints("server", &[&server]).await?;
        let waypoint = namespace.waypoint("portcullis").await?;
        let scene = Self { lab, namespace, server, waypoint, files: tempfile::tempdir()? };
        let (host, policy) = (scene.host(), format!("ns[{}]-policy[readers]", scene.namespace.name));
        let at = format!("{}:8080", scene.server.address);
        wait::until_async("service, policy and endpoint are in its dumps", async || {
            let (dump, clusters) = (scene.says("/config_dump").await?, scene.says("/clusters").await?);
            Ok((dump.contains(&host) && dump.contains(&policy) && clusters.contains(&at)).then_some(()))
        })
        .await?;
        Ok(scene)
    }

    fn host(&self) -> String {
        format!("server.{}.svc.cluster.local", self.namespace.name)
    }

    async fn says(&self, path: &str) -> Result<String> {
        let reply = self.waypoint.admin(Method::GET, path).await?;
        ensure!(reply.status.is_success(), "{path} answered {}: {}", reply.status, reply.text());
        Ok(reply.text())
    }

    /// The rows that istioctl makes of what `path` says, without the head.
    async fn rows(&self, path: &str, words: &[&str]) -> Result<Vec<Vec<String>>> {
        let file = self.files.path().join("dump.json");
        std::fs::write(&file, self.says(path).await?)?;
        let file = file.to_str().context("a path of words")?;
        Ok(rows(&self.lab.istioctl(&[words, &["--file", file]].concat()).await?))
    }
}

/// Lines of cells, which two blanks or more part; without the first line.
fn rows(table: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    table.lines().skip(1).map(cells).collect()
}

#[track_caller]
fn has(rows: &[Vec<String>], wanted: &[&str]) {
    let found = rows.iter().any(|row| wanted.iter().all(|cell| row.iter().any(|got| got == cell)));
    assert!(found, "{wanted:?} in {rows:#?}");
}

#[tokio::test]
async fn istioctl_proxy_config_reads_what_our_admin_port_says() -> Result<()> {
    let scene = Scene::new().await?;
    let host = scene.host();
    let named = format!("inbound-vip|80|http|{host}");

    let clusters = "/config_dump?mask=dynamic_active_clusters,dynamic_warming_clusters,static_clusters";
    let clusters = scene.rows(clusters, &["proxy-config", "cluster"]).await?;
    has(&clusters, &[&host, "80", "http", "inbound-vip", "EDS"]);

    let listeners = "/config_dump?mask=dynamic_listeners,static_listeners";
    let listeners = scene.rows(listeners, &["proxy-config", "listener"]).await?;
    assert!(listeners.iter().flatten().any(|cell| cell.contains(&named)), "{listeners:#?}");

    let routes = "/config_dump?mask=dynamic_route_configs,static_route_configs";
    let routes = scene.rows(routes, &["proxy-config", "route"]).await?;
    has(&routes, &[&named, "*", "/*"]);

    let at = format!("envoy://connect_originate/{}:8080", scene.server.address);
    let endpoints = scene.rows("/clusters?format=json", &["proxy-config", "endpoint"]).await?;
    has(&endpoints, &[&at, "HEALTHY", "OK", &named]);
    let endpoints = scene.rows("/config_dump?include_eds=true", &["proxy-config", "eds"]).await?;
    has(&endpoints, &[&at, "r1/z1", &named]);

    let dump: Value = serde_json::from_str(&scene.says("/config_dump").await?)?;
    let serial = dump["certificate"]["serial"].as_str().context("a serial number")?;
    // istioctl shows a number, ours are the bytes: those whose first bit is set begin with a zero.
    let serial = serial.trim_start_matches('0').to_owned();
    let secrets = "/config_dump?mask=dynamic_active_secrets,dynamic_warming_secrets";
    let secrets = scene.rows(secrets, &["proxy-config", "secret"]).await?;
    let own = secrets.iter().find(|row| row.first().is_some_and(|name| name == "default"));
    let own = own.with_context(|| format!("{secrets:?}"))?;
    assert!(
        own.iter().any(|cell| cell == "true") && own.iter().any(|cell| cell.contains(&serial)),
        "{own:?}"
    );
    has(&secrets, &["ROOTCA", "CA", "ACTIVE", "true"]);

    let policies = scene.rows("/config_dump", &["experimental", "authz", "check"]).await?;
    has(&policies, &["ALLOW", &format!("readers.{}", scene.namespace.name), "1"]);
    let version =
        scene.rows("/config_dump?mask=bootstrap", &["proxy-config", "bootstrap", "-o", "json"]).await?;
    assert!(version.iter().flatten().any(|cell| cell.contains(&scene.waypoint.pod.name)), "{version:?}");
    Ok(())
}

#[tokio::test]
async fn a_dump_has_our_own_model_beside_and_never_a_key() -> Result<()> {
    let scene = Scene::new().await?;
    let text = scene.says("/config_dump").await?;
    let dump: Value = serde_json::from_str(&text)?;
    assert!(dump["mesh"]["services"].to_string().contains(&scene.host()));
    assert_eq!(dump["certificate"]["id"], scene.waypoint.id());
    let kinds = |dump: &Value| -> Vec<String> {
        let configs = dump["configs"].as_array().cloned().unwrap_or_default();
        let kind = |config: &Value| {
            config["@type"].as_str().and_then(|kind| kind.rsplit('.').next()).map(str::to_owned)
        };
        configs.iter().filter_map(kind).collect()
    };
    let sections = ["BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump"];
    assert_eq!(kinds(&dump), [&sections[..], &["SecretsConfigDump"]].concat());
    assert!(!text.contains("PRIVATE KEY"));
    let listeners = dump["configs"][2]["dynamic_listeners"].as_array().context("listeners")?;
    assert!(listeners.iter().all(|listener| listener["client_status"] == "ACKED"), "{listeners:?}");
    let masked: Value = serde_json::from_str(&scene.says("/config_dump?mask=bootstrap").await?)?;
    assert_eq!(kinds(&masked), ["BootstrapConfigDump"]);
    assert!(masked.get("mesh").is_none(), "only what is asked for");

    let certificates: Value = serde_json::from_str(&scene.says("/certs").await?)?;
    let leaf = &certificates["certificates"][0]["cert_chain"][0];
    assert_eq!(leaf["subject_alt_names"][0]["uri"], scene.waypoint.id());
    let server: Value = serde_json::from_str(&scene.says("/server_info").await?)?;
    assert_eq!(server["state"], "LIVE");
    assert!(scene.says("/listeners").await?.contains("hbone::"));
    let posted = scene.waypoint.admin(Method::POST, "/logging").await?;
    assert!(posted.status.is_success(), "istioctl proxy-config log asks so: {}", posted.text());
    Ok(())
}

#[tokio::test]
async fn istiod_lists_us_as_in_step() -> Result<()> {
    let scene = Scene::new().await?;
    let (namespace, name) = (&scene.namespace.name, &scene.waypoint.pod.name);
    let istiod = scene.lab.istiod_address().to_string();
    let status = ["proxy-status", "--xds-address", &istiod, "--namespace", namespace, "--verbosity=1"];
    let table = wait::until_async("istiod has our answers", async || {
        let table = scene.lab.istioctl(&status).await?;
        Ok((table.matches("SYNCED").count() >= 3).then_some(table))
    })
    .await?;
    let head: Vec<String> = rows(&format!("\n{table}")).swap_remove(0);
    let row = rows(&table).into_iter().find(|row| row.first().is_some_and(|id| id.contains(name.as_str())));
    let row = row.with_context(|| format!("{name} in {table}"))?;
    for kind in ["CDS", "LDS", "EDS"] {
        let at =
            head.iter().position(|column| column == kind).with_context(|| format!("{kind} in {head:?}"))?;
        assert!(row[at].starts_with("SYNCED"), "{kind} in {table}");
    }

    scene.namespace.wait("gateway/portcullis", "condition=Programmed").await?;
    let status = scene.lab.istioctl(&["waypoint", "status", "--namespace", namespace]).await?;
    has(&rows(&status), &["portcullis", "True"]);
    let list = scene.lab.istioctl(&["waypoint", "list", "--namespace", namespace]).await?;
    has(&rows(&list), &["portcullis", "True"]);
    Ok(())
}
