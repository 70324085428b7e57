//! A real Prometheus (Debian's package) that scrapes one waypoint.

use anyhow::{Context, Result, ensure};
use http::Request;
use portcullis_tests::http::{Client, full};
use portcullis_tests::process::{self, Process};
use portcullis_tests::wait;
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

/// Where the dashboard and the alerts lie.
pub(crate) fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/observability").join(name)
}

/// Runs `promtool` with these arguments; its report is in the error when it is not content.
pub(crate) async fn promtool(args: &[&str], file: &Path) -> Result<Vec<String>> {
    let args = args.iter().map(Into::into).chain([file.as_os_str().to_owned()]);
    process::run(Path::new("promtool"), args).await.context("`cargo xtask setup` installs prometheus")
}

/// Prometheus, with our alert rules loaded.
pub(crate) struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes `target` every second.
    pub(crate) async fn scraping(target: SocketAddr) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("portcullis-prometheus").tempdir()?;
        let config = folder.path().join("prometheus.json");
        let scrape = json!({
            "job_name": "portcullis",
            "metrics_path": "/stats/prometheus",
            "static_configs": [{"targets": [target.to_string()]}],
        });
        let settings = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [std::fs::canonicalize(deployed("alerts.yaml"))?],
            "scrape_configs": [scrape],
        });
        std::fs::write(&config, settings.to_string())?; // JSON is YAML.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
        let mut process =
            Process::start("prometheus", command).context("`cargo xtask setup` installs prometheus")?;
        wait::until_async("Prometheus answers", async || {
            process.assert_running()?;
            Ok(ask(address, "/-/ready", None).await.ok())
        })
        .await?;
        Ok(Self { address, _process: process, _folder: folder })
    }

    /// What an instant query finds: a list of series, or a scalar.
    pub(crate) async fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let form = format!("query={}", encoded(expression));
        let text = ask(self.address, "/api/v1/query", Some(form)).await?;
        let mut answer: Value = serde_json::from_str(&text)?;
        ensure!(answer["status"] == "success", "{expression}: {answer}");
        let Value::Array(series) = answer["data"]["result"].take() else {
            anyhow::bail!("{expression} is no list of series: {answer}");
        };
        Ok(series)
    }

    /// Waits until a query finds something, and gives that.
    pub(crate) async fn finds(&self, expression: &str) -> Result<Vec<Value>> {
        wait::until_async(expression, async || {
            Ok(Some(self.query(expression).await?).filter(|series| !series.is_empty()))
        })
        .await
    }

    /// The alert rules with their health.
    pub(crate) async fn rules(&self) -> Result<Vec<Value>> {
        let answer: Value = serde_json::from_str(&ask(self.address, "/api/v1/rules", None).await?)?;
        let groups = answer["data"]["groups"].as_array().context("groups")?;
        Ok(groups.iter().filter_map(|group| group["rules"].as_array()).flatten().cloned().collect())
    }
}

async fn ask(address: SocketAddr, path: &str, form: Option<String>) -> Result<String> {
    let client = Client::http1(TcpStream::connect(address).await?).await?;
    let request = Request::builder().uri(path).header("host", address.to_string());
    let request = match form {
        None => request.body(full(""))?,
        Some(form) => request
            .method("POST")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(full(form))?,
    };
    let reply = client.send(request).await?;
    ensure!(reply.status.is_success(), "{path} answered {}: {}", reply.status, reply.text());
    Ok(reply.text())
}

/// As a form's value.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
