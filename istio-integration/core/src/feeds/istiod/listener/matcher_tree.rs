//! The matcher tree of `main_internal`: from host name or address and port to a chain, or to one of two by protocol.

use std::net::IpAddr;

use istio_protos::Any;
use istio_protos::envoy::extensions::matching::common_inputs::network::v3::FilterStateInput;
use istio_protos::xds::core::v3::TypedExtensionConfig;
use istio_protos::xds::r#type::matcher::v3::matcher::matcher_tree::{MatchMap, TreeType};
use istio_protos::xds::r#type::matcher::v3::matcher::on_match::OnMatch as Next;
use istio_protos::xds::r#type::matcher::v3::matcher::{MatcherTree, MatcherType, OnMatch};
use istio_protos::xds::r#type::matcher::v3::{IpMatcher, Matcher};
use prost::Message as _;

use super::address::{single, xds_range};
use super::translated::{At, Refused};
use super::unpack::unpack;

const DESTINATION_IP: &str = "envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput";
const DESTINATION_PORT: &str = "envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput";
const APPLICATION_PROTOCOL: &str =
    "envoy.extensions.matching.common_inputs.network.v3.ApplicationProtocolInput";
const FILTER_STATE: &str = "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput";
const IP_MATCHER: &str = "xds.type.matcher.v3.IPMatcher";
const STRING_VALUE: &str = "google.protobuf.StringValue";
/// What the tunnel's listener keeps of `:authority`.
const AUTHORITY: &str = "io.istio.connect_authority";
/// What the detection of HTTP answers, in the quotes that Envoy puts around it.
const HTTP: [&str; 3] = ["'h2c'", "'http/1.0'", "'http/1.1'"];

/// A way through the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// What a connection must be addressed to.
    pub(super) to: To,
    /// The chain that carries it.
    pub(super) chains: Chains,
}

/// What was addressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct To {
    /// `host:port` of the tunnel.
    pub(super) authority: Option<(String, u16)>,
    /// Any of these addresses; empty: any at all.
    pub(super) addresses: Vec<IpAddr>,
    /// Port; `None`: any.
    pub(super) port: Option<u16>,
}

/// Names of chains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Chains {
    /// One, whatever is spoken.
    Only(String),
    /// By the first bytes.
    Detected {
        /// HTTP/1 or HTTP/2 with prior knowledge.
        http: String,
        /// Anything else.
        tcp: String,
    },
}

/// The ways of a tree, and the branches that were not understood: nothing leads through those.
pub(super) fn ways(root: &Matcher) -> (Vec<Way>, Vec<Refused>) {
    let mut walk = Walk::default();
    walk.matcher(root, &To::default(), "filter_chain_matcher");
    (walk.ways, walk.refused)
}

#[derive(Default)]
struct Walk {
    ways: Vec<Way>,
    refused: Vec<Refused>,
}

impl Walk {
    fn matcher(&mut self, matcher: &Matcher, to: &To, path: &str) {
        if let Err(refused) = self.tree(matcher, to, path) {
            self.refused.push(refused.at(path));
        }
    }

    fn tree(&mut self, matcher: &Matcher, to: &To, path: &str) -> Result<(), Refused> {
        let Some(MatcherType::MatcherTree(tree)) = matcher.matcher_type.as_ref() else {
            return Err(Refused::new("a matcher without a tree"));
        };
        let input = input(tree)?;
        match (input, tree.tree_type.as_ref()) {
            (Input::Authority, Some(TreeType::ExactMatchMap(map))) => {
                self.each(map, to, path, |to, key| {
                    to.authority = Some(authority(key)?);
                    Ok(())
                });
                self.otherwise(matcher, to, path)
            }
            (Input::Address, Some(TreeType::CustomMatch(custom))) => {
                self.addresses(custom, to, path)?;
                nothing_else(matcher)
            }
            (Input::Port, Some(TreeType::ExactMatchMap(map))) => {
                self.each(map, to, path, |to, key| {
                    let port = key.parse().map_err(|_| Refused::new("no port"))?;
                    to.port = Some(port);
                    Ok(())
                });
                nothing_else(matcher)
            }
            (Input::Protocol, Some(TreeType::ExactMatchMap(map))) => {
                let chains = detected(map, matcher.on_no_match.as_deref())?;
                self.ways.push(Way { to: to.clone(), chains });
                Ok(())
            }
            _ => Err(Refused::new(format!("this kind of lookup of {input:?} is not supported"))),
        }
    }

    fn each(
        &mut self,
        map: &MatchMap,
        to: &To,
        path: &str,
        narrow: impl Fn(&mut To, &str) -> Result<(), Refused>,
    ) {
        for (key, next) in &map.map {
            let path = format!("{path}[{key:?}]");
            let mut inner = to.clone();
            match narrow(&mut inner, key) {
                Ok(()) => self.next(next, &inner, &path),
                Err(refused) => self.refused.push(refused.at(&path)),
            }
        }
    }

    fn addresses(&mut self, custom: &TypedExtensionConfig, to: &To, path: &str) -> Result<(), Refused> {
        let config = custom.typed_config.as_ref();
        let matcher: IpMatcher = unpack(config)?;
        if config.is_none_or(|any| any.type_name() != IP_MATCHER) {
            return Err(Refused::new("a lookup of an address that is not known"));
        }
        for (at, group) in matcher.range_matchers.iter().enumerate() {
            let path = format!("{path}.range_matchers[{at}]");
            let addresses: Result<Vec<IpAddr>, Refused> = group
                .ranges
                .iter()
                .map(|range| {
                    single(xds_range(range)?).ok_or_else(|| Refused::new("a range is no virtual address"))
                })
                .collect();
            match (addresses, group.on_match.as_ref()) {
                (Ok(addresses), Some(next)) => self.next(next, &To { addresses, ..to.clone() }, &path),
                (Ok(_), None) => self.refused.push(Refused::new("leads nowhere").at(&path)),
                (Err(refused), _) => self.refused.push(refused.at(&path)),
            }
        }
        Ok(())
    }

    fn next(&mut self, next: &OnMatch, to: &To, path: &str) {
        match next.on_match.as_ref() {
            Some(Next::Matcher(inner)) => self.matcher(inner, to, path),
            Some(Next::Action(action)) => match chain_name(action) {
                Ok(name) => self.ways.push(Way { to: to.clone(), chains: Chains::Only(name) }),
                Err(refused) => self.refused.push(refused.at(path)),
            },
            None => self.refused.push(Refused::new("leads nowhere").at(path)),
        }
    }

    fn otherwise(&mut self, matcher: &Matcher, to: &To, path: &str) -> Result<(), Refused> {
        if let Some(next) = matcher.on_no_match.as_deref() {
            self.next(next, to, &format!("{path}.on_no_match"));
        }
        Ok(())
    }
}

/// What a tree asks for.
#[derive(Clone, Copy, Debug)]
enum Input {
    Authority,
    Address,
    Port,
    Protocol,
}

fn input(tree: &MatcherTree) -> Result<Input, Refused> {
    let extension = tree.input.as_ref().ok_or_else(|| Refused::new("a tree without an input"))?;
    let config = extension.typed_config.as_ref();
    match config.map_or("", Any::type_name) {
        DESTINATION_IP => Ok(Input::Address),
        DESTINATION_PORT => Ok(Input::Port),
        APPLICATION_PROTOCOL => Ok(Input::Protocol),
        FILTER_STATE => {
            let state: FilterStateInput = unpack(config)?;
            match state.key.as_str() {
                AUTHORITY => Ok(Input::Authority),
                other => Err(Refused::new(format!("the kept value {other} is not known")).at("input")),
            }
        }
        other => {
            Err(Refused::new(format!("the input {} of type {other} is not known", extension.name))
                .at("input"))
        }
    }
}

fn nothing_else(matcher: &Matcher) -> Result<(), Refused> {
    match matcher.on_no_match {
        None => Ok(()),
        Some(_) => Err(Refused::new("nothing is expected here").at("on_no_match")),
    }
}

fn authority(key: &str) -> Result<(String, u16), Refused> {
    let parts = key.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    parts.ok_or_else(|| Refused::new("no host and port"))
}

/// HTTP of any version leads to one chain, everything else to another.
fn detected(map: &MatchMap, otherwise: Option<&OnMatch>) -> Result<Chains, Refused> {
    if let Some(other) = map.map.keys().find(|key| !HTTP.contains(&key.as_str())) {
        return Err(Refused::new("this protocol is not told apart").at(format!("[{other:?}]")));
    }
    let mut http = None;
    for next in map.map.values() {
        let name = action(Some(next))?;
        match &http {
            Some(first) if *first != name => {
                return Err(Refused::new("one chain for all of HTTP is expected"));
            }
            _ => http = Some(name),
        }
    }
    let http = http.ok_or_else(|| Refused::new("no chain for HTTP"))?;
    Ok(Chains::Detected { http, tcp: action(otherwise).at("on_no_match")? })
}

fn action(next: Option<&OnMatch>) -> Result<String, Refused> {
    match next.and_then(|next| next.on_match.as_ref()) {
        Some(Next::Action(action)) => chain_name(action),
        _ => Err(Refused::new("no chain is named")),
    }
}

fn chain_name(action: &TypedExtensionConfig) -> Result<String, Refused> {
    let any = action.typed_config.as_ref().filter(|any| any.type_name() == STRING_VALUE);
    let any = any.ok_or_else(|| Refused::new("a chain is named by a text"))?;
    String::decode(any.value.clone()).map_err(|error| Refused::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use istio_protos::envoy::extensions::matching::common_inputs::network::v3 as inputs;
    use istio_protos::xds::core::v3::CidrRange;
    use istio_protos::xds::r#type::matcher::v3::ip_matcher::IpRangeMatcher;

    fn extension(any: Any) -> TypedExtensionConfig {
        TypedExtensionConfig { name: "x".to_owned(), typed_config: Some(any) }
    }

    fn to_chain(name: &str) -> OnMatch {
        let value = name.to_owned().encode_to_vec().into();
        let any = Any { type_url: format!("type.googleapis.com/{STRING_VALUE}"), value };
        OnMatch { keep_matching: false, on_match: Some(Next::Action(extension(any))) }
    }

    fn to_tree(matcher: Matcher) -> OnMatch {
        OnMatch { keep_matching: false, on_match: Some(Next::Matcher(Box::new(matcher))) }
    }

    fn map(input: Any, entries: Vec<(&str, OnMatch)>, otherwise: Option<OnMatch>) -> Matcher {
        let map = entries.into_iter().map(|(key, next)| (key.to_owned(), next)).collect();
        tree(input, TreeType::ExactMatchMap(MatchMap { map }), otherwise)
    }

    fn tree(input: Any, tree_type: TreeType, otherwise: Option<OnMatch>) -> Matcher {
        let tree = MatcherTree { input: Some(extension(input)), tree_type: Some(tree_type) };
        Matcher { on_no_match: otherwise.map(Box::new), matcher_type: Some(MatcherType::MatcherTree(tree)) }
    }

    fn addresses(groups: Vec<(&str, u32, OnMatch)>) -> Matcher {
        let group = |(address, length, next): (&str, u32, OnMatch)| IpRangeMatcher {
            ranges: vec![CidrRange { address_prefix: address.to_owned(), prefix_len: Some(length) }],
            on_match: Some(next),
            exclusive: false,
        };
        let matcher = IpMatcher { range_matchers: groups.into_iter().map(group).collect() };
        let custom = TreeType::CustomMatch(extension(Any::pack(&matcher)));
        tree(Any::pack(&inputs::DestinationIpInput {}), custom, None)
    }

    fn ports(entries: Vec<(&str, OnMatch)>) -> OnMatch {
        to_tree(map(Any::pack(&inputs::DestinationPortInput {}), entries, None))
    }

    fn by_protocol(entries: Vec<(&str, OnMatch)>, otherwise: Option<OnMatch>) -> OnMatch {
        to_tree(map(Any::pack(&inputs::ApplicationProtocolInput {}), entries, otherwise))
    }

    #[test]
    fn names_addresses_ports_and_protocols_lead_to_their_chains() {
        let detected = || {
            by_protocol(vec![("'h2c'", to_chain("h")), ("'http/1.1'", to_chain("h"))], Some(to_chain("t")))
        };
        let inner = addresses(vec![
            ("10.0.0.1", 32, ports(vec![("80", to_chain("a")), ("81", detected())])),
            ("2001:db8::1", 128, detected()),
        ]);
        let authority = inputs::FilterStateInput { key: AUTHORITY.to_owned() };
        let root = map(Any::pack(&authority), vec![("svc.example:80", to_chain("a"))], Some(to_tree(inner)));
        let (found, refused) = ways(&root);
        assert_eq!(refused, []);
        let only = |name: &str| Chains::Only(name.to_owned());
        let both = || Chains::Detected { http: "h".to_owned(), tcp: "t".to_owned() };
        let at =
            |address: &str, port| To { addresses: vec![address.parse().unwrap()], port, ..To::default() };
        let named = To { authority: Some(("svc.example".to_owned(), 80)), ..To::default() };
        let want = [
            Way { to: named, chains: only("a") },
            Way { to: at("10.0.0.1", Some(80)), chains: only("a") },
            Way { to: at("10.0.0.1", Some(81)), chains: both() },
            Way { to: at("2001:db8::1", None), chains: both() },
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn a_branch_that_is_not_understood_leads_nowhere_and_is_named() {
        let input = |input: Any| to_tree(map(input, vec![("x", to_chain("a"))], None));
        let unknown = Any { type_url: "type.googleapis.com/a.b.SourceIPInput".to_owned(), ..Any::default() };
        let other = inputs::FilterStateInput { key: "io.istio.source".to_owned() };
        let rows = [
            (ports(vec![("80", input(unknown))]), "a.b.SourceIPInput"),
            (ports(vec![("80", input(Any::pack(&other)))]), "io.istio.source"),
            (ports(vec![("eighty", to_chain("a"))]), "no port"),
            (ports(vec![("80", OnMatch::default())]), "leads nowhere"),
            (by_protocol(vec![("'tls'", to_chain("a"))], Some(to_chain("t"))), "'tls'"),
            (by_protocol(vec![("'h2c'", to_chain("a"))], None), "no chain is named"),
            (
                by_protocol(
                    vec![("'h2c'", to_chain("a")), ("'http/1.1'", to_chain("b"))],
                    Some(to_chain("t")),
                ),
                "one chain",
            ),
        ];
        for (branch, named) in rows {
            let fine = ports(vec![("80", to_chain("fine"))]);
            let root = addresses(vec![("10.0.0.1", 32, branch), ("10.0.0.2", 32, fine)]);
            let (found, refused) = ways(&root);
            assert!(
                matches!(found.as_slice(), [only] if only.chains == Chains::Only("fine".to_owned())),
                "{named}"
            );
            let texts: Vec<String> = refused.iter().map(ToString::to_string).collect();
            assert!(matches!(texts.as_slice(), [only] if only.contains(named)), "{named}: {texts:?}");
        }
        let range = addresses(vec![("10.0.0.0", 8, to_chain("a"))]);
        assert_eq!(ways(&range).1.len(), 1, "a range is no address of a service");
    }
}
