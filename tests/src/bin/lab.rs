//! `lab run [--state DIR] -- COMMAND…` runs a command beside a real istiod; see `tests/istio/README.md`.

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use portcullis_tests::istio::{enclosure, waypoint};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// A control plane of its own for a command.
#[derive(Parser)]
#[command(name = "lab")]
struct Arguments {
    #[command(subcommand)]
    call: Call,
}

#[derive(Subcommand)]
enum Call {
    /// Starts etcd, kube-apiserver and istiod, runs a command beside them (`bash`, a test), and stops everything.
    Run {
        /// The folder for logs and state, emptied first and kept; without it a temporary one.
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Becomes a container of the lab.
    #[command(hide = true)]
    Contain {
        /// What the container is.
        plan: PathBuf,
    },
    /// Stands in for a waypoint, and tells what its container is like.
    #[command(hide = true)]
    Report {
        /// As a waypoint gets them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// What `run` starts in new namespaces.
    #[command(hide = true)]
    Inside {
        /// The lab's folder.
        folder: PathBuf,
        /// The command.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match call(Arguments::parse().call).await {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn call(call: Call) -> Result<i32> {
    match call {
        Call::Run { state, command } => run(state, command).await,
        Call::Contain { plan } => match waypoint::contain(&plan)? {},
        Call::Report { .. } => match waypoint::report()? {},
        Call::Inside { folder, command } => enclosure::inside(&folder, &command).await,
    }
}

async fn run(state: Option<PathBuf>, command: Vec<OsString>) -> Result<i32> {
    let temporary = tempfile::Builder::new().prefix("portcullis-lab").tempdir()?;
    let folder = match state {
        Some(folder) => emptied(folder)?,
        None => temporary.path().to_owned(),
    };
    let mut inside: Vec<OsString> = vec!["inside".into(), folder.into(), "--".into()];
    inside.extend(command);
    Ok(enclosure::code(enclosure::run_in(inside).await?))
}

/// Only a folder that a lab made, or an empty one, is emptied.
fn emptied(folder: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mark = folder.join(".lab");
    let has_files = std::fs::read_dir(&folder)?.next().is_some();
    anyhow::ensure!(!has_files || mark.exists(), "{} holds files that are no lab's", folder.display());
    std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    std::fs::create_dir_all(&folder)?;
    std::fs::write(&mark, "")?;
    Ok(folder)
}
