//! `proxy waypoint`: the command line that istiod writes into a waypoint's Deployment (`waypoint.yaml` of its chart).

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use waypoint_proxy::WebOrigin;
use waypoint_proxy::telemetry::LoggedArgument;

use super::{DenyModeArg, LogFormatArg, Switch};

/// Which of the proxies of Istio's agent; we are one of them.
#[derive(Clone, Debug, Args)]
pub struct ProxyArgs {
    /// The kind of proxy.
    #[command(subcommand)]
    pub kind: ProxyKind,
}

/// Kinds of proxies.
#[derive(Clone, Debug, Subcommand)]
pub enum ProxyKind {
    /// Be a waypoint of Istio: configuration and certificates come from istiod, everything else from the container's
    /// environment.
    #[command(long_about = ABOUT, after_long_help = AFTER)]
    Waypoint(Box<WaypointArgs>),
}

const ABOUT: &str = "\
Be a waypoint of Istio. This is the command line that istiod itself writes into the Deployment of a Gateway of class \
istio-waypoint; nothing has to be added to it. Where istiod is, who we are and what istiod shall know of us is read from the \
environment and the mounted files of that Deployment.";

const AFTER: &str = "\
Listens on all addresses, IPv6 and IPv4:
  15008  HBONE tunnels                        15021  /healthz/ready
  15020  /stats/prometheus, /healthz/ready    15090  /stats/prometheus
and on loopback:
  15000  /config_dump, /clusters, /listeners, /server_info, /certs, /logging, as istioctl asks for them

Read from the environment (istiod sets what is needed):
  XDS_ADDRESS, PROXY_CONFIG.discoveryAddress, CA_ADDRESS, CA_ADDR   where istiod is (istiod.istio-system.svc:15012)
  XDS_ROOT_CA, CA_ROOT_CA      its root certificates (/var/run/secrets/istio/root-cert.pem)
  ALT_XDS_HOSTNAME, ALT_CA_HOSTNAME   the name in its certificate, where that differs from the address
  AUTH_TOKEN                   our token, audience istio-ca (/var/run/secrets/tokens/istio-token)
  TRUST_DOMAIN, POD_NAMESPACE, SERVICE_ACCOUNT   who our certificate must say we are
  POD_NAME, INSTANCE_IP, ISTIO_META_*, ISTIO_METAJSON_*, PROXY_CONFIG   what istiod is told of us
  SECRET_TTL                   life of our certificates (24h)
  CRL_PATH                     revocation lists (none)
  ISTIO_CPU_LIMIT              worker threads, unless PROXY_CONFIG.concurrency says how many
  TERMINATION_DRAIN_DURATION_SECONDS, TERMINATION_GRACE_PERIOD_SECONDS   how long a shutdown may take
and /etc/istio/pod/{labels,annotations}; the annotation ambient.istio.io/xfcc-include-client-identity turns XFCC on.

docs/operations.md tells what each is for.";

/// Flags of `proxy waypoint`. Names and defaults of the first ones are Istio's.
#[derive(Clone, Debug, Args)]
pub struct WaypointArgs {
    /// DNS domain of our namespace, `<namespace>.svc.<cluster domain>`. Default: that of POD_NAMESPACE in cluster.local.
    #[arg(long, value_name = "DOMAIN", help_heading = "Istio")]
    pub domain: Option<String>,

    /// What istiod and istioctl call us. Default: istio-proxy.
    #[arg(long = "serviceCluster", value_name = "NAME", help_heading = "Istio")]
    pub service_cluster: Option<String>,

    /// What is logged of the traffic: trace, debug, info, warning, error, critical or off; components may follow, as in
    /// warning,rbac:debug,upstream:info. Components that Envoy has and we don't are passed over.
    #[arg(long = "proxyLogLevel", value_name = "LEVEL", default_value = "warning", help_heading = "Istio")]
    pub proxy_log_level: String,

    /// Components alone, as in rbac:debug,upstream:info; over --proxyLogLevel.
    #[arg(
        long = "proxyComponentLogLevel",
        value_name = "LEVELS",
        default_value = "",
        hide_default_value = true,
        help_heading = "Istio"
    )]
    pub proxy_component_log_level: String,

    /// What is logged of everything else: debug, info, warn, error, fatal or none, by scope, as in default:info,ads:debug.
    /// Scopes that Istio's agent has and we don't are passed over.
    #[arg(
        long = "log_output_level",
        value_name = "LEVELS",
        default_value = "default:info",
        help_heading = "Istio"
    )]
    pub log_output_level: String,

    /// Log in JSON, an object a line.
    #[arg(long = "log_as_json", help_heading = "Istio")]
    pub log_as_json: bool,

    /// Where Envoy would write about ejected endpoints. Accepted and not written: the log tells of them.
    #[arg(long = "outlierLogPath", value_name = "FILE", help_heading = "Istio")]
    pub outlier_log_path: Option<PathBuf>,

    /// Worker threads. Default: PROXY_CONFIG.concurrency, else ISTIO_CPU_LIMIT, else one a CPU. 0: one a CPU.
    #[arg(long, value_name = "THREADS", help_heading = "Istio")]
    pub concurrency: Option<usize>,

    /// Bounds and timeouts, a YAML file; `portcullis schema` prints what may stand in it. Default: the defaults there.
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_SETTINGS", help_heading = "Portcullis")]
    pub settings: Option<PathBuf>,

    /// Keys that seal MCP session ids, separated by commas: 32 bytes each, raw or in base64. The first seals, all open.
    /// Default: a bounded table of sessions in this process.
    #[arg(
        long = "session-key",
        value_name = "FILES",
        value_delimiter = ',',
        env = "PORTCULLIS_SESSION_KEYS",
        help_heading = "Portcullis"
    )]
    pub session_keys: Vec<PathBuf>,

    /// How a refused MCP call looks to its client.
    #[arg(long, value_enum, default_value_t, env = "PORTCULLIS_DENY_MODE", help_heading = "Portcullis")]
    pub deny_mode: DenyModeArg,

    /// Hosts inside the network that A2A push notifications may go to, by http too, separated by commas. Any other must be a
    /// name outside, by https.
    #[arg(
        long = "push-host",
        value_name = "HOSTS",
        value_delimiter = ',',
        env = "PORTCULLIS_PUSH_HOSTS",
        help_heading = "Portcullis"
    )]
    pub push_hosts: Vec<String>,

    /// A task of an A2A agent that this process never saw made belongs to the first who names it. Default: it is nobody's, and
    /// not found.
    #[arg(long, env = "PORTCULLIS_ADOPT_TASKS", help_heading = "Portcullis")]
    pub adopt_tasks: bool,

    /// Origins of web pages that may talk to MCP servers, separated by commas, such as `https://app.example`. Default: none; a
    /// request that a browser sends for a page is refused.
    #[arg(
        long = "allow-origin",
        value_name = "ORIGINS",
        value_delimiter = ',',
        env = "PORTCULLIS_ALLOW_ORIGINS",
        help_heading = "Portcullis"
    )]
    pub origins: Vec<WebOrigin>,

    /// Pick MCP method and tool names for metrics and logs out of passing bytes, where no policy has to read them.
    #[arg(
        long,
        value_enum,
        default_value_t = Switch::On,
        env = "PORTCULLIS_OBSERVE",
        help_heading = "Portcullis"
    )]
    pub observe: Switch,

    /// Access log on standard output: one line per request and per opaque stream.
    #[arg(long, value_enum, default_value_t, env = "PORTCULLIS_ACCESS_LOG", help_heading = "Portcullis")]
    pub access_log: LogFormatArg,

    /// Arguments of MCP calls that the access log tells, separated by commas: dotted names as in policies, with :NUMBER for
    /// that many characters (64 otherwise) or :mask to say only that it is there. Default: none.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        env = "PORTCULLIS_LOG_ARGUMENTS",
        help_heading = "Portcullis"
    )]
    pub log_arguments: Vec<LoggedArgument>,

    /// SPIFFE Workload API socket (SPIRE agent), as unix:///path: our certificate comes from there and not from istiod.
    #[arg(long, value_name = "URI", env = "PORTCULLIS_WORKLOAD_API", help_heading = "Portcullis")]
    pub workload_api: Option<String>,

    /// Folder that stands for the container's root: mounted files are looked for below it. Default: /.
    #[arg(long, value_name = "DIR", env = "PORTCULLIS_ROOT", help_heading = "Portcullis")]
    pub root: Option<PathBuf>,

    /// Filter of the log, over all of Istio's flags: error, warn, info, debug, trace, or filters like hbone=debug,info.
    #[arg(long, value_name = "FILTER", env = "PORTCULLIS_LOG", help_heading = "Portcullis")]
    pub log: Option<String>,
}

impl WaypointArgs {
    /// Worker threads, if this command line says how many.
    #[must_use]
    pub fn workers(&self) -> Option<NonZeroUsize> {
        self.concurrency.and_then(NonZeroUsize::new)
    }
}
