//! `portcullis matrix`: who may call which tool of a service, as a table.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use agent_protocols::{FactKey, Facts, Kind, Truth};
use http::HeaderMap;
use istio_integration::feeds::file::{self, Finding, LoadError, Severity};
use serde::Serialize;
use spiffe_id::SpiffeId;
use waypoint_model::{Expr, MeshConfig, Policy, Protocol, StringMatch, Test};
use waypoint_policy::{Attributes, HttpAttributes, PolicySet, Source};
use waypoint_proxy::offline;

use crate::check::{Target, UnknownTarget, find};
use crate::cli::{MatrixArgs, Output};
use crate::mesh::MeshSource;
use crate::wire::with_cause;

/// Nobody's address (RFC 5737): rules on addresses are not what the table is about.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// A tool that no policy names, to show what the rest may.
const ANY_OTHER: &str = "(any other)";

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// The folder cannot be read.
    #[error("--manifests: {}", with_cause(.0))]
    Manifests(#[from] LoadError),
    /// `--to` names no port of a service that this waypoint fronts.
    #[error("--to {0}")]
    Target(#[from] UnknownTarget),
    /// Nobody to show.
    #[error("the policies of {0} name no identity: give some with --from SPIFFE_ID")]
    NobodyNamed(String),
    /// Nobody reads the table.
    #[error("the table cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

/// Prints the table.
///
/// # Errors
/// [`MatrixError`]: bad input.
pub fn command(args: &MatrixArgs) -> Result<ExitCode, MatrixError> {
    let table = table(args)?;
    let text = match args.output {
        Output::Text => table.to_string(),
        // Plain values with string keys: this cannot fail.
        Output::Json => serde_json::to_string_pretty(&table).unwrap_or_default() + "\n",
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What an identity may do with a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Cell {
    /// Whatever the arguments are.
    Allow,
    /// Whatever the arguments are.
    Deny,
    /// Some arguments are permitted and some are not; or another fact of the message decides.
    DependsOnArgs,
}

impl Cell {
    fn text(self) -> &'static str {
        match self {
            Self::Allow => "yes",
            Self::Deny => "no",
            Self::DependsOnArgs => "args",
        }
    }
}

/// The table. The JSON fields are documented in docs/operations.md and stay.
#[derive(Debug, Serialize)]
struct Table {
    service: String,
    port: u16,
    path: String,
    tools: Vec<String>,
    /// Patterns of policies, whose tools have no column of their own.
    patterns: Vec<String>,
    rows: Vec<Row>,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Row {
    identity: String,
    /// By tool, in the order of `tools`.
    cells: Vec<Cell>,
}

fn table(args: &MatrixArgs) -> Result<Table, MatrixError> {
    let source = MeshSource::from(&args.mesh);
    let loaded = file::load(&source.folder, &source.options)?;
    let target = find(&loaded.mesh, &args.to)?;
    let named = Named::by_policies(&loaded.mesh, &target, &source.options.trust_domain);
    let identities: BTreeSet<SpiffeId> =
        named.identities.into_iter().chain(args.from.iter().map(|arg| arg.0.clone())).collect();
    if identities.is_empty() {
        return Err(MatrixError::NobodyNamed(target.service.key.hostname.to_string()));
    }
    let mut tools: Vec<String> = named.tools.into_iter().chain(args.tools.iter().cloned()).collect();
    tools.sort();
    tools.dedup();
    tools.push(ANY_OTHER.to_owned());
    let asked = Asked::new(&loaded.mesh, &target, &args.path);
    let row = |identity: SpiffeId| Row {
        cells: tools.iter().map(|tool| asked.cell(&identity, tool)).collect(),
        identity: identity.to_string(),
    };
    Ok(Table {
        service: target.service.key.hostname.to_string(),
        port: target.port,
        path: args.path.clone(),
        rows: identities.into_iter().map(row).collect(),
        tools,
        patterns: named.patterns.into_iter().collect(),
        findings: loaded.findings,
    })
}

/// One service's policies, asked again and again.
struct Asked<'a> {
    policies: PolicySet,
    target: &'a Target,
    path: &'a str,
    opaque: bool,
    headers: HeaderMap,
}

impl<'a> Asked<'a> {
    fn new(mesh: &MeshConfig, target: &'a Target, path: &'a str) -> Self {
        let port = target.service.ports.get(&target.port);
        let opaque = port.is_some_and(|port| matches!(port.protocol, Protocol::Tcp | Protocol::Tls));
        let policies = offline::policies(mesh, &target.service, target.port, opaque);
        Self { policies, target, path, opaque, headers: HeaderMap::new() }
    }

    fn cell(&self, identity: &SpiffeId, tool: &str) -> Cell {
        let http = HttpAttributes {
            method: "POST",
            path: self.path,
            authority: &self.target.service.key.hostname,
            headers: &self.headers,
            claims: None,
        };
        let attributes = Attributes {
            source: Source { identity: Some(identity), ip: NOBODY, remote_ip: NOBODY },
            destination: offline::destination(&self.target.service, self.target.port),
            http: (!self.opaque).then_some(http),
        };
        if self.opaque {
            return if self.policies.decide_stream(&attributes).is_ok() { Cell::Allow } else { Cell::Deny };
        }
        // What is not known lets no ALLOW rule match and no DENY rule go, and the other way round: worst and best case.
        let call = Call(tool);
        match (
            self.policies.decide(&attributes, &call).is_ok(),
            self.policies.might_allow(&attributes, &call),
        ) {
            (true, _) => Cell::Allow,
            (false, true) => Cell::DependsOnArgs,
            (false, false) => Cell::Deny,
        }
    }
}

/// A call of a tool of which only the name is known.
struct Call<'a>(&'a str);

impl Facts for Call<'_> {
    fn kind(&self) -> Kind {
        Kind::Call
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        let mut tell = |value: &str| if test(value) { Truth::Yes } else { Truth::No };
        match key {
            FactKey::Method => tell("tools/call"),
            FactKey::Tool => tell(self.0),
            FactKey::Kind => tell("call"),
            FactKey::Prompt
            | FactKey::Resource
            | FactKey::Task
            | FactKey::ServerRequest
            | FactKey::ServerRequestHost => Truth::No,
            // Arguments, session, revision and what the server says of its tool come with the message.
            _ => Truth::NotYet,
        }
    }
}

/// What the policies of one service spell out.
#[derive(Debug, Default)]
struct Named {
    identities: BTreeSet<SpiffeId>,
    tools: BTreeSet<String>,
    patterns: BTreeSet<String>,
}

impl Named {
    fn by_policies(mesh: &MeshConfig, target: &Target, trust_domain: &str) -> Self {
        let mut named = Self::default();
        let policies = target.service.policies.iter().filter_map(|key| mesh.policies.get(key));
        policies.for_each(|policy| named.policy(policy, trust_domain));
        named
    }

    fn policy(&mut self, policy: &Policy, trust_domain: &str) {
        policy.rules.iter().for_each(|rule| self.expr(&rule.when, trust_domain));
    }

    fn expr(&mut self, expr: &Expr, trust_domain: &str) {
        match expr {
            Expr::All(parts) | Expr::Any(parts) => {
                parts.iter().for_each(|part| self.expr(part, trust_domain))
            }
            Expr::Not(part) => self.expr(part, trust_domain),
            Expr::Test(test) => self.test(test, trust_domain),
        }
    }

    fn test(&mut self, test: &Test, trust_domain: &str) {
        match test {
            Test::Principal(StringMatch::Exact(principal)) => {
                self.identities.extend(SpiffeId::parse(&format!("spiffe://{principal}")));
            }
            Test::ServiceAccount { namespace, name } => {
                self.identities.extend(SpiffeId::istio(trust_domain, namespace, name));
            }
            Test::Fact { key, value, .. } if key == "tool" => match value {
                StringMatch::Exact(tool) => {
                    self.tools.insert(tool.clone());
                }
                StringMatch::Prefix(start) => {
                    self.patterns.insert(format!("{start}*"));
                }
                StringMatch::Suffix(end) => {
                    self.patterns.insert(format!("*{end}"));
                }
                _ => {}
            },
            _ => {}
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}:{}{}  tools/call", self.service, self.port, self.path)?;
        let widest = |index: usize, tool: &String| {
            let cells = self.rows.iter().filter_map(|row| row.cells.get(index)).map(|cell| cell.text().len());
            cells.chain([tool.chars().count()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = self.tools.iter().enumerate().map(|(i, tool)| widest(i, tool)).collect();
        let first = self.rows.iter().map(|row| row.identity.chars().count()).max().unwrap_or_default();
        let line = |f: &mut fmt::Formatter<'_>, head: &str, cells: &mut dyn Iterator<Item = &str>| {
            let padded: String = cells.zip(&widths).map(|(cell, width)| format!("  {cell:width$}")).collect();
            writeln!(f, "{}", format!("{head:first$}{padded}").trim_end())
        };
        line(f, "", &mut self.tools.iter().map(String::as_str))?;
        for row in &self.rows {
            line(f, &row.identity, &mut row.cells.iter().map(|cell| cell.text()))?;
        }
        if !self.patterns.is_empty() {
            writeln!(f, "policies also name {}; give such tools with --tool", self.patterns.join(", "))?;
        }
        if self.rows.iter().any(|row| row.cells.contains(&Cell::DependsOnArgs)) {
            writeln!(f, "args: depends on the arguments; `portcullis check --tool … --args …` tells")?;
        }
        let loud = self.findings.iter().filter(|finding| finding.severity != Severity::Note);
        loud.into_iter().try_for_each(|finding| writeln!(f, "{}  {finding}", finding.severity))
    }
}
