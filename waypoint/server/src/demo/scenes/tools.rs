//! Tools, one argument, a prompt, resources; and an identity that gets nothing.

use anyhow::Result;
use serde_json::json;

use crate::demo::mcp::Ask;
use crate::demo::play::{Play, Wanted};

pub(super) async fn play(play: &mut Play) -> Result<()> {
    play.headlines();
    let search = Ask::call("search_issues", json!({"query": "login"}));
    let read = Ask::call("get_issue", json!({"owner": "acme", "repo": "web", "number": 7}));
    let open = |owner: &str| {
        Ask::call("create_issue", json!({"owner": owner, "repo": "web", "title": "logout fails"}))
    };
    let handbook = Ask::resource("docs://handbook/style");
    let payroll = Ask::resource("docs://payroll/2026");
    let review = Ask::prompt("review_change", json!({"number": "9"}));

    let mut researcher = play.client(|cast| &cast.researcher).await?;
    let mut coder = play.client(|cast| &cast.coder).await?;
    let mut intern = play.client(|cast| &cast.intern).await?;
    let mut auditor = play.client(|cast| &cast.auditor).await?;
    let mut scraper = play.client(|cast| &cast.scraper).await?;

    play.step(|c| &c.researcher, &mut researcher, &search, Wanted::allowed_by("readers rule 0")).await?;
    play.step(|c| &c.researcher, &mut researcher, &open("acme"), Wanted::hidden()).await?;
    play.step(|c| &c.intern, &mut intern, &search, Wanted::allowed_by("interns rule 0")).await?;
    play.step(|c| &c.intern, &mut intern, &read, Wanted::hidden()).await?;
    play.step(|c| &c.coder, &mut coder, &open("acme"), Wanted::allowed_by("writers rule 0")).await?;

    let uses = play.stage.forge.uses();
    play.step(|c| &c.coder, &mut coder, &open("evilcorp"), Wanted::hidden()).await?;
    play.report.expect(
        play.stage.forge.uses() == uses,
        "one argument was wrong, and the server has not seen the call",
    );

    play.step(|c| &c.coder, &mut coder, &review, Wanted::allowed_by("writers rule 1")).await?;
    play.step(|c| &c.researcher, &mut researcher, &review, Wanted::hidden()).await?;
    play.step(|c| &c.researcher, &mut researcher, &handbook, Wanted::allowed_by("readers rule 1")).await?;
    play.step(|c| &c.researcher, &mut researcher, &payroll, Wanted::hidden()).await?;
    let allowed = Wanted::allowed_by("auditors rule 0");
    let (answer, _) = play.step(|c| &c.auditor, &mut auditor, &payroll, allowed).await?;
    play.report.expect(
        answer.form == "JSON",
        "these calls needed no session (revision 2026-07-28), and got plain JSON",
    );
    play.step(|c| &c.scraper, &mut scraper, &search, Wanted::denied_by("quarantine rule 0")).await?;
    Ok(())
}
