//! The rules of one destination, and the order in which they are asked.

use std::sync::Arc;

use agent_protocols::{FactKey, Facts, Given, Kind, Plain, Truth, Unread};
use waypoint_model::{Action, Expr, Policy, PolicyKey, Test};

use crate::attributes::{Attributes, Head};
use crate::compile;
use crate::decision::{Denial, DenyReason, HeadVerdict, Permit, Record, RuleName, Shadow};
use crate::port;
use crate::rules::{Rule, Rules, Wanted};

/// All rules of one destination port, compiled. Immutable; cheap to ask from many threads.
#[derive(Debug)]
pub struct PolicySet {
    generation: u64,
    reads: Reads,
    server_name: bool,
    judges_server: bool,
    audit: Rules,
    enforced: Layer,
    /// `None`: no dry-run policy is attached.
    dry_run: Option<Layer>,
    unavailable: Vec<Unavailable>,
}

/// What has to be read of a destination's traffic before its policies can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// The heads of HTTP requests.
    Http,
    /// MCP messages: some rule tests `http.mcp` facts.
    Mcp,
    /// A2A requests: some rule tests `http.a2a` facts.
    A2a,
    /// Nothing: opaque bytes.
    Opaque,
}

/// A policy that applies here and cannot be enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// Its key.
    pub policy: PolicyKey,
    /// Why, for the log and `check`.
    pub why: String,
    /// A dry-run policy is never enforced, so a broken one denies nothing; its shadow would deny.
    pub dry_run: bool,
}

/// DENY and ALLOW rules that are judged together.
#[derive(Debug, Default)]
struct Layer {
    /// Denies everything.
    unavailable: Option<PolicyKey>,
    deny: Rules,
    /// `None`: no ALLOW policy is attached, so what no DENY rule matches is permitted.
    allow: Option<Rules>,
}

/// A request as the rules see it, and how an open answer counts.
struct Asked<'a> {
    head: Head<'a>,
    /// What AUDIT and DENY rules see.
    facts: &'a dyn Facts,
    /// What ALLOW rules see.
    allow_facts: Seen<'a>,
    /// Which answers of a DENY rule refuse.
    deny_if: Wanted,
    /// Which answers of an ALLOW rule permit.
    allow_if: Wanted,
}

/// Facts as ALLOW rules see them.
enum Seen<'a> {
    All(&'a dyn Facts),
    /// Of a request of the server what it asks for; as to the rest it might be part of any call.
    OfServer(OfServer<'a>),
}

impl<'a> Seen<'a> {
    fn of(facts: &'a dyn Facts) -> Self {
        match facts.kind() {
            Kind::ServerRequest => Self::OfServer(OfServer(facts)),
            kind if follows_access(kind) => Self::All(&Unread),
            _ => Self::All(facts),
        }
    }

    fn facts(&self) -> &dyn Facts {
        match self {
            Self::All(facts) => *facts,
            Self::OfServer(facts) => facts,
        }
    }
}

struct OfServer<'a>(&'a dyn Facts);

impl Facts for OfServer<'_> {
    fn kind(&self) -> Kind {
        self.0.kind()
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match key {
            FactKey::ServerRequest | FactKey::ServerRequestHost => self.0.ask(key, test),
            _ => Truth::NotYet,
        }
    }

    fn arguments(&self) -> Given<'_> {
        Given::NotYet
    }
}

impl<'a> Asked<'a> {
    /// With everything read that will be. What is open even now (the hints of a tool that was never listed) counts against
    /// the request: a DENY rule matches, an ALLOW rule does not.
    fn finally(attributes: &'a Attributes<'a>, facts: &'a dyn Facts) -> Self {
        let head = Head::new(attributes);
        let allow_if = if follows_access(facts.kind()) { Wanted::CouldHold } else { Wanted::Holds };
        Self { head, facts, allow_facts: Seen::of(facts), deny_if: Wanted::CouldHold, allow_if }
    }

    /// With the head alone: only what every body leaves standing counts.
    fn so_far(attributes: &'a Attributes<'a>) -> Self {
        let head = Head::new(attributes);
        let allow_facts = Seen::All(&Unread);
        Self { head, facts: &Unread, allow_facts, deny_if: Wanted::Holds, allow_if: Wanted::Holds }
    }

    /// Whether the answer could still become *permitted*.
    fn at_best(attributes: &'a Attributes<'a>, facts: &'a dyn Facts) -> Self {
        Self {
            head: Head::new(attributes),
            facts,
            allow_facts: match facts.kind() {
                Kind::ServerRequest => Seen::of(facts),
                _ => Seen::All(facts),
            },
            deny_if: Wanted::Holds,
            allow_if: Wanted::CouldHold,
        }
    }
}

/// Who may call something here may also open, keep and end a session, list, and answer the server: ALLOW rules judge such
/// messages as if they might be any call. So it is with what the server asks of them, but for what that is.
fn follows_access(kind: Kind) -> bool {
    match kind {
        Kind::List | Kind::Lifecycle | Kind::Response | Kind::ServerRequest => true,
        Kind::Call | Kind::Plain => false,
    }
}

impl PolicySet {
    /// Compiles what is attached to a destination port, in the order given.
    ///
    /// `missing`: keys that a service refers to and nobody delivered. A policy that is missing, is marked unusable, or tests
    /// a fact that no reader tells, denies everything here ([`DenyReason::PolicyUnavailable`]).
    /// `opaque`: the port carries opaque bytes. HTTP tests and protocol facts cannot be asked there: an ALLOW rule that holds one
    /// is dropped whole, and a DENY or AUDIT rule matches what it would match for some answer to them (Istio's TCP chains).
    #[must_use]
    pub fn compile(policies: &[Arc<Policy>], missing: &[PolicyKey], opaque: bool, generation: u64) -> Self {
        Self::build(policies, policies, missing, opaque, generation)
    }

    /// `here`: the same policies, as far as they can hold on the port.
    fn build(
        policies: &[Arc<Policy>],
        here: &[Arc<Policy>],
        missing: &[PolicyKey],
        opaque: bool,
        generation: u64,
    ) -> Self {
        let mut building = Building::default();
        policies.iter().for_each(|policy| building.add(policy, opaque));
        let reads = if opaque { Reads::Opaque } else { reads(here) };
        here.iter()
            .filter(|policy| asks_another(policy, reads))
            .for_each(|policy| building.miss(&policy.key, TWO_PROTOCOLS.to_owned(), policy.dry_run));
        missing
            .iter()
            .for_each(|key| building.miss(key, "no policy of this name was delivered".to_owned(), false));
        Self {
            generation,
            reads,
            server_name: any_test(here, |test| matches!(test, Test::Sni(_))),
            judges_server: judges_server(here),
            audit: Rules::new(building.audit),
            enforced: building.enforced.finish(),
            dry_run: building.dry_run.map(LayerBuilding::finish),
            unavailable: building.unavailable,
        }
    }

    /// As [`Self::compile`], for one port: what a rule asks for that can hold on other ports only, is not read there.
    #[must_use]
    pub fn compile_at(
        port: u16,
        policies: &[Arc<Policy>],
        missing: &[PolicyKey],
        opaque: bool,
        generation: u64,
    ) -> Self {
        if !asks_port(policies) {
            return Self::compile(policies, missing, opaque, generation);
        }
        let here: Vec<Arc<Policy>> = policies.iter().map(|policy| port::at(policy, port)).collect();
        Self::build(policies, &here, missing, opaque, generation)
    }

    /// What has to be read before this set can judge.
    #[must_use]
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// Whether some rule tests the server name of a TLS ClientHello (`connection.sni`), so that it has to be read.
    #[must_use]
    pub fn asks_server_name(&self) -> bool {
        self.server_name
    }

    /// Whether some rule could refuse a server what it asks of a client that may call it. Where none could, nobody has to look
    /// for such requests.
    #[must_use]
    pub fn judges_server(&self) -> bool {
        self.judges_server
    }

    /// Policies that apply here and cannot be enforced, with the reason. One that is not dry-run denies everything.
    #[must_use]
    pub fn unavailable(&self) -> &[Unavailable] {
        &self.unavailable
    }

    /// Whether no policy is attached: everything is permitted and nothing recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Layer { unavailable, deny, allow } = &self.enforced;
        let enforces = unavailable.is_some() || !deny.is_empty() || allow.is_some();
        !enforces && self.audit.is_empty() && self.dry_run.is_none()
    }

    /// Judges the head of a request whose body was not read. A verdict other than `ReadBody` is what [`Self::decide`] would
    /// give for every body, though it may name another rule.
    ///
    /// A permitted request is still read where an AUDIT or dry-run rule depends on the body: they exist to be recorded.
    #[must_use]
    pub fn decide_head(&self, a: &Attributes<'_>) -> HeadVerdict {
        let asked = Asked::so_far(a);
        let verdict = self.enforced.verdict(&asked);
        if !self.is_settled(&asked, &verdict) {
            return HeadVerdict::ReadBody;
        }
        match self.conclude(&asked, verdict) {
            Ok(permit) => HeadVerdict::Permit(permit),
            Err(denial) => HeadVerdict::Deny(denial),
        }
    }

    /// Judges a request, or one message of a batch, with everything read.
    ///
    /// For messages of kind list, lifecycle and response every protocol fact counts as *not known yet* in ALLOW rules and
    /// a rule holds if it could hold; DENY and AUDIT rules see the facts. A fact that stays unknown lets no ALLOW rule of a
    /// call match and no DENY rule go.
    ///
    /// # Errors
    /// A [`Denial`] that names what decided.
    pub fn decide(&self, a: &Attributes<'_>, facts: &dyn Facts) -> Result<Permit, Denial> {
        let asked = Asked::finally(a, facts);
        let verdict = self.enforced.verdict(&asked);
        self.conclude(&asked, verdict)
    }

    /// Judges an opaque stream, or plain HTTP: every protocol fact is absent.
    ///
    /// # Errors
    /// As [`Self::decide`].
    pub fn decide_stream(&self, a: &Attributes<'_>) -> Result<Permit, Denial> {
        self.decide(a, &Plain)
    }

    /// Whether a call with these facts could be allowed, now or once its open facts are known: `false` hides an entry of a
    /// list. Courtesy only; the call itself is judged again.
    #[must_use]
    pub fn might_allow(&self, a: &Attributes<'_>, facts: &dyn Facts) -> bool {
        self.enforced.verdict(&Asked::at_best(a, facts)).is_ok()
    }

    /// Whether this peer could be allowed anything at all. Without HTTP attributes the question is about any request, with
    /// them about any message in this one.
    #[must_use]
    pub fn any_access(&self, a: &Attributes<'_>) -> bool {
        self.might_allow(a, &Unread)
    }

    /// The denial of a message whose method the protocol reader does not know. No rule can allow it.
    #[must_use]
    pub fn deny_unknown_method(&self, method: &str) -> Denial {
        self.denial(DenyReason::UnknownMethod(method.to_owned()), Record::default())
    }

    /// Whether no body could change the verdict, nor leave an AUDIT or dry-run rule unrecorded for a request that is sent.
    fn is_settled(&self, asked: &Asked<'_>, verdict: &Result<Option<&RuleName>, DenyReason>) -> bool {
        let open = |rules: &Rules| rules.first(&asked.head, &Unread, Wanted::IsOpen).is_some();
        let open_layer = |layer: &Layer| open(&layer.deny) || layer.allow.as_ref().is_some_and(open);
        match verdict {
            Err(DenyReason::NoRuleMatched) => !self.enforced.allow.as_ref().is_some_and(open),
            Err(_) => true,
            Ok(_) => {
                !open(&self.enforced.deny)
                    && !open(&self.audit)
                    && !self.dry_run.as_ref().is_some_and(open_layer)
            }
        }
    }

    fn conclude(
        &self,
        asked: &Asked<'_>,
        verdict: Result<Option<&RuleName>, DenyReason>,
    ) -> Result<Permit, Denial> {
        let record = Record {
            audited: self.audit.holding(&asked.head, asked.facts),
            shadow: self.dry_run.as_ref().map(|layer| Box::new(layer.shadow(asked, &verdict))),
        };
        match verdict {
            Ok(rule) => Ok(Permit::new(rule.cloned(), record, self.generation)),
            Err(reason) => Err(self.denial(reason, record)),
        }
    }

    fn denial(&self, reason: DenyReason, Record { audited, shadow }: Record) -> Denial {
        Denial { reason, generation: self.generation, audited, shadow: shadow.unwrap_or_default() }
    }
}

impl Layer {
    /// DENY, then ALLOW.
    fn verdict(&self, asked: &Asked<'_>) -> Result<Option<&RuleName>, DenyReason> {
        if let Some(key) = &self.unavailable {
            return Err(DenyReason::PolicyUnavailable(key.clone()));
        }
        if let Some(name) = self.denied_by(asked) {
            return Err(DenyReason::Rule(name.clone()));
        }
        match &self.allow {
            None => Ok(None),
            Some(_) => self.allowed_by(asked).map(Some).ok_or(DenyReason::NoRuleMatched),
        }
    }

    fn denied_by(&self, asked: &Asked<'_>) -> Option<&RuleName> {
        self.deny.first(&asked.head, asked.facts, asked.deny_if)
    }

    fn allowed_by(&self, asked: &Asked<'_>) -> Option<&RuleName> {
        self.allow.as_ref()?.first(&asked.head, asked.allow_facts.facts(), asked.allow_if)
    }

    /// What this layer would have done beside the enforced one, whose verdict is given.
    fn shadow(&self, asked: &Asked<'_>, enforced: &Result<Option<&RuleName>, DenyReason>) -> Shadow {
        let (denied_by, allowed_by) = (self.denied_by(asked), self.allowed_by(asked));
        let refused = match enforced {
            Ok(Some(_)) => false,
            Ok(None) => self.allow.is_some() && allowed_by.is_none(),
            Err(DenyReason::NoRuleMatched) => allowed_by.is_none(),
            Err(_) => true,
        };
        Shadow {
            would_deny: refused || denied_by.is_some() || self.unavailable.is_some(),
            denied_by: denied_by.cloned(),
            allowed_by: allowed_by.cloned(),
        }
    }
}

/// Policies on their way into a set.
#[derive(Default)]
struct Building {
    audit: Vec<Rule>,
    enforced: LayerBuilding,
    dry_run: Option<LayerBuilding>,
    unavailable: Vec<Unavailable>,
}

#[derive(Default)]
struct LayerBuilding {
    unavailable: Option<PolicyKey>,
    deny: Vec<Rule>,
    allow: Option<Vec<Rule>>,
}

impl LayerBuilding {
    fn finish(self) -> Layer {
        Layer {
            unavailable: self.unavailable,
            deny: Rules::new(self.deny),
            allow: self.allow.map(Rules::new),
        }
    }
}

impl Building {
    fn add(&mut self, policy: &Policy, opaque: bool) {
        match compile_rules(policy, opaque) {
            Ok(rules) => self.take(policy, rules),
            Err(why) => self.miss(&policy.key, why, policy.dry_run),
        }
    }

    fn take(&mut self, policy: &Policy, rules: Vec<Rule>) {
        // A dry-run AUDIT would record nothing but itself: there is nothing it could do. `lint` says so.
        match (policy.action, policy.dry_run) {
            (Action::Audit, true) => {}
            (Action::Audit, false) => self.audit.extend(rules),
            (Action::Deny, dry_run) => self.layer(dry_run).deny.extend(rules),
            (Action::Allow, dry_run) => self.layer(dry_run).allow.get_or_insert_default().extend(rules),
        }
    }

    fn miss(&mut self, key: &PolicyKey, why: String, dry_run: bool) {
        self.layer(dry_run).unavailable.get_or_insert_with(|| key.clone());
        self.unavailable.push(Unavailable { policy: key.clone(), why, dry_run });
    }

    fn layer(&mut self, dry_run: bool) -> &mut LayerBuilding {
        if dry_run { self.dry_run.get_or_insert_default() } else { &mut self.enforced }
    }
}

fn compile_rules(policy: &Policy, opaque: bool) -> Result<Vec<Rule>, String> {
    if let Some(why) = &policy.unusable {
        return Err(why.clone());
    }
    let mut rules = Vec::with_capacity(policy.rules.len());
    for rule in &policy.rules {
        let when = compile::rule(&rule.when, policy.action, opaque)
            .map_err(|why| format!("rule {}: {why}", rule.index))?;
        let name = RuleName { policy: policy.key.clone(), rule: rule.index };
        rules.extend(when.map(|when| Rule { name, when }));
    }
    Ok(rules)
}

/// Why a policy is not enforced where another one's protocol is read.
const TWO_PROTOCOLS: &str = "policies of this port ask http.mcp and http.a2a, and it can be read as one only";

/// Dry-run policies count: without reading, the shadow of a policy on tools could not be told. Enforced ones come first.
fn reads(policies: &[Arc<Policy>]) -> Reads {
    let enforced = |filter| policies.iter().any(|policy| !policy.dry_run && asks(policy, filter));
    let any = |filter| policies.iter().any(|policy| asks(policy, filter));
    match () {
        () if enforced(MCP) => Reads::Mcp,
        () if enforced(A2A) => Reads::A2a,
        () if any(MCP) => Reads::Mcp,
        () if any(A2A) => Reads::A2a,
        () => Reads::Http,
    }
}

const MCP: &str = "http.mcp";
const A2A: &str = "http.a2a";

/// Whether a policy asks facts of the protocol that is not read.
fn asks_another(policy: &Policy, reads: Reads) -> bool {
    match reads {
        Reads::Mcp => asks(policy, A2A),
        Reads::A2a => asks(policy, MCP),
        Reads::Http | Reads::Opaque => false,
    }
}

fn asks(policy: &Policy, wanted: &str) -> bool {
    let told = |test: &Test| matches!(test, Test::Fact { filter, .. } if filter == wanted);
    policy.rules.iter().any(|rule| holds_test(&rule.when, &told))
}

/// A DENY rule on messages, or any rule on what servers ask for.
fn judges_server(policies: &[Arc<Policy>]) -> bool {
    policies.iter().filter(|policy| !policy.dry_run).any(|policy| {
        any_test(std::slice::from_ref(policy), |test| match test {
            Test::Fact { filter, key, .. } if filter == MCP => {
                policy.action == Action::Deny || key.starts_with("server_request")
            }
            _ => false,
        })
    })
}

/// Whether what these policies ask for may differ from port to port.
#[must_use]
pub fn asks_port(policies: &[Arc<Policy>]) -> bool {
    any_test(policies, port::asks)
}

/// Whether any leaf of any rule is one that is wanted.
fn any_test(policies: &[Arc<Policy>], wanted: impl Fn(&Test) -> bool) -> bool {
    policies.iter().flat_map(|policy| &policy.rules).any(|rule| holds_test(&rule.when, &wanted))
}

fn holds_test(expr: &Expr, wanted: &impl Fn(&Test) -> bool) -> bool {
    match expr {
        Expr::All(parts) | Expr::Any(parts) => parts.iter().any(|part| holds_test(part, wanted)),
        Expr::Not(part) => holds_test(part, wanted),
        Expr::Test(test) => wanted(test),
    }
}
