//! Policies: rules of one shape, trees of tests over what is known of a request.

use ipnet::IpNet;
use serde::Serialize;

use crate::{PathPattern, PolicyKey, StringMatch};

/// A policy that is attached to some services.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    /// `namespace/name`.
    pub key: PolicyKey,
    /// What a match of any rule does.
    pub action: Action,
    /// Counted and logged, not enforced (annotation `istio.io/dry-run`).
    pub dry_run: bool,
    /// Rules, any of which may match. None: ALLOW and no rule matches nothing, so everything is denied.
    pub rules: Vec<Rule>,
    /// Why it cannot be enforced as written. Its targets then refuse everything (fail closed).
    pub unusable: Option<String>,
}

/// What a match does, in the order in which actions are asked: AUDIT, DENY, ALLOW.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Action {
    /// Only recorded.
    Audit,
    /// Refused.
    Deny,
    /// Permitted; where any ALLOW policy is attached, what none of them matches is refused.
    Allow,
}

/// One rule of a policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// Index in the policy as written; with the policy's key it names the rule.
    pub index: usize,
    /// When it matches.
    pub when: Expr,
}

/// A boolean tree. Empty `All` is true, empty `Any` is false.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Expr {
    /// Every part holds.
    All(Vec<Self>),
    /// Some part holds.
    Any(Vec<Self>),
    /// The part does not hold.
    Not(Box<Self>),
    /// A leaf.
    Test(Test),
}

/// What one leaf compares. An attribute that is absent fails the test (so `Not` of it holds), as in Envoy.
///
/// On an opaque (TCP) destination the HTTP tests cannot be asked; [`Test::is_http`] tells which those are, and the
/// policy compiler applies Istio's rule for them (an ALLOW rule with one is dropped whole, in a DENY rule the test drops out).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Test {
    /// The peer's principal, `td/ns/x/sa/y`, without scheme.
    Principal(StringMatch),
    /// The peer's namespace.
    Namespace(StringMatch),
    /// The peer's ServiceAccount: namespace and name, exactly.
    ServiceAccount {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// The peer's trust domain.
    TrustDomain(StringMatch),
    /// The address that the tunnel came from.
    SourceIp(IpNet),
    /// The original client's address: from X-Forwarded-For where that is trusted, else the tunnel's.
    RemoteIp(IpNet),
    /// Destination address.
    DestinationIp(IpNet),
    /// Destination port: the service port for a service, else the workload's.
    DestinationPort(u16),
    /// Server name of a TLS ClientHello inside the tunnel.
    Sni(StringMatch),
    /// Issuer and subject of a verified token, `iss/sub`.
    RequestPrincipal(StringMatch),
    /// Any audience of a verified token (claim `aud`).
    Audience(StringMatch),
    /// Authorized presenter of a verified token (claim `azp`).
    Presenter(StringMatch),
    /// A claim of a verified token: a text, or any entry of a list of texts.
    Claim {
        /// Names from the payload inwards.
        path: Vec<String>,
        /// What its value must be.
        value: StringMatch,
    },
    /// `:authority`, with its port, ignoring case.
    Host(StringMatch),
    /// Request method.
    Method(StringMatch),
    /// Normalized path without query.
    Path(PathPattern),
    /// A request header, name in lower case; any of several lines, or all joined by `,`.
    Header {
        /// Lower-case name.
        name: String,
        /// What its value must be.
        value: StringMatch,
    },
    /// A fact that a protocol reader tells: filter `http.mcp` or `http.a2a` (without `envoy.filters.`) and key.
    Fact {
        /// `http.mcp` or `http.a2a`.
        filter: String,
        /// Text between the brackets, e.g. `tool` or `args.owner`.
        key: String,
        /// What its value must be.
        value: StringMatch,
    },
}

impl Test {
    /// Whether only an HTTP request can answer it.
    #[must_use]
    pub fn is_http(&self) -> bool {
        match self {
            Self::Host(_)
            | Self::Method(_)
            | Self::Path(_)
            | Self::Header { .. }
            | Self::RequestPrincipal(_)
            | Self::Audience(_)
            | Self::Presenter(_)
            | Self::Claim { .. }
            | Self::Fact { .. } => true,
            Self::Principal(_)
            | Self::Namespace(_)
            | Self::ServiceAccount { .. }
            | Self::TrustDomain(_)
            | Self::SourceIp(_)
            | Self::RemoteIp(_)
            | Self::DestinationIp(_)
            | Self::DestinationPort(_)
            | Self::Sni(_) => false,
        }
    }
}
