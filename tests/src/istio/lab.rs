//! The lab as a test sees it.

use super::api::Api;
use super::certificate::{self, Identity};
use super::command;
use super::istiod::{self, Authority, Istiod, Settings};
use super::objects::{self, at, list, text};
use super::pod::{Pod, PodSpec};
use super::state::{HUB, State};
use crate::wait;
use anyhow::{Context, Result};
use base64::Engine as _;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;

/// Port of istiod for xDS and certificates, over TLS.
pub(super) const ISTIOD_PORT: u16 = 15012;

/// The lab around this process. Cheap to clone.
#[derive(Clone)]
pub struct Lab {
    /// Where things are.
    pub state: Arc<State>,
    /// The Kubernetes API, with the rights of an administrator.
    pub api: Api,
}

impl Lab {
    /// The lab that this test runs in.
    ///
    /// # Errors
    /// Outside of one, with how to run these tests.
    pub fn get() -> Result<Self> {
        let state = Arc::new(State::read()?);
        Ok(Self { api: Api::new(&state)?, state })
    }

    /// Makes a namespace of the ambient mesh that no other test has: `name` is only the beginning of its name.
    pub async fn namespace(&self, name: &str) -> Result<Namespace> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let labels = json!({"istio.io/dataplane-mode": "ambient"});
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.api.create(&object).await?;
        Ok(Namespace { name, lab: self.clone() })
    }

    /// Creates or changes objects; each names its namespace. [`Namespace::apply`] fills in one.
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        self.api.apply_yaml(manifests).await
    }

    /// Runs the real kubectl to its end and returns what it printed; about 0.2 s a call.
    pub async fn kubectl(&self, args: &[impl AsRef<OsStr>]) -> Result<String> {
        self.program("kubectl", args, "").await
    }

    /// The same with `input` on its standard input (`kubectl apply -f -`).
    pub async fn kubectl_with(&self, args: &[impl AsRef<OsStr>], input: &str) -> Result<String> {
        self.program("kubectl", args, input).await
    }

    /// Runs istioctl to its end and returns what it printed.
    pub async fn istioctl(&self, args: &[impl AsRef<OsStr>]) -> Result<String> {
        self.program("istioctl", args, "").await
    }

    /// Runs helm to its end and returns what it printed.
    pub async fn helm(&self, args: &[impl AsRef<OsStr>]) -> Result<String> {
        self.program("helm", args, "").await
    }

    async fn program(&self, name: &str, args: &[impl AsRef<OsStr>], input: &str) -> Result<String> {
        let mut call = Command::new(self.state.program(name)?);
        call.args(args).env("KUBECONFIG", &self.state.kubeconfig);
        let input = input.to_owned();
        let ran = tokio::task::spawn_blocking(move || command::run(&mut call, &input));
        wait::within_time(wait::PATIENCE, name, ran).await??
    }

    /// Waits with kubectl until what `wanted` says holds: `lab.wait("app", "gateway/wp", "condition=Programmed")`.
    pub async fn wait(&self, namespace: &str, object: &str, wanted: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", wait::DEADLINE.as_secs());
        self.kubectl(&["wait", "-n", namespace, object, &format!("--for={wanted}"), &timeout]).await?;
        Ok(())
    }

    /// Where the lab's istiod serves xDS and certificates.
    #[must_use]
    pub fn istiod_address(&self) -> SocketAddr {
        (HUB, ISTIOD_PORT).into()
    }

    /// What the lab's istiod has logged.
    pub fn istiod_log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.state.folder.join("istiod.log"))?)
    }

    /// What the lab's istiod tells every ztunnel: `workloads`, `services` and `policies` of the mesh, as its
    /// `/debug/ambientz` shows them. Addresses are base64 of their text.
    pub async fn told_to_ztunnels(&self) -> Result<Value> {
        self.debug("/debug/ambientz").await
    }

    /// What the lab's istiod tells on a path of its debug pages: `debug("/debug/config_dump?proxyID=POD.NAMESPACE")`.
    pub async fn debug(&self, path: &str) -> Result<Value> {
        istiod::debug(TcpStream::connect((Ipv4Addr::LOCALHOST, istiod::HTTP_PORT)).await?, path).await
    }

    /// One more istiod, which the test may kill and restart; see [`Istiod`].
    pub async fn istiod(&self, settings: Settings) -> Result<Istiod> {
        Istiod::start(&self.state, settings).await
    }

    /// The CA that the lab's istiod made for itself (the Secret `istio-ca-secret`).
    pub async fn authority(&self) -> Result<Authority> {
        let path = "/api/v1/namespaces/istio-system/secrets/istio-ca-secret";
        let secret = self.api.until(path, "istiod has a CA", |found| Some(found.clone())).await?;
        let field = |name: &str| {
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(text(&secret, &format!("/data/{name}"))?)?;
            anyhow::Ok(String::from_utf8(bytes)?)
        };
        Ok(Authority {
            certificate: field("ca-cert.pem")?,
            key: field("ca-key.pem")?,
            roots: field("ca-cert.pem")?,
        })
    }

    /// The roots of the mesh as istiod puts them into every namespace, in PEM.
    pub async fn roots(&self) -> Result<String> {
        let path = "/api/v1/namespaces/istio-system/configmaps/istio-ca-root-cert";
        let root =
            |map: &Value| map.pointer("/data/root-cert.pem").and_then(Value::as_str).map(str::to_owned);
        self.api.until(path, "istiod has published its root", root).await
    }

    /// A certificate from the lab's istiod for whoever `token` is.
    ///
    /// # Errors
    /// When istiod refuses, with the code and message of gRPC.
    pub async fn certificate(&self, token: &str) -> Result<Identity> {
        self.certificate_from(self.istiod_address(), token, Duration::ZERO).await
    }

    /// The same from the istiod at an address, for this long (zero: its default).
    pub async fn certificate_from(
        &self,
        istiod: SocketAddr,
        token: &str,
        life: Duration,
    ) -> Result<Identity> {
        certificate::request(istiod, &self.roots().await?, token, life).await
    }
}

/// A namespace of one test.
#[derive(Clone)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    pub(super) lab: Lab,
}

impl Namespace {
    /// Creates or changes objects of this namespace; a document need not name it.
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        for mut object in objects::documents(manifests)? {
            let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).context("metadata")?;
            metadata.entry("namespace").or_insert_with(|| self.name.as_str().into());
            self.lab.api.apply(&object).await?;
        }
        Ok(())
    }

    /// Deletes an object: `delete("authorizationpolicy.security.istio.io/p")`.
    pub async fn delete(&self, object: &str) -> Result<()> {
        self.lab.kubectl(&["delete", "-n", &self.name, object, "--wait=false"]).await?;
        Ok(())
    }

    /// Waits with kubectl: `wait("gateway/wp", "condition=Programmed")`.
    pub async fn wait(&self, object: &str, wanted: &str) -> Result<()> {
        self.lab.wait(&self.name, object, wanted).await
    }

    /// Makes a pod that is ready.
    pub async fn pod(&self, spec: &PodSpec) -> Result<Pod> {
        Pod::make(&self.lab, &self.name, spec).await
    }

    /// Writes which of `pods` serve `service`, as the controller of EndpointSlices does: under the names of its ports,
    /// at their target ports. Without pods the Service has no endpoint.
    pub async fn endpoints(&self, service: &str, pods: &[&Pod]) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/services/{service}", self.name);
        let object = self.lab.api.get(&path).await?;
        self.lab.api.apply(&endpoint_slice(&object, "pods", pods, true)?).await?;
        Ok(())
    }

    /// The address of a Service, which exists only inside the authorities of CONNECT.
    pub async fn service_address(&self, service: &str) -> Result<Ipv4Addr> {
        let path = format!("/api/v1/namespaces/{}/services/{service}", self.name);
        let object = self.lab.api.until(&path, "the Service is there", |found| Some(found.clone())).await?;
        Ok(text(&object, "/spec/clusterIP")?.parse()?)
    }

    /// The SPIFFE id of a ServiceAccount in it.
    #[must_use]
    pub fn id(&self, service_account: &str) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{service_account}", self.name)
    }
}

/// An EndpointSlice of a Service with these pods, which are ready or on their way out. A Service may have several, each
/// with a `name` of its own.
pub(super) fn endpoint_slice(service: &Value, slice: &str, pods: &[&Pod], ready: bool) -> Result<Value> {
    let (name, namespace) = (text(service, "/metadata/name")?, text(service, "/metadata/namespace")?);
    let port = |port: &Value| {
        // A named target port needs the container's list, which pods of the lab do not have.
        let target =
            Some(at(port, "/targetPort")).filter(|target| target.is_u64()).unwrap_or(at(port, "/port"));
        json!({"name": at(port, "/name"), "port": target, "protocol": "TCP", "appProtocol": at(port, "/appProtocol")})
    };
    let endpoint = |pod: &&Pod| {
        json!({
            "addresses": [pod.address], "nodeName": "node1", "zone": "z1",
            "conditions": {"ready": ready, "serving": true, "terminating": !ready},
            "targetRef": {"kind": "Pod", "name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        })
    };
    Ok(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-{slice}"), "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "lab"},
        },
        "addressType": "IPv4",
        "ports": list(service, "/spec/ports").iter().map(port).collect::<Vec<_>>(),
        "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
    }))
}
