//! Building what is measured and what measures it.

use crate::cargo::cargo;
use crate::paths::Paths;
use crate::setup;
use crate::shell::Shell;
use anyhow::Result;

/// Builds our binary and the benchmark, installs its peers, and runs it with these arguments.
pub(crate) fn run(paths: &Paths, args: &[String]) -> Result<()> {
    let only_tells = args.iter().any(|arg| ["--help", "-h", "--list"].contains(&arg.as_str()));
    let packages: &[&str] =
        if only_tells { &["portcullis-bench"] } else { &["portcullis-bench", "waypoint"] };
    let build = cargo(paths, &["build", "--release", "--locked"]);
    packages.iter().fold(build, |build, package| build.arg("--package").arg(package)).run()?;
    if !only_tells {
        setup::peers(paths)?;
    }
    let bench = Shell::new(&paths.root, paths.target.join("release/bench"), &[]);
    args.iter().fold(bench, Shell::arg).run()
}

/// Some cases, carried too shortly for figures: the benchmark works, and every contestant does what it is measured for.
pub(crate) fn smoke(paths: &Paths) -> Result<()> {
    let cases = ["get-1k", "call-1k-text", "opaque-1", "idle-stream-1k"];
    let figures = paths.target.join("bench-smoke.json").display().to_string();
    let mut args = vec!["--quick", "--json", &figures];
    args.extend(cases.iter().flat_map(|case| ["--case", case]));
    run(paths, &args.into_iter().map(str::to_owned).collect::<Vec<_>>())
}
