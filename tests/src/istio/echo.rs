//! Istio's own echo server and client, in pods: the server tells what reached it, the client speaks HBONE.

use super::pod::Pod;
use crate::process::Process;
use crate::wait;
use crate::ztunnel::Inbound;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Where the echo server speaks HTTP/1.1 and h2c.
pub const HTTP: u16 = 8080;

/// Where it speaks gRPC.
pub const GRPC: u16 = 7070;

/// Where it speaks TCP: it sends back lines about the connection.
pub const TCP: u16 = 9090;

/// Where it speaks TCP, and first: a greeting before anything was sent.
pub const SERVER_FIRST: u16 = 9091;

/// Where it speaks HTTP in TLS, with the pod's certificate.
pub const HTTPS: u16 = 8443;

/// An echo server in a pod, behind the pod's ztunnel.
pub struct Echo {
    /// The pod's ztunnel, with every CONNECT that it saw.
    pub ztunnel: Inbound,
    /// The server.
    pub process: Process,
}

impl Pod {
    /// Starts Istio's echo server, which says that it is of `version`, and the pod's ztunnel before it.
    pub async fn echo(&self, version: &str) -> Result<Echo> {
        let mut command = self.command(self.lab.state.program("echo-server")?);
        command
            .args(["--version", version, "--cluster", "Kubernetes"])
            .env("INSTANCE_IP", self.address.to_string());
        command.args(["--port", &HTTP.to_string(), "--grpc", &GRPC.to_string(), "--tcp", &TCP.to_string()]);
        command.args(["--tcp", &SERVER_FIRST.to_string(), "--server-first", &SERVER_FIRST.to_string()]);
        let files = self.certificate_files().await?;
        command.args(["--port", &HTTPS.to_string(), "--tls", &HTTPS.to_string()]);
        command.arg("--crt").arg(files.cert_chain).arg("--key").arg(files.key);
        let mut process = Process::start(&format!("echo {}", self.name), command)?;
        for port in [HTTP, GRPC, TCP, SERVER_FIRST, HTTPS] {
            let address = self.port(port);
            wait::until_async("the echo server listens", async || {
                process.assert_running()?;
                Ok(TcpStream::connect(address).await.ok())
            })
            .await?;
        }
        Ok(Echo { ztunnel: self.serve_hbone().await?, process })
    }

    /// Calls `url` with Istio's echo client through the HBONE listener at `tunnel`, showing the pod's certificate. The
    /// host of the URL becomes the authority of the CONNECT. `args` are more flags of the client (`--count=10`,
    /// `--header=a: b`, `--method=POST`, `--http2`).
    ///
    /// # Errors
    /// When a call fails before it has an answer of any status, with what the client said.
    pub async fn echo_client(&self, tunnel: SocketAddr, url: &str, args: &[&str]) -> Result<Vec<Answer>> {
        let files = self.certificate_files().await?;
        let mut command = self.command(self.lab.state.program("echo-client")?);
        command.args(["--hbone", &tunnel.to_string()]);
        command.arg("--hbone-client-cert").arg(files.cert_chain).arg("--hbone-client-key").arg(files.key);
        // It checks host names, which no certificate of a workload has.
        command.arg("--hbone-insecure-skip-verify").args(args).arg(url);
        let mut client = Process::start(&format!("echo client {}", self.name), command)?;
        let status = client.ended_within(wait::PATIENCE).await?;
        let printed = client.stdout.all();
        ensure!(
            status.success(),
            "the echo client ended with {status}: {:?} {printed:?}",
            client.stderr.all()
        );
        read(&printed)
    }
}

/// What the client and the server told of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Fields by name in order (`ServiceVersion`, `IP`, `Hostname`, `RequestHeader`, `ResponseHeader`, …).
    pub fields: Vec<(String, String)>,
}

impl Answer {
    /// The status.
    pub fn status(&self) -> Result<u16> {
        Ok(self.field("StatusCode").with_context(|| format!("{self:?}"))?.parse()?)
    }

    /// The first field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// A header as the server got it.
    #[must_use]
    pub fn request_header(&self, name: &str) -> Option<&str> {
        self.header("RequestHeader", name)
    }

    /// A header as the client got it.
    #[must_use]
    pub fn response_header(&self, name: &str) -> Option<&str> {
        self.header("ResponseHeader", name)
    }

    fn header(&self, field: &str, name: &str) -> Option<&str> {
        let headers = self.fields.iter().filter(|(found, _)| found == field);
        let mut headers = headers.filter_map(|(_, header)| header.split_once(':'));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Lines are `[3] Name=value` of the client and `[3 body] Name=value` of the server, for call 3.
fn read(printed: &[String]) -> Result<Vec<Answer>> {
    let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
    for line in printed.iter().flat_map(|text| text.lines()) {
        let Some((call, rest)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else {
            continue;
        };
        let Some((name, value)) = rest.split_once('=') else { continue };
        let number = call.split(' ').next().unwrap_or_default();
        let answer = answers.entry(number.parse().with_context(|| line.to_owned())?).or_default();
        answer.fields.push((name.to_owned(), value.to_owned()));
    }
    ensure!(!answers.is_empty(), "the echo client told nothing: {printed:?}");
    Ok(answers.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let lines = [
            "[1] StatusCode=403",
            "[0] StatusCode=200",
            "[0] ResponseHeader=Server:x",
            "[0 body] RequestHeader=X-A:b=c",
            "[0 body] ServiceVersion=v1",
            "2026 a log line",
        ];
        let answers = read(&lines.map(str::to_owned)).unwrap();
        assert_eq!((answers[0].status().unwrap(), answers[1].status().unwrap()), (200, 403));
        assert_eq!(answers[0].request_header("x-a"), Some("b=c"));
        assert_eq!(answers[0].response_header("server"), Some("x"));
        assert_eq!(answers[0].field("ServiceVersion"), Some("v1"));
        assert!(read(&[]).is_err());
    }
}
