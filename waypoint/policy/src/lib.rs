//! Policies compiled and decided: pure, no I/O, no clock.
// SKELETON: signatures other crates build on; bodies to be written in the files named by the architecture.
#![allow(missing_docs, unused, clippy::all)]
use agent_protocols::{FactKey, Facts, Truth};
use spiffe_id::SpiffeId;
use std::{net::IpAddr, sync::Arc};
use waypoint_model::{Policy, PolicyKey};

/// What a rule may ask about.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    pub source: Source<'a>,
    pub destination: Destination<'a>,
    /// `None` on an opaque stream.
    pub http: Option<HttpAttributes<'a>>,
}
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> { pub identity: Option<&'a SpiffeId>, pub ip: IpAddr, pub remote_ip: IpAddr }
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> { pub ip: Option<IpAddr>, pub port: u16, pub sni: Option<&'a str> }
#[derive(Clone, Copy)]
pub struct HttpAttributes<'a> { pub method: &'a str, /// normalized, without query
    pub path: &'a str, pub authority: &'a str, pub headers: &'a http::HeaderMap }

/// Names a rule: Display is Istio's `ns[foo]-policy[bar]-rule[0]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleName { pub policy: PolicyKey, pub rule: usize }

/// Proof that a request may be sent. Only this crate makes one.
#[derive(Clone, Debug)]
#[must_use = "a permit is spent by sending the request it was given for"]
pub struct Permit { rule: Option<RuleName>, audited: Vec<RuleName>, shadow: Shadow, generation: u64 }
impl Permit { /// `None`: no ALLOW policy is attached
    pub fn rule(&self) -> Option<&RuleName> { self.rule.as_ref() } pub fn generation(&self) -> u64 { self.generation }
    /// Both requests are permitted (members of a batch, URIs of a subscription).
    pub fn and(self, other: Permit) -> Permit { todo!() } pub fn audited(&self) -> &[RuleName] { &self.audited } pub fn shadow(&self) -> &Shadow { &self.shadow } }
#[derive(Clone, Debug)]
pub struct Denial { pub reason: DenyReason, pub generation: u64, pub audited: Vec<RuleName>, pub shadow: Shadow }
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DenyReason { /// a DENY rule matched
    Rule(RuleName), /// ALLOW policies are attached and none matched
    NoRuleMatched, /// a policy that applies here cannot be enforced as written
    PolicyUnavailable(PolicyKey), /// unknown protocol method, by name
    UnknownMethod(String) }
/// What dry-run policies would have done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadow { pub denied_by: Option<RuleName>, pub allowed_by: Option<RuleName>, pub would_deny: bool }

pub enum HeadVerdict { /// whatever the body says
    Permit(Permit), /// whatever the body says
    Deny(Denial), /// the body decides
    ReadBody }

/// All rules of one destination port.
pub struct PolicySet { _p: () }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads { Http, Mcp, A2a, Opaque }
impl PolicySet {
    /// Compiles what is attached to a destination. `opaque`: Istio's rule for HTTP tests on TCP ports applies.
    /// `missing`: keys that a service refers to and nobody delivered (deny).
    pub fn compile(policies: &[Arc<Policy>], missing: &[PolicyKey], opaque: bool, generation: u64) -> Self { todo!() }
    /// Whether some rule tests `http.mcp` / `http.a2a` facts.
    pub fn reads(&self) -> Reads { todo!() }
    pub fn decide_head(&self, a: &Attributes<'_>) -> HeadVerdict { todo!() }
    pub fn decide(&self, a: &Attributes<'_>, facts: &dyn Facts) -> Result<Permit, Denial> { todo!() }
    /// Opaque streams; and HTTP without protocol facts (facts absent).
    pub fn decide_stream(&self, a: &Attributes<'_>) -> Result<Permit, Denial> { todo!() }
    /// For list entries: false only when it could never be allowed.
    pub fn might_allow(&self, a: &Attributes<'_>, facts: &dyn Facts) -> bool { todo!() }
    /// Whether this peer could be allowed anything at all here (else 403 at connect, "no access").
    pub fn any_access(&self, a: &Attributes<'_>) -> bool { todo!() }
    /// Traps of decisions.md §3 for `check`.
    pub fn is_empty(&self) -> bool { todo!() }
}
