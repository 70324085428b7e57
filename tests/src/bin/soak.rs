//! `soak --minutes N [--report FILE]`: mixed traffic through the shipped binary while everything changes; `cargo xtask soak`.

use anyhow::{Context, Result};
use clap::Parser;
use portcullis_tests::soak;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Traffic for a while, and a verdict.
#[derive(Parser)]
#[command(name = "soak")]
struct Arguments {
    /// How long.
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Where the report is written, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Arguments { minutes, report: file } = Arguments::parse();
    let report = soak::run(Duration::from_secs(minutes * 60)).await?;
    if let Some(file) = file {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    println!("{}", report.shown());
    for fault in &report.faults {
        println!("FAULT: {fault}");
    }
    Ok(if report.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
