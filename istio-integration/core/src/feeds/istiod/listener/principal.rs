//! What a policy says of the caller (Envoy RBAC `Principal`).

use istio_protos::envoy::config::rbac::v3::Principal;
use istio_protos::envoy::config::rbac::v3::principal::{Identifier, Set};
use istio_protos::envoy::r#type::matcher::v3::FilterStateMatcher;
use istio_protos::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;
use waypoint_model::{Expr, Test};

use super::address::range;
use super::expr::{all, always, any, not, test};
use super::peer::peer;
use super::translated::{At, Refused};
use super::{header, metadata};

/// The value that the tunnel's listener keeps of the peer's certificate: its URI SAN.
const PEER: &str = "io.istio.peer_principal";

/// The tree of tests that a principal is.
pub(super) fn principal(principal: &Principal) -> Result<Expr, Refused> {
    let identifier =
        principal.identifier.as_ref().ok_or_else(|| Refused::new("a principal without an identifier"))?;
    match identifier {
        Identifier::AndIds(set) => parts(set).map(all).at("and_ids"),
        Identifier::OrIds(set) => parts(set).map(any).at("or_ids"),
        Identifier::NotId(inner) => self::principal(inner).map(not).at("not_id"),
        Identifier::Any(true) => Ok(always()),
        Identifier::Any(false) => Err(Refused::new("`any` is true or left out").at("any")),
        Identifier::FilterState(matcher) => filter_state(matcher).at("filter_state"),
        // The tunnel's peer address, for both: X-Forwarded-For is not trusted, see docs/istio.md.
        Identifier::DirectRemoteIp(addresses) => {
            range(addresses).map(|net| test(Test::SourceIp(net))).at("direct_remote_ip")
        }
        Identifier::RemoteIp(addresses) => {
            range(addresses).map(|net| test(Test::RemoteIp(net))).at("remote_ip")
        }
        Identifier::Header(matcher) => header::policy(matcher),
        Identifier::Metadata(matcher) => metadata::metadata(matcher),
        Identifier::Authenticated(_) => {
            Err(Refused::new("a certificate inside the tunnel is not asked for by istiod")
                .at("authenticated"))
        }
        Identifier::Custom(extension) => {
            Err(Refused::new(format!("the extension {:?} is not supported", extension.name)).at("custom"))
        }
    }
}

fn parts(set: &Set) -> Result<Vec<Expr>, Refused> {
    set.ids.iter().enumerate().map(|(at, part)| principal(part).at(format!("ids[{at}]"))).collect()
}

fn filter_state(matcher: &FilterStateMatcher) -> Result<Expr, Refused> {
    match matcher.matcher.as_ref() {
        Some(Matcher::StringMatch(text)) if matcher.key == PEER => peer(text),
        _ => {
            Err(Refused::new(format!("only {PEER} is known, and as a text"))
                .at(format!("[{:?}]", matcher.key)))
        }
    }
}
