//! Who is let in, who is spoken to, and what happens when certificates change, expire or are revoked.

#![cfg(test)]

use anyhow::{Context as _, Result};
use http::{Method, Request};
use portcullis_tests::application::{Application, hears};
use portcullis_tests::ca::{Ca, Request as Asked, Svid, SvidFiles};
use portcullis_tests::http::{Client, empty};
use portcullis_tests::manifests;
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::neighbours::Runtime;
use portcullis_tests::portcullis::{Portcullis, Run};
use portcullis_tests::single::{HTTP, RAW, Running, Single};
use portcullis_tests::upstream::{self, Echo, Upstream};
use portcullis_tests::workload_api::Agent;
use portcullis_tests::ztunnel::{Inbound, Outbound, Refused, TunnelStream};
use portcullis_tests::{tls, wait};
use rcgen::ExtendedKeyUsagePurpose::ServerAuth;
use rustls::NamedGroup;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const FAILURES: &str = "portcullis_handshake_failures_total";

async fn failures(running: &Running, reason: &str) -> Result<f64> {
    Ok(running.mesh.portcullis.metrics().await?.sum(FAILURES, &[("reason", reason)]))
}

/// Says that a client with this certificate is not served, and that it is counted under `reason`.
async fn assert_refused(running: &Running, svid: &Svid, reason: &str) -> Result<()> {
    let before = failures(running, reason).await?;
    let peer = running.mesh.peer_with(svid)?;
    let connected = peer.connect(&running.service.authority(RAW)).await;
    let error = connected.map(|_| ()).expect_err(reason);
    assert!(error.downcast_ref::<Refused>().is_none(), "{reason}: it got as far as HTTP/2: {error:#}");
    running.mesh.portcullis.metric_reaches(FAILURES, &[("reason", reason)], before + 1.0).await?;
    Ok(())
}

/// An echo behind a tunnel, to see that the tunnel lives.
async fn assert_alive(tunnel: &mut TunnelStream) -> Result<()> {
    tunnel.write_all(b"alive?").await?;
    hears(tunnel, b"alive?").await
}

async fn assert_cut(tunnel: &mut TunnelStream) -> Result<()> {
    let read = wait::within("the cut", tunnel.read(&mut [0; 8])).await?;
    assert!(read.is_err(), "a cut is no clean end");
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_is_no_svid_of_this_mesh_is_refused_by_reason() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start().await?;
    let ca = &running.mesh.setup.ca;
    let id = ca.id("agents", "bot");
    let good = Asked::workload(&id);
    let rows = [
        ("not_spiffe", Asked { uris: vec![], dns_names: vec!["bot.agents".into()], ..good.clone() }),
        ("not_spiffe", Asked { uris: vec!["https://cluster.local/ns/agents/sa/bot".into()], ..good.clone() }),
        ("not_spiffe", Asked { is_ca: true, ..good.clone() }),
        ("several_uris", Asked { uris: vec![id.clone(), ca.id("agents", "admin")], ..good.clone() }),
        ("several_uris", Asked { uris: vec![id.clone(), "https://x.example/".into()], ..good.clone() }),
        ("trust_domain", Asked::workload("spiffe://other.example/ns/agents/sa/bot")),
        ("expired", good.clone().ending_in(Duration::seconds(-5))),
        (
            "not_yet_valid",
            Asked { not_before: Duration::hours(1), not_after: Duration::hours(2), ..good.clone() },
        ),
        ("usage", Asked { usages: vec![ServerAuth], ..good.clone() }),
    ];
    for (reason, asked) in rows {
        assert_refused(&running, &ca.issue(&asked)?, reason).await?;
    }
    let stranger = Ca::new("cluster.local")?;
    assert_refused(&running, &stranger.svid(&id)?, "untrusted").await?;
    assert!(running.pod.ztunnel.as_ref().context("in the mesh")?.seen().is_empty());
    assert_alive(&mut running.tunnel(RAW).await?).await?;
    let below = ca.intermediate()?.svid(&id)?;
    assert_alive(&mut running.mesh.peer_with(&below)?.connect(&running.service.authority(RAW)).await?).await
}

#[tokio::test]
async fn only_tls_1_3_with_a_certificate_and_h2_is_served() -> Result<()> {
    let running = Running::start().await?;
    let ca = &running.mesh.setup.ca;
    let folder = tempfile::tempdir()?;
    let files = ca.svid(&ca.id("agents", "bot"))?.write_to(folder.path(), ca.bundle_pem())?;
    let with = |version: &str, alpn: Value, certificate: bool| {
        let mut options = json!({"version": version, "alpn": alpn});
        if certificate {
            options["chain"] = json!(files.cert_chain);
            options["key"] = json!(files.key);
        }
        options
    };
    let rows = [
        ("as ztunnel does", with("1.3", json!(["h2"]), true), None),
        ("h2 among others", with("1.3", json!(["http/1.1", "h2"]), true), None),
        ("TLS 1.2", with("1.2", json!(["h2"]), true), Some("tls")),
        ("no certificate", with("1.3", json!(["h2"]), false), Some("no_certificate")),
        ("another protocol", with("1.3", json!(["http/1.1"]), true), Some("alpn")),
        ("no protocol", with("1.3", json!(null), true), Some("alpn")),
    ];
    let target = running.mesh.portcullis.address("hbone")?.to_string();
    let bundle = files.trust_bundle.display().to_string();
    for (what, options, reason) in rows {
        let before = failures(&running, reason.unwrap_or("none")).await?;
        let report =
            Runtime::Python1.report("tls_probe.py", &[&target, &bundle, &options.to_string()]).await?;
        assert_eq!(report["served"], json!(reason.is_none()), "{what}: {report}");
        if let Some(reason) = reason {
            let counted = [("reason", reason)];
            running.mesh.portcullis.metric_reaches(FAILURES, &counted, before + 1.0).await?;
        }
    }
    Ok(())
}

fn client(running: &Running) -> Result<rustls::ClientConfig> {
    let ca = &running.mesh.setup.ca;
    tls::client_config(&ca.svid(&ca.id("agents", "bot"))?, ca.bundle_pem(), &running.mesh.waypoint_id())
}

async fn leaf(running: &Running) -> Result<CertificateDer<'static>> {
    Ok(tls::meet(client(running)?, running.mesh.portcullis.address("hbone")?).await?.1)
}

#[tokio::test]
async fn a_post_quantum_key_exchange_is_preferred() -> Result<()> {
    let running = Running::start().await?;
    let address = running.mesh.portcullis.address("hbone")?;
    let (group, leaf) = tls::meet(client(&running)?, address).await?;
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(tls::uri_sans(&leaf), [running.mesh.waypoint_id()]);
    Ok(())
}

#[tokio::test]
async fn an_alias_of_the_trust_domain_is_accepted_and_policies_mean_both_names() -> Result<()> {
    let single = Single::new(true).await?;
    let app = Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
    let principals = "[cluster.local/ns/agents/sa/bot, old.example/ns/agents/sa/elder]";
    single.setup.policy(
        "p",
        "app",
        "ALLOW",
        &format!("- from: [{{source: {{principals: {principals}}}}}]"),
    )?;
    let run = single.setup.run().arg("--trust-domain-alias", "old.example");
    let mesh = single.setup.start_with(run).await?;
    let rows = [
        ("spiffe://cluster.local/ns/agents/sa/bot", 200),
        ("spiffe://old.example/ns/agents/sa/bot", 200),
        ("spiffe://cluster.local/ns/agents/sa/elder", 200),
        ("spiffe://old.example/ns/agents/sa/elder", 200),
        ("spiffe://old.example/ns/agents/sa/other", 403),
    ];
    for (id, status) in rows {
        let peer = mesh.peer_with(&mesh.setup.ca.svid(id)?)?;
        let client = Client::http1(peer.connect(&single.service.authority(HTTP)).await?).await?;
        let reply = client.send(Request::get("/").header("host", "app").body(empty())?).await?;
        assert_eq!(reply.status.as_u16(), status, "{id}");
    }
    assert_eq!(app.seen().len(), 4);
    Ok(())
}

#[tokio::test]
async fn a_revoked_peer_loses_its_open_tunnels_and_gets_no_new_ones() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let ca = &single.setup.ca;
    let (revoked, kept) = (ca.svid(&ca.id("agents", "revoked"))?, ca.svid(&ca.id("agents", "kept"))?);
    let crl = single.setup.file("crl.pem", &ca.crl_pem(&[])?)?;
    let run = single.setup.run().arg("--crl", &crl);
    let mesh = single.setup.start_with(run).await?;
    let running = Running { mesh, pod: single.pod, service: single.service };
    let authority = running.service.authority(RAW);
    let mut cut = running.mesh.peer_with(&revoked)?.connect(&authority).await?;
    let mut lives = running.mesh.peer_with(&kept)?.connect(&authority).await?;
    assert_alive(&mut cut).await?;
    replace(&crl, &running.mesh.setup.ca.crl_pem(&[&revoked])?)?;
    assert_cut(&mut cut).await?;
    assert_refused(&running, &revoked, "revoked").await?;
    assert_alive(&mut lives).await?;
    assert_alive(&mut running.mesh.peer_with(&kept)?.connect(&authority).await?).await
}

/// In one step, so that a watcher never reads half of it.
fn replace(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("fresh");
    std::fs::write(&fresh, text)?;
    Ok(std::fs::rename(fresh, path)?)
}

#[tokio::test]
async fn a_peer_whose_certificate_expires_loses_its_open_tunnels_and_gets_no_new_ones() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start().await?;
    let ca = &running.mesh.setup.ca;
    let brief = ca.issue(&Asked::workload(&ca.id("agents", "brief")).ending_in(Duration::seconds(3)))?;
    let mut tunnel = running.mesh.peer_with(&brief)?.connect(&running.service.authority(RAW)).await?;
    assert_alive(&mut tunnel).await?;
    assert_cut(&mut tunnel).await?;
    assert_refused(&running, &brief, "expired").await
}

/// The pod's manifest says who must be met there; a process that took over its address is somebody else.
#[tokio::test]
async fn an_endpoint_with_another_identity_is_never_spoken_to() -> Result<()> {
    let mut setup = Single::new(false).await?;
    let address = setup.pod.address;
    let ca = &setup.setup.ca;
    let imposter = Inbound::start(ca, &ca.svid(&ca.id(NAMESPACE, "imposter"))?, address).await?;
    setup.pod.ztunnel = Some(imposter);
    let says = manifests::Pod {
        namespace: NAMESPACE,
        name: &setup.pod.name,
        app: "app",
        service_account: "app",
        address,
        in_mesh: true,
    };
    setup.setup.manifests.write(&format!("pod-{}", setup.pod.name), &[says.manifest()])?;
    let app =
        Upstream::start(setup.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "secret")).await?;
    let running = setup.start().await?;
    assert_eq!(Refused::status_of(running.tunnel(RAW).await).as_u16(), 503);
    let client = Client::http1(running.tunnel(HTTP).await?).await?;
    let reply = client.send(Request::get("/").header("host", "app").body(empty())?).await?;
    assert_eq!(reply.status.as_u16(), 503);
    let request = |line: &Value| line["kind"] == "request";
    let line = running.mesh.portcullis.logged("the request", request).await?;
    assert_eq!(line["response_flags"], "UF", "{line}");
    assert!(running.pod.ztunnel.as_ref().context("an imposter")?.seen().is_empty());
    app.saw_nothing();
    Ok(())
}

/// A folder as kubelet mounts it: the names are links through one link that is swapped.
struct Mounted {
    folder: PathBuf,
    versions: usize,
}

impl Mounted {
    fn new(folder: &Path, svid: &Svid, bundle: &str) -> Result<(Self, SvidFiles)> {
        let mut this = Self { folder: folder.to_owned(), versions: 0 };
        this.swap(|at| svid.write_to(at, bundle).map(drop))?;
        for name in ["cert-chain.pem", "key.pem", "trust-bundle.pem"] {
            std::os::unix::fs::symlink(Path::new("..data").join(name), folder.join(name))?;
        }
        let at = |name| folder.join(name);
        let files = SvidFiles {
            cert_chain: at("cert-chain.pem"),
            key: at("key.pem"),
            trust_bundle: at("trust-bundle.pem"),
        };
        Ok((this, files))
    }

    /// Fills a new folder, then leads the link to it in one step, and removes the old one.
    fn swap(&mut self, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.versions += 1;
        let version = format!("..version_{}", self.versions);
        fill(&self.folder.join(&version))?;
        let fresh = self.folder.join("..data_tmp");
        std::os::unix::fs::symlink(&version, &fresh)?;
        std::fs::rename(fresh, self.folder.join("..data"))?;
        if self.versions > 1 {
            std::fs::remove_dir_all(self.folder.join(format!("..version_{}", self.versions - 1)))?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn rotated_files_serve_new_connections_and_the_old_streams_live() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let (ca, own) = (&single.setup.ca, single.setup.ca.id(NAMESPACE, "waypoint"));
    let first = ca.svid(&own)?;
    let folder = tempfile::tempdir()?;
    let (mut mounted, files) = Mounted::new(folder.path(), &first, ca.bundle_pem())?;
    let run = Run::new(single.setup.manifests.folder(), &files);
    let mesh = single.setup.start_with(run).await?;
    let running = Running { mesh, pod: single.pod, service: single.service };
    let (ca, mut tunnel) = (&running.mesh.setup.ca, running.tunnel(RAW).await?);
    assert_alive(&mut tunnel).await?;
    assert_eq!(leaf(&running).await?, first.chain()[0]);

    // A bundle that loses its root with the swap would end trust; a chain by way of an intermediate keeps it.
    let second = ca.intermediate()?.svid(&own)?;
    mounted.swap(|at| second.write_to(at, ca.bundle_pem()).map(drop))?;
    shows(&running, &second).await?;
    assert_alive(&mut tunnel).await?;

    // A key that does not fit its chain is a renewal that failed: what is valid stays.
    let third = ca.svid(&own)?;
    mounted.swap(|at| {
        third.write_to(at, ca.bundle_pem())?;
        Ok(std::fs::write(at.join("key.pem"), second.key_pem())?)
    })?;
    let told = |line: &String| line.contains("does not fit").then_some(());
    running.mesh.portcullis.events().find("the failed renewal is told", told).await?;
    assert_eq!(leaf(&running).await?, second.chain()[0]);
    mounted.swap(|at| third.write_to(at, ca.bundle_pem()).map(drop))?;
    shows(&running, &third).await?;
    assert_alive(&mut tunnel).await
}

/// A root is replaced by way of a bundle that holds both.
#[tokio::test]
async fn a_bundle_of_two_roots_trusts_both_and_one_that_lost_a_root_does_not() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let running = single.start().await?;
    let old = &running.mesh.setup.ca;
    let new = Ca::new("cluster.local")?;
    let (id, authority) = (old.id("agents", "bot"), running.service.authority(RAW));
    let newcomer = new.svid(&id)?;
    let bundle = &running.mesh.setup.svid.trust_bundle;
    // The stranger's own check of the waypoint is by the old root in any case: only the waypoint's side is tried.
    assert_refused(&running, &newcomer, "untrusted").await?;
    let mut tunnel = running.tunnel(RAW).await?;
    replace(bundle, &format!("{}{}", old.bundle_pem(), new.bundle_pem()))?;
    let newcomers = running.mesh.peer_with(&newcomer)?;
    let mut other =
        wait::until_async("the new root is trusted", async || Ok(newcomers.connect(&authority).await.ok()))
            .await?;
    assert_alive(&mut other).await?;
    assert_alive(&mut running.tunnel(RAW).await?).await?;
    assert_alive(&mut tunnel).await?;
    replace(bundle, old.bundle_pem())?;
    wait::until_async("the new root is forgotten", async || {
        let fresh = running.mesh.peer_with(&newcomer)?;
        Ok(fresh.connect(&authority).await.err())
    })
    .await?;
    assert_refused(&running, &newcomer, "untrusted").await?;
    assert_alive(&mut tunnel).await
}

/// Waits until new connections are shown this certificate.
async fn shows(running: &Running, svid: &Svid) -> Result<()> {
    let wanted = svid.chain().remove(0);
    wait::until_async("the new certificate is shown", async || {
        Ok((leaf(running).await? == wanted).then_some(()))
    })
    .await
}

#[tokio::test]
async fn the_workload_api_gives_the_identity_and_each_new_one() -> Result<()> {
    let single = Single::new(true).await?;
    let _echo = Echo::start(single.pod.port(RAW), b"").await?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("agent.sock");
    let run = Run::nameless(single.setup.manifests.folder())
        .arg("--gateway", format!("{NAMESPACE}/waypoint"))
        .arg("--workload-api", format!("unix://{}", socket.display()));
    let mut portcullis = Portcullis::start_unready(&run)?;
    portcullis.bound().await?;
    let (status, text) = portcullis.ask("ready", Method::GET, "/healthz/ready").await?;
    assert_eq!(status, 503, "there is no certificate yet: {text}");
    assert!(text.contains("certificate"), "{text}");

    let own = single.setup.ca.id(NAMESPACE, "waypoint");
    let (first, bundle) = (single.setup.ca.svid(&own)?, single.setup.ca.bundle_pem().to_owned());
    let agent = Agent::start(&socket, &first, &bundle)?;
    portcullis.ready().await?;
    let mesh = portcullis_tests::mesh::Mesh { portcullis, setup: single.setup };
    let running = Running { mesh, pod: single.pod, service: single.service };
    let mut tunnel = running.tunnel(RAW).await?;
    assert_alive(&mut tunnel).await?;
    assert_eq!(leaf(&running).await?, first.chain()[0]);

    let second = running.mesh.setup.ca.svid(&own)?;
    agent.rotate(&second, &bundle)?;
    shows(&running, &second).await?;
    assert_alive(&mut tunnel).await?;

    // An agent that is away takes nothing with it, and is found again.
    drop(agent);
    std::fs::remove_file(&socket)?;
    assert_alive(&mut running.tunnel(RAW).await?).await?;
    let third = running.mesh.setup.ca.svid(&own)?;
    let _agent = Agent::start(&socket, &third, &bundle)?;
    shows(&running, &third).await?;
    assert_alive(&mut tunnel).await
}

/// The tunnel's client certificate is the identity; a header is never one.
#[tokio::test]
async fn a_forged_client_certificate_header_is_removed_and_ours_is_set_when_asked_for() -> Result<()> {
    for xfcc in [false, true] {
        let single = Single::new(true).await?;
        let app =
            Upstream::start(single.pod.port(HTTP), |_| upstream::text(http::StatusCode::OK, "hi")).await?;
        let run = single.setup.run();
        let mesh = single.setup.start_with(if xfcc { run.flag("--xfcc") } else { run }).await?;
        let tunnel = mesh.peer("agents", "bot")?.connect(&single.service.authority(HTTP)).await?;
        let request = Request::get("/")
            .header("host", "app")
            .header(
                "x-forwarded-client-cert",
                "By=spiffe://cluster.local/ns/x/sa/x;URI=spiffe://forged/ns/a/sa/b",
            )
            .header("X-Forwarded-Client-Cert", "URI=spiffe://forged/ns/a/sa/c");
        Client::http1(tunnel).await?.send(request.body(empty())?).await?;
        let seen = app.saw(1).await?;
        let sent: Vec<_> = seen[0].headers.get_all("x-forwarded-client-cert").iter().collect();
        let ours = format!("By={};URI=spiffe://cluster.local/ns/agents/sa/bot", mesh.waypoint_id());
        let expected: Vec<&str> = if xfcc { vec![&ours] } else { vec![] };
        assert_eq!(sent, expected);
    }
    Ok(())
}

/// A pool by address alone would keep talking to whoever had it before.
#[tokio::test]
async fn a_pod_ip_that_changes_hands_is_met_by_its_new_identity() -> Result<()> {
    let mut single = Single::new(true).await?;
    let app = Application::start(single.pod.port(RAW)).await?;
    let (address, name) = (single.pod.address, single.pod.name.clone());
    let old = single.pod.ztunnel.take();
    let running = single.start().await?;
    let (tunnel, tcp) = tokio::join!(running.tunnel(RAW), app.accepted());
    drop((tunnel?, tcp?, old));
    let ca = &running.mesh.setup.ca;
    let fresh = wait::until_async("the address is free", async || {
        Ok(Inbound::start(ca, &ca.svid(&ca.id(NAMESPACE, "heir"))?, address).await.ok())
    })
    .await?;
    assert_eq!(Refused::status_of(running.tunnel(RAW).await).as_u16(), 503, "not who the manifest says");
    let before = running.mesh.portcullis.generation().await?;
    let heir = manifests::Pod {
        namespace: NAMESPACE,
        name: "heir-1",
        app: "app",
        service_account: "heir",
        address,
        in_mesh: true,
    };
    running.mesh.setup.manifests.remove(&format!("pod-{name}"))?;
    running.mesh.setup.manifests.write("pod-heir-1", &[heir.manifest()])?;
    running.mesh.portcullis.newer_than(before).await?;
    let (tunnel, tcp) = tokio::join!(carried(&running), app.accepted());
    drop((tunnel?, tcp?));
    assert_eq!(fresh.seen().len(), 1);
    Ok(())
}

/// Two files changed, so that the first new configuration may hold one change only.
async fn carried(running: &Running) -> Result<TunnelStream> {
    let bot: Outbound = running.bot()?;
    wait::until_async("the stream is carried", async || {
        Ok(bot.connect(&running.service.authority(RAW)).await.ok())
    })
    .await
}
