//! Fuzzing on the pinned stable compiler: the crate `fuzz/` is built with coverage counters and run for a bounded time.

use crate::cargo::cargo;
use crate::paths::Paths;
use crate::shell::Shell;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the compiler must add so that libFuzzer sees which code was reached.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// An input that takes longer than this, in seconds, is a finding.
const SLOWEST_INPUT: &str = "-timeout=5";

/// Memory beyond which a run is a finding, in MiB.
const MOST_MEMORY: &str = "-rss_limit_mb=2048";

/// Which inputs are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// The same ones each time, from the seeds on: for CI, where a run must say what the run before it said.
    Same,
    /// New ones, and what earlier runs kept: to find things.
    New,
}

/// Builds the targets and runs all of them, or the one called `only`, each for `time`.
pub(crate) fn run(paths: &Paths, only: Option<&str>, inputs: Inputs, time: Duration) -> Result<()> {
    let targets = targets(paths)?;
    ensure!(
        only.is_none_or(|only| targets.iter().any(|name| name == only)),
        "no such target; there are {targets:?}"
    );
    let triple = host(paths)?;
    let manifest = paths.root.join("fuzz/Cargo.toml");
    let folder = paths.target.join("fuzz");
    // With a named target triple the flags reach neither build scripts nor macros, which have no fuzzer to link to.
    let build = cargo(paths, &["build", "--release", "--locked", "--target", &triple, "--manifest-path"]);
    build.arg(&manifest).env("RUSTFLAGS", COVERAGE).env("CARGO_TARGET_DIR", &folder).run()?;
    for name in targets.iter().filter(|name| only.is_none_or(|only| *name == only)) {
        let corpus = corpus(&folder, name, inputs)?;
        let limit = format!("-max_total_time={}", time.as_secs());
        let findings = format!("-artifact_prefix={}/{name}-", folder.display());
        let program = folder.join(&triple).join("release").join(name);
        let seed = match inputs {
            Inputs::Same => "-seed=1",
            Inputs::New => "-seed=0", // libFuzzer then takes one by itself.
        };
        let args =
            [SLOWEST_INPUT, MOST_MEMORY, &limit, &findings, seed, "-print_final_stats=1", "-verbosity=0"];
        let seeds = paths.root.join("fuzz/seeds").join(name);
        let mut fuzzer = Shell::new(&paths.root, program, &args).arg(&corpus);
        if seeds.is_dir() {
            fuzzer = fuzzer.arg(seeds);
        }
        fuzzer.run().with_context(|| format!("fuzz target {name}"))?;
    }
    Ok(())
}

/// Where inputs that reached something new are kept; for the same inputs again it must be empty.
fn corpus(folder: &Path, target: &str, inputs: Inputs) -> Result<PathBuf> {
    let corpus = match inputs {
        Inputs::Same => folder.join("same").join(target),
        Inputs::New => folder.join("corpus").join(target),
    };
    if inputs == Inputs::Same && corpus.exists() {
        std::fs::remove_dir_all(&corpus)?;
    }
    std::fs::create_dir_all(&corpus)?;
    Ok(corpus)
}

/// Names of the targets: the binaries of the fuzz crate.
fn targets(paths: &Paths) -> Result<Vec<String>> {
    let manifest = paths.root.join("fuzz/Cargo.toml");
    let metadata = cargo(paths, &["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]);
    let metadata: Value = serde_json::from_str(&metadata.arg(manifest).read()?)?;
    let targets =
        metadata.pointer("/packages/0/targets").and_then(Value::as_array).context("cargo lists targets")?;
    let names = targets.iter().filter_map(|target| target.get("name").and_then(Value::as_str));
    Ok(names.map(str::to_owned).collect())
}

/// The triple of this machine.
fn host(paths: &Paths) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Shell::new(&paths.root, rustc, &["-vV"]).read()?;
    let line = version.lines().find_map(|line| line.strip_prefix("host: "));
    line.map(str::to_owned).context("rustc tells its host")
}
