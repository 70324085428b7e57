//! The project's own commands: `cargo xtask test` is what CI runs and what a developer runs.
//!
//! `test` goes through named steps in order, shows each runner's own output, and ends with a line that counts the
//! steps. Whatever a step needs and can be installed, the step `setup` installs.

mod arrows;
mod bench;
mod cargo;
mod deny;
mod fuzz;
mod image;
mod istio;
mod istio_table;
mod paths;
mod schema;
mod setup;
mod shell;
mod soak;
mod steps;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use paths::Paths;
use std::path::PathBuf;
use std::time::Duration;

/// Commands of the project.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs all checks and tests, or some of them by name.
    Test {
        /// Only this step; may be given several times.
        #[arg(long, value_name = "STEP")]
        only: Vec<String>,
        /// All steps but this one; may be given several times.
        #[arg(long, value_name = "STEP")]
        without: Vec<String>,
        /// How long each fuzz target runs.
        #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
        fuzz_seconds: u64,
        /// Only tells the names of the steps.
        #[arg(long)]
        list: bool,
    },
    /// Installs what the tests need besides Rust: Python environments, Node packages, tools, a control plane.
    Setup {
        /// Leaves this out; only the programs of a control plane, which take minutes to build, can be.
        #[arg(long, value_name = "PART", value_parser = ["istio"])]
        without: Option<String>,
    },
    /// Lays out, builds and tries the container image of the release binary.
    Image,
    /// Measures what the waypoint costs beside a real Envoy and nginx; `bench --help` tells more.
    #[command(disable_help_flag = true)]
    Bench {
        /// What the benchmark is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Checks which crate knows which.
    Arrows,
    /// Runs the fuzz targets, or one of them.
    Fuzz {
        /// The target.
        target: Option<String>,
        /// How long each target runs.
        #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// Sends mixed traffic through the release binary while configuration, certificates and endpoints change.
    Soak {
        /// How long.
        #[arg(long, default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
        minutes: u64,
        /// Where the report is written, as JSON; `soak.json` in the target folder without it.
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
    },
    /// Compares the table of what istiod sends with the one in `docs/istio.md`.
    IstioTable {
        /// Writes the one in the document anew instead.
        #[arg(long)]
        write: bool,
    },
    /// Compares the JSON Schema of the settings file with the committed one.
    Schema {
        /// Writes the committed one anew instead.
        #[arg(long)]
        write: bool,
    },
}

fn main() -> Result<()> {
    let paths = Paths::find()?;
    match Arguments::parse().command {
        Command::Test { only, without, fuzz_seconds, list } => {
            let steps = steps::all(Duration::from_secs(fuzz_seconds));
            if list {
                steps.iter().for_each(|step| println!("{:12} {}", step.name, step.about));
                return Ok(());
            }
            let failed = steps::run(&paths, &steps::select(steps, &only, &without)?);
            ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
            Ok(())
        }
        Command::Setup { without } => {
            setup::all(&paths)?;
            match without {
                Some(part) => println!("istio-build skipped: asked for by `--without {part}`"),
                None => istio::build(&paths)?,
            }
            Ok(())
        }
        Command::Image => image::build(&paths),
        Command::Bench { args } => bench::run(&paths, &args),
        Command::Arrows => arrows::check(&paths),
        Command::Fuzz { target, seconds } => {
            fuzz::run(&paths, target.as_deref(), fuzz::Inputs::New, Duration::from_secs(seconds))
        }
        Command::Soak { minutes, report } => {
            soak::run(&paths, minutes, &report.unwrap_or_else(|| paths.target.join("soak.json")))
        }
        Command::IstioTable { write } => istio_table::check(&paths, write),
        Command::Schema { write } => schema::check(&paths, write),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzzing_for_no_time_is_refused() {
        let rows: [(&[&str], bool); 4] = [
            (&["test", "--fuzz-seconds", "0"], false),
            (&["test", "--fuzz-seconds", "1"], true),
            (&["fuzz", "--seconds", "0"], false),
            (&["fuzz", "--seconds", "1"], true),
        ];
        for (line, taken) in rows {
            let parsed = Arguments::try_parse_from(["xtask"].iter().chain(line));
            assert_eq!(parsed.is_ok(), taken, "{line:?}");
        }
    }
}
