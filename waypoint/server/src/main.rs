//! The binary: reads the command line, does what it says, and turns the outcome into an exit code.

use std::process::ExitCode;

use clap::Parser;
use waypoint::cli::{Cli, Command};
use waypoint::{check, demo, matrix, proxy, run, settings, tunnel};

/// Faster than glibc's, and gives back what a burst took (docs/performance.md); its settings are in `.cargo/config.toml`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What a command that could not start or go on exits with; `check` and clap use the same for bad input.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(args) => demo::command(args).map_err(|error| anyhow::anyhow!("{error:#}")),
        Command::Run(args) => run::command(*args).map_err(anyhow::Error::from),
        Command::Check(args) => check::command(&args).map_err(anyhow::Error::from),
        Command::Matrix(args) => matrix::command(&args).map_err(anyhow::Error::from),
        Command::Tunnel(args) => tunnel::command(args).map_err(anyhow::Error::from),
        Command::Proxy(args) => proxy::command(&args).map_err(anyhow::Error::from),
        Command::Schema => settings::print_schema().map_err(anyhow::Error::from),
    };
    outcome.unwrap_or_else(|error| {
        // Our own errors say their causes themselves.
        eprintln!("error: {error}");
        ExitCode::from(FAILED)
    })
}
