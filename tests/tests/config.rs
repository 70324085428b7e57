//! Manifests and flags: what changes while streams run, what is kept of an invalid document, what is told, and what
//! keeps the process from starting.

#![cfg(test)]

use anyhow::{Context as _, Result};
use http::{Method, Request};
use portcullis_tests::application::hears;
use portcullis_tests::ca::SvidFiles;
use portcullis_tests::http::{Client, empty};
use portcullis_tests::manifests::{self, Port};
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::portcullis::{Portcullis, Run};
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Echo, Upstream};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{Refused, TunnelStream};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

const BOT: &str = "- from: [{source: {serviceAccounts: [agents/bot]}}]";

async fn assert_alive(tunnel: &mut TunnelStream) -> Result<()> {
    tunnel.write_all(b"alive?").await?;
    hears(tunnel, b"alive?").await
}

async fn get(running: &Running, authority: &str) -> Result<u16> {
    let client = Client::http1(running.bot()?.connect(authority).await?).await?;
    let request = Request::get("/").header("host", "app").body(empty())?;
    Ok(client.send(request).await?.status.as_u16())
}

async fn findings(running: &Running) -> Result<Vec<Value>> {
    let (_, dump) = running.mesh.portcullis.ask("admin", Method::GET, "/config_dump").await?;
    let dump: Value = serde_json::from_str(&dump)?;
    Ok(dump["findings"].as_array().context("findings")?.clone())
}

#[tokio::test]
async fn services_come_change_and_go_under_a_running_stream() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let running = single.start().await?;
    let mut tunnel = running.tunnel(RAW).await?;
    assert_alive(&mut tunnel).await?;
    let manifests = &running.mesh.setup.manifests;

    let later = "10.96.0.200:8080";
    assert_eq!(Refused::status_of(running.bot()?.connect(later).await).as_u16(), 400, "not there yet");
    let port = |number| [Port { target_port: HTTP, ..Port::new("web", number).speaking("http") }];
    let service = |number| {
        manifests::service(NAMESPACE, "later", "10.96.0.200".parse().expect("an address"), &port(number))
            .replace("    app: later", "    app: app")
    };
    manifests.write("later", &[service(8080)])?;
    wait::until_async("the service has come", async || {
        Ok(get(&running, later).await.ok().filter(|s| *s == 200))
    })
    .await?;
    manifests.write("later", &[service(81)])?;
    let changed = "10.96.0.200:81";
    wait::until_async("the port has changed", async || {
        Ok(get(&running, changed).await.ok().filter(|s| *s == 200))
    })
    .await?;
    assert_eq!(Refused::status_of(running.bot()?.connect(later).await).as_u16(), 503, "that port is gone");
    manifests.remove("later")?;
    wait::until_async("the service is gone", async || {
        let refused = running
            .bot()?
            .connect(changed)
            .await
            .err()
            .and_then(|e| Some(e.downcast_ref::<Refused>()?.status));
        Ok(refused.filter(|status| status.as_u16() == 400))
    })
    .await?;
    assert_alive(&mut tunnel).await?;
    Ok(())
}

#[tokio::test]
async fn a_pod_that_comes_is_used_and_one_that_goes_is_not() -> Result<()> {
    let mut single = Single::new(true).await?;
    let first =
        Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let late = single.setup.pod("app", true).await?;
    let manifest = manifests::Pod {
        namespace: NAMESPACE,
        name: &late.name,
        app: "app",
        service_account: "app",
        address: late.address,
        in_mesh: true,
    };
    single.setup.manifests.remove(&format!("pod-{}", late.name))?;
    let second = Upstream::start(late.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let running = single.start().await?;
    let authority = running.service.authority(HTTP);
    assert_eq!(get(&running, &authority).await?, 200);
    second.saw_nothing();
    running.mesh.setup.manifests.write("pod-late", &[manifest.manifest()])?;
    wait::until_async("the new pod is used", async || {
        assert_eq!(get(&running, &authority).await?, 200);
        Ok((!second.seen().is_empty()).then_some(()))
    })
    .await?;
    let before = running.mesh.portcullis.generation().await?;
    running.mesh.setup.manifests.remove(&format!("pod-{}", running.pod.name))?;
    running.mesh.portcullis.newer_than(before).await?;
    let seen = first.seen().len();
    for _ in 0..10 {
        assert_eq!(get(&running, &authority).await?, 200);
    }
    assert_eq!(first.seen().len(), seen, "a pod that is gone gets nothing");
    Ok(())
}

/// In place of each document that became invalid its last good version holds, and what is wrong is said by name.
#[tokio::test]
async fn an_invalid_document_keeps_its_last_good_version_and_is_told_by_name() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.policy("readers", "app", "ALLOW", BOT)?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let running = single.start().await?;
    let authority = running.service.authority(HTTP);
    assert_eq!(get(&running, &authority).await?, 200);
    let good = manifests::policy(NAMESPACE, "readers", "app", "ALLOW", BOT);
    let rows = [
        ("an unknown field", good.replace("serviceAccounts:", "serviceAcounts:"), "serviceAcounts"),
        ("a wrong value", good.replace("action: ALLOW", "action: PERMIT"), "action"),
        ("a wrong type", good.replace("[agents/bot]", "7"), "serviceAccounts"),
    ];
    for (what, text, field) in rows {
        running.mesh.setup.manifests.write("policy-readers", &[text])?;
        running.mesh.portcullis.metric_reaches("portcullis_config_errors", &[], 1.0).await?;
        let all = findings(&running).await?;
        let about = |finding: &&Value| {
            finding["file"].as_str().is_some_and(|file| file.ends_with("policy-readers.yaml"))
        };
        let error = all.iter().filter(about).find(|finding| finding["severity"] == "error").context(what)?;
        assert_eq!(
            (&error["document"], &error["name"]),
            (&1.into(), &"tools/readers".into()),
            "{what}: {error}"
        );
        assert!(error.to_string().contains(field), "{what}: {error}");
        let told =
            |line: &String| (line.contains("policy-readers.yaml") && line.contains(field)).then_some(());
        running.mesh.portcullis.events().find(what, told).await?;
        assert_eq!(get(&running, &authority).await?, 200, "{what}: the bot is still allowed");
        let stranger = running.mesh.peer("agents", "stranger")?.connect(&authority).await?;
        let request = Request::get("/").header("host", "app").body(empty())?;
        let reply = Client::http1(stranger).await?.send(request).await?;
        assert_eq!(reply.status, 403, "{what}: and others are still not");
        running.mesh.setup.manifests.write("policy-readers", std::slice::from_ref(&good))?;
        wait::until_async("the error is mended", async || {
            let errors = running.mesh.portcullis.metrics().await?.sum("portcullis_config_errors", &[]);
            Ok((errors == 0.0).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// A policy that was never readable may be one that denies: what it would protect is not opened.
#[tokio::test]
async fn a_policy_that_was_never_valid_denies_its_target() -> Result<()> {
    let single = Single::new(true).await?;
    single.setup.manifests.write("p", &[manifests::policy(NAMESPACE, "p", "app", "PERMIT", BOT)])?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let running = single.start().await?;
    assert_eq!(get(&running, &running.service.authority(HTTP)).await?, 403);
    app.saw_nothing();
    Ok(())
}

#[tokio::test]
async fn one_broken_document_does_not_take_its_neighbours_along() -> Result<()> {
    let single = Single::new(true).await?;
    let _app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let broken = "apiVersion: v1\nkind: Service\nmetadata: {name: half, namespace: tools}\nspec: {ports: [{port: 70000}]}\n";
    let whole = manifests::service(
        NAMESPACE,
        "whole",
        "10.96.0.201".parse()?,
        &[Port::new("web", HTTP).speaking("http")],
    )
    .replace("    app: whole", "    app: app");
    single.setup.manifests.write("mixed", &[broken.to_owned(), whole])?;
    let running = single.start().await?;
    assert_eq!(get(&running, "10.96.0.201:8080").await?, 200);
    let all = findings(&running).await?;
    let error = all.iter().find(|finding| finding["name"] == "tools/half").context("a finding")?;
    assert_eq!((&error["document"], &error["kind"]), (&1.into(), &"Service".into()), "{error}");
    Ok(())
}

#[tokio::test]
async fn kinds_that_are_not_read_are_listed_by_name() -> Result<()> {
    let single = Single::new(true).await?;
    let kinds = [
        ("networking.istio.io/v1", "VirtualService", "warning"),
        ("networking.istio.io/v1", "DestinationRule", "warning"),
        ("security.istio.io/v1", "PeerAuthentication", "note"),
        ("gateway.networking.k8s.io/v1", "GRPCRoute", "warning"),
        ("example.com/v1", "Whatever", "note"),
    ];
    let documents: Vec<_> = kinds
        .iter()
        .map(|(group, kind, _)| {
            format!(
                "apiVersion: {group}\nkind: {kind}\nmetadata: {{name: x, namespace: tools}}\nspec: {{}}\n"
            )
        })
        .collect();
    single.setup.manifests.write("others", &documents)?;
    let running = single.start().await?;
    let all = findings(&running).await?;
    for (_, kind, severity) in kinds {
        let finding = all.iter().find(|finding| finding["kind"] == kind).context(kind)?;
        assert_eq!(
            (&finding["severity"], &finding["name"]),
            (&severity.into(), &"tools/x".into()),
            "{finding}"
        );
    }
    let told = |line: &String| line.contains("VirtualService").then_some(());
    running.mesh.portcullis.events().find("it is on standard error too", told).await
}

/// What a start that must fail said.
async fn fails(run: &Run) -> Result<String> {
    let mut portcullis = Portcullis::start_unready(run)?;
    assert_eq!(portcullis.ended().await?.code(), Some(2), "{run:?}");
    Ok(portcullis.events().all().join("\n"))
}

#[tokio::test]
async fn a_start_without_what_it_needs_fails_and_names_flag_and_file() -> Result<()> {
    let single = Single::new(true).await?;
    let manifests = single.setup.manifests.folder();
    let svid = &single.setup.svid;
    let gone = single.setup.file("x", "")?.with_file_name("gone.pem");
    let rows = [
        ("--cert-chain", SvidFiles { cert_chain: gone.clone(), ..svid.clone() }),
        ("--key", SvidFiles { key: gone.clone(), ..svid.clone() }),
        ("--trust-bundle", SvidFiles { trust_bundle: gone.clone(), ..svid.clone() }),
    ];
    for (flag, files) in rows {
        let said = fails(&Run::new(manifests, &files)).await?;
        assert!(said.contains(flag) && said.contains("gone.pem") && said.contains("fix:"), "{flag}: {said}");
    }
    let said = fails(&Run::nameless(manifests)).await?;
    assert!(said.contains("--cert-chain") && said.contains("--workload-api"), "{said}");
    let said = fails(&Run::new(&gone, svid)).await?;
    assert!(said.contains("gone.pem"), "{said}");
    let said = fails(&Run::new(manifests, svid).arg("--crl", &gone)).await?;
    assert!(said.contains("--crl") && said.contains("gone.pem"), "{said}");
    let said = fails(&single.setup.run().instead("--admin-address", "0.0.0.0:0")).await?;
    assert!(said.contains("--admin-address") && said.contains("loopback"), "{said}");
    let said = fails(&Run::new(manifests, svid).arg("--gateway", "nowhere")).await?;
    assert!(said.contains("--gateway"), "{said}");
    Ok(())
}

#[tokio::test]
async fn settings_that_cannot_work_are_all_named() -> Result<()> {
    let single = Single::new(true).await?;
    let rows = [
        (
            "streams_per_connection: 99\nconnection_window: 65535\n",
            vec!["streams_per_connection", "connection_window"],
        ),
        ("strems_per_connection: 200\n", vec!["strems_per_connection"]),
        ("drain_linger: soon\n", vec!["drain_linger"]),
    ];
    for (text, names) in rows {
        let path = single.setup.file("settings.yaml", text)?;
        let said = fails(&single.setup.run().arg("--settings", &path)).await?;
        assert!(said.contains("--settings") && said.contains("settings.yaml"), "{said}");
        names.iter().for_each(|name| assert!(said.contains(name), "{name}: {said}"));
    }
    Ok(())
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_flag() -> Result<()> {
    let single = Single::new(true).await?;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let run = single.setup.run().arg("--workload-api", "unix:///x");
    assert!(fails(&run).await?.contains("--workload-api"), "two sources of identity");
    let address = taken.local_addr()?.to_string();
    let run = single.setup.run().instead("--hbone-address", &address);
    let said = fails(&run).await?;
    assert!(said.contains("--hbone-address") && said.contains(&address), "{said}");
    Ok(())
}
