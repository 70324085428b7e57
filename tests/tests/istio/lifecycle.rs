//! Waypoints and services that come, go and are named wrongly, after Istio's TestWaypoint, TestOtherRevisionIgnored,
//! TestBogusUseWaypoint, TestServiceDynamicEnroll, TestPeerAuthentication and TestAuthorizationL4.

use crate::load::{self, Fresh, Kept, Load, Site, Way};
use crate::stage::{Ask, Caller, HTTP, Service, Stage, TCP, WAYPOINT, manifest};
use anyhow::{Context, Result, ensure};
use portcullis_tests::istio::{Lab, PodSpec};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Refused;
use serde_json::{Value, json};

/// The ConfigMap that puts our image into a waypoint of any name.
fn overlay() -> Result<String> {
    let manifest = manifest()?;
    Ok(manifest.split("\n---\n").next().context("the ConfigMap stands first")?.to_owned())
}

#[tokio::test]
async fn istioctl_applies_lists_and_deletes_waypoints_and_another_revisions_are_not_ours() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("waypoint").await?;
    let ns = namespace.name.clone();
    let istioctl =
        async |words: &[&str]| lab.istioctl(&[&["waypoint"], words, &["--namespace", &ns]].concat()).await;
    let gateway = |name: &str| format!("/apis/gateway.networking.k8s.io/v1/namespaces/{ns}/gateways/{name}");
    istioctl(&["apply", "--name", "foreign", "--revision", "foo"]).await?;
    for name in ["w1", "w2"] {
        istioctl(&["apply", "--name", name]).await?;
    }
    istioctl(&["apply", "--enroll-namespace"]).await?;
    namespace.apply(&overlay()?).await?;
    let ours = json!({"group": "", "kind": "ConfigMap", "name": "portcullis-waypoint"});
    lab.api
        .patch(&gateway("waypoint"), &json!({"spec": {"infrastructure": {"parametersRef": ours}}}))
        .await?;
    let deployment = format!("/apis/apps/v1/namespaces/{ns}/deployments");
    let image = "/spec/template/spec/containers/0/image";
    let has_ours = |found: &Value| {
        found.pointer(image)?.as_str().is_some_and(|image| image.contains("/portcullis:")).then_some(())
    };
    lab.api.until(&format!("{deployment}/waypoint"), "a Deployment with our image", has_ours).await?;
    let waypoint = namespace.waypoint("waypoint").await?;
    namespace.wait("gateway/waypoint", "condition=Programmed").await?;
    let list = istioctl(&["list"]).await?;
    let programmed = |name: &str| {
        let row = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        row.into_iter().find(|row| row.first() == Some(&name)).map(|row| row.contains(&"True"))
    };
    let rows = [("waypoint", Some(true)), ("w1", Some(false)), ("w2", Some(false)), ("w3", None)];
    assert_eq!(rows.map(|(name, _)| (name, programmed(name))), rows, "{list}");
    for name in ["w1", "w2"] {
        ensure!(lab.api.find(&format!("{deployment}/{name}")).await?.is_some(), "{name} has a Deployment");
    }
    ensure!(lab.api.find(&format!("{deployment}/foreign")).await?.is_none(), "it is of another revision");

    // A service of the namespace need not say that it has a waypoint.
    let server = Service::new(&namespace, "server", "", &["v1"]).await?;
    let client = Caller::new(namespace.pod(&PodSpec::new("client")).await?, &waypoint).await?;
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;

    istioctl(&["delete", "w1", "w2"]).await?;
    let left = async || {
        let gateways = lab.api.get(gateway("").trim_end_matches('/')).await?;
        let names = gateways["items"].as_array().context("a list")?.iter();
        anyhow::Ok(
            names.filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_owned).collect::<Vec<_>>(),
        )
    };
    assert_eq!(left().await?, ["foreign", "waypoint"]);
    assert_eq!(client.status(&server.at(HTTP), &Ask::get("/")).await?, 200);
    istioctl(&["delete", "--all"]).await?;
    assert_eq!(left().await?, Vec::<String>::new());
    // The pod outlives its Gateway until Kubernetes removes it, and serves nothing that is not bound to it.
    wait::until_async("nothing is bound to it", async || {
        Ok(client.ztunnel.connect(&server.at(HTTP)).await.is_err().then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_service_that_names_a_waypoint_that_is_not_there_is_nobodys() -> Result<()> {
    let stage = Stage::new("bogus").await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    let (at, ask) = (server.at(HTTP), Ask::get("/"));
    client.until_status(&at, &ask, 200).await?;
    let lab = Lab::get()?;
    let service = format!("/api/v1/namespaces/{}/services/server", stage.namespace.name);
    let name = |waypoint: &str| json!({"metadata": {"labels": {"istio.io/use-waypoint": waypoint}}});
    lab.api.patch(&service, &name("bogus-waypoint")).await?;
    wait::until_async("it is served no more", async || {
        Ok(client.ztunnel.connect(&at).await.is_err().then_some(()))
    })
    .await?;
    assert_eq!(Refused::status_of(client.ztunnel.connect(&at).await), 400);
    lab.api.patch(&service, &name(WAYPOINT)).await?;
    client.until_status(&at, &ask, 200).await?;
    Ok(())
}

#[tokio::test]
async fn pods_leave_the_mesh_and_come_back_and_no_request_fails() -> Result<()> {
    let mut site = Site::new("enrolled", &load::manifest("", "")).await?;
    site.grow().await?;
    let waypoint = site.namespace.waypoint(WAYPOINT).await?;
    let pod = site.namespace.pod(&PodSpec::new("client")).await?;
    let ztunnel = pod.ztunnel(waypoint.hbone(), &waypoint.id()).await?;
    let way = Way::pooled(&ztunnel, &site.at(load::HTTP));
    Site::is_known(&way).await?;
    let mut loads =
        vec![Load::start("kept connection", Kept::new(&way)), Load::start("new streams", Fresh(way.clone()))];
    load::all_go_on(&mut loads, 20).await?;
    let lab = Lab::get()?;
    let redirect = async |redirected: Option<&str>| {
        let annotations = json!({"metadata": {"annotations": {"ambient.istio.io/redirection": redirected}}});
        for replica in &site.replicas {
            lab.api.patch(&replica.pod.path(), &annotations).await?;
        }
        anyhow::Ok(())
    };
    for _ in 0..2 {
        redirect(None).await?;
        wait::until_async("pods are reached without HBONE", async || {
            let plain = waypoint.admin(http::Method::GET, "/clusters").await?.text();
            let tunnelled = site
                .replicas
                .iter()
                .any(|replica| plain.contains(&format!("connect_originate/{}", replica.pod.address)));
            Ok((!tunnelled).then_some(()))
        })
        .await?;
        load::all_go_on(&mut loads, 20).await?;
        let seen: Vec<_> = site.replicas.iter().map(|replica| replica.ztunnel.seen().len()).collect();
        load::all_go_on(&mut loads, 20).await?;
        redirect(Some("enabled")).await?;
        for (replica, before) in site.replicas.iter().zip(seen) {
            replica.ztunnel.saw(before + 1).await.context("back in the mesh")?;
        }
        load::all_go_on(&mut loads, 20).await?;
    }
    load::end_all(loads).await
}

#[tokio::test]
async fn peer_authentication_of_any_mode_leaves_the_waypoints_tunnels_as_they_are() -> Result<()> {
    let stage = Stage::new("peers").await?;
    let server = stage.service("server", &["v1"]).await?;
    let client = stage.client("client").await?;
    let ask = Ask::get("/");
    client.until_status(&server.at(HTTP), &ask, 200).await?;
    let ztunnel = &server.servers.first().context("a server")?.ztunnel;
    let marked = |mode: &str, ports: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: peers}}
spec: {{selector: {{matchLabels: {{app: server}}}}, mtls: {{mode: {mode}}}{ports}}}
"
        )
    };
    let rows = [
        ("PERMISSIVE", ""),
        ("STRICT", ""),
        ("STRICT", ", portLevelMtls: {8080: {mode: PERMISSIVE}}"),
        ("PERMISSIVE", ", portLevelMtls: {8080: {mode: STRICT}}"),
    ];
    for (mode, ports) in rows {
        stage.namespace.apply(&marked(mode, ports)).await?;
        let before = ztunnel.seen().len();
        for port in [HTTP, TCP] {
            // A new stream each, so that the way to the pod is chosen anew.
            for _ in 0..3 {
                client.ztunnel.connect(&server.at(port)).await.with_context(|| format!("{mode}{ports}"))?;
            }
        }
        assert_eq!(client.status(&server.at(HTTP), &ask).await?, 200, "{mode}{ports}");
        ztunnel.saw(before + 1).await?;
    }
    let seen = ztunnel.seen();
    assert!(seen.iter().all(|connect| connect.peer == stage.waypoint.id()), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn principals_are_told_apart_on_a_port_for_tcp() -> Result<()> {
    let stage = Stage::new("layer4").await?;
    let server = stage.service("server", &["v1"]).await?;
    let (client, other) = (stage.client("client").await?, stage.client("other").await?);
    client.until_status(&server.at(HTTP), &Ask::get("/"), 200).await?;
    let allow = |principal: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: principals}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: server}}]
  rules: [{{from: [{{source: {{principals: [{principal}]}}}}]}}]
"
        )
    };
    let principal = |caller: &Caller| caller.pod.id().trim_start_matches("spiffe://").to_owned();
    for (allowed, denied) in [(&client, &other), (&other, &client)] {
        stage.namespace.apply(&allow(&principal(allowed))).await?;
        wait::until_async("who is not named is refused", async || {
            Ok(denied.ztunnel.connect(&server.at(TCP)).await.is_err().then_some(()))
        })
        .await?;
        assert_eq!(Refused::status_of(denied.ztunnel.connect(&server.at(TCP)).await), 401);
        allowed.ztunnel.connect(&server.at(TCP)).await?;
    }
    Ok(())
}
