//! What the scenes share: the cast, the running waypoint, the report, and one way to take a step and judge it.

use std::sync::Arc;

use anyhow::Result;

use super::agent::{Agent, Connection};
use super::journal::{Journal, Line};
use super::mcp::{Answer, Ask, Client};
use super::report::Report;
use super::running::Running;
use super::stage::{Cast, Stage};

/// A demo under way.
pub(super) struct Play {
    /// The world around the waypoint.
    pub(super) stage: Arc<Stage>,
    /// Who calls.
    pub(super) cast: Cast,
    /// The waypoint.
    pub(super) running: Running,
    /// Its access log.
    pub(super) journal: Journal,
    /// What is printed.
    pub(super) report: Report,
}

/// What a step must come to, in its answer and in the waypoint's own account of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    answer: Wants,
    decision: &'static str,
    rule: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Wants {
    Result,
    Error(u16, i64),
    Status(u16),
}

impl Wanted {
    /// A result, because this rule allows it.
    pub(super) fn allowed_by(rule: &'static str) -> Self {
        Self { answer: Wants::Result, decision: "allow", rule: Some(rule) }
    }

    /// An error as if there were no such thing, which keeps sessions alive, because no rule allows it.
    pub(super) fn hidden() -> Self {
        Self { answer: Wants::Error(200, -32602), decision: "deny", rule: Some("no ALLOW rule") }
    }

    /// A bare 403, because this rule denies everything.
    pub(super) fn denied_by(rule: &'static str) -> Self {
        Self { answer: Wants::Status(403), decision: "deny", rule: Some(rule) }
    }

    /// As if the session did not exist: the status and code by which clients know that they must open a new one.
    pub(super) fn no_session() -> Self {
        Self { answer: Wants::Error(404, -32001), decision: "deny", rule: Some("session_not_found") }
    }

    /// A result; whichever rule made it possible.
    pub(super) fn allowed() -> Self {
        Self { answer: Wants::Result, decision: "allow", rule: None }
    }

    fn holds(self, agent: &Agent, answer: &Answer, line: &Line) -> bool {
        let status = answer.status.as_u16();
        let answered = match self.answer {
            Wants::Result => answer.is_result(),
            Wants::Error(wanted, code) => status == wanted && answer.error() == Some(code),
            Wants::Status(wanted) => status == wanted,
        };
        answered
            && line.source_principal == agent.id.as_str()
            && line.decision == self.decision
            && self.rule.is_none_or(|rule| rule == line.rule())
    }

    fn text(self) -> String {
        let Self { answer, decision, rule } = self;
        format!("{answer:?}, {decision} {}", rule.unwrap_or("by any rule"))
    }
}

impl Play {
    /// One request of an agent: sent, answered, looked up in the access log, judged and printed.
    pub(super) async fn step(
        &mut self,
        who: impl Fn(&Cast) -> &Agent,
        client: &mut Client,
        ask: &Ask,
        wanted: Wanted,
    ) -> Result<(Answer, Line)> {
        let answer = client.ask(ask).await?;
        let line = self.row(who, &ask.text(), &answer.gist(), &answer, wanted).await?;
        Ok((answer, line))
    }

    /// Judges and prints an answer, with what the access log says of it.
    pub(super) async fn row(
        &mut self,
        who: impl Fn(&Cast) -> &Agent,
        what: &str,
        gist: &str,
        answer: &Answer,
        wanted: Wanted,
    ) -> Result<Line> {
        let line = self.journal.request(&answer.request_id).await?;
        let agent = who(&self.cast);
        let held = wanted.holds(agent, answer, &line);
        let decision = if line.decision == "not_decided" { "-" } else { &line.decision };
        self.report.row(held, &[agent.name, what, gist, decision, &line.rule()], &wanted.text());
        Ok(line)
    }

    /// A client of `who` on a connection of its own to the MCP server.
    pub(super) async fn client(&self, who: impl Fn(&Cast) -> &Agent) -> Result<Client> {
        let github = &self.stage.github;
        Ok(Client::new(who(&self.cast).http(&github.target).await?, github.host))
    }

    /// A client that goes to a pod of the MCP server without the mesh.
    pub(super) async fn direct(&self) -> Result<Client> {
        let github = &self.stage.github;
        Ok(Client::new(Connection::direct(github.app).await?, github.host))
    }

    /// Headlines of the rows that [`Play::step`] prints.
    pub(super) fn headlines(&self) {
        self.report.head(&["who", "asks for", "gets", "", "decided by"]);
    }
}
