//! The steps of `cargo xtask test`, their order and their count.

use crate::paths::Paths;
use crate::{arrows, bench, cargo, deny, fuzz, image, istio, schema, setup, soak};
use anyhow::{Result, bail, ensure};
use std::time::{Duration, Instant};

/// What became of a step that did not fail.
pub(crate) enum Done {
    /// It held.
    Passed,
    /// It could not be run here, for this reason.
    Skipped(String),
}

type Run = Box<dyn Fn(&Paths) -> Result<Done>>;

/// A named step.
pub(crate) struct Step {
    /// What `--only` and `--without` call it.
    pub name: &'static str,
    /// One line on what it shows.
    pub about: &'static str,
    run: Run,
}

impl Step {
    /// Whether `name` is its name or the part of it before a dash: what a build serves is left out with it.
    fn belongs_to(&self, name: &str) -> bool {
        self.name == name || self.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    }

    /// The same, that only tells why it is not run.
    fn skipped(self, reason: String) -> Self {
        Self { run: Box::new(move |_| Ok(Done::Skipped(reason.clone()))), ..self }
    }
}

/// All steps in order: cheap ones first, so that a small mistake shows early.
pub(crate) fn all(fuzz_time: Duration) -> Vec<Step> {
    vec![
        step("fmt", "formatting", cargo::fmt),
        step("arrows", "which crate knows which", arrows::check),
        step("setup", "Python environments, Node packages and tools", setup::all),
        step("clippy", "lints", cargo::clippy),
        step("doc", "documentation without warnings", cargo::doc),
        step("build", "the shipped binary", cargo::build),
        step("schema", "JSON Schema of the settings file", |paths| schema::check(paths, false)),
        step("test", "unit, property and wire tests", cargo::test),
        step(
            "soak",
            "two minutes of mixed traffic while everything changes: nothing grows, nothing fails",
            soak::step,
        ),
        step("bench", "the benchmark with its peers, for a moment", bench::smoke),
        step("image", "the container image, built and run without a daemon", image::build),
        step("deny", "licences, bans and sources of dependencies", deny::check),
        Step { name: "advisories", about: "known faults of dependencies", run: Box::new(deny::advisories) },
        step("istio-build", "etcd, kube-apiserver, istiod and their tools, from Go modules", istio::build),
        step("istio", "tests against a real istiod", istio::test),
        step("fuzz", "every fuzz target for a short while", move |paths| {
            fuzz::run(paths, None, fuzz::Inputs::Same, fuzz_time)
        }),
    ]
}

fn step(name: &'static str, about: &'static str, run: impl Fn(&Paths) -> Result<()> + 'static) -> Step {
    Step { name, about, run: Box::new(move |paths| run(paths).map(|()| Done::Passed)) }
}

/// Those steps that were asked for. What `without` names stays in the list and says that it is skipped; `istio` names
/// `istio-build` as well.
///
/// # Errors
/// When a name is none of a step, or no step is left: a misspelt name or nothing run must not look like a pass.
pub(crate) fn select(steps: Vec<Step>, only: &[String], without: &[String]) -> Result<Vec<Step>> {
    if let Some(unknown) =
        only.iter().chain(without).find(|name| !steps.iter().any(|step| step.name == **name))
    {
        bail!("no step is called {unknown}; `cargo xtask test --list` names them");
    }
    let wanted = |step: &Step| only.is_empty() || only.iter().any(|name| name == step.name);
    let left_out = |step: &Step| without.iter().find(|name| step.belongs_to(name)).cloned();
    let steps = steps.into_iter().filter(wanted).map(|step| (left_out(&step), step));
    let (names, selected): (Vec<_>, Vec<_>) = steps
        .map(|(name, step)| match &name {
            Some(by) => (name.clone(), step.skipped(format!("asked for by `--without {by}`"))),
            None => (name, step),
        })
        .unzip();
    ensure!(names.contains(&None), "no step is left: --without takes away all that --only names");
    Ok(selected)
}

/// Runs the steps, all of them whatever fails, and returns the names of those that failed.
pub(crate) fn run(paths: &Paths, steps: &[Step]) -> Vec<&'static str> {
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    let mut skipped = 0;
    for (index, step) in steps.iter().enumerate() {
        println!("\n=== {} ({} of {}): {}", step.name, index + 1, steps.len(), step.about);
        let started = Instant::now();
        let became = match (step.run)(paths) {
            Ok(Done::Passed) => "passed".to_owned(),
            Ok(Done::Skipped(reason)) => {
                skipped += 1;
                format!("skipped: {reason}")
            }
            Err(error) => {
                failed.push(step.name);
                format!("FAILED: {error:#}")
            }
        };
        let line = format!("{:12} {:6.1} s  {became}", step.name, started.elapsed().as_secs_f64());
        println!("=== {line}");
        lines.push(line);
    }
    println!("\n{}", lines.join("\n"));
    println!("{} passed, {} failed, {skipped} skipped", steps.len() - failed.len() - skipped, failed.len());
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str], without: &[&str]) -> Result<Vec<&'static str>> {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let steps =
            all(Duration::ZERO).into_iter().map(|step| Step { run: Box::new(|_| Ok(Done::Passed)), ..step });
        let steps = select(steps.collect(), &owned(only), &owned(without))?;
        let paths = Paths { root: ".".into(), target: ".".into() };
        let run = |step: &&Step| matches!((step.run)(&paths), Ok(Done::Passed));
        Ok(steps.iter().filter(run).map(|step| step.name).collect())
    }

    #[test]
    fn steps_are_selected_by_name() {
        assert_eq!(names(&["doc", "fmt"], &[]).unwrap(), ["fmt", "doc"]);
        assert!(!names(&[], &["fuzz"]).unwrap().contains(&"fuzz"));
        let left = names(&[], &["istio"]).unwrap();
        assert!(!left.contains(&"istio") && !left.contains(&"istio-build"), "{left:?}");
        assert!(names(&[], &["istio-build"]).unwrap().contains(&"istio"));
        assert!(names(&["tset"], &[]).is_err());
        assert!(names(&["doc"], &["doc"]).is_err(), "nothing to run is no pass");
    }

    #[test]
    fn a_failed_step_is_named_and_does_not_end_the_run() {
        let fails = step("fails", "", |_| bail!("it does"));
        let skips = Step { name: "skips", about: "", run: Box::new(|_| Ok(Done::Skipped("why not".into()))) };
        let paths = Paths { root: ".".into(), target: ".".into() };
        assert_eq!(run(&paths, &[fails, skips, step("holds", "", |_| Ok(()))]), ["fails"]);
    }
}
