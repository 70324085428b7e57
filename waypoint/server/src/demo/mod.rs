//! `portcullis demo`: a whole small mesh in one process, and a story that shows what a waypoint for agents does.
//!
//! What is real: the waypoint (started by [`wire::serve`] from the flags of `run`, on a folder of manifests), mutual TLS and
//! HBONE on both sides of it, the MCP server (the official Rust SDK), certificates (of a throw-away CA). What stands in: the
//! ztunnels of the pods, and the API server, whose objects are files. Every verdict that is printed comes from the access
//! log or the metrics of the waypoint, never from what the demo expects.
//!
//! Errors are `anyhow` here: each ends as one printed sentence, and nobody matches on them.

mod addresses;
mod agent;
mod authority;
mod folder;
mod github;
mod journal;
mod keep;
mod ledger;
mod mcp;
mod play;
mod report;
mod running;
mod scenes;
mod stage;
mod stream;
mod ztunnel;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cli::{Cli, Command, DemoArgs, RunArgs};
use crate::config;
use crate::logging::{LogControl, LogForm};
use crate::runtime;
use crate::shutdown::{self, Cut, Stop};
use crate::wire::{self, Hooks, StartError};

use journal::Journal;
use play::Play;
use report::Report;
use running::Starting;
use stage::Stage;

/// Runs the demo; success only if every expectation held.
///
/// # Errors
/// If the world around the waypoint, or the waypoint itself, cannot be started.
pub fn command(args: DemoArgs) -> Result<ExitCode> {
    // Threads of their own for the agents and servers, so that the waypoint has the runtimes that it has in `run`.
    let actors = runtime::workers(None)?;
    let stage = Arc::new(actors.block_on(Stage::set())?);
    let (mut report, cut) = with_waypoint(&actors, &stage, &args)?;
    let Cut { connections, streams } = cut;
    report.expect(
        (connections, streams) == (0, 0),
        &format!("drained and stopped: {connections} connections and {streams} streams cut"),
    );
    report.summary();
    actors.shutdown_background();
    Ok(if report.all_held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Starts the waypoint as `run` does, plays, and stops it.
fn with_waypoint(actors: &Runtime, stage: &Arc<Stage>, args: &DemoArgs) -> Result<(Report, Cut)> {
    let run = run_args(&stage.run_flags())?;
    let launch = config::launch(&run)?;
    let log = log_control(&run)?;
    let workers = runtime::workers(None)?;
    let control = runtime::control()?;
    let journal = Journal::default();
    let (ask, stops) = shutdown::stops();
    let (starting, events) = Starting::listen();
    let hooks = Hooks { log_sink: journal.sink(), events, log, ask: ask.clone(), stops };
    let performed = actors.spawn(perform(Arc::clone(stage), starting, journal, args.clone()));
    let playing = actors.spawn(async move {
        // However the play ends, the waypoint is stopped.
        let performed = performed.await;
        stop(&ask).await;
        performed
    });
    let served: Result<Cut, StartError> = control.block_on(wire::serve(launch, hooks, workers.handle()));
    workers.shutdown_background();
    // A waypoint that did not start is the cause of whatever the play would say.
    let cut = served?;
    Ok((actors.block_on(playing)???, cut))
}

/// Drains without the wait for load balancers that nobody has here: the first order begins, the second skips ahead.
async fn stop(ask: &mpsc::Sender<Stop>) {
    for _ in 0..2 {
        // It has ended already if nobody takes the order.
        let _ = ask.send(Stop).await;
    }
}

/// The flags of `run`, read as the command line is.
fn run_args(flags: &[String]) -> Result<RunArgs> {
    let words = std::iter::once("portcullis").chain(flags.iter().map(String::as_str));
    match Cli::try_parse_from(words)?.command {
        Command::Run(args) => Ok(*args),
        _ => anyhow::bail!("the demo starts its waypoint by the flags of run"),
    }
}

/// Nothing is logged between the demo's lines, unless it is asked for.
fn log_control(run: &RunArgs) -> Result<LogControl> {
    if std::env::var_os("PORTCULLIS_LOG").is_none() {
        return Ok(LogControl::foreign());
    }
    Ok(LogControl::start(&run.log, LogForm::Text)?)
}

/// Waits for the waypoint and plays all scenes.
async fn perform(stage: Arc<Stage>, starting: Starting, journal: Journal, args: DemoArgs) -> Result<Report> {
    let began = Instant::now();
    let running = starting.ready().await?;
    let cast = stage.cast(running.hbone)?;
    let mut play = Play { stage, cast, running, journal, report: Report::to_stdout() };
    introduce(&play, began);
    // Dropping the scenes is fine: their connections end with them.
    let interrupted = tokio::select! {
        () = scenes::play(&mut play, args.requests) => None,
        name = interrupt() => Some(name?),
    };
    match interrupted {
        Some(name) => play.report.expect(false, &format!("played to the end; {name} came before")),
        None if args.keep => keep::keep(&play, interrupt()).await?,
        None => {}
    }
    Ok(play.report)
}

fn introduce(play: &Play, began: Instant) {
    let Play { report, running, stage, .. } = play;
    report.plain(
        "Portcullis demo: agents, an MCP server and a TCP server in one mesh, and the waypoint before them.",
    );
    report.note("agent ─ ztunnel ══ HBONE, mTLS ══▶ portcullis ══ HBONE, mTLS ══▶ ztunnel ─ server");
    report.note(&format!(
        "waypoint {} ready after {} ms, manifests {}",
        running.hbone,
        began.elapsed().as_millis(),
        stage.folder.manifests().display()
    ));
}

/// The name of the signal that says stop.
async fn interrupt() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

#[cfg(test)]
mod tests {
    use istio_integration::feeds::file::load;

    use super::*;
    use crate::mesh::Mesh;

    #[tokio::test]
    async fn the_waypoint_is_started_by_flags_that_anybody_could_type() {
        let stage = Stage::set().await.unwrap();
        let launch = config::launch(&run_args(&stage.run_flags()).unwrap()).unwrap();
        let Mesh::Manifests(source) = launch.mesh else { panic!("manifests") };
        assert_eq!(source.folder, stage.folder.manifests());
        assert!(launch.addresses.hbone.ip().is_loopback());
        assert!(run_args(&["demo".to_owned()]).is_err());
    }

    #[tokio::test]
    async fn the_manifests_are_read_without_a_remark() {
        let stage = Stage::set().await.unwrap();
        let launch = config::launch(&run_args(&stage.run_flags()).unwrap()).unwrap();
        let Mesh::Manifests(mesh) = launch.mesh else { panic!("manifests") };
        let loaded = load(&mesh.folder, &mesh.options).unwrap();
        assert!(loaded.findings.is_empty(), "{:#?}", loaded.findings);
        assert_eq!(loaded.mesh.policies.len(), 6);
    }
}
