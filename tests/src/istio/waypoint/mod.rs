//! A waypoint from the Deployment that istiod (or Helm) made: here is what the controllers, the scheduler, the kubelet and
//! the container runtime of a cluster would do for one of its pods. The process gets what its pod says and nothing else.

mod contain;
mod container;
mod image;
mod report;
mod volumes;

pub use contain::contain;
pub use container::{Container, Mount, Probe};
pub use report::report;

use super::enclosure::hosts_file;
use super::lab::{Namespace, endpoint_slice};
use super::objects::at;
use super::pod::Pod;
use super::state::HUB;
use crate::http::{Client, Reply, empty};
use crate::portcullis::Metrics;
use crate::process::Process;
use crate::wait;
use anyhow::{Context, Result, ensure};
use contain::Plan;
use http::{Method, Request};
use image::Image;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::process::Command;

/// Where waypoints listen, as their Service says.
const HBONE_PORT: u16 = 15008;

/// Telemetry, as the annotations of the pod say.
const METRICS_PORT: u16 = 15020;

/// Administration, on the pod's loopback.
const ADMIN_PORT: u16 = 15000;

/// Pause between two probes. A kubelet waits a second; the tests have less time.
const PROBE_PAUSE: Duration = Duration::from_millis(25);

/// What a container runtime sets by itself.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A pod of a waypoint's Deployment, with its process.
pub struct Waypoint {
    /// The pod.
    pub pod: Pod,
    /// Its object as it was created.
    pub object: Value,
    /// What its container is.
    pub container: Container,
    /// The running process. Standard output is the access log, standard error has the events.
    pub process: Process,
    /// The Deployment's and the Service's name.
    name: String,
    folder: PathBuf,
    settings: WaypointSettings,
}

/// How to start one; see [`Namespace::waypoint`].
#[derive(Clone, Debug)]
pub struct WaypointSettings {
    istiod: Ipv4Addr,
    hosts: Vec<(String, Ipv4Addr)>,
}

impl Default for WaypointSettings {
    fn default() -> Self {
        Self { istiod: HUB, hosts: Vec::new() }
    }
}

impl WaypointSettings {
    /// The name of istiod leads to this address: an [`super::Istiod`] of the test, or one where nothing is.
    #[must_use]
    pub fn istiod(mut self, address: Ipv4Addr) -> Self {
        self.istiod = address;
        self
    }

    /// One more name that its container resolves: there is no DNS in the lab.
    #[must_use]
    pub fn host(mut self, name: &str, address: Ipv4Addr) -> Self {
        self.hosts.push((name.to_owned(), address));
        self
    }

    /// `/etc/hosts` of its container.
    fn hosts_file(&self) -> String {
        let more = self.hosts.iter().map(|(name, address)| format!("{address} {name}\n"));
        more.fold(hosts_file(self.istiod), |file, line| file + &line)
    }
}

impl Namespace {
    /// Starts a pod of the Deployment of the Gateway `name`, which has to come, and waits until it is ready and in the
    /// endpoints of its Service. Every call starts one more.
    pub async fn waypoint(&self, name: &str) -> Result<Waypoint> {
        self.waypoint_with(name, &WaypointSettings::default()).await
    }

    /// The same with settings.
    pub async fn waypoint_with(&self, name: &str, settings: &WaypointSettings) -> Result<Waypoint> {
        let mut waypoint = self.waypoint_unready(name, settings).await?;
        waypoint.ready().await?;
        Ok(waypoint)
    }

    /// The same without waiting: for starts that must fail or take their time. [`Waypoint::ready`] waits.
    pub async fn waypoint_unready(&self, name: &str, settings: &WaypointSettings) -> Result<Waypoint> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let path = format!("/apis/apps/v1/namespaces/{}/deployments/{name}", self.name);
        let deployment =
            self.lab.api.until(&path, "the Deployment is there", |found| Some(found.clone())).await?;
        let part = |pointer: &str| at(&deployment, pointer).clone();
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": part("/spec/template/metadata"), "spec": part("/spec/template/spec"),
        });
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).context("a template")?;
        metadata.insert("name".into(), format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)).into());
        metadata.insert("namespace".into(), self.name.as_str().into());
        let pod = Pod::admit(&self.lab, object).await?;
        Waypoint::start(pod, name, settings).await
    }
}

impl Waypoint {
    async fn start(pod: Pod, name: &str, settings: &WaypointSettings) -> Result<Self> {
        let object = pod.lab.api.get(&pod.path()).await?;
        let container = Container::read(&object).with_context(|| pod.path())?;
        let folder = pod.folder();
        std::fs::create_dir_all(&folder)?;
        let image = Image::find(&container.image, &pod.lab.state.lab)?;
        let mounts: Vec<_> = container.mounts.iter().map(|mount| mount.path.as_str()).collect();
        image.lay_out(&folder.join("root"), &mounts, &settings.hosts_file())?;
        volumes::write(&pod.lab.api, &object, &folder.join("volumes"), container.user).await?;
        let process = run(&pod, &container, &image, &folder)?;
        Ok(Self {
            pod,
            object,
            container,
            process,
            name: name.to_owned(),
            folder,
            settings: settings.clone(),
        })
    }

    /// Waits until its probe succeeds, then says so in the pod's status and in the endpoints of its Service.
    ///
    /// # Errors
    /// When the process ends, or is not ready in time, with what it printed.
    pub async fn ready(&mut self) -> Result<()> {
        let address = self.pod.port(self.container.probe.port);
        let path = self.container.probe.path.clone();
        let process = &mut self.process;
        let probed = wait::within("the readiness probe", async {
            loop {
                process.assert_running()?;
                let status = get(address, &path).await.map(|reply| reply.status);
                if status.is_ok_and(|status| status.is_success()) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(PROBE_PAUSE).await;
            }
        });
        let probed = probed.await.and_then(std::convert::identity);
        probed.with_context(|| format!("{}: {}", self.pod.name, self.process.stderr.all().join("\n")))?;
        self.pod.write_status(true).await?;
        self.write_endpoint(true).await
    }

    /// Whether its probe succeeds now.
    pub async fn is_ready(&self) -> bool {
        self.probe().await.is_ok_and(|reply| reply.status.is_success())
    }

    /// What its probe gets.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn probe(&self) -> Result<Reply> {
        get(self.pod.port(self.container.probe.port), &self.container.probe.path).await
    }

    async fn write_endpoint(&self, ready: bool) -> Result<()> {
        let path = format!("/api/v1/namespaces/{}/services/{}", self.pod.namespace, self.name);
        let service =
            self.pod.lab.api.until(&path, "the Service is there", |found| Some(found.clone())).await?;
        let slice = endpoint_slice(&service, &self.pod.name, &[&self.pod], ready)?;
        self.pod.lab.api.apply(&slice).await?;
        Ok(())
    }

    /// Its address for tunnels.
    #[must_use]
    pub fn hbone(&self) -> SocketAddr {
        self.pod.port(HBONE_PORT)
    }

    /// Its SPIFFE id.
    #[must_use]
    pub fn id(&self) -> String {
        self.pod.id()
    }

    /// Asks its admin port, which only the pod reaches: `admin(Method::GET, "/config_dump")`.
    pub async fn admin(&self, method: Method, path: &str) -> Result<Reply> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT));
        let client = Client::http1(self.pod.network.connect(address).await?).await?;
        let request = Request::builder().method(method).uri(path).header("host", address.to_string());
        client.send(request.body(empty())?).await
    }

    /// The metrics as Prometheus would read them.
    pub async fn metrics(&self) -> Result<Metrics> {
        let reply = get(self.pod.port(METRICS_PORT), "/stats/prometheus").await?;
        ensure!(reply.status.is_success(), "metrics answered {}: {}", reply.status, reply.text());
        Ok(Metrics(reply.text()))
    }

    /// Writes its volumes anew, as a kubelet does from time to time: a new token, and ConfigMaps as they are now.
    pub async fn refresh_volumes(&self) -> Result<()> {
        let folder = self.folder.join("volumes");
        volumes::write(&self.pod.lab.api, &self.object, &folder, self.container.user).await
    }

    /// The folder of one of its volumes, to put something wrong there.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.folder.join("volumes").join(name)
    }

    /// Writes one file of a volume, as a kubelet does when the object behind it has changed.
    pub fn write_volume(&self, volume: &str, file: &str, text: &str) -> Result<()> {
        volumes::overwrite(&self.volume(volume), file, text.as_bytes(), self.container.user)
    }

    /// Deletes the pod as a cluster does: it and its endpoint are marked as ending, the process gets SIGTERM and the pod's
    /// grace period, then the object is gone.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.pod.lab.api.delete_in(&self.pod.path(), self.container.grace).await?;
        self.write_endpoint(false).await?;
        self.process.signal("TERM").await?;
        let ended = self.process.ended_within(self.container.grace).await?;
        self.remove().await?;
        Ok(ended)
    }

    /// Ends the process at once (SIGKILL); the pod stays, and its endpoint, as when a node fails.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.process.signal("KILL").await?;
        self.process.ended().await
    }

    /// Starts the container of the pod again after it has ended, and waits until it is ready. Its address stays.
    pub async fn restart(&mut self) -> Result<()> {
        let image = Image::find(&self.container.image, &self.pod.lab.state.lab)?;
        std::fs::write(self.folder.join("root/etc/hosts"), self.settings.hosts_file())?;
        self.process = run(&self.pod, &self.container, &image, &self.folder)?;
        self.ready().await
    }

    /// Takes the pod out of its Service and deletes its object.
    pub async fn remove(&self) -> Result<()> {
        let (namespace, pod) = (&self.pod.namespace, &self.pod.name);
        let slice =
            format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{}-{pod}", self.name);
        self.pod.lab.api.delete(&slice).await?;
        self.pod.delete().await
    }
}

/// Starts the container's process in the pod's network.
fn run(pod: &Pod, container: &Container, image: &Image, folder: &std::path::Path) -> Result<Process> {
    let volumes = folder.join("volumes");
    let mounts = container.mounts.iter();
    let mounts = mounts.map(|mount| (volumes.join(&mount.volume), mount.path.clone(), mount.read_only));
    let start = if container.command.is_empty() { &image.entry_point } else { &container.command };
    let mut environment = container.environment.clone();
    environment.entry("PATH".into()).or_insert_with(|| PATH.into());
    environment.insert("HOSTNAME".into(), pod.name.clone());
    let plan = Plan {
        root: folder.join("root"),
        read_only: container.read_only,
        mounts: mounts.collect(),
        user: (container.user, container.group),
        words: start.iter().chain(&container.args).cloned().collect(),
        environment,
    };
    let file = folder.join("plan.json");
    std::fs::write(&file, serde_json::to_vec(&plan)?)?;
    let mut command: Command = pod.command("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(&pod.lab.state.lab).arg("contain").arg(file);
    Process::start(&pod.name, command)
}

async fn get(address: SocketAddr, path: &str) -> Result<Reply> {
    let client = Client::http1(tokio::net::TcpStream::connect(address).await?).await?;
    let request = Request::get(path).header("host", address.to_string()).body(empty())?;
    client.send(request).await
}
