//! Network filters: chains for opaque streams, and what may stand in front of HTTP.

use istio_protos::Any;
use istio_protos::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use istio_protos::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster,
};
use waypoint_model::{ClusterKey, StreamBounds};

use super::chain::{ChainDraft, Named};
use super::duration::limit;
use super::translated::{At, Refused};
use super::unpack::unpack;
use super::{access_log, metrics, rbac};

/// Type of the filter that carries a stream on.
pub(super) const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
/// The cluster of `direct-*` chains: the workload that the tunnel named.
const WORKLOAD_ITSELF: &str = "encap";

/// Filters that only keep facts of the tunnel, which we hold anyway, tell peers of themselves, or count.
const HARMLESS: [(&str, &str); 5] = [
    ("connect_authority", "envoy.extensions.filters.network.set_filter_state.v3.Config"),
    ("set_dst_address", "envoy.extensions.filters.network.set_filter_state.v3.Config"),
    ("envoy.filters.network.mongo_proxy", "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy"),
    ("envoy.filters.network.mysql_proxy", "envoy.extensions.filters.network.mysql_proxy.v3.MySQLProxy"),
    ("istio.metadata_exchange", "envoy.tcp.metadataexchange.config.MetadataExchange"),
];

/// Whether a filter can weaken nothing by being left out.
pub(super) fn is_harmless(filter: &Named<'_>) -> bool {
    HARMLESS.contains(&(filter.name, filter.type_name.as_str()))
}

/// One filter in front of `tcp_proxy`.
pub(super) fn filter(filter: &Named<'_>, draft: &mut ChainDraft) {
    match (filter.name, filter.type_name.as_str()) {
        ("envoy.filters.network.rbac", "envoy.extensions.filters.network.rbac.v3.RBAC") => {
            draft.judge(rbac::network(filter.config), filter.name);
        }
        (metrics::FILTER, metrics::TYPE) => metrics::apply(filter.config, draft),
        _ if is_harmless(filter) => {}
        _ => draft.refuse(filter.unsupported()),
    }
}

/// Where streams go.
pub(super) fn tcp_proxy(config: Option<&Any>, draft: &mut ChainDraft) {
    match proxied(config, draft).at("tcp_proxy") {
        Ok(Way::One(cluster)) => draft.cluster = cluster,
        Ok(Way::Split(shares)) => draft.streams = shares,
        Err(refused) => draft.refuse(refused),
    }
}

enum Way {
    One(Option<ClusterKey>),
    Split(Vec<(ClusterKey, u32)>),
}

fn proxied(config: Option<&Any>, draft: &mut ChainDraft) -> Result<Way, Refused> {
    let proxy: TcpProxy = unpack(config)?;
    if proxy.tunneling_config.is_some() {
        return Err(Refused::new("a tunnel to another proxy is not built").at("tunneling_config"));
    }
    access_log::apply(&proxy.access_log, draft);
    let whole = proxy.max_downstream_connection_duration.as_ref();
    draft.stream_bounds = StreamBounds {
        idle: limit(proxy.idle_timeout.as_ref()).at("idle_timeout")?,
        whole: limit(whole).at("max_downstream_connection_duration")?,
    };
    match proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => Ok(Way::One(cluster(&name))),
        Some(ClusterSpecifier::WeightedClusters(WeightedCluster { clusters })) => {
            if clusters.is_empty() {
                return Err(Refused::new("a split without clusters").at("weighted_clusters"));
            }
            let shares = clusters.into_iter().map(|share| (ClusterKey(share.name.into()), share.weight));
            Ok(Way::Split(shares.collect()))
        }
        None => Err(Refused::new("no cluster is named")),
    }
}

/// The cluster of this name; none for the workload that was addressed itself.
pub(super) fn cluster(name: &str) -> Option<ClusterKey> {
    (name != WORKLOAD_ITSELF).then(|| ClusterKey(name.into()))
}
