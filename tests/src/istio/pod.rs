//! Pods: the objects that a user, the scheduler and a kubelet would write, and a network namespace with the address.

use super::certificate::Identity;
use super::lab::Lab;
use super::network::PodNetwork;
use super::objects;
use super::state::HUB;
use crate::ca::{Svid, SvidFiles};
use crate::ztunnel::{HBONE_PORT, Inbound, Outbound};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use tokio::process::Command;

/// The only node.
const NODE: &str = "node1";

/// Says that a ztunnel serves the pod: istiod then tells others to reach it by HBONE.
const REDIRECTION: (&str, &str) = ("ambient.istio.io/redirection", "enabled");

/// What a pod shall be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    name: String,
    service_account: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl PodSpec {
    /// A pod in the mesh, of a ServiceAccount and with a label `app` of the same name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let labels = BTreeMap::from([("app".to_owned(), name.to_owned())]);
        let annotations = BTreeMap::from([(REDIRECTION.0.to_owned(), REDIRECTION.1.to_owned())]);
        Self { name: name.to_owned(), service_account: name.to_owned(), labels, annotations }
    }

    /// Runs as another ServiceAccount.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// One more label, or another value for one.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// One more annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Not in the mesh: it is reached by plain TCP.
    #[must_use]
    pub fn without_mesh(mut self) -> Self {
        self.annotations.remove(REDIRECTION.0);
        self
    }
}

/// A pod that is ready, with an address of its own.
#[derive(Clone)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its ServiceAccount.
    pub service_account: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network.
    pub network: PodNetwork,
    pub(super) uid: String,
    pub(super) lab: Lab,
}

impl Pod {
    /// Makes the ServiceAccount if need be, the pod and its network, and says that it is ready.
    pub(super) async fn make(lab: &Lab, namespace: &str, spec: &PodSpec) -> Result<Self> {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": spec.service_account, "namespace": namespace},
        });
        lab.api.apply(&account).await?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": spec.name, "namespace": namespace, "labels": spec.labels, "annotations": spec.annotations},
            "spec": {"serviceAccountName": spec.service_account,
                     "containers": [{"name": "app", "image": "none"}]},
        });
        Self::admit(lab, pod).await?.marked_ready().await
    }

    /// Creates the object `pod` on the node, and its network.
    pub(super) async fn admit(lab: &Lab, mut pod: Value) -> Result<Self> {
        let spec = pod.pointer_mut("/spec").and_then(Value::as_object_mut).context("a pod has a spec")?;
        spec.insert("nodeName".to_owned(), NODE.into());
        let made = lab.api.create(&pod).await?;
        let text = |pointer: &str| objects::text(&made, pointer).map(str::to_owned);
        let network = PodNetwork::make()?;
        let this = Self {
            namespace: text("/metadata/namespace")?,
            name: text("/metadata/name")?,
            service_account: text("/spec/serviceAccountName")?,
            uid: text("/metadata/uid")?,
            address: network.address,
            network,
            lab: lab.clone(),
        };
        this.write_status(false).await?;
        Ok(this)
    }

    async fn marked_ready(self) -> Result<Self> {
        self.write_status(true).await?;
        Ok(self)
    }

    /// Writes what a kubelet would: addresses, and whether its probe succeeds.
    pub async fn write_status(&self, ready: bool) -> Result<()> {
        let address = self.address.to_string();
        let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": now()});
        let status = json!({"status": {
            "phase": "Running", "startTime": now(),
            "podIP": address, "podIPs": [{"ip": address}], "hostIP": HUB, "hostIPs": [{"ip": HUB}],
            "conditions": [condition("PodScheduled", true), condition("Initialized", true),
                           condition("ContainersReady", ready), condition("Ready", ready)],
        }});
        self.lab.api.patch(&format!("{}/status", self.path()), &status).await?;
        Ok(())
    }

    /// Where its object lies in the Kubernetes API.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/api/v1/namespaces/{}/pods/{}", self.namespace, self.name)
    }

    /// Deletes its object. Its network stays, with whatever runs in it.
    pub async fn delete(&self) -> Result<()> {
        self.lab.api.delete(&self.path()).await
    }

    /// Its SPIFFE id.
    #[must_use]
    pub fn id(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace, self.service_account)
    }

    /// An address of it with a port.
    #[must_use]
    pub fn port(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// `program`, to be run in the pod's network.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::from(self.network.command(program))
    }

    /// A token of its ServiceAccount for `audience` (`istio-ca` for istiod), bound to the pod.
    pub async fn token(&self, audience: &str) -> Result<String> {
        let bound = Some((self.name.as_str(), self.uid.as_str()));
        self.lab.api.token(&self.namespace, &self.service_account, Some(audience), bound).await
    }

    /// A certificate from the lab's istiod.
    pub async fn certificate(&self) -> Result<Identity> {
        self.lab.certificate(&self.token("istio-ca").await?).await
    }

    /// A certificate from the lab's istiod, in files for programs.
    pub async fn certificate_files(&self) -> Result<SvidFiles> {
        let identity = self.certificate().await?;
        identity.svid.write_to(&self.folder().join("certificate"), &identity.roots)
    }

    /// Where the lab keeps files of the pod.
    pub(super) fn folder(&self) -> PathBuf {
        self.lab.state.folder.join("pods").join(&self.namespace).join(&self.name)
    }

    /// Its ztunnel for what comes in, on port 15008, with a certificate from istiod. It carries streams to whatever
    /// listens on the pod's own address.
    pub async fn serve_hbone(&self) -> Result<Inbound> {
        self.serve_hbone_trusting("").await
    }

    /// The same, trusting these roots (PEM) beside those of the mesh.
    pub async fn serve_hbone_trusting(&self, roots: &str) -> Result<Inbound> {
        let identity = self.certificate().await?;
        let listener = self.network.listen((self.address, HBONE_PORT).into())?;
        Inbound::on(listener, &identity.svid, &format!("{}{roots}", identity.roots))
    }

    /// Its ztunnel for what goes out to the waypoint at `waypoint`, which must be `expect`.
    pub async fn ztunnel(&self, waypoint: SocketAddr, expect: &str) -> Result<Outbound> {
        let identity = self.certificate().await?;
        self.ztunnel_with(&identity.svid, &identity.roots, waypoint, expect)
    }

    /// The same with a certificate that the test got itself.
    pub fn ztunnel_with(
        &self,
        svid: &Svid,
        roots: &str,
        waypoint: SocketAddr,
        expect: &str,
    ) -> Result<Outbound> {
        Ok(Outbound::trusting(roots, svid, waypoint, expect)?.in_network(self.network.clone()))
    }
}

/// Now, as Kubernetes writes times.
fn now() -> String {
    let now = time::OffsetDateTime::now_utc();
    let text = now
        .replace_nanosecond(0)
        .ok()
        .and_then(|now| now.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_default()
}
