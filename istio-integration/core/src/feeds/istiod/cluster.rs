//! `envoy.config.cluster.v3.Cluster` → [`Cluster`]; its endpoints come apart ([`super::endpoint`]).

use std::sync::Arc;
use std::time::Duration;

use istio_protos::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use istio_protos::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster as Wire, OutlierDetection as WireOutlier,
};
use istio_protos::envoy::config::core::v3::Metadata;
use istio_protos::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use istio_protos::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions;
use istio_protos::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use istio_protos::{Decoded, unpack};
use waypoint_model::{
    Balancing, Cluster, ClusterEndpoint, ClusterKey, ConnectionLimits, HttpVersion, OutlierDetection,
    ServiceKey, TrafficPolicy,
};

use super::{Refused, TranslatedCluster, endpoint, transport};

/// Clusters that only connect Envoy's parts to each other: the data plane does what they stand for.
const PLUMBING: [&str; 5] =
    ["main_internal", "encap", "connect_originate", "inner_connect_originate", "outer_connect_originate"];
/// Where HTTP settings of a cluster stand.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Envoy's own values where a message says none (`OutlierDetection` and `Cluster.CommonLbConfig` in Envoy's API).
const EJECTION: Duration = Duration::from_secs(30);
const MOST_EJECTED: u32 = 10;

/// What is wrong with a cluster, gathered while it is read.
struct Faults<'a> {
    cluster: &'a str,
    /// Why it cannot be used.
    unusable: Vec<String>,
    /// What was not understood in its endpoints.
    refused: Vec<Refused>,
    notes: Vec<Refused>,
}

impl Faults<'_> {
    fn unusable(&mut self, why: impl Into<String>) {
        self.unusable.push(why.into());
    }
}

/// Translates one cluster; `None` for plumbing. What cannot be carried out makes the cluster unusable by name, and nothing
/// else: requests for it are answered with 503, and go no other way. A field that is not known does so too, and is refused.
#[must_use]
pub fn translate(decoded: &Decoded<Wire>) -> Option<TranslatedCluster> {
    let wire = &decoded.message;
    if PLUMBING.contains(&wire.name.as_str()) {
        return None;
    }
    let mut faults =
        Faults { cluster: &wire.name, unusable: Vec::new(), refused: Vec::new(), notes: Vec::new() };
    for finding in &decoded.findings {
        faults.unusable(finding.to_string());
        faults.refused.push(Refused { path: wire.name.clone(), why: finding.to_string() });
    }
    let (port, subset) = parts(&wire.name);
    let (endpoints, endpoints_from) = endpoints(wire, &mut faults);
    let mut traffic = TrafficPolicy {
        balancing: balancing(wire, &mut faults),
        outlier: wire.outlier_detection.as_ref().map(|outlier| outlier_detection(outlier, wire)),
        limits: limits(wire),
        http: None,
        tls: transport::tls(wire, &mut faults.unusable),
    };
    http_options(wire, &mut traffic, &mut faults);
    let cluster = Cluster {
        key: ClusterKey(wire.name.as_str().into()),
        service: service(wire.metadata.as_ref(), &wire.name),
        port,
        subset,
        endpoints,
        traffic,
        unusable: (!faults.unusable.is_empty()).then(|| faults.unusable.join("; ")),
    };
    let mutual_tls = transport::mutual_tls(wire);
    Some(TranslatedCluster {
        cluster,
        endpoints_from,
        own_destination: is_own_destination(wire),
        mutual_tls,
        refused: faults.refused,
        notes: faults.notes,
    })
}

/// Port and subset of `direction|port|subset|host`. A waypoint's own clusters put `http` or `tcp` before the subset.
fn parts(name: &str) -> (u16, Option<String>) {
    let mut parts = name.split('|').skip(1);
    let port = parts.next().and_then(|port| port.parse().ok()).unwrap_or_default();
    let subset = parts.next().unwrap_or_default();
    let subset = match subset.split_once('/') {
        Some((_, subset)) => subset,
        None if matches!(subset, "http" | "tcp") => "",
        None => subset,
    };
    (port, Some(subset).filter(|subset| !subset.is_empty()).map(str::to_owned))
}

/// The service that istiod names beside the cluster; else the host in the cluster's name, in no namespace.
fn service(metadata: Option<&Metadata>, name: &str) -> ServiceKey {
    let host = name.rsplit('|').next().unwrap_or(name);
    let told = metadata.and_then(|metadata| metadata.filter_metadata.get("istio"));
    let service = told.and_then(transport::first_service);
    service.unwrap_or_else(|| ServiceKey::new("", host))
}

/// The endpoints that stand in it, or the name of the resource that has them.
fn endpoints(wire: &Wire, faults: &mut Faults<'_>) -> (Vec<ClusterEndpoint>, Option<Arc<str>>) {
    let kind = match &wire.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind).ok(),
        Some(ClusterDiscoveryType::ClusterType(other)) => {
            faults.unusable(format!("endpoints of type {} are not supported", other.name));
            return Default::default();
        }
        None => Some(DiscoveryType::Static),
    };
    match kind {
        Some(DiscoveryType::Eds) => {
            let name = wire.eds_cluster_config.as_ref().map_or("", |eds| eds.service_name.as_str());
            (Vec::new(), Some(if name.is_empty() { wire.name.as_str() } else { name }.into()))
        }
        Some(DiscoveryType::Static | DiscoveryType::StrictDns | DiscoveryType::LogicalDns) => {
            let Some(inline) = &wire.load_assignment else { return Default::default() };
            let mut read = endpoint::read(inline);
            let unused = transport::unused(transport::mutual_tls(wire), &mut read.endpoints, &read.sidecars);
            faults.unusable.extend(unused.map(str::to_owned));
            faults
                .notes
                .extend(read.unread.into_iter().map(|why| Refused { path: faults.cluster.to_owned(), why }));
            (read.endpoints, None)
        }
        Some(DiscoveryType::OriginalDst) => {
            // Of a service of our own the destination is known; elsewhere its client would choose whom we dial.
            if !is_own_destination(wire) {
                faults.unusable("the stream's own destination as endpoint is not supported");
            }
            Default::default()
        }
        None => {
            faults.unusable("its kind of endpoints is not known");
            Default::default()
        }
    }
}

/// Whether streams go on to the very address that they were sent to: a service that this waypoint fronts, without endpoints
/// (a ServiceEntry of `resolution: NONE`).
fn is_own_destination(wire: &Wire) -> bool {
    let original = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32));
    wire.cluster_discovery_type == original && wire.name.starts_with("inbound-vip|")
}

fn balancing(wire: &Wire, faults: &mut Faults<'_>) -> Balancing {
    match wire.lb_policy() {
        LbPolicy::LeastRequest | LbPolicy::ClusterProvided => Balancing::LeastRequest,
        LbPolicy::RoundRobin => Balancing::RoundRobin,
        LbPolicy::Random => Balancing::Random,
        LbPolicy::RingHash | LbPolicy::Maglev => Balancing::ConsistentHash,
        LbPolicy::LoadBalancingPolicyConfig => {
            faults.unusable("load balancing by an extension is not supported");
            Balancing::LeastRequest
        }
    }
}

fn outlier_detection(outlier: &WireOutlier, wire: &Wire) -> OutlierDetection {
    let count = |value: Option<u32>, enforced: Option<u32>, default: Option<u32>| {
        value.or(default).filter(|count| *count > 0 && enforced != Some(0))
    };
    let panic = wire.common_lb_config.as_ref().and_then(|config| config.healthy_panic_threshold.as_ref());
    OutlierDetection {
        consecutive_5xx: count(outlier.consecutive_5xx, outlier.enforcing_consecutive_5xx, Some(5)),
        // Envoy enforces gateway failures only where it is told to.
        consecutive_gateway: outlier
            .enforcing_consecutive_gateway_failure
            .filter(|share| *share > 0)
            .and_then(|_| count(outlier.consecutive_gateway_failure, None, Some(5))),
        consecutive_local: outlier
            .split_external_local_origin_errors
            .then(|| {
                let enforced = outlier.enforcing_consecutive_local_origin_failure;
                count(outlier.consecutive_local_origin_failure, enforced, Some(5))
            })
            .flatten(),
        base_ejection: outlier.base_ejection_time.as_ref().map_or(EJECTION, transport::duration),
        max_ejection_percent: outlier.max_ejection_percent.unwrap_or(MOST_EJECTED),
        min_health_percent: panic.map_or(50, |percent| whole_percent(percent.value)),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100")]
fn whole_percent(value: f64) -> u32 {
    value.clamp(0.0, 100.0).round() as u32
}

fn limits(wire: &Wire) -> ConnectionLimits {
    let first = |breakers: &CircuitBreakers| breakers.thresholds.first().cloned();
    let thresholds = wire.circuit_breakers.as_ref().and_then(first).unwrap_or_default();
    // istiod writes the greatest number for "no limit".
    let bound = |value: Option<u32>| value.filter(|value| *value != u32::MAX);
    ConnectionLimits {
        connections: bound(thresholds.max_connections),
        pending: bound(thresholds.max_pending_requests),
        requests: bound(thresholds.max_requests),
        retries: bound(thresholds.max_retries),
        requests_per_connection: None,
        connect_timeout: wire.connect_timeout.as_ref().map(transport::duration),
        idle_timeout: None,
    }
}

fn http_options(wire: &Wire, traffic: &mut TrafficPolicy, faults: &mut Faults<'_>) {
    let Some(any) = wire.typed_extension_protocol_options.get(HTTP_OPTIONS) else { return };
    let options = match unpack::<HttpProtocolOptions>(any) {
        Ok(decoded) if decoded.findings.is_empty() => decoded.message,
        Ok(decoded) => {
            return decoded.findings.iter().for_each(|finding| faults.unusable(finding.to_string()));
        }
        Err(error) => return faults.unusable(error.to_string()),
    };
    if let Some(common) = options.common_http_protocol_options {
        traffic.limits.requests_per_connection =
            common.max_requests_per_connection.filter(|count| *count > 0);
        traffic.limits.idle_timeout =
            common.idle_timeout.as_ref().map(transport::duration).filter(|idle| !idle.is_zero());
    }
    traffic.http = match options.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => match explicit.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => Some(HttpVersion::Http2),
            Some(ProtocolConfig::HttpProtocolOptions(_)) | None => Some(HttpVersion::Http1),
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => Some(HttpVersion::AsClient),
        None => None,
    };
}

#[cfg(test)]
mod tests {
    use std::fs;

    use istio_protos::decode;
    use waypoint_model::{EndpointAddress, UpstreamTls};

    use super::*;
    use crate::feeds::istiod::MutualTls;

    fn dumped(name: &str) -> TranslatedCluster {
        let path = format!("{}/tests/dumps/Cluster/{name}.bin", env!("CARGO_MANIFEST_DIR"));
        let decoded = decode::<Wire>(fs::read(&path).expect(name).into()).unwrap();
        assert_eq!(decoded.findings, [], "{name}");
        translate(&decoded).expect("no plumbing")
    }

    #[test]
    fn a_destination_rule_becomes_the_traffic_policy_of_its_cluster() {
        let cart = dumped("inbound-vip_80_http_cart.shop.svc.cluster.local");
        let name = "inbound-vip|80|http|cart.shop.svc.cluster.local";
        assert_eq!(cart.endpoints_from.as_deref(), Some(name));
        let cluster = cart.cluster;
        assert_eq!((cluster.key.to_string().as_str(), cluster.port, &cluster.subset), (name, 80, &None));
        assert_eq!(cluster.service.to_string(), "shop/cart.shop.svc.cluster.local");
        assert_eq!(cluster.unusable, None);
        let want = TrafficPolicy {
            balancing: Balancing::LeastRequest,
            outlier: Some(OutlierDetection {
                consecutive_5xx: Some(3),
                consecutive_gateway: Some(2),
                consecutive_local: Some(6),
                base_ejection: Duration::from_secs(20),
                max_ejection_percent: 40,
                min_health_percent: 30,
            }),
            limits: ConnectionLimits {
                connections: Some(7),
                pending: Some(11),
                requests: Some(12),
                retries: Some(4),
                requests_per_connection: Some(10),
                connect_timeout: Some(Duration::from_secs(3)),
                idle_timeout: Some(Duration::from_secs(60)),
            },
            http: Some(HttpVersion::Http2),
            tls: None,
        };
        assert_eq!(cluster.traffic, want);
    }

    #[test]
    fn a_subset_is_told_from_the_protocol_before_it() {
        let rows = [
            ("inbound-vip|80|http|h", (80, None)),
            ("inbound-vip|80|http/v1|h", (80, Some("v1"))),
            ("inbound-vip|443|tcp/v2|h", (443, Some("v2"))),
            ("outbound|9000|canary|h", (9000, Some("canary"))),
            ("outbound|9000||h", (9000, None)),
            ("nothing", (0, None)),
        ];
        for (name, (port, subset)) in rows {
            assert_eq!(parts(name), (port, subset.map(str::to_owned)), "{name}");
        }
    }

    #[test]
    fn tls_to_an_external_host_names_its_roots_and_what_its_certificate_must_say() {
        let api = dumped("inbound-vip_80_http_api.example.com");
        let addresses: Vec<_> =
            api.cluster.endpoints.iter().map(|endpoint| endpoint.address.clone()).collect();
        assert_eq!(addresses, [EndpointAddress::Host("api.example.com".to_owned(), 443)]);
        assert_eq!(api.cluster.unusable, None);
        let want = UpstreamTls {
            sni: Some("api.example.com".to_owned()),
            subject_alt_names: vec!["api.example.com".to_owned(), "*.example.com".to_owned()],
            ca_file: Some("/etc/certs/ca.pem".to_owned()),
            ..UpstreamTls::default()
        };
        assert_eq!(api.cluster.traffic.tls, Some(want));
    }

    #[test]
    fn a_certificate_is_left_unchecked_only_where_a_rule_says_so() {
        let unchecked = dumped("inbound-vip_80_http_rr.example.com").cluster;
        assert_eq!(unchecked.unusable, None);
        assert!(unchecked.traffic.tls.unwrap().insecure);
        assert!(!dumped("inbound-vip_80_http_api.example.com").cluster.traffic.tls.unwrap().insecure);
    }

    #[test]
    fn the_tls_of_sidecars_concerns_only_endpoints_that_have_one() {
        let elsewhere = dumped("outbound_80__elsewhere.agents.svc.cluster.local");
        assert_eq!((elsewhere.cluster.unusable, elsewhere.cluster.traffic.tls), (None, None));
        assert_eq!(elsewhere.mutual_tls, MutualTls::Sidecars);
        let ours = dumped("inbound-vip_80_http_cart.shop.svc.cluster.local");
        assert_eq!(ours.mutual_tls, MutualTls::Nowhere);
    }

    #[test]
    fn what_cannot_be_carried_out_is_unusable_by_name() {
        let rows = [(
            "inbound-vip_80_http_wild.wild.example.com",
            "endpoints of type envoy.clusters.dynamic_forward_proxy are not supported",
        )];
        for (name, want) in rows {
            assert_eq!(dumped(name).cluster.unusable.as_deref(), Some(want), "{name}");
        }
    }

    #[test]
    fn only_a_service_of_our_own_is_reached_at_its_own_address() {
        let none = dumped("inbound-vip_80_http_none.example.com");
        assert_eq!((none.own_destination, none.cluster.unusable), (true, None));
        let original = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32));
        let elsewhere = Wire {
            name: "outbound|80||none.example.com".to_owned(),
            cluster_discovery_type: original,
            ..Wire::default()
        };
        let raw = prost::Message::encode_to_vec(&elsewhere);
        let translated = translate(&decode::<Wire>(raw.into()).unwrap()).expect("no plumbing");
        assert!(!translated.own_destination && translated.cluster.unusable.is_some());
    }

    #[test]
    fn an_unknown_field_is_refused_and_makes_the_cluster_unusable() {
        let mut raw =
            prost::Message::encode_to_vec(&Wire { name: "outbound|80||h".to_owned(), ..Wire::default() });
        raw.extend([0xf8, 0x3f, 0x01]); // field 1023, a number that the message does not have
        let translated = translate(&decode::<Wire>(raw.into()).unwrap()).expect("no plumbing");
        assert_eq!(translated.refused.len(), 1);
        assert!(translated.cluster.unusable.is_some_and(|why| why.contains("1023")));
    }

    #[test]
    fn every_dumped_cluster_is_plumbing_or_has_a_service() {
        let folder = format!("{}/tests/dumps/Cluster", env!("CARGO_MANIFEST_DIR"));
        let mut seen = 0;
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let decoded = decode::<Wire>(fs::read(&path).unwrap().into()).unwrap();
            let Some(translated) = translate(&decoded) else { continue };
            assert!(!translated.cluster.service.namespace.is_empty(), "{}", path.display());
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }
}
