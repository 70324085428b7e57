//! Compiled rules: trees of sets, asked with three values.

use agent_protocols::{FactKey, Facts, Truth};
use http::{HeaderMap, HeaderName};
use serde_json::Value;
use waypoint_model::{PathPattern, StringMatch, Template, Test};

use crate::addresses::Ranges;
use crate::attributes::{Head, HttpAttributes, namespaces, service_accounts};
use crate::cel::{Answer, Condition};
use crate::compile::CannotCompile;
use crate::strings::Strings;
use crate::truth;

/// A compiled tree. Constants fold away when it is built, so `All` and `Any` have two parts or more, or none.
#[derive(Debug)]
pub(crate) enum Clause {
    /// Every part holds; true when empty.
    All(Vec<Self>),
    /// Some part holds; false when empty.
    Any(Vec<Self>),
    /// The part does not hold.
    Not(Box<Self>),
    /// A leaf.
    Match(Matcher),
}

impl Clause {
    /// Whether it holds for a request.
    pub(crate) fn truth(&self, head: &Head<'_>, facts: &dyn Facts) -> Truth {
        match self {
            Self::All(parts) => truth::all(parts.iter().map(|part| part.truth(head, facts))),
            Self::Any(parts) => truth::any(parts.iter().map(|part| part.truth(head, facts))),
            Self::Not(part) => truth::not(part.truth(head, facts)),
            Self::Match(matcher) => matcher.truth(head, facts),
        }
    }
}

/// One attribute and the values that satisfy it.
#[derive(Debug)]
pub(crate) enum Matcher {
    Principal(Strings),
    Namespace(Strings),
    ServiceAccount(Vec<(Box<str>, Box<str>)>),
    TrustDomain(Strings),
    SourceIp(Ranges),
    RemoteIp(Ranges),
    DestinationIp(Ranges),
    DestinationPort(Vec<u16>),
    Sni(Strings),
    /// In lower case.
    Host(Strings),
    Method(Strings),
    Path(Strings, Vec<Template>),
    Header(Field, Strings),
    /// `iss/sub` of a verified token.
    RequestPrincipal(Strings),
    /// A claim of a verified token, by names from the payload inwards.
    Claim(Vec<String>, Strings),
    Fact(FactKey, Strings),
    Condition(Asked),
}

/// A condition, and what is asked of it.
#[derive(Debug)]
pub(crate) struct Asked {
    condition: Box<Condition>,
    /// Whether *true* satisfies it.
    when_true: bool,
    /// Whether *false* satisfies it.
    when_false: bool,
    /// What it counts as where it is neither.
    unanswered: bool,
}

/// A header, or the pseudo-header that Envoy shows under the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Authority,
    Method,
    Header(HeaderName),
}

impl Matcher {
    /// A leaf of one value. `unanswered`: what a condition counts as where it is neither true nor false.
    pub(crate) fn new(test: &Test, unanswered: bool) -> Result<Self, CannotCompile> {
        Ok(match test {
            Test::Principal(value) => Self::Principal(Strings::one(value)),
            Test::Namespace(value) => Self::Namespace(Strings::one(value)),
            Test::ServiceAccount { namespace, name } => {
                Self::ServiceAccount(vec![(namespace.as_str().into(), name.as_str().into())])
            }
            Test::TrustDomain(value) => Self::TrustDomain(Strings::one(value)),
            Test::SourceIp(net) => Self::SourceIp(Ranges::one(*net)),
            Test::RemoteIp(net) => Self::RemoteIp(Ranges::one(*net)),
            Test::DestinationIp(net) => Self::DestinationIp(Ranges::one(*net)),
            Test::DestinationPort(port) => Self::DestinationPort(vec![*port]),
            Test::Sni(value) => Self::Sni(Strings::one(value)),
            Test::Host(value) => Self::Host(Strings::one_ignoring_case(value)),
            Test::Method(value) => Self::Method(Strings::one(value)),
            Test::Path(PathPattern::Text(value)) => {
                let mut texts = Strings::one(value);
                // A path that is normalized has its percent-encodings in upper case (RFC 3986 §6.2.2.1).
                texts.absorb(Strings::one(&in_upper_case(value)));
                Self::Path(texts, Vec::new())
            }
            Test::Path(PathPattern::Template(template)) => {
                Self::Path(Strings::default(), vec![template.clone()])
            }
            Test::Header { name, value } => Self::Header(Field::parse(name)?, Strings::one(value)),
            Test::RequestPrincipal(value) => Self::RequestPrincipal(Strings::one(value)),
            Test::Audience(value) => Self::Claim(vec!["aud".to_owned()], Strings::one(value)),
            Test::Presenter(value) => Self::Claim(vec!["azp".to_owned()], Strings::one(value)),
            Test::Claim { path, value } => Self::Claim(path.clone(), Strings::one(value)),
            Test::Fact { filter, key, value } => match Condition::expression(filter, key) {
                Some(text) => Self::Condition(Asked::new(text, value, unanswered)?),
                None => Self::Fact(FactKey::parse(filter, key)?, Strings::one(value)),
            },
        })
    }

    /// Takes up the values of another leaf as alternatives; gives it back if it asks about another attribute.
    pub(crate) fn absorb(&mut self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Principal(mine), Self::Principal(more))
            | (Self::Namespace(mine), Self::Namespace(more))
            | (Self::TrustDomain(mine), Self::TrustDomain(more))
            | (Self::Sni(mine), Self::Sni(more))
            | (Self::Host(mine), Self::Host(more))
            | (Self::Method(mine), Self::Method(more))
            | (Self::RequestPrincipal(mine), Self::RequestPrincipal(more)) => mine.absorb(more),
            (Self::ServiceAccount(mine), Self::ServiceAccount(more)) => mine.extend(more),
            (Self::SourceIp(mine), Self::SourceIp(more))
            | (Self::RemoteIp(mine), Self::RemoteIp(more))
            | (Self::DestinationIp(mine), Self::DestinationIp(more)) => mine.absorb(more),
            (Self::DestinationPort(mine), Self::DestinationPort(more)) => mine.extend(more),
            (Self::Path(mine, templates), Self::Path(more, more_templates)) => {
                mine.absorb(more);
                templates.extend(more_templates);
            }
            (Self::Header(field, mine), Self::Header(same, more)) if *field == same => mine.absorb(more),
            (Self::Claim(path, mine), Self::Claim(same, more)) if *path == same => mine.absorb(more),
            (Self::Fact(key, mine), Self::Fact(same, more)) if *key == same => mine.absorb(more),
            (Self::Condition(mine), Self::Condition(more)) => {
                return mine.absorb(more).map(Self::Condition);
            }
            (_, other) => return Some(other),
        }
        None
    }

    /// Puts the collected values into the order that lookups need.
    pub(crate) fn seal(&mut self) {
        match self {
            Self::SourceIp(ranges) | Self::RemoteIp(ranges) | Self::DestinationIp(ranges) => ranges.seal(),
            Self::ServiceAccount(accounts) => accounts.sort_unstable(),
            Self::DestinationPort(ports) => ports.sort_unstable(),
            Self::Principal(_)
            | Self::Namespace(_)
            | Self::TrustDomain(_)
            | Self::Sni(_)
            | Self::Host(_)
            | Self::Method(_)
            | Self::Path(..)
            | Self::Header(..)
            | Self::RequestPrincipal(_)
            | Self::Claim(..)
            | Self::Fact(..)
            | Self::Condition(_) => {}
        }
    }

    fn truth(&self, head: &Head<'_>, facts: &dyn Facts) -> Truth {
        let (source, destination) = (&head.attributes.source, &head.attributes.destination);
        let peer = source.identity;
        let ask_http = |holds: &dyn Fn(&HttpAttributes<'_>) -> bool| {
            head.attributes.http.as_ref().map_or(Truth::NotYet, |http| truth::of(holds(http)))
        };
        match self {
            Self::Principal(values) => {
                truth::of(peer.is_some_and(|id| values.matches(id.principal().as_bytes())))
            }
            Self::Namespace(values) => {
                truth::of(peer.is_some_and(|id| namespaces(id).any(|name| values.matches(name.as_bytes()))))
            }
            Self::ServiceAccount(accounts) => truth::of(
                peer.is_some_and(|id| service_accounts(id).any(|account| holds_account(accounts, account))),
            ),
            Self::TrustDomain(values) => {
                truth::of(peer.is_some_and(|id| values.matches(id.trust_domain().as_bytes())))
            }
            Self::SourceIp(ranges) => truth::of(ranges.contain(source.ip)),
            // Who the original client was is only claimed where the request names one: neither permitted by it nor let go.
            Self::RemoteIp(_) if head.names_a_client() => Truth::NotYet,
            Self::RemoteIp(ranges) => truth::of(ranges.contain(source.remote_ip)),
            // A tunnel to a host name reaches the same service as one to its address: which one cannot be told.
            Self::DestinationIp(ranges) => {
                destination.ip.map_or(Truth::NotYet, |ip| truth::of(ranges.contain(ip)))
            }
            Self::DestinationPort(ports) => truth::of(ports.binary_search(&destination.port).is_ok()),
            Self::Sni(values) => {
                truth::of(destination.sni.is_some_and(|name| values.matches(name.as_bytes())))
            }
            Self::Host(values) => ask_http(&|_| values.matches(head.host.as_bytes())),
            Self::Method(values) => ask_http(&|http| values.matches(http.method.as_bytes())),
            Self::Path(values, templates) => ask_http(&|http| {
                values.matches(http.path.as_bytes())
                    || templates.iter().any(|template| template.matches(http.path))
            }),
            Self::Header(field, values) => ask_http(&|http| field.matches(http, values)),
            Self::RequestPrincipal(values) => ask_http(&|http| principal_matches(http, values)),
            Self::Claim(path, values) => ask_http(&|http| claim_matches(http, path, values)),
            Self::Fact(key, values) => ask_fact(facts, key, values),
            Self::Condition(asked) => asked.truth(head, facts),
        }
    }
}

impl Asked {
    fn new(text: &str, value: &StringMatch, unanswered: bool) -> Result<Self, CannotCompile> {
        let when_true = match value {
            StringMatch::Exact(value) if value == "true" => true,
            StringMatch::Exact(value) if value == "false" => false,
            _ => return Err(CannotCompile::ConditionValue(text.to_owned())),
        };
        let fault = |fault| CannotCompile::Condition { text: text.to_owned(), fault };
        let condition = Box::new(Condition::compile(text).map_err(fault)?);
        Ok(Self { condition, when_true, when_false: !when_true, unanswered })
    }

    /// Takes up what is asked of the same condition.
    fn absorb(&mut self, other: Self) -> Option<Self> {
        if self.condition.text() != other.condition.text() || self.unanswered != other.unanswered {
            return Some(other);
        }
        self.when_true |= other.when_true;
        self.when_false |= other.when_false;
        None
    }

    /// Tools of which a message must call one, or the answer is `No`.
    pub(crate) fn tools(&self) -> Option<&[Box<str>]> {
        self.condition.tools().filter(|_| !self.when_false)
    }

    fn truth(&self, head: &Head<'_>, facts: &dyn Facts) -> Truth {
        match self.condition.ask(head, facts) {
            Answer::Told(told) => truth::of(if told { self.when_true } else { self.when_false }),
            Answer::Open => Truth::NotYet,
            Answer::Error => truth::of(self.unanswered),
        }
    }
}

/// `iss/sub` of the verified token, where it has both (Istio `requestPrincipals`).
fn principal_matches(http: &HttpAttributes<'_>, values: &Strings) -> bool {
    let claim = |name| http.claims.and_then(|claims| claims.get(name)?.as_str());
    let (Some(issuer), Some(subject)) = (claim("iss"), claim("sub")) else { return false };
    values.matches(format!("{issuer}/{subject}").as_bytes())
}

/// A text, or any text of a list, as Istio compares claims. Numbers, booleans and objects match nothing.
fn claim_matches(http: &HttpAttributes<'_>, path: &[String], values: &Strings) -> bool {
    let root = http.claims;
    let found = path.iter().fold(root, |value, name| value.and_then(|value| value.as_object()?.get(name)));
    let matches = |value: &Value| value.as_str().is_some_and(|text| values.matches(text.as_bytes()));
    match found {
        Some(Value::Array(entries)) => entries.iter().any(matches),
        Some(single) => matches(single),
        None => false,
    }
}

/// A fact of which only the beginning is known (a resource template) is open only where some value could match.
fn ask_fact(facts: &dyn Facts, key: &FactKey, values: &Strings) -> Truth {
    let answer = facts.ask(key, &mut |text| values.matches(text.as_bytes()));
    let beginning = facts.known_prefix(key).filter(|_| answer == Truth::NotYet);
    let hopeless = beginning.is_some_and(|beginning| !values.could_match_from(beginning.as_bytes()));
    if hopeless { Truth::No } else { answer }
}

fn holds_account(accounts: &[(Box<str>, Box<str>)], (namespace, name): (&str, &str)) -> bool {
    accounts.binary_search_by(|(ns, sa)| (ns.as_ref(), sa.as_ref()).cmp(&(namespace, name))).is_ok()
}

impl Field {
    /// Envoy shows `:authority` under `host` too. `:path` is refused: Envoy would compare it with its query, and the
    /// query is no part of what is judged here.
    fn parse(name: &str) -> Result<Self, CannotCompile> {
        match name {
            ":authority" | "host" => Ok(Self::Authority),
            ":method" => Ok(Self::Method),
            _ => name.parse().map(Self::Header).map_err(|_| CannotCompile::Header(name.to_owned())),
        }
    }

    fn matches(&self, http: &HttpAttributes<'_>, values: &Strings) -> bool {
        match self {
            Self::Authority => values.matches(http.authority.as_bytes()),
            Self::Method => values.matches(http.method.as_bytes()),
            Self::Header(name) => any_value(http.headers, name, |value| values.matches(value)),
        }
    }
}

/// Several lines of one name are as many values, and also one value joined by `,` (RFC 9110 §5.3): a test that holds for
/// any of them holds, so that no line hides another from a DENY (Envoy's `rbac_match_headers_individually`).
pub(crate) fn any_value(headers: &HeaderMap, name: &HeaderName, mut test: impl FnMut(&[u8]) -> bool) -> bool {
    let lines = || headers.get_all(name).iter();
    if lines().any(|line| test(line.as_bytes())) {
        return true;
    }
    if lines().nth(1).is_none() {
        return false;
    }
    let joined = lines().map(http::HeaderValue::as_bytes).collect::<Vec<_>>().join(&b","[..]);
    test(&joined)
}

/// The same match with each `%xx` as `%XX`; a pattern sees the text as it is given.
fn in_upper_case(value: &StringMatch) -> StringMatch {
    match value {
        StringMatch::Exact(text) => StringMatch::Exact(triplets(text)),
        StringMatch::Prefix(text) => StringMatch::Prefix(triplets(text)),
        StringMatch::Suffix(text) => StringMatch::Suffix(triplets(text)),
        StringMatch::Present => StringMatch::Present,
        StringMatch::Regex(pattern) => StringMatch::Regex(pattern.clone()),
    }
}

fn triplets(text: &str) -> String {
    let mut digits_left = 0;
    let upper = |character: char| {
        let digit = digits_left > 0 && character.is_ascii_hexdigit();
        digits_left = match character {
            '%' => 2,
            _ if digit => digits_left - 1,
            _ => 0,
        };
        if digit { character.to_ascii_uppercase() } else { character }
    };
    text.chars().map(upper).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encodings_are_upper_case_and_nothing_else_is() {
        let rows = [
            ("/a%2fb", "/a%2Fb"),
            ("/abc%e2%82%ac", "/abc%E2%82%AC"),
            ("%zz%a", "%zz%A"),
            ("%%ab", "%%AB"),
            ("/%2fff", "/%2Fff"),
        ];
        for (text, want) in rows {
            assert_eq!(triplets(text), want);
        }
    }
}
