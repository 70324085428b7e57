//! Policy for tools, applied with kubectl to a stock istiod: who may call what, what a list shows, and how soon a change
//! holds.

use crate::stage::{Caller, Stage, WAYPOINT};
use anyhow::{Context, Result};
use portcullis_tests::http::{Client, Reply, post_json};
use portcullis_tests::istio::{Lab, Namespace, PodSpec};
use portcullis_tests::neighbours::{Runtime, tell};
use portcullis_tests::process::Process;
use portcullis_tests::wait;
use portcullis_tests::ztunnel::Inbound;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

const SERVICE: &str = "github-mcp";

/// What the client script asks for.
const CALLS: [&str; 5] = [
    "search_code:acme",
    "search_issues:acme",
    "get_issue:acme",
    "search_code:umbrella",
    "delete_repository:acme",
];

/// A change holds within a second of istiod's push, which follows 100 ms after the last change that istiod saw.
const BOUND: Duration = Duration::from_millis(1100);

/// More time for the slowest change of all: beside these tests others run, on as few as two cores, and each change of
/// theirs lets istiod wait again.
const SLACK: Duration = Duration::from_secs(4);

/// How often the four changes are made.
const ROUNDS: usize = 5;

/// An MCP server in namespace `tools` behind a waypoint, and two workloads of a namespace `agents`.
struct Tools {
    stage: Stage,
    agents: Namespace,
    authority: String,
    _server: (Process, Inbound),
}

impl Tools {
    async fn start() -> Result<Self> {
        let stage = Stage::new("tools").await?;
        let agents = Lab::get()?.namespace("agents").await?;
        let service = format!(
            "apiVersion: v1
kind: Service
metadata: {{name: {SERVICE}, labels: {{istio.io/use-waypoint: {WAYPOINT}}}}}
spec:
  selector: {{app: {SERVICE}}}
  ports: [{{name: http, port: 80, targetPort: 8080, appProtocol: http}}]
"
        );
        stage.namespace.apply(&service).await?;
        let pod = stage.namespace.pod(&PodSpec::new(SERVICE)).await?;
        let server = Runtime::Python1.serve_in(Some(&pod.network), "repository_server.py", pod.port(8080));
        let server = (server.await?, pod.serve_hbone().await?);
        stage.namespace.endpoints(SERVICE, &[&pod]).await?;
        stage.namespace.wait(&format!("service/{SERVICE}"), "condition=istio.io/WaypointBound").await?;
        let authority = format!("{}:80", stage.namespace.service_address(SERVICE).await?);
        Ok(Self { stage, agents, authority, _server: server })
    }

    async fn agent(&self, name: &str) -> Result<Caller> {
        Caller::new(self.agents.pod(&PodSpec::new(name)).await?, &self.stage.waypoint).await
    }

    /// The policy: these tools, of the owner `acme`, for the ServiceAccount `researcher`.
    fn policy(&self, tools: &str, annotations: &str) -> String {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: github-readers, annotations: {{{annotations}}}}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: {SERVICE}}}]
  action: ALLOW
  rules:
  - from: [{{source: {{serviceAccounts: [{}/researcher]}}}}]
    to: [{{operation: {{paths: [/mcp]}}}}]
    when:
    - {{key: \"experimental.envoy.filters.http.mcp[tool]\", values: [{tools}]}}
    - {{key: \"experimental.envoy.filters.http.mcp[args.owner]\", values: [acme]}}
",
            self.agents.name
        )
    }

    /// Applies it as a user does.
    async fn kubectl_apply(&self, policy: &str) -> Result<()> {
        let lab = Lab::get()?;
        let namespace = &self.stage.namespace.name;
        lab.kubectl_with(&["apply", "-n", namespace, "-f", "-"], policy).await.map(drop)
    }

    async fn kubectl_delete(&self) -> Result<()> {
        self.stage.namespace.delete("authorizationpolicy/github-readers").await
    }

    /// What the SDK's client tells from within a pod.
    async fn told(&self, agent: &Caller) -> Result<Value> {
        let port = agent.ztunnel.forward(&self.authority).await?;
        let url = port.url("/mcp");
        let args: Vec<_> = [url.as_str()].into_iter().chain(CALLS).collect();
        Runtime::Python1.report_in(Some(&agent.pod.network), "repository_client.py", &args).await
    }
}

/// An MCP session, for questions that take no time of their own.
struct Session {
    agent: Caller,
    authority: String,
    id: String,
}

impl Session {
    /// Opens one as soon as the waypoint knows the Service.
    async fn open(agent: &Caller, authority: &str) -> Result<Self> {
        wait::until_async("a session is opened", async || Ok(Self::try_open(agent, authority).await.ok()))
            .await
    }

    /// Opens one when a policy holds that does not let `delete_repository` be called. Sessions from before the first
    /// policy for tools are not known to belong to anyone, and are to be opened anew.
    async fn governed(agent: &Caller, authority: &str) -> Result<Self> {
        wait::until_async("a policy holds", async || {
            let session = Self::open(agent, authority).await?;
            let governed = session.may_call("delete_repository").await.is_ok_and(|may| !may);
            Ok(governed.then_some(session))
        })
        .await
    }

    async fn try_open(agent: &Caller, authority: &str) -> Result<Self> {
        let client = Client::http1(agent.ztunnel.connect(authority).await?).await?;
        let about = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": about});
        let reply = client.send(post_json("/mcp", "localhost:80", &message)?).await?;
        let id = reply.headers.get("mcp-session-id").context("a session")?.to_str()?.to_owned();
        let session = Self { agent: agent.clone(), authority: authority.to_owned(), id };
        session.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await?;
        Ok(session)
    }

    async fn send(&self, message: &Value) -> Result<Reply> {
        let mut request = post_json("/mcp", "localhost:80", message)?;
        request.headers_mut().insert("mcp-session-id", self.id.parse()?);
        request.headers_mut().insert("mcp-protocol-version", "2025-11-25".parse()?);
        // On a stream of its own: one whose call is no longer allowed is cut.
        let client = Client::http1(self.agent.ztunnel.connect(&self.authority).await?).await?;
        client.send(request).await
    }

    /// Whether a call of this tool is carried; a refusal must be the waypoint's.
    async fn may_call(&self, tool: &str) -> Result<bool> {
        let params = json!({"name": tool, "arguments": {"owner": "acme"}});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let answer = self.send(&message).await?.json()?;
        if answer.get("result").is_some() {
            return Ok(true);
        }
        let text = answer.pointer("/error/message").and_then(Value::as_str).context("a refusal")?;
        anyhow::ensure!(text == format!("Unknown tool: {tool}"), "{answer}");
        Ok(false)
    }
}

#[tokio::test]
async fn an_sdk_client_may_call_what_a_policy_of_stock_istio_says() -> Result<()> {
    let tools = Tools::start().await?;
    let researcher = tools.agent("researcher").await?;
    Session::open(&researcher, &tools.authority).await?;
    let carried = |call: &str| {
        let (tool, owner) = call.split_once(':').unwrap_or_default();
        json!({"text": format!("{tool} for {owner}")})
    };
    let open = tools.told(&researcher).await?;
    assert_eq!(open["tools"], json!(["delete_repository", "get_issue", "search_code", "search_issues"]));
    for call in CALLS {
        assert_eq!(open["calls"][call], carried(call), "without a policy everything is carried");
    }

    tools.kubectl_apply(&tools.policy("\"search_*\"", "")).await?;
    Session::governed(&researcher, &tools.authority).await?;
    let told = tools.told(&researcher).await?;
    assert_eq!(told["tools"], json!(["search_code", "search_issues"]));
    for call in ["search_code:acme", "search_issues:acme"] {
        assert_eq!(told["calls"][call], carried(call), "{call}");
    }
    for call in ["get_issue:acme", "search_code:umbrella", "delete_repository:acme"] {
        let refused = &told["calls"][call];
        assert!(refused["code"].is_i64() && refused.get("text").is_none(), "{call}: {refused}");
    }

    let other = tools.agent("other").await?;
    let refused = tools.told(&other).await?;
    assert!(refused["refused"].is_string(), "another ServiceAccount has no session: {refused}");
    assert_logged(&tools, [&researcher, &other]).await
}

/// The access log, in Istio's format, tells what was refused to whom.
async fn assert_logged(tools: &Tools, agents: [&Caller; 2]) -> Result<()> {
    let log = &tools.stage.waypoint.process.stdout;
    for agent in agents {
        let source = format!(" {}:", agent.pod.address);
        let denied = |line: &String| {
            let denied = line.contains(" rbac_access_denied_matched_policy[none] ") && line.contains(&source);
            denied.then_some(())
        };
        log.find(&format!("a refusal of {}", agent.pod.name), denied).await?;
    }
    Ok(())
}

/// A condition of a policy, as the real istiod passes it on: brackets, quotes and commas included.
#[tokio::test]
async fn a_condition_reaches_the_waypoint_as_it_is_written() -> Result<()> {
    let tools = Tools::start().await?;
    let researcher = tools.agent("researcher").await?;
    let condition =
        "tool in ['search_code', 'get_issue'] && [args.owner][0].matches('^a[c]me$') && !has(args.force)";
    let plain = tools.policy("\"search_*\", get_issue", "");
    let policy = plain.replace(
        "mcp[args.owner]\", values: [acme]",
        &format!("mcp[cel: {condition}]\", values: [\"true\"]"),
    );
    assert_ne!(policy, plain);
    tools.kubectl_apply(&policy).await?;
    Session::governed(&researcher, &tools.authority).await?;
    let told = tools.told(&researcher).await?;
    assert_eq!(told["tools"], json!(["get_issue", "search_code"]));
    for call in ["search_code:acme", "get_issue:acme"] {
        assert!(told["calls"][call]["text"].is_string(), "{call}: {}", told["calls"][call]);
    }
    for call in ["search_issues:acme", "search_code:umbrella", "delete_repository:acme"] {
        let refused = &told["calls"][call];
        assert!(refused["code"].is_i64() && refused.get("text").is_none(), "{call}: {refused}");
    }
    Ok(())
}

/// A change of policy, and whether `search_code` may be called and `get_issue`, once it holds.
struct Change {
    name: &'static str,
    /// What to apply; without it the policy is deleted.
    policy: Option<String>,
    allowed: [bool; 2],
}

#[tokio::test]
async fn a_change_of_policy_holds_within_a_second_of_istiods_push() -> Result<()> {
    let tools = Tools::start().await?;
    let researcher = tools.agent("researcher").await?;
    let search = tools.policy("\"search_*\"", "");
    tools.kubectl_apply(&search).await?;
    let session = Session::governed(&researcher, &tools.authority).await?;
    let dry_run = tools.policy("\"search_*\"", "istio.io/dry-run: \"true\"");
    let changes = [
        Change { name: "applied", policy: Some(search), allowed: [true, false] },
        Change { name: "dry-run", policy: Some(dry_run), allowed: [true, true] },
        Change {
            name: "changed",
            policy: Some(tools.policy("get_issue", "istio.io/dry-run: \"false\"")),
            allowed: [false, true],
        },
        Change { name: "deleted", policy: None, allowed: [true, true] },
    ];
    let mut took = [const { Vec::new() }; 4];
    for _ in 0..ROUNDS {
        for (change, took) in changes.iter().zip(&mut took) {
            took.push(time_of(&tools, &session, change).await?);
        }
    }
    let mut all = took.concat();
    let mut summary = String::new();
    for (change, took) in changes.iter().zip(&mut took) {
        write!(summary, "; {} {}", change.name, distribution(took))?;
    }
    tell(&format!("policy holds after kubectl returned: {}{summary}", distribution(&mut all)));
    let median = all[all.len() / 2];
    assert!(median <= BOUND, "median {median:?}");
    assert!(all[all.len() - 1] <= BOUND + SLACK, "{all:?}");
    Ok(())
}

/// How long after kubectl has returned a change holds.
async fn time_of(tools: &Tools, session: &Session, change: &Change) -> Result<Duration> {
    match &change.policy {
        Some(policy) => tools.kubectl_apply(policy).await?,
        None => tools.kubectl_delete().await?,
    }
    let returned = Instant::now();
    wait::until_async(&format!("the policy holds as {}", change.name), async || {
        // A call that was under way when the policy changed is cut.
        let Ok(search) = session.may_call("search_code").await else { return Ok(None) };
        let Ok(issue) = session.may_call("get_issue").await else { return Ok(None) };
        Ok(([search, issue] == change.allowed).then_some(()))
    })
    .await?;
    Ok(returned.elapsed())
}

/// Least, median and most.
fn distribution(times: &mut [Duration]) -> String {
    times.sort();
    let at = |index: usize| times.get(index).map_or(0, Duration::as_millis);
    format!("{}/{}/{} ms", at(0), at(times.len() / 2), at(times.len().saturating_sub(1)))
}
