//! Envoy with the access log that istiod asks for, and with connections inside of it where istiod has tunnels.

use super::{
    Front, Oracle, Reading, chain, cluster, clusters_of, filters, free_addresses, judging, kind, listening,
    manager, serving,
};
use crate::istio::objects::at;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

/// istiod's listener at the beginning of tunnels to endpoints.
const ORIGINATE: &str = "connect_originate";

/// How a cluster's application is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By TCP.
    Plain(SocketAddr),
    /// As through a tunnel: by a connection inside of Envoy, which then goes by TCP. All of them lead to one application.
    Tunnel(SocketAddr),
}

impl Oracle {
    /// As [`Oracle::routing`], with access logs; [`Oracle::lines`] has them.
    pub async fn logging(
        folder: &Path,
        listener: &Value,
        fronts: &[Front],
        way: &dyn Fn(&str) -> Option<Way>,
    ) -> Result<Self> {
        let mut names = BTreeSet::new();
        let mut chains = Vec::new();
        for front in fronts {
            let theirs = manager(filters(listener, front)?);
            let theirs = theirs.with_context(|| format!("{} has no HTTP", front.chain))?;
            clusters_of(at(theirs, "/routeConfig"), &mut names);
            let mut ours = judging(theirs, &[], Reading::AsSent)?;
            let fields = ours.as_object_mut().context("an HTTP connection manager")?;
            fields.insert("accessLog".to_owned(), at(theirs, "/accessLog").clone());
            chains.push(chain(front, &[serving(&ours)]));
        }
        let ways: Vec<_> = names.iter().filter_map(|name| Some((*name, way(name)?))).collect();
        let mut clusters: Vec<_> = ways.iter().map(|(name, way)| leading(name, *way)).collect();
        let application = ways.iter().find_map(|(_, way)| match way {
            Way::Tunnel(application) => Some(*application),
            Way::Plain(_) => None,
        });
        let addresses = free_addresses(1).await?;
        let mut listeners: Vec<_> = addresses.iter().map(|address| listening(*address, &chains)).collect();
        let mut extensions = json!([]);
        if let Some(application) = application {
            clusters.push(cluster("application", application));
            listeners.push(originate());
            extensions = json!([{
                "name": "internal",
                "typedConfig": {"@type": kind("extensions.bootstrap.internal_listener.v3.InternalListener")},
            }]);
        }
        let resources = json!({"listeners": listeners, "clusters": clusters});
        let whole = json!({"bootstrapExtensions": extensions, "staticResources": resources});
        Self::start_with(folder, addresses, &whole).await
    }
}

fn leading(name: &str, way: Way) -> Value {
    let (Way::Plain(endpoint) | Way::Tunnel(endpoint)) = way;
    let mut cluster = cluster(name, endpoint);
    if let Way::Tunnel(_) = way {
        let inside = json!({"serverListenerName": ORIGINATE, "endpointId": endpoint.to_string()});
        let place = "/loadAssignment/endpoints/0/lbEndpoints/0/endpoint/address";
        if let Some(address) = cluster.pointer_mut(place) {
            *address = json!({"envoyInternalAddress": inside});
        }
    }
    cluster
}

fn originate() -> Value {
    let proxy = json!({
        "@type": kind("extensions.filters.network.tcp_proxy.v3.TcpProxy"),
        "statPrefix": ORIGINATE, "cluster": "application",
    });
    json!({
        "name": ORIGINATE, "internalListener": {},
        "filterChains": [{"filters": [{"name": "tcp", "typedConfig": proxy}]}],
    })
}
