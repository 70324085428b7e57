//! A session id is no ticket: only who opened the session may use it, and it stays with its pod.

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::demo::mcp::Ask;
use crate::demo::play::{Play, Wanted};

/// Calls that must all reach the pod that knows the session, and no other.
const CALLS: usize = 5;

pub(super) async fn play(play: &mut Play) -> Result<()> {
    let read = Ask::call("get_issue", json!({"owner": "acme", "repo": "web", "number": 12}));
    let search = Ask::call("search_issues", json!({"query": "login"}));

    let mut coder = play.client(|cast| &cast.coder).await?;
    let opened = coder.initialize().await?;
    let id = coder.session().context("no session was opened")?.to_owned();
    let gist = format!("session {}…", id.get(..8).unwrap_or(&id));
    let line = play.row(|c| &c.coder, "initialize", &gist, &opened, Wanted::allowed()).await?;

    let mut thief = play.client(|cast| &cast.intern).await?.with_session(&id);
    play.step(|c| &c.intern, &mut thief, &search, Wanted::no_session()).await?;
    let (answer, _) =
        play.step(|c| &c.coder, &mut coder, &read, Wanted::allowed_by("readers rule 0")).await?;
    play.report.expect(
        answer.form == "event stream",
        "the owner goes on; with a session (revision 2025-11-25) answers come as event streams",
    );

    let mut pods = vec![line.destination_workload];
    for _ in 0..CALLS {
        let answer = coder.ask(&search).await?;
        pods.push(play.journal.request(&answer.request_id).await?.destination_workload);
    }
    pods.dedup();
    let pod = pods.first().cloned().flatten().unwrap_or_default();
    let text = format!("{CALLS} more calls of the session all went to {pod}, one of two pods");
    play.report.expect(pods.len() == 1 && !pod.is_empty(), &text);
    Ok(())
}
