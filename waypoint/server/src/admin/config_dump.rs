//! `/config_dump`: what we were told, what we made of it, and how we were started. Never a key.

use serde::Serialize;
use serde_json::{Value, json};
use waypoint_model::MeshConfig;
use waypoint_proxy::drain::Phase;

use super::Admin;
use super::envoy::{self, Configs};
use super::pages::Query;
use crate::config::Launch;
use crate::identity::Source;
use crate::mesh::Mesh;

/// The whole dump, as JSON. It may be large: for a thread that may block.
///
/// Under istiod it is also an `envoy.admin.v3.ConfigDump`, by `configs`; whoever asks with `?mask=` wants nothing else.
///
/// # Errors
/// When something in it cannot be JSON.
pub(super) fn dump(admin: &Admin, query: &Query<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let configs = match &admin.launch.mesh {
        Mesh::Istiod(bootstrap) => Some(Configs::new(admin, bootstrap, query)),
        Mesh::Manifests(_) => None,
    };
    if let (Some(configs), true) = (&configs, query.get("mask").is_some()) {
        return serde_json::to_vec_pretty(&Masked { configs });
    }
    let snapshot = admin.config.load();
    let feed = admin.feed.borrow().clone();
    serde_json::to_vec_pretty(&Dump {
        configs,
        version: env!("CARGO_PKG_VERSION"),
        phase: phase(admin.readiness.drain.phase()),
        generation: snapshot.as_ref().map(|snapshot| snapshot.generation()),
        certificate: certificate(admin),
        findings: &feed.findings,
        settings: settings(&admin.launch),
        mesh: snapshot.as_ref().map(|snapshot| snapshot.mesh().as_ref()),
    })
}

#[derive(Serialize)]
struct Masked<'a> {
    configs: &'a Configs<'a>,
}

#[derive(Serialize)]
struct Dump<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    configs: Option<Configs<'a>>,
    version: &'static str,
    phase: &'static str,
    generation: Option<u64>,
    certificate: Value,
    findings: &'a [Value],
    settings: Value,
    mesh: Option<&'a MeshConfig>,
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Serving => "serving",
        Phase::Lingering => "lingering",
        Phase::Draining => "draining",
        Phase::Aborting => "aborting",
    }
}

fn certificate(admin: &Admin) -> Value {
    let svid = admin.readiness.svid.borrow().clone();
    svid.map_or(Value::Null, |svid| {
        json!({
            "id": svid.id().as_str(),
            "serial": svid.serial(),
            "not_before": envoy::timestamp(svid.not_before()),
            "not_after": envoy::timestamp(svid.not_after()),
        })
    })
}

/// Session keys are counted, not shown; of certificates only where they come from.
fn settings(launch: &Launch) -> Value {
    let settings = &launch.settings;
    let source = match &launch.identity {
        Source::Files(paths) => {
            json!({"cert_chain": paths.chain, "key": paths.key, "trust_bundle": paths.bundle})
        }
        Source::WorkloadApi(endpoint) => json!({"workload_api": endpoint}),
        Source::Istiod(bootstrap) => {
            json!({"istiod": bootstrap.ca.authority(), "ttl": bootstrap.ttl.as_secs()})
        }
    };
    let mut told = mesh(&launch.mesh);
    let ours = json!({
        "locality": launch.locality,
        "identity": source,
        "crl": launch.crl,
        "deny_mode": format!("{:?}", settings.deny_mode),
        "xfcc": settings.xfcc,
        "push_hosts": settings.push_hosts,
        "adopt_tasks": settings.adopt_tasks,
        "observe": settings.observe,
        "origins": settings.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "session_keys": settings.session_keys.len(),
        "access_log": format!("{:?}", launch.access_log),
        "limits": settings.limits,
    });
    if let (Value::Object(told), Value::Object(ours)) = (&mut told, ours) {
        told.extend(ours);
    }
    told
}

fn mesh(mesh: &Mesh) -> Value {
    match mesh {
        Mesh::Manifests(source) => {
            let options = &source.options;
            json!({
                "manifests": source.folder,
                "gateway": options.gateway.as_ref().map(|(namespace, name)| format!("{namespace}/{name}")),
                "trust_domain": options.trust_domain,
                "trust_domain_aliases": options.trust_domain_aliases,
                "domain": options.domain,
                "cluster": options.cluster,
            })
        }
        Mesh::Istiod(bootstrap) => json!({
            "istiod": bootstrap.xds.authority(),
            "node": {
                "id": bootstrap.node.id,
                "cluster": bootstrap.node.cluster,
                "metadata": bootstrap.node.metadata,
            },
            "trust_domain": bootstrap.identity.trust_domain(),
            "domain": bootstrap.domain,
            "cluster": bootstrap.cluster,
            "network": bootstrap.network,
        }),
    }
}
