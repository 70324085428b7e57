//! `--keep`: the mesh stays, and each identity gets a local port that calls as that identity, for trying things by hand.

use std::future::Future;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hbone::{Counters, LARGEST_READ, Peer, Target};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::agent::Agent;
use super::github::PATH;
use super::mcp::Ask;
use super::play::Play;
use super::report::Report;

/// A port that calls a Service as an identity.
struct Door<'a> {
    agent: &'a Agent,
    to: &'a Target,
    listener: TcpListener,
}

impl<'a> Door<'a> {
    async fn open(agent: &'a Agent, to: &'a Target) -> Result<Self> {
        Ok(Self { agent, to, listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await? })
    }

    /// Carries connections for ever. Where no tunnel is opened the connection is closed, as ztunnel does.
    async fn serve(&self) -> Result<()> {
        let mut streams = JoinSet::new();
        loop {
            let (socket, _) = self.listener.accept().await?;
            if let Ok(tunnel) = self.agent.open(self.to).await {
                streams.spawn(carry(tunnel, socket));
            }
            while streams.try_join_next().is_some() {}
        }
    }
}

async fn carry(tunnel: hbone::Tunnel, socket: TcpStream) {
    // Whichever side broke, the other has been told.
    let _ = hbone::copy(tunnel, Bytes::new(), Peer::Tcp(socket), LARGEST_READ, &Counters::default()).await;
}

/// Keeps everything running until `end`, and tells what the access log says meanwhile.
pub(super) async fn keep(play: &Play, end: impl Future<Output = Result<&'static str>>) -> Result<()> {
    let (cast, github, ledger) = (&play.cast, &play.stage.github.target, &play.stage.ledger.target);
    let researcher = Door::open(&cast.researcher, github).await?;
    let coder = Door::open(&cast.coder, github).await?;
    let intern = Door::open(&cast.intern, github).await?;
    let auditor = Door::open(&cast.auditor, github).await?;
    let entries = Door::open(&cast.auditor, ledger).await?;

    write_tries(play)?;
    play.report.section("Try it: a port per identity (Ctrl-C ends)");
    play.report.plain(&format!("cd {}", play.stage.folder.path().display()));
    tell_calls(&play.report, &researcher, ["list", "read-handbook", "create-issue-acme"])?;
    tell_calls(&play.report, &coder, ["list", "create-issue-acme", "create-issue-evilcorp"])?;
    tell_calls(&play.report, &intern, ["list", "get-issue", "create-issue-acme"])?;
    tell_calls(&play.report, &auditor, ["list", "read-handbook", "get-issue"])?;
    let address = entries.listener.local_addr()?;
    play.report.plain(&format!(
        "\n# the ledger, as {}\nnc {} {}",
        entries.agent.id,
        address.ip(),
        address.port()
    ));
    tell_rest(play);

    play.journal.clear();
    tokio::select! {
        served = researcher.serve() => served,
        served = coder.serve() => served,
        served = intern.serve() => served,
        served = auditor.serve() => served,
        served = entries.serve() => served,
        () = follow(play) => Ok(()),
        ended = end => ended.map(drop),
    }
}

/// Writes requests as files for `curl -K`.
fn write_tries(play: &Play) -> Result<()> {
    let folder = play.stage.folder.path().join("try");
    std::fs::create_dir_all(&folder)?;
    let issue =
        |owner: &str| Ask::call("create_issue", json!({"owner": owner, "repo": "web", "title": "try"}));
    let tries = [
        ("list", Ask::tools()),
        ("get-issue", Ask::call("get_issue", json!({"owner": "acme", "repo": "web", "number": 7}))),
        ("create-issue-acme", issue("acme")),
        ("create-issue-evilcorp", issue("evilcorp")),
        ("read-handbook", Ask::resource("docs://handbook/style")),
    ];
    for (name, ask) in tries {
        let path = folder.join(name);
        std::fs::write(&path, ask.curl()?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Commands that call as one identity: its list, something that it was allowed, something that it was refused.
fn tell_calls(report: &Report, door: &Door<'_>, tries: [&str; 3]) -> Result<()> {
    let address = door.listener.local_addr()?;
    report.plain(&format!("\n# as {}", door.agent.id));
    for name in tries {
        report.plain(&format!("curl -sK try/{name} http://{address}{PATH}"));
    }
    Ok(())
}

fn tell_rest(play: &Play) {
    let Play { report, running, stage, cast, .. } = play;
    let manifests = stage.folder.manifests();
    let manifests = manifests.display();
    let intern = &cast.intern.id;
    // Where this very binary lies: `cargo run` puts it on no search path.
    let binary = std::env::current_exe().unwrap_or_else(|_| "portcullis".into());
    let binary = binary.display();
    let blocks = [
        format!("# edit a policy and call again\n$EDITOR {manifests}/github-policies.yaml"),
        format!(
            "# ask offline\n{binary} check --manifests {manifests} --from {intern} --to github.tools --tool get_issue\n\
             {binary} matrix --manifests {manifests} --to github.tools"
        ),
        format!("# what it counts\ncurl -s http://{}/stats/prometheus", running.metrics),
        format!("# what it knows\ncurl -s http://{}/config_dump", running.admin),
        format!(
            "# another waypoint on this folder, in a process of its own\n{binary} {}",
            stage.run_flags().join(" ")
        ),
    ];
    for block in blocks {
        report.plain(&format!("\n{block}"));
    }
    report.section("Access log");
    report.head(&["who", "asks for", "", "", "decided by"]);
}

/// Prints each request and stream as it ends.
async fn follow(play: &Play) {
    loop {
        let line = play.journal.next().await;
        let who = line.source_principal.rsplit('/').next().unwrap_or_default();
        let method = line.mcp_method.as_deref().unwrap_or(&line.kind);
        let what = format!("{method} {}", line.mcp_name.as_deref().unwrap_or_default());
        let gist = format!("{} in {:.1} ms", line.response_code, line.duration_ms);
        play.report.head(&[who, &what, &gist, &line.decision, &line.rule()]);
    }
}
