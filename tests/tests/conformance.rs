//! The official MCP conformance suite gives the same result through the waypoint as without it.
//!
//! The suite's own summary lines are printed for both ways. What is compared is the status of every single check.

#![cfg(test)]

use anyhow::{Context, Result, ensure};
use portcullis_tests::neighbours::{Runtime, tell};
use portcullis_tests::portcullis::Run;
use portcullis_tests::stand::{Direct, Stand};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use tokio::net::TcpListener;

/// One way to run the suite.
struct Suite {
    name: &'static str,
    script: &'static str,
    args: &'static [&'static str],
    /// Scored checks that pass when nothing stands between; a smaller number means that the fixture has rotted.
    passed: usize,
}

const REVISION_2025_11_25: Suite = Suite {
    name: "conformance 0.2.0-alpha.12, 2025-11-25",
    script: "node_modules/conformance-next/dist/index.js",
    args: &["--requirements", "2025-11-25"],
    passed: 84,
};
const REVISION_2026_07_28: Suite = Suite {
    name: "conformance 0.2.0-alpha.12, 2026-07-28",
    script: "node_modules/conformance-next/dist/index.js",
    args: &["--requirements", "2026-07-28"],
    passed: 164,
};
const RELEASED: Suite = Suite {
    name: "conformance 0.1.16, all",
    script: "node_modules/conformance-released/dist/index.js",
    args: &["--suite", "all"],
    passed: 44,
};

/// Rules that permit everything but need the body to say so.
const BY_BODY: &str = r#"
- when: [{key: "experimental.envoy.filters.http.mcp[method]", values: ["*"]}]
- when: [{key: "experimental.envoy.filters.http.mcp[kind]", values: [call, list, lifecycle, response]}]
"#;

/// A rule that permits this peer whatever the body says; the other keeps the port one that speaks MCP.
const BY_PEER: &str = r#"
- from: [{source: {serviceAccounts: [agents/suite]}}]
- from: [{source: {serviceAccounts: [agents/other]}}]
  when: [{key: "experimental.envoy.filters.http.mcp[tool]", values: [test_simple_text]}]
"#;

#[tokio::test]
async fn revision_2025_11_25_is_the_same_through_the_waypoint() -> Result<()> {
    compare(&REVISION_2025_11_25).await
}

#[tokio::test]
async fn revision_2026_07_28_is_the_same_through_the_waypoint() -> Result<()> {
    compare(&REVISION_2026_07_28).await
}

#[tokio::test]
async fn the_released_suite_is_the_same_through_the_waypoint() -> Result<()> {
    compare(&RELEASED).await
}

async fn compare(suite: &Suite) -> Result<()> {
    let direct = run_directly(suite).await?;
    for (policy, rules) in [("judged by body", BY_BODY), ("judged by peer", BY_PEER)] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        // The suite asks as a page of the server's own origin too, and wants to be let in.
        let origin = format!("http://localhost:{}", listener.local_addr()?.port());
        let flags = |run: Run| run.arg("--allow-origin", origin);
        let stand = Stand::start_with(Runtime::Conformance, "server.mjs", "http", rules, flags).await?;
        let port = stand.port_from(listener, "agents", "suite")?;
        let through = run(suite, &format!("through the waypoint, {policy}"), &port.url("/mcp")).await?;
        through.assert_same_as(&direct);
    }
    Ok(())
}

async fn run_directly(suite: &Suite) -> Result<Outcome> {
    let server = Direct::start(Runtime::Conformance, "server.mjs").await?;
    let direct = run(suite, "directly", &server.port.url("/mcp")).await?;
    ensure!(direct.exit == 0, "the fixture alone does not conform");
    assert_eq!(direct.passed(), suite.passed, "checks that pass without a waypoint");
    Ok(direct)
}

/// What a run of the suite found: statuses of the checks by scenario, in order.
#[derive(Debug)]
struct Outcome {
    exit: i32,
    checks: BTreeMap<String, Vec<String>>,
}

async fn run(suite: &Suite, way: &str, url: &str) -> Result<Outcome> {
    let folder = tempfile::Builder::new().prefix("conformance").tempdir()?;
    let output = folder.path().to_str().context("a path in UTF-8")?;
    let args = [&["server", "--url", url, "-o", output], suite.args].concat();
    let (process, exit) = Runtime::Conformance.run(suite.script, &args).await?;
    let summary =
        process.stdout.all().into_iter().filter(|line| line.starts_with("Total:")).collect::<String>();
    tell(&format!("{}, {way}: {summary}, exit {exit}", suite.name));
    Ok(Outcome { exit, checks: read_checks(folder.path())? })
}

/// How long the time at the end of a folder's name is.
const TIME: &str = "-0000-00-00T00-00-00-000Z";

/// One folder per scenario, called `server-<scenario>-<time>`, each with a file of checks.
fn read_checks(folder: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut scenarios = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name in UTF-8")?;
        let scenario =
            name.len().checked_sub(TIME.len()).and_then(|end| name.get(..end)).context("a time")?;
        // A scenario that broke down leaves no file of checks; that is a result too.
        let checks = std::fs::read(path.join("checks.json")).unwrap_or_else(|_| b"[]".to_vec());
        let checks: Vec<Value> = serde_json::from_slice(&checks)?;
        let lines = checks.iter().map(|check| format!("{} {}", check["id"], check["status"])).collect();
        ensure!(scenarios.insert(scenario.to_owned(), lines).is_none(), "{name} ran twice");
    }
    Ok(scenarios)
}

impl Outcome {
    fn passed(&self) -> usize {
        self.checks.values().flatten().filter(|line| line.ends_with("\"SUCCESS\"")).count()
    }

    /// # Panics
    /// When a check differs, with the differences.
    fn assert_same_as(&self, direct: &Self) {
        let names: std::collections::BTreeSet<_> = self.checks.keys().chain(direct.checks.keys()).collect();
        let differences: Vec<_> = names
            .into_iter()
            .filter(|name| self.checks.get(*name) != direct.checks.get(*name))
            .map(|name| (name, direct.checks.get(name), self.checks.get(name)))
            .collect();
        assert!(differences.is_empty(), "scenario, checks directly, checks through: {differences:#?}");
        assert_eq!(self.exit, direct.exit, "exit code of the suite");
    }
}
