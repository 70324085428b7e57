//! `/server_info`, `/certs` and `/listeners`.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use istio_integration::bootstrap::Bootstrap;
use serde_json::{Value, json};
use waypoint_model::Locality;
use waypoint_proxy::drain::Phase;

use super::timestamp;
use crate::admin::Readiness;
use crate::admin::pages::Admin;
use crate::config::Addresses;
use crate::mesh::Mesh;

const DAY: u64 = 24 * 60 * 60;

/// `envoy.admin.v3.ServerInfo`.
pub(in crate::admin) fn server_info(admin: &Admin) -> Value {
    let uptime =
        format!("{}s", SystemTime::now().duration_since(admin.started).unwrap_or_default().as_secs());
    let node = match &admin.launch.mesh {
        Mesh::Istiod(bootstrap) => node(bootstrap, &admin.launch.locality),
        Mesh::Manifests(_) => json!({}),
    };
    json!({
        "version": format!("portcullis/{}", env!("CARGO_PKG_VERSION")),
        "state": state(&admin.readiness),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "node": node,
    })
}

fn state(readiness: &Readiness) -> &'static str {
    match readiness.drain.phase() {
        Phase::Serving if readiness.missing().is_empty() => "LIVE",
        Phase::Serving => "INITIALIZING",
        Phase::Lingering | Phase::Draining | Phase::Aborting => "DRAINING",
    }
}

/// `envoy.config.core.v3.Node`. The label says that the version is not one of Envoy.
pub(super) fn node(bootstrap: &Bootstrap, locality: &Locality) -> Value {
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    json!({
        "id": bootstrap.node.id,
        "cluster": bootstrap.node.cluster,
        "metadata": bootstrap.node.metadata,
        "locality": {"region": locality.region, "zone": locality.zone, "sub_zone": locality.subzone},
        "user_agent_name": "portcullis",
        "user_agent_build_version": {
            "version": {
                "major_number": number(env!("CARGO_PKG_VERSION_MAJOR")),
                "minor_number": number(env!("CARGO_PKG_VERSION_MINOR")),
                "patch": number(env!("CARGO_PKG_VERSION_PATCH")),
            },
            "metadata": {"build.label": "portcullis"},
        },
    })
}

/// `envoy.admin.v3.Certificates`: our own certificate.
pub(in crate::admin) fn certificates(readiness: &Readiness) -> Value {
    let svid = readiness.svid.borrow();
    let own = svid.iter().map(|svid| {
        let left = svid.not_after().duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
        json!({"cert_chain": [{
            "path": "default",
            "serial_number": svid.serial(),
            "subject_alt_names": [{"uri": svid.id().as_str()}],
            "days_until_expiration": (left.as_secs() / DAY).to_string(),
            "valid_from": timestamp(svid.not_before()),
            "expiration_time": timestamp(svid.not_after()),
        }]})
    });
    json!({"certificates": own.collect::<Vec<_>>()})
}

/// `envoy.admin.v3.Listeners`: the ports that we were told to listen on.
pub(in crate::admin) fn listeners(addresses: &Addresses) -> Value {
    let shown = named(addresses).map(|(name, address)| {
        let at = json!({"socket_address": {"address": address.ip(), "port_value": address.port()}});
        json!({"name": name, "local_address": at})
    });
    json!({"listener_statuses": shown.collect::<Vec<_>>()})
}

/// By name.
pub(in crate::admin) fn named(addresses: &Addresses) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let fixed = [
        ("hbone", addresses.hbone),
        ("admin", addresses.admin),
        ("metrics", addresses.metrics),
        ("ready", addresses.ready),
    ];
    let proxied = addresses.proxy_protocol.map(|address| ("proxy_protocol", address));
    let envoy = addresses.envoy_metrics.map(|address| ("envoy_metrics", address));
    fixed.into_iter().chain(proxied).chain(envoy)
}
