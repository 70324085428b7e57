//! The same `tools/list`, asked of the server itself and by two identities through the waypoint.

use anyhow::Result;

use crate::demo::agent::Agent;
use crate::demo::mcp::Ask;
use crate::demo::play::Play;
use crate::demo::stage::Cast;

/// What the policies let them call, in any way.
const CODER: [&str; 3] = ["create_issue", "get_issue", "search_issues"];
const INTERN: [&str; 1] = ["search_issues"];

pub(super) async fn play(play: &mut Play) -> Result<()> {
    let mut server = play.direct().await?.ask(&Ask::tools()).await?.tools();
    server.sort();
    let (coder, coder_hidden) = listed(play, |cast| &cast.coder).await?;
    let (intern, intern_hidden) = listed(play, |cast| &cast.intern).await?;

    play.report.head(&["", "on the server", "coder is shown", "intern is shown"]);
    for tool in &server {
        let shown = |list: &[String]| if list.contains(tool) { tool.clone() } else { "·".to_owned() };
        play.report.plain(&format!("                {tool:32} {:28} {}", shown(&coder), shown(&intern)));
    }
    let hidden = |shown: &[String]| Some(server.len().saturating_sub(shown.len()));
    let text = format!(
        "coder sees {} of {} tools, and the log says how many were left out",
        coder.len(),
        server.len()
    );
    play.report.expect(coder == CODER && coder_hidden == hidden(&coder), &text);
    let text = format!("intern sees {} of {}", intern.len(), server.len());
    play.report.expect(intern == INTERN && intern_hidden == hidden(&intern), &text);
    Ok(())
}

async fn listed(play: &Play, who: impl Fn(&Cast) -> &Agent) -> Result<(Vec<String>, Option<usize>)> {
    let answer = play.client(who).await?.ask(&Ask::tools()).await?;
    let line = play.journal.request(&answer.request_id).await?;
    let mut tools = answer.tools();
    tools.sort();
    Ok((tools, line.list_hidden))
}
