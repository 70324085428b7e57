//! What the waypoint costs beside real peers: `cargo xtask bench` builds and runs this program.
//!
//! ```text
//!   core 1: load ──HBONE──►  core 0: portcullis | Envoy  ──HBONE──►  core 1: backend
//!                └─plain──►  core 0: nginx               ──plain──►
//!                └─HBONE───────────────  (direct)  ───────────────►
//! ```
//!
//! Load and backend are this process, on one thread. It is built from the same stand-ins of ztunnel as the black-box tests.

mod arguments;
mod backend;
mod cases;
mod contestant;
mod figures;
mod load;
mod machine;
mod mcp;
mod profile;
mod program;
mod report;
mod run;
mod world;

use anyhow::{Context as _, Result, bail, ensure};
use arguments::{Arguments, Peer};
use cases::Case;
use clap::Parser as _;
use machine::{Cores, First};
use report::{About, Report};
use run::Effort;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use world::{Programs, World};

/// Seconds of a round that only shows that everything works.
const QUICK: Duration = Duration::from_millis(100);

/// How much longer a round takes whose tails count.
const OPEN: u32 = 4;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cases = select(cases::all()?, &arguments.case)?;
    if arguments.list {
        cases.iter().for_each(|case| println!("{:18} {}", case.name, case.about));
        return Ok(());
    }
    let &[proxy, load] = arguments.cores.as_slice() else { bail!("--cores takes two: PROXY,LOAD") };
    ensure!(proxy != load, "the proxy and the load on one core would measure each other");
    // The earlier run is read first: a wrong name must not show after half an hour.
    let earlier = arguments.compare.as_deref().map(Report::read).transpose()?;
    let programs = programs(&arguments)?;
    let cores = Cores { proxy, load };
    cores.take()?;
    let _first = arguments.first.then(First::come).transpose()?;
    let about = about(&arguments, &programs);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cases = runtime.block_on(carry(World::new(cores, programs), &cases, &arguments))?;
    let mut report = Report { about, cases, goals: Vec::new() };
    report.goals = report::judge(&report);
    let json = arguments.json.clone().map_or_else(|| Ok(target()?.join("bench.json")), anyhow::Ok)?;
    report.write(&json)?;
    println!("\nfigures are in {}", json.display());
    if let Some(earlier) = earlier {
        report::compare(&earlier, &report);
    }
    Ok(())
}

async fn carry(
    world: impl Future<Output = Result<World>>,
    cases: &[Case],
    arguments: &Arguments,
) -> Result<Vec<report::CaseReport>> {
    let world = world.await?;
    let started = Instant::now();
    let mut reports = Vec::with_capacity(cases.len());
    for (number, case) in (1..).zip(cases) {
        eprintln!(
            "{} ({number} of {}, {:.0} s so far)",
            case.name,
            cases.len(),
            started.elapsed().as_secs_f64()
        );
        let carried = Box::pin(run::case(&world, case, effort(arguments))).await?;
        report::print(&carried);
        reports.push(carried);
        if let Some(folder) = &arguments.profile {
            Box::pin(profile::case(&world, case, effort(arguments), folder)).await?;
        }
    }
    Ok(reports)
}

fn effort(arguments: &Arguments) -> Effort {
    if arguments.quick {
        return Effort { rounds: 1, time: QUICK, open_time: QUICK };
    }
    let time = Duration::from_secs_f64(arguments.seconds.max(0.01));
    Effort { rounds: arguments.rounds.into(), time, open_time: time * OPEN }
}

/// The cases whose names begin with one of `filters`.
fn select(cases: Vec<Case>, filters: &[String]) -> Result<Vec<Case>> {
    if let Some(unknown) =
        filters.iter().find(|filter| !cases.iter().any(|case| case.name.starts_with(*filter)))
    {
        bail!("no case begins with {unknown}; --list names them");
    }
    let wanted =
        |case: &Case| filters.is_empty() || filters.iter().any(|filter| case.name.starts_with(filter));
    Ok(cases.into_iter().filter(wanted).collect())
}

/// The target folder that this program was built into.
fn target() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.ancestors().nth(2).context("a program lies in target/<profile>")?.to_owned())
}

fn programs(arguments: &Arguments) -> Result<Programs> {
    let target = target()?;
    let portcullis = arguments.portcullis.clone().unwrap_or_else(|| target.join("release/portcullis"));
    ensure!(portcullis.exists(), "{} is missing: cargo build --release -p waypoint", portcullis.display());
    let neighbours = target.join("neighbours");
    let find = |peer: Peer, found: Option<PathBuf>| {
        let asked = arguments.peers.contains(&peer);
        if asked && found.is_none() {
            eprintln!("{peer:?} is missing and will not be measured: `cargo xtask setup` installs it");
        }
        found.filter(|_| asked)
    };
    Ok(Programs {
        portcullis,
        before: arguments.before.clone(),
        envoy: find(Peer::Envoy, portcullis_tests::neighbours::envoy_in(&neighbours).ok()),
        nginx: find(Peer::Nginx, Some(PathBuf::from("/usr/sbin/nginx")).filter(|path| path.exists())),
    })
}

fn about(arguments: &Arguments, programs: &Programs) -> About {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let envoy = programs.envoy.as_ref().map(|path| told(path, "--version"));
    let nginx = programs.nginx.as_ref().map(|path| told(path, "-v"));
    About {
        commit: told(Path::new("git"), "describe --always --dirty"),
        machine: machine::description(),
        peers: envoy.into_iter().chain(nginx).collect(),
        rounds: effort(arguments).rounds,
        quick: arguments.quick,
        first: arguments.first,
        when: since.as_secs(),
    }
}

/// What a program says of itself, on one line.
fn told(program: &Path, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split(' ')).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let text = text.trim().rsplit_once("version: ").map_or(text.trim(), |(_, version)| version);
    text.lines().next().unwrap_or_default().to_owned()
}
