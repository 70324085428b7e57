//! Policies, requests and facts written by hand.

use std::sync::Arc;

use http::HeaderMap;
use spiffe_id::SpiffeId;
use waypoint_model::{Action, Expr, PathPattern, Policy, PolicyKey, Rule, StringMatch, Test};
use waypoint_policy::{Attributes, Destination, HttpAttributes, PolicySet, RuleName, Source};

/// Generation of every set that is compiled here.
pub(crate) const GENERATION: u64 = 7;

pub(crate) fn all<const N: usize>(parts: [Expr; N]) -> Expr {
    Expr::All(parts.into())
}

pub(crate) fn any<const N: usize>(parts: [Expr; N]) -> Expr {
    Expr::Any(parts.into())
}

pub(crate) fn not(part: Expr) -> Expr {
    Expr::Not(Box::new(part))
}

pub(crate) fn test(test: Test) -> Expr {
    Expr::Test(test)
}

pub(crate) fn principal(value: &str) -> Expr {
    test(Test::Principal(StringMatch::parse(value)))
}

pub(crate) fn namespace(value: &str) -> Expr {
    test(Test::Namespace(StringMatch::parse(value)))
}

pub(crate) fn account(namespace: &str, name: &str) -> Expr {
    test(Test::ServiceAccount { namespace: namespace.into(), name: name.into() })
}

pub(crate) fn path(value: &str) -> Expr {
    test(Test::Path(PathPattern::parse(value).unwrap()))
}

pub(crate) fn method(value: &str) -> Expr {
    test(Test::Method(StringMatch::parse(value)))
}

pub(crate) fn host(value: &str) -> Expr {
    test(Test::Host(StringMatch::parse(value)))
}

pub(crate) fn header(name: &str, value: &str) -> Expr {
    test(Test::Header { name: name.into(), value: StringMatch::parse(value) })
}

pub(crate) fn claim<const N: usize>(path: [&str; N], value: &str) -> Expr {
    test(Test::Claim { path: path.map(str::to_owned).to_vec(), value: StringMatch::parse(value) })
}

pub(crate) fn port(port: u16) -> Expr {
    test(Test::DestinationPort(port))
}

/// A policy `ns/<name>` whose rules are numbered in order.
pub(crate) fn policy(name: &str, action: Action, rules: impl IntoIterator<Item = Expr>) -> Policy {
    let rules = rules.into_iter().enumerate().map(|(index, when)| Rule { index, when }).collect();
    Policy { key: PolicyKey::new("ns", name), action, dry_run: false, rules, unusable: None }
}

pub(crate) fn allow(rules: impl IntoIterator<Item = Expr>) -> Policy {
    policy("allow", Action::Allow, rules)
}

pub(crate) fn deny(rules: impl IntoIterator<Item = Expr>) -> Policy {
    policy("deny", Action::Deny, rules)
}

pub(crate) fn audit(rules: impl IntoIterator<Item = Expr>) -> Policy {
    policy("audit", Action::Audit, rules)
}

pub(crate) fn dry_run(policy: Policy) -> Policy {
    Policy { dry_run: true, ..policy }
}

pub(crate) fn named(name: &str, rule: usize) -> RuleName {
    RuleName { policy: PolicyKey::new("ns", name), rule }
}

pub(crate) fn compile(policies: impl IntoIterator<Item = Policy>) -> PolicySet {
    compile_as(policies, false)
}

pub(crate) fn compile_opaque(policies: impl IntoIterator<Item = Policy>) -> PolicySet {
    compile_as(policies, true)
}

fn compile_as(policies: impl IntoIterator<Item = Policy>, opaque: bool) -> PolicySet {
    let policies: Vec<Arc<Policy>> = policies.into_iter().map(Arc::new).collect();
    PolicySet::compile(&policies, &[], opaque, GENERATION)
}

/// A request, owned; [`Request::attributes`] lends it.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) ip: std::net::IpAddr,
    pub(crate) remote_ip: std::net::IpAddr,
    pub(crate) destination_ip: Option<std::net::IpAddr>,
    pub(crate) port: u16,
    pub(crate) sni: Option<String>,
    pub(crate) http: Option<Http>,
}

#[derive(Clone, Debug)]
pub(crate) struct Http {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
    pub(crate) claims: Option<serde_json::Value>,
}

impl Request {
    /// `POST /mcp` by `td/ns/agents/sa/<name>`.
    pub(crate) fn by(name: &str) -> Self {
        Self::from_id(&format!("spiffe://td/ns/agents/sa/{name}"))
    }

    pub(crate) fn from_id(id: &str) -> Self {
        Self {
            identity: Some(SpiffeId::parse(id).unwrap()),
            ip: "10.0.0.1".parse().unwrap(),
            remote_ip: "10.0.0.1".parse().unwrap(),
            destination_ip: None,
            port: 80,
            sni: None,
            http: Some(Http {
                method: "POST".into(),
                path: "/mcp".into(),
                authority: "github.tools".into(),
                headers: HeaderMap::new(),
                claims: None,
            }),
        }
    }

    pub(crate) fn opaque(self) -> Self {
        Self { http: None, ..self }
    }

    pub(crate) fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    pub(crate) fn path(self, path: &str) -> Self {
        self.with(|http| http.path = path.into())
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Http)) -> Self {
        self.http.as_mut().map(change);
        self
    }

    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            source: Source { identity: self.identity.as_ref(), ip: self.ip, remote_ip: self.remote_ip },
            destination: Destination { ip: self.destination_ip, port: self.port, sni: self.sni.as_deref() },
            http: self.http.as_ref().map(|http| HttpAttributes {
                method: &http.method,
                path: &http.path,
                authority: &http.authority,
                headers: &http.headers,
                claims: http.claims.as_ref(),
            }),
        }
    }
}
