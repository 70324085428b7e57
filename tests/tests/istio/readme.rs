//! "In your mesh" of the README, followed to the letter.

use anyhow::{Context, Result, ensure};
use portcullis_tests::http::{Client, post_json};
use portcullis_tests::istio::{Lab, Namespace, PodSpec};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::wait;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// What the reader has before: a Service that is in no waypoint's hands.
const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: github-mcp}
spec: {selector: {app: github-mcp}, ports: [{name: mcp, port: 80, targetPort: 8080, appProtocol: http}]}
";

/// What the last line of the section looks for.
const METRIC: &str = "portcullis_mcp_operations_total";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The kubectl calls of the section, in words, without comments.
fn commands() -> Result<Vec<Vec<String>>> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let section = readme.split("\n## ").find(|section| section.starts_with("In your mesh\n"));
    let lines = section.context("a section")?.lines().filter_map(|line| line.strip_prefix("$ kubectl "));
    let words = |line: &str| {
        let command = line.split('#').next().unwrap_or_default();
        command.split_whitespace().map(str::to_owned).collect()
    };
    Ok(lines.map(words).collect())
}

/// Namespaces of a test have names of their own.
struct Reader {
    lab: Lab,
    tools: Namespace,
    agents: Namespace,
    files: TempDir,
}

impl Reader {
    async fn does(&self, command: &[String]) -> Result<()> {
        let words: Vec<_> = command.iter().map(|word| self.word(word)).collect::<Result<_>>()?;
        self.lab.kubectl(&words).await?;
        Ok(())
    }

    fn word(&self, word: &str) -> Result<String> {
        if word == "tools" {
            return Ok(self.tools.name.clone());
        }
        if !word.ends_with(".yaml") {
            return Ok(word.to_owned());
        }
        let text = std::fs::read_to_string(root().join(word)).with_context(|| word.to_owned())?;
        let text = text.replace("namespace: tools", &format!("namespace: {}", self.tools.name));
        let text = text.replace("agents/", &format!("{}/", self.agents.name));
        let copy = self.files.path().join(word.replace('/', "-"));
        std::fs::write(&copy, text)?;
        Ok(copy.display().to_string())
    }
}

#[tokio::test]
async fn three_commands_make_an_enforced_tool_policy() -> Result<()> {
    let lab = Lab::get()?;
    let (tools, agents) = (lab.namespace("tools").await?, lab.namespace("agents").await?);
    let server = tools.pod(&PodSpec::new("github-mcp")).await?;
    let _tunnel = server.serve_hbone().await?;
    let listener = server.network.listen(server.port(8080))?;
    let _application = Upstream::on(listener, |seen| upstream::result(seen, &json!({"content": []})))?;
    tools.apply(SERVICE).await?;
    tools.endpoints("github-mcp", &[&server]).await?;

    let reader = Reader { lab, tools, agents, files: tempfile::tempdir()? };
    let commands = commands()?;
    assert!(std::fs::read_to_string(root().join("README.md"))?.contains(METRIC));
    ensure!(commands.len() == 6, "three commands and three looks: {commands:?}");
    for command in &commands[..3] {
        reader.does(command).await?;
    }
    // What controllers and a kubelet do.
    let waypoint = reader.tools.waypoint("portcullis").await?;
    for look in &commands[3..5] {
        reader.does(look).await?;
    }
    assert_eq!(commands[5][0], "port-forward", "a kubelet would be needed for that");

    let researcher = reader.agents.pod(&PodSpec::new("researcher")).await?;
    let ztunnel = researcher.ztunnel(waypoint.hbone(), &waypoint.id()).await?;
    let port = ztunnel.forward(&format!("{}:80", reader.tools.service_address("github-mcp").await?)).await?;
    let call = async |tool: &str| -> Result<Value> {
        let client = Client::http1(researcher.network.connect(port.address).await?).await?;
        let params = json!({"name": tool, "arguments": {}});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        client.send(post_json("/mcp", "github-mcp", &message)?).await?.json()
    };
    wait::until_async("the policy is enforced", async || {
        Ok(call("delete_repository").await.ok().filter(|reply| reply.get("error").is_some()))
    })
    .await?;
    assert_eq!(call("get_issue").await?["result"], json!({"content": []}));
    let metrics = waypoint.metrics().await?;
    let decided = |name, decision| {
        let id = researcher.id();
        let labels = [("source_principal", id.as_str()), ("name", name), ("decision", decision)];
        metrics.sum(METRIC, &labels)
    };
    // No policy spells the other name, so it is no label.
    assert!(decided("get_issue", "allow") >= 1.0 && decided("other", "deny") >= 1.0, "{}", metrics.0);
    Ok(())
}
