//! What istiod's waypoint Deployment tells its container: environment and mounted files, read once at the start into plain
//! data. Names are those of Istio's `pilot-agent` and, where they differ, of `ztunnel` (`waypoint.yaml` of the chart
//! `istio-discovery`; `pilot/cmd/pilot-agent/options`; ztunnel's `config.rs`).
//!
//! Everything that reads a name of Istio's environment is in this module.

mod address;
mod downward;
mod drain;
mod metadata;
mod source;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};
use spiffe_id::SpiffeId;

pub use address::Endpoint;
pub use drain::DrainTimes;
pub use source::{Environment, Files};

/// The release of Istio whose messages this build was written for; sent to istiod, which has gates by version.
pub const ISTIO_VERSION: &str = "1.31.0";

const DEFAULT_ISTIOD: &str = "istiod.istio-system.svc:15012";
const DEFAULT_TOKEN: &str = "/var/run/secrets/tokens/istio-token";
const DEFAULT_ROOT: &str = "/var/run/secrets/istio/root-cert.pem";
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_CLUSTER: &str = "Kubernetes";
/// `SECRET_TTL` of Istio's agent.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// `listener_waypoint.go`; on the Gateway, and from there on the pod.
const XFCC_ANNOTATION: &str = "ambient.istio.io/xfcc-include-client-identity";

/// Everything that the environment says. Plain data: nothing is connected or watched yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// Where the configuration comes from: `XDS_ADDRESS`, `discoveryAddress` of `PROXY_CONFIG`, or istiod's default.
    pub xds: Endpoint,
    /// Where certificates come from: `CA_ADDRESS`, `CA_ADDR`, or the address of the configuration.
    pub ca: Endpoint,
    /// The ServiceAccount token, audience `istio-ca`; the kubelet replaces the file. `AUTH_TOKEN`.
    pub token: PathBuf,
    /// Cluster id that istiod knows us by: `ISTIO_META_CLUSTER_ID`, `CLUSTER_ID`, or `Kubernetes`.
    pub cluster: String,
    /// Network id, empty for the default one: `ISTIO_META_NETWORK`, `NETWORK`.
    pub network: String,
    /// DNS domain of Kubernetes services, such as `cluster.local`: the end of `--domain`.
    pub domain: String,
    /// Who our certificate must say we are, from `TRUST_DOMAIN`, `POD_NAMESPACE` and `SERVICE_ACCOUNT`.
    pub identity: SpiffeId,
    /// Life of the certificates that we ask for: `SECRET_TTL`, 24 hours by default. Whole seconds.
    pub ttl: Duration,
    /// Revocation lists: `CRL_PATH`, if the file is there.
    pub crl: Option<PathBuf>,
    /// Worker threads: `concurrency` of `PROXY_CONFIG`, else `ISTIO_CPU_LIMIT`.
    pub workers: Option<NonZeroUsize>,
    /// Times of the shutdown, where the environment sets any.
    pub drain: DrainTimes,
    /// Tell endpoints who called in `x-forwarded-client-cert`: the annotation
    /// `ambient.istio.io/xfcc-include-client-identity` of the Gateway.
    pub xfcc: bool,
    /// Who we are to xDS.
    pub node: Node,
}

/// The xDS node (`envoy.config.core.v3.Node`), as plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// `waypoint~<pod ip>~<pod>.<namespace>~<namespace>.svc.<domain>`
    pub id: String,
    /// `--serviceCluster`: `<service account>.<namespace>`.
    pub cluster: String,
    /// What istiod reads as node metadata, and what `istioctl proxy-status` shows.
    pub metadata: Map<String, Value>,
}

/// The two flags of `proxy waypoint` that go into the xDS node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--domain`: `<namespace>.svc.<cluster domain>`. Default: with `cluster.local`.
    pub domain: Option<String>,
    /// `--serviceCluster`. Default: `istio-proxy`, as the agent's.
    pub service_cluster: Option<String>,
}

/// All that is wrong with the environment; each text names the variable or file, and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", faults.join("\nerror: "))]
pub struct BootstrapError {
    /// One text each.
    pub faults: Vec<String>,
}

impl Bootstrap {
    /// Reads the environment and the mounted files. Blocks on the file system.
    ///
    /// # Errors
    /// All faults at once.
    pub fn read(environment: &Environment, files: &Files, flags: &Flags) -> Result<Self, BootstrapError> {
        let mut faults = Vec::new();
        let read = Reader { environment, files }.read(flags, &mut faults);
        match read {
            Some(bootstrap) if faults.is_empty() => Ok(bootstrap),
            _ => Err(BootstrapError { faults }),
        }
    }
}

/// Keeps what is good, and notes what is not.
fn taken<T>(result: Result<T, String>, faults: &mut Vec<String>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

/// The pod that we are, as `fieldRef`s of the Deployment say.
struct Pod<'a> {
    name: &'a str,
    namespace: &'a str,
    ip: &'a str,
    service_account: &'a str,
}

struct Reader<'a> {
    environment: &'a Environment,
    files: &'a Files,
}

impl Reader<'_> {
    fn read(&self, flags: &Flags, faults: &mut Vec<String>) -> Option<Bootstrap> {
        self.refuse_what_we_lack(faults);
        let proxy_config = taken(self.proxy_config(), faults).unwrap_or_default();
        let labels = taken(self.pod_info("labels"), faults).unwrap_or_default();
        let annotations = taken(self.pod_info("annotations"), faults).unwrap_or_default();
        let xds = taken(self.endpoint(Which::Xds, &proxy_config), faults);
        let ca = taken(self.endpoint(Which::Ca, &proxy_config), faults);
        let token = taken(self.token(), faults);
        let ttl = taken(self.ttl(), faults);
        let drain = taken(drain::read(self.environment, &proxy_config), faults).unwrap_or_default();
        let workers = taken(self.workers(&proxy_config), faults).flatten();
        let pod = self.pod(faults)?;
        let identity = taken(self.identity(&pod), faults);
        let dns = taken(dns_domain(&pod, flags), faults);
        let xfcc = annotations.get(XFCC_ANNOTATION).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let parts = metadata::Parts { pod: &pod, proxy_config, labels, annotations };
        let metadata = taken(metadata::read(self.environment, parts, &self.cluster()), faults);
        let (dns, domain) = dns?;
        Some(Bootstrap {
            xds: xds?,
            ca: ca?,
            token: token?,
            cluster: self.cluster(),
            network: self
                .environment
                .first(&["ISTIO_META_NETWORK", "NETWORK"])
                .unwrap_or_default()
                .to_owned(),
            domain,
            identity: identity?,
            ttl: ttl?,
            crl: self.crl(),
            workers,
            drain,
            xfcc,
            node: Node {
                id: format!("waypoint~{}~{}.{}~{dns}", pod.ip, pod.name, pod.namespace),
                cluster: flags.service_cluster.clone().unwrap_or_else(|| "istio-proxy".to_owned()),
                metadata: metadata?,
            },
        })
    }

    /// Ways of Istio's agent to a certificate that we do not have: asked for, they must not silently become another one.
    fn refuse_what_we_lack(&self, faults: &mut Vec<String>) {
        let rows = [
            ("ISTIO_META_CERT_SIGNER", &[""][..], "certificates come from istiod's own signer"),
            ("CA_PROVIDER", &["Citadel"], "only istiod's certificate authority is spoken to"),
            (
                "FILE_MOUNTED_CERTS",
                &["false", "0"],
                "certificates come from istiod, or from the SPIFFE Workload API",
            ),
            ("PROV_CERT", &[""], "certificates come from istiod, or from the SPIFFE Workload API"),
            ("XDS_AUTH_PROVIDER", &[""], "istiod is shown the token of the ServiceAccount"),
        ];
        for (name, fine, why) in rows {
            let Some(value) = self.environment.get(name) else { continue };
            if !fine.contains(&value) {
                faults.push(format!("{name}={value} is not supported: {why}\n  fix: remove it from the container's environment"));
            }
        }
    }

    fn pod(&self, faults: &mut Vec<String>) -> Option<Pod<'_>> {
        let name = taken(self.required("POD_NAME", "metadata.name"), faults);
        let namespace = taken(self.required("POD_NAMESPACE", "metadata.namespace"), faults);
        let ip = taken(self.instance_ip(), faults);
        let service_account = taken(self.service_account(), faults);
        Some(Pod { name: name?, namespace: namespace?, ip: ip?, service_account: service_account? })
    }

    fn required(&self, name: &str, field: &str) -> Result<&str, String> {
        self.environment.get(name).ok_or_else(|| {
            format!(
                "{name} is not set\n  fix: set it from the pod's field {field}, as istiod's Deployment does"
            )
        })
    }

    fn instance_ip(&self) -> Result<&str, String> {
        let ip = self.required("INSTANCE_IP", "status.podIP")?;
        match ip.parse::<std::net::IpAddr>() {
            Ok(_) => Ok(ip),
            Err(_) => Err(format!(
                "INSTANCE_IP={ip} is no IP address\n  fix: set it from the pod's field status.podIP"
            )),
        }
    }

    fn service_account(&self) -> Result<&str, String> {
        self.environment.first(&["SERVICE_ACCOUNT", "ISTIO_META_SERVICE_ACCOUNT"]).ok_or_else(|| {
            "SERVICE_ACCOUNT is not set\n  fix: set it from the pod's field spec.serviceAccountName, as istiod's Deployment does"
                .to_owned()
        })
    }

    fn identity(&self, pod: &Pod<'_>) -> Result<SpiffeId, String> {
        let trust_domain = self.environment.get("TRUST_DOMAIN").unwrap_or(DEFAULT_TRUST_DOMAIN);
        let id = format!("spiffe://{trust_domain}/ns/{}/sa/{}", pod.namespace, pod.service_account);
        SpiffeId::parse(&id).map_err(|error| {
            format!(
                "TRUST_DOMAIN, POD_NAMESPACE and SERVICE_ACCOUNT make no SPIFFE ID ({id}): {error}\n  fix: TRUST_DOMAIN is \
                 trustDomain of Istio's mesh configuration"
            )
        })
    }

    fn cluster(&self) -> String {
        self.environment.first(&["ISTIO_META_CLUSTER_ID", "CLUSTER_ID"]).unwrap_or(DEFAULT_CLUSTER).to_owned()
    }

    /// A path; a literal token would be visible to all who may read the pod.
    fn token(&self) -> Result<PathBuf, String> {
        let token = self.environment.get("AUTH_TOKEN").unwrap_or(DEFAULT_TOKEN);
        if token.contains('/') {
            return Ok(self.files.path(token));
        }
        // The value is not repeated: it may be a secret.
        Err("AUTH_TOKEN is no path\n  fix: mount the token (audience istio-ca) and give the path of its file"
            .to_owned())
    }

    fn ttl(&self) -> Result<Duration, String> {
        let Some(text) = self.environment.get("SECRET_TTL") else { return Ok(DEFAULT_TTL) };
        let ttl = drain::duration(text).map(|ttl| Duration::from_secs(ttl.as_secs()));
        ttl.filter(|ttl| !ttl.is_zero()).ok_or_else(|| {
            format!("SECRET_TTL={text} is no life of a certificate\n  fix: write it like 24h, 90m or 10s; one second at least")
        })
    }

    fn workers(&self, proxy_config: &Map<String, Value>) -> Result<Option<NonZeroUsize>, String> {
        // In ProxyConfig 0 means: as many as there are CPUs.
        if let Some(workers) = proxy_config.get("concurrency").and_then(Value::as_u64) {
            return Ok(usize::try_from(workers).ok().and_then(NonZeroUsize::new));
        }
        let Some(text) = self.environment.first(&["ISTIO_CPU_LIMIT", "CPU_LIMIT"]) else { return Ok(None) };
        let fix = "set it from the container's limits.cpu with divisor 1, or remove it";
        text.parse()
            .map(Some)
            .map_err(|_| format!("ISTIO_CPU_LIMIT={text} is no number of CPUs\n  fix: {fix}"))
    }

    /// Stock waypoints mount none, so a path without a file behind it means that there are none.
    fn crl(&self) -> Option<PathBuf> {
        let path = self.files.path(self.environment.get("CRL_PATH")?);
        if path.exists() {
            return Some(path);
        }
        tracing::warn!(path = %path.display(), "CRL_PATH names no file: no revocation lists until the next start");
        None
    }

    fn proxy_config(&self) -> Result<Map<String, Value>, String> {
        let Some(text) = self.environment.get("PROXY_CONFIG") else { return Ok(Map::new()) };
        let fix = "istiod writes it as one JSON object; see meshConfig.defaultConfig and the annotation proxy.istio.io/config";
        serde_json::from_str(text)
            .map_err(|error| format!("PROXY_CONFIG is no JSON object: {error}\n  fix: {fix}"))
    }

    /// Labels or annotations, by the downward API. A pod without the volume has none to tell.
    fn pod_info(&self, which: &str) -> Result<downward::Pairs, String> {
        let path = self.files.path(&format!("/etc/istio/pod/{which}"));
        match std::fs::read_to_string(&path) {
            Ok(text) => downward::parse(&text).map_err(|fault| format!("{}: {fault}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(downward::Pairs::new()),
            Err(error) => Err(format!(
                "{}: {error}\n  fix: mount the volume istio-podinfo (downwardAPI)",
                path.display()
            )),
        }
    }

    fn endpoint(&self, which: Which, proxy_config: &Map<String, Value>) -> Result<Endpoint, String> {
        let discovery =
            proxy_config.get("discoveryAddress").and_then(Value::as_str).filter(|text| !text.is_empty());
        let xds = || match (self.environment.get("XDS_ADDRESS"), discovery) {
            (Some(address), _) => ("XDS_ADDRESS", address),
            (None, Some(address)) => ("PROXY_CONFIG.discoveryAddress", address),
            (None, None) => ("XDS_ADDRESS", DEFAULT_ISTIOD),
        };
        let (name, address) = match which {
            Which::Xds => xds(),
            Which::Ca => match (self.environment.get("CA_ADDRESS"), self.environment.get("CA_ADDR")) {
                (Some(address), _) => ("CA_ADDRESS", address),
                (None, Some(address)) => ("CA_ADDR", address),
                (None, None) => xds(),
            },
        };
        let (alternative, root) = match which {
            Which::Xds => ("ALT_XDS_HOSTNAME", &["XDS_ROOT_CA", "CA_ROOT_CA"]),
            Which::Ca => ("ALT_CA_HOSTNAME", &["CA_ROOT_CA", "XDS_ROOT_CA"]),
        };
        let server_name = self.environment.first(&[alternative, "ISTIOD_SAN"]);
        let root = self.root(root)?;
        Endpoint::parse(address, server_name, root).map_err(|fault| format!("{name}={address} {fault}"))
    }

    fn root(&self, names: &[&str]) -> Result<PathBuf, String> {
        let path = self.environment.first(names).unwrap_or(DEFAULT_ROOT);
        let refused = |what: &str| {
            Err(format!(
                "{} {what} is not supported\n  fix: mount istiod's root certificates and give the path",
                names.join(" or ")
            ))
        };
        match path {
            "SYSTEM" => refused("SYSTEM, the roots of the system,"),
            inline if inline.contains("-----BEGIN") => refused("with the certificates themselves"),
            path => Ok(self.files.path(path)),
        }
    }
}

#[derive(Clone, Copy)]
enum Which {
    Xds,
    Ca,
}

/// `<namespace>.svc.<domain>`, and the domain alone.
fn dns_domain(pod: &Pod<'_>, flags: &Flags) -> Result<(String, String), String> {
    let prefix = format!("{}.svc.", pod.namespace);
    let given = flags.domain.clone().unwrap_or_else(|| format!("{prefix}cluster.local"));
    match given.strip_prefix(&prefix) {
        Some(domain) if !domain.is_empty() && !domain.contains('~') => Ok((given.clone(), domain.to_owned())),
        _ => Err(format!(
            "--domain {given} does not belong to POD_NAMESPACE\n  fix: give --domain {prefix}<cluster domain>"
        )),
    }
}
