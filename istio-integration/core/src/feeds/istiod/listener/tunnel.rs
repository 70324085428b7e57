//! `connect_terminate`: the end of tunnels. Ours is built in, so this is looked through for what it adds, and for whose
//! certificates it accepts.

use istio_protos::Finding;
use istio_protos::envoy::config::listener::v3::Listener;
use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};

use super::chain::Named;
use super::http_connection_manager::TYPE;
use super::translated::{At, Refused, Translated};
use super::trust_domains::trust_domains;
use super::unpack::unpack;

const NAME: &str = "connect_terminate";

/// Filters of the tunnel that do what we do anyway: tell who the peer is, keep what it asked for, carry it on.
const KNOWN: [(&str, &str); 3] = [
    ("connect_authority", "envoy.extensions.filters.http.set_filter_state.v3.Config"),
    ("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
    ("waypoint_downstream_peer_metadata", "io.istio.http.peer_metadata.Config"),
];

/// Nothing may be served where the tunnel itself has a filter that is not known, policies of its own among them
/// (`PILOT_ENABLE_…LAYERED…`): they would have to hold beside those of each port.
pub(super) fn translate(listener: &Listener, findings: &[Finding]) -> Translated {
    let mut reasons: Vec<Refused> =
        findings.iter().map(|finding| Refused::new(finding.to_string())).collect();
    for (at, chain) in listener.filter_chains.iter().enumerate() {
        for filter in &chain.filters {
            let named = Named::network(filter);
            let manager = (named.type_name == TYPE).then(|| unpack::<HttpConnectionManager>(named.config));
            let inner = match manager {
                Some(Ok(manager)) => manager.http_filters.iter().filter_map(unknown).collect(),
                Some(Err(refused)) => vec![refused],
                None => vec![Refused::new(named.unsupported())],
            };
            reasons.extend(inner.into_iter().map(|refused| refused.at(format!("filter_chains[{at}]"))));
        }
    }
    let trust_domains = match peers(listener) {
        Ok(domains) => domains,
        Err(refused) => {
            reasons.push(refused);
            None
        }
    };
    let refused: Vec<Refused> = reasons.into_iter().map(|refused| refused.at(NAME)).collect();
    let unusable = refused.first().map(ToString::to_string);
    Translated { unusable, refused, trust_domains, ..Translated::default() }
}

/// The trust domains of all chains, of which istiod writes one.
fn peers(listener: &Listener) -> Result<Option<Vec<String>>, Refused> {
    let mut told = None;
    for (at, chain) in listener.filter_chains.iter().enumerate() {
        let domains = trust_domains(chain.transport_socket.as_ref())
            .at("transport_socket")
            .at(format!("filter_chains[{at}]"))?;
        match &told {
            Some(others) if *others != domains => {
                return Err(Refused::new("chains of different trust domains").at("filter_chains"));
            }
            _ => told = Some(domains),
        }
    }
    Ok(told.flatten())
}

fn unknown(filter: &HttpFilter) -> Option<Refused> {
    let named = Named::http(filter);
    let known = KNOWN.contains(&(named.name, named.type_name.as_str()));
    (!known).then(|| Refused::new(named.unsupported()))
}
