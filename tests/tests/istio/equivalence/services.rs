//! Services that have policies of their own, as istiod and as manifests have them.

use super::policies::About;
use super::requests::Tokens;
use anyhow::Result;
use portcullis_tests::istio::oracle::Front;
use portcullis_tests::istio::{Namespace, Pod};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Ports of every Service. Those for opaque bytes: the first says so, the second says nothing.
pub(crate) const PORTS: [u16; 2] = [80, 8080];

/// Where the application listens for HTTP, and for opaque bytes.
pub(crate) const APPLICATIONS: [u16; 2] = [8080, 9000];

/// A Service with policies of its own.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) about: About,
    pub(crate) vip: Ipv4Addr,
}

/// What a Service shall be.
#[derive(Clone, Copy)]
pub(crate) struct Spec<'a> {
    pub(crate) name: &'a str,
    pub(crate) about: About,
    pub(crate) ports: &'a [u16],
    /// It reads tokens of their issuer.
    pub(crate) tokens: Option<&'a Tokens>,
}

impl Slot {
    /// Makes a Service that `gateway` fronts, and returns it with its manifests as they then are.
    pub(crate) async fn make(
        tools: &Namespace,
        gateway: &str,
        backend: &Pod,
        spec: &Spec<'_>,
    ) -> Result<(Self, Vec<String>)> {
        let Spec { name, about, ports, tokens } = *spec;
        let ports: Vec<_> = ports.iter().map(|number| port(about, *number)).collect();
        let labels = json!({"istio.io/use-waypoint": gateway});
        let metadata = json!({"name": name, "namespace": tools.name, "labels": labels});
        let spec = json!({"selector": {"app": "app"}, "ports": ports});
        let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        tools.apply(&service.to_string()).await?;
        tools.endpoints(name, &[backend]).await?;
        let vip = tools.service_address(name).await?;
        service["spec"]["clusterIP"] = vip.to_string().into();
        service["spec"]["clusterIPs"] = json!([vip.to_string()]);
        let authentication = tokens.map(|tokens| tokens.authentication(&tools.name, name));
        if let Some(authentication) = &authentication {
            tools.apply(authentication).await?;
        }
        let documents = [format!("{service}\n")].into_iter().chain(authentication).collect();
        Ok((Self { name: name.to_owned(), about, vip }, documents))
    }

    /// Its chains in istiod's listener.
    pub(crate) fn fronts(&self, namespace: &str) -> [Front; 2] {
        let carried = match self.about {
            About::Http | About::Mcp => "http",
            About::Opaque => "tcp",
        };
        PORTS.map(|port| Front {
            chain: format!("inbound-vip|{port}|{carried}|{}.{namespace}.svc.cluster.local", self.name),
            address: SocketAddrV4::new(self.vip, port),
        })
    }
}

fn port(about: About, port: u16) -> Value {
    let [http, bytes] = APPLICATIONS;
    match about {
        About::Http | About::Mcp => {
            json!({"name": format!("http-{port}"), "port": port, "targetPort": http, "appProtocol": "http"})
        }
        About::Opaque if port == PORTS[0] => {
            json!({"name": format!("tcp-{port}"), "port": port, "targetPort": bytes, "appProtocol": "tcp"})
        }
        About::Opaque => json!({"name": format!("any-{port}"), "port": port, "targetPort": bytes}),
    }
}
