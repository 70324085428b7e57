//! A slow evaluator, written from Istio's documentation and ours and not from the engine.
//!
//! It knows no third value: where a test cannot be answered it tries both answers for it, everywhere it stands, and looks
//! at all outcomes. It has no index and compares one value at a time.

use agent_protocols::{FactKey, Facts, Kind, Truth, Unread};
use waypoint_model::{Action, Expr, PathPattern, Policy, StringMatch, Test};
use waypoint_policy::{DenyReason, RuleName, Shadow};

use crate::support::Request;

/// All outcomes of a rule over the answers to its open tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    can_hold: bool,
    can_fail: bool,
}

impl Outcomes {
    fn surely(self) -> bool {
        self.can_hold && !self.can_fail
    }

    fn open(self) -> bool {
        self.can_hold && self.can_fail
    }
}

/// One question to all policies of a destination.
pub(crate) struct Question<'a> {
    pub(crate) policies: &'a [Policy],
    pub(crate) request: &'a Request,
    pub(crate) facts: &'a dyn Facts,
    pub(crate) opaque: bool,
}

/// What is expected of the engine.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) verdict: Result<Option<RuleName>, DenyReason>,
    pub(crate) audited: Vec<RuleName>,
    pub(crate) shadow: Shadow,
}

impl Question<'_> {
    /// Everything is read.
    pub(crate) fn decided(&self) -> Expected {
        let lenient = matches!(self.facts.kind(), Kind::List | Kind::Lifecycle | Kind::Response);
        let allowed = |dry_run| {
            let facts: &dyn Facts = if lenient { &Unread } else { self.facts };
            self.first(Action::Allow, dry_run, facts, |o| if lenient { o.can_hold } else { o.surely() })
        };
        let denied = |dry_run| self.first(Action::Deny, dry_run, self.facts, |o| o.can_hold);
        Expected {
            verdict: self.merge(denied(false), allowed(false), self.attached(false)),
            audited: self.audited(),
            shadow: self.shadow(denied(true), allowed(true), denied(false), allowed(false)),
        }
    }

    /// Only the head is: `None` where the body matters.
    pub(crate) fn decided_by_head(&self) -> Option<bool> {
        let head = Question { facts: &Unread, ..*self };
        let any = |action, dry_run, wanted: fn(Outcomes) -> bool| {
            head.first(action, dry_run, &Unread, wanted).is_some()
        };
        let refused = any(Action::Deny, false, Outcomes::surely)
            || (self.attached(false) && !any(Action::Allow, false, |o| o.can_hold));
        if refused {
            return Some(false);
        }
        let granted = !self.attached(false) || any(Action::Allow, false, Outcomes::surely);
        let open = any(Action::Deny, false, Outcomes::open)
            || any(Action::Audit, false, Outcomes::open)
            || any(Action::Deny, true, Outcomes::open)
            || any(Action::Allow, true, Outcomes::open);
        (granted && !open).then_some(true)
    }

    /// Whether some completion of the facts could be permitted.
    pub(crate) fn might_allow(&self) -> bool {
        self.first(Action::Deny, false, self.facts, Outcomes::surely).is_none()
            && (!self.attached(false)
                || self.first(Action::Allow, false, self.facts, |o| o.can_hold).is_some())
    }

    fn merge(
        &self,
        denied: Option<RuleName>,
        allowed: Option<RuleName>,
        attached: bool,
    ) -> Result<Option<RuleName>, DenyReason> {
        match (denied, allowed) {
            (Some(rule), _) => Err(DenyReason::Rule(rule)),
            (None, Some(rule)) => Ok(Some(rule)),
            (None, None) if attached => Err(DenyReason::NoRuleMatched),
            (None, None) => Ok(None),
        }
    }

    /// Had the dry-run policies been among the others, would the answer have been a denial?
    fn shadow(
        &self,
        denied_by: Option<RuleName>,
        allowed_by: Option<RuleName>,
        denied: Option<RuleName>,
        allowed: Option<RuleName>,
    ) -> Shadow {
        if !self.policies.iter().any(|policy| policy.dry_run && policy.action != Action::Audit) {
            return Shadow::default();
        }
        let attached = self.attached(false) || self.attached(true);
        let merged = self.merge(denied.or(denied_by.clone()), allowed.or(allowed_by.clone()), attached);
        Shadow { denied_by, allowed_by, would_deny: merged.is_err() }
    }

    fn attached(&self, dry_run: bool) -> bool {
        self.policies.iter().any(|policy| policy.action == Action::Allow && policy.dry_run == dry_run)
    }

    fn audited(&self) -> Vec<RuleName> {
        self.each(Action::Audit, false, self.facts)
            .filter(|(_, outcomes)| outcomes.surely())
            .map(|(name, _)| name)
            .collect()
    }

    fn first(
        &self,
        action: Action,
        dry_run: bool,
        facts: &dyn Facts,
        wanted: impl Fn(Outcomes) -> bool,
    ) -> Option<RuleName> {
        self.each(action, dry_run, facts).find(|(_, outcomes)| wanted(*outcomes)).map(|(name, _)| name)
    }

    fn each<'q>(
        &'q self,
        action: Action,
        dry_run: bool,
        facts: &'q dyn Facts,
    ) -> impl Iterator<Item = (RuleName, Outcomes)> + 'q {
        let policies =
            self.policies.iter().filter(move |policy| policy.action == action && policy.dry_run == dry_run);
        policies.flat_map(move |policy| {
            policy.rules.iter().map(move |rule| {
                let name = RuleName { policy: policy.key.clone(), rule: rule.index };
                (name, self.outcomes(action, &rule.when, facts))
            })
        })
    }

    fn outcomes(&self, action: Action, when: &Expr, facts: &dyn Facts) -> Outcomes {
        let mut leaves = Vec::new();
        leaves_of(when, &mut leaves);
        if self.opaque && leaves.iter().any(|test| test.is_http()) {
            return self.on_opaque_port(action, when, &leaves);
        }
        let answers: Vec<Option<bool>> =
            leaves.iter().map(|test| answer(test, self.request, facts)).collect();
        try_all(when, &answers)
    }

    /// ALLOW: the rule is as if it were not there. DENY and AUDIT: it matches if some answer to the HTTP tests lets it.
    fn on_opaque_port(&self, action: Action, when: &Expr, leaves: &[&Test]) -> Outcomes {
        if action == Action::Allow {
            return Outcomes { can_hold: false, can_fail: true };
        }
        let ask = |test: &&Test| if test.is_http() { None } else { answer(test, self.request, &Unread) };
        let matches = try_all(when, &leaves.iter().map(ask).collect::<Vec<_>>()).can_hold;
        Outcomes { can_hold: matches, can_fail: !matches }
    }
}

fn leaves_of<'e>(expr: &'e Expr, leaves: &mut Vec<&'e Test>) {
    match expr {
        Expr::All(parts) | Expr::Any(parts) => parts.iter().for_each(|part| leaves_of(part, leaves)),
        Expr::Not(part) => leaves_of(part, leaves),
        Expr::Test(test) => leaves.push(test),
    }
}

fn try_all(expr: &Expr, answers: &[Option<bool>]) -> Outcomes {
    let open = answers.iter().filter(|answer| answer.is_none()).count();
    assert!(open <= 12, "a generated rule has too many open tests to try them all");
    let mut outcomes = Outcomes::default();
    for guess in 0..1u32 << open {
        let mut bits = (0..open).map(|bit| guess >> bit & 1 == 1);
        let mut filled = answers.iter().map(|answer| answer.unwrap_or_else(|| bits.next().unwrap()));
        let holds = evaluate(expr, &mut filled);
        outcomes.can_hold |= holds;
        outcomes.can_fail |= !holds;
    }
    outcomes
}

/// Takes one answer for each leaf, in order, whatever the others said.
fn evaluate(expr: &Expr, answers: &mut impl Iterator<Item = bool>) -> bool {
    match expr {
        Expr::All(parts) => parts.iter().filter(|part| !evaluate(part, answers)).count() == 0,
        Expr::Any(parts) => parts.iter().filter(|part| evaluate(part, answers)).count() > 0,
        Expr::Not(part) => !evaluate(part, answers),
        Expr::Test(_) => answers.next().unwrap(),
    }
}

/// One test of one request; `None`: not known.
fn answer(test: &Test, request: &Request, facts: &dyn Facts) -> Option<bool> {
    let identity = request.identity.as_ref().map(|id| id.to_string());
    let principal = identity.as_deref().map(|id| id.strip_prefix("spiffe://").unwrap());
    let part = |at: usize| principal.and_then(|text| text.split('/').nth(at));
    let of_head = |value: Option<&str>, want: &StringMatch| Some(value.is_some_and(|text| like(text, want)));
    match test {
        Test::Principal(want) => of_head(principal, want),
        Test::TrustDomain(want) => of_head(part(0), want),
        Test::Namespace(want) => of_head(part(2), want),
        Test::ServiceAccount { namespace, name } => Some(part(2) == Some(namespace) && part(4) == Some(name)),
        Test::SourceIp(net) => Some(net.contains(&request.ip)),
        Test::RemoteIp(net) => Some(net.contains(&request.remote_ip)),
        Test::DestinationIp(net) => request.destination_ip.map(|ip| net.contains(&ip)),
        Test::DestinationPort(port) => Some(request.port == *port),
        Test::Sni(want) => of_head(request.sni.as_deref(), want),
        Test::Fact { filter, key, value } => {
            match facts.ask(&FactKey::parse(filter, key).unwrap(), &mut |text| like(text, value)) {
                Truth::Yes => Some(true),
                Truth::No => Some(false),
                Truth::NotYet => None,
            }
        }
        Test::Host(_)
        | Test::Method(_)
        | Test::Path(_)
        | Test::Header { .. }
        | Test::RequestPrincipal(_)
        | Test::Audience(_)
        | Test::Presenter(_)
        | Test::Claim { .. } => request.http.as_ref().map(|http| answer_http(test, http)),
    }
}

fn answer_http(test: &Test, http: &crate::support::Http) -> bool {
    match test {
        Test::Host(want) => {
            like(&http.authority.to_lowercase(), &StringMatch::parse(&want.to_string().to_lowercase()))
        }
        Test::Method(want) => like(&http.method, want),
        Test::Path(PathPattern::Text(want)) => like(&http.path, want),
        Test::Path(template) => template.matches(&http.path),
        Test::Header { name, value } => {
            let lines: Vec<&str> =
                http.headers.get_all(name).iter().map(|line| line.to_str().unwrap()).collect();
            let any = lines.iter().any(|line| like(line, value));
            any || (!lines.is_empty() && like(&lines.join(","), value))
        }
        Test::RequestPrincipal(want) => {
            let text = |name: &str| http.claims.as_ref()?[name].as_str().map(str::to_owned);
            text("iss").zip(text("sub")).is_some_and(|(iss, sub)| like(&[iss, sub].join("/"), want))
        }
        Test::Audience(want) => claimed(http, "/aud", want),
        Test::Presenter(want) => claimed(http, "/azp", want),
        Test::Claim { path, value } => claimed(http, &format!("/{}", path.join("/")), value),
        other => panic!("{other:?} is no HTTP test"),
    }
}

/// A text, or a text in a list.
fn claimed(http: &crate::support::Http, pointer: &str, want: &StringMatch) -> bool {
    let found = http.claims.as_ref().and_then(|claims| claims.pointer(pointer));
    let several = found.and_then(|found| found.as_array()).into_iter().flatten();
    several.chain(found).filter_map(|value| value.as_str()).any(|text| like(text, want))
}

/// Istio's notation, read off its text.
fn like(text: &str, want: &StringMatch) -> bool {
    let want = want.to_string();
    if want == "*" {
        return !text.is_empty();
    }
    match (want.strip_suffix('*'), want.strip_prefix('*')) {
        (Some(start), _) => text.starts_with(start),
        (_, Some(end)) => text.ends_with(end),
        _ => text == want,
    }
}
