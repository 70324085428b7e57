//! Manifests are edited while agents are connected: the next call on an open connection and the streams that are open are
//! judged by what the files say now.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::demo::mcp::Ask;
use crate::demo::play::{Play, Wanted};
use crate::demo::stream::Entries;

/// A stream that is no longer allowed is closed within this.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

pub(super) async fn play(play: &mut Play) -> Result<()> {
    calls(play).await?;
    mistakes(play).await?;
    streams(play).await
}

/// An intern is promoted.
async fn calls(play: &mut Play) -> Result<()> {
    let read = Ask::call("get_issue", json!({"owner": "acme", "repo": "web", "number": 7}));
    let mut intern = play.client(|cast| &cast.intern).await?;
    play.step(|c| &c.intern, &mut intern, &read, Wanted::hidden()).await?;
    edit(play, "github-policies.yaml", r#"["search_issues"]"#, r#"["search_issues", "get_issue"]"#).await?;
    play.step(|c| &c.intern, &mut intern, &read, Wanted::allowed_by("interns rule 0")).await?;
    Ok(())
}

/// Somebody saves a policy that is none.
async fn mistakes(play: &mut Play) -> Result<()> {
    let search = Ask::call("search_issues", json!({"query": "login"}));
    let mut intern = play.client(|cast| &cast.intern).await?;
    let file = "github-policies.yaml";
    let folder = &play.stage.folder;
    folder.edit(file, "  action: DENY", "  action: DENIED")?;
    let scrape = play.running.until(|scrape| scrape.sum("portcullis_config_errors", &[]) > 0.0).await?;
    let errors = scrape.sum("portcullis_config_errors", &[]);
    play.report.note("edited github-policies.yaml: action: DENIED, which is no action");
    let mut scraper = play.client(|cast| &cast.scraper).await?;
    play.step(|c| &c.scraper, &mut scraper, &search, Wanted::denied_by("quarantine rule 0")).await?;
    play.step(|c| &c.intern, &mut intern, &search, Wanted::allowed_by("interns rule 0")).await?;
    play.report.expect(
        errors > 0.0,
        &format!("portcullis_config_errors is {errors}; the last good policy stays in force"),
    );
    play.stage.folder.edit(file, "  action: DENIED", "  action: DENY")?;
    let scrape = play.running.until(|scrape| scrape.sum("portcullis_config_errors", &[]) < 1.0).await?;
    play.report.expect(scrape.sum("portcullis_config_errors", &[]) < 1.0, "mended, and 0 again");
    Ok(())
}

/// A coder loses the ledger, the auditor keeps it.
async fn streams(play: &mut Play) -> Result<()> {
    let ledger = play.stage.ledger.clone();
    let mut lost = Entries::open(&play.cast.coder, &ledger).await?;
    let mut kept = Entries::open(&play.cast.auditor, &ledger).await?;
    lost.add("still mine").await?;
    let edited = edit(play, "ledger-policy.yaml", "[ops/auditor, agents/coder]", "[ops/auditor]");
    let (edited, closed) = tokio::join!(edited, lost.closed());
    let took = edited.and(closed)?;
    let line = play.journal.stream(play.cast.coder.id.as_str()).await?;
    let gist = format!("closed {} ms after the edit", took.as_millis());
    play.report.row(
        took < CLOSED_WITHIN && line.detail() == "closed_by_policy_change",
        &["coder", "its open stream to ledger:7000", &gist, "", line.detail()],
        "closed by the change of policy within a second",
    );
    let answer = kept.add("balance").await?;
    play.report.expect(answer == "#1 balance", "the auditor's open stream was not touched");
    kept.finish().await?;
    play.journal.stream(play.cast.auditor.id.as_str()).await?;
    Ok(())
}

/// Edits a manifest and waits until the waypoint works by it.
async fn edit(play: &Play, file: &str, from: &str, to: &str) -> Result<()> {
    let before = play.running.scrape().await?.sum("portcullis_config_generation", &[]);
    play.stage.folder.edit(file, from, to)?;
    let took = play.running.newer_than(before).await?;
    play.report.note(&format!("edited {file}: {from} → {to}; in force after {} ms", took.as_millis()));
    Ok(())
}
