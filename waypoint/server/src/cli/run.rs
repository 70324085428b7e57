//! Flags of `run`.

use std::net::SocketAddr;
use std::path::PathBuf;

use agent_protocols::mcp::DenyMode;
use clap::{Args, ValueEnum};
use waypoint_model::Locality;
use waypoint_proxy::WebOrigin;
use waypoint_proxy::telemetry::{LogFormat, LoggedArgument};

use super::{IdentityArgs, MeshArgs, TraceArgs};

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// What the mesh looks like.
    #[command(flatten)]
    pub mesh: MeshArgs,

    /// Who we are.
    #[command(flatten)]
    pub identity: IdentityArgs,

    /// Where HBONE tunnels are accepted. Port 0 takes a free one, here and below.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15008", help_heading = "Listeners")]
    pub hbone_address: SocketAddr,

    /// Where plain connections with a PROXY v2 header are accepted from a ztunnel on this host; loopback only. Default: off.
    #[arg(long, value_name = "ADDRESS", help_heading = "Listeners")]
    pub proxy_protocol_address: Option<SocketAddr>,

    /// Admin port (/config_dump, /logging, /healthz/ready, /quitquitquit); loopback only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000", help_heading = "Listeners")]
    pub admin_address: SocketAddr,

    /// Metrics port (/stats/prometheus, /healthz/ready).
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15020", help_heading = "Listeners")]
    pub metrics_address: SocketAddr,

    /// Readiness port (/healthz/ready).
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:15021", help_heading = "Listeners")]
    pub ready_address: SocketAddr,

    /// Bounds and timeouts, a YAML file; `portcullis schema` prints what may stand in it. Default: the defaults there.
    #[arg(long, value_name = "FILE", help_heading = "Behaviour")]
    pub settings: Option<PathBuf>,

    /// Key that seals MCP session ids: 32 bytes, raw or in base64 (openssl rand -base64 32). May be repeated: the first
    /// seals, all open. Share it between replicas. Default: a bounded table of sessions in this process.
    #[arg(long = "session-key", value_name = "FILE", help_heading = "Behaviour")]
    pub session_keys: Vec<PathBuf>,

    /// How a refused MCP call looks to its client.
    #[arg(long, value_enum, default_value_t, help_heading = "Behaviour")]
    pub deny_mode: DenyModeArg,

    /// Host inside the network that A2A push notifications may go to, by http too; may be repeated. Any other must be a name
    /// outside, by https.
    #[arg(long = "push-host", value_name = "HOST", help_heading = "Behaviour")]
    pub push_hosts: Vec<String>,

    /// A task of an A2A agent that this process never saw made belongs to the first who names it. Default: it is nobody's, and
    /// not found.
    #[arg(long, help_heading = "Behaviour")]
    pub adopt_tasks: bool,

    /// Origin of web pages that may talk to MCP servers, such as `https://app.example`. May be repeated. Default: none; a request
    /// that a browser sends for a page is refused.
    #[arg(long = "allow-origin", value_name = "ORIGIN", help_heading = "Behaviour")]
    pub origins: Vec<WebOrigin>,

    /// Tell endpoints who called, in x-forwarded-client-cert (By=…;URI=…). A client's own header is removed in any case.
    #[arg(long, help_heading = "Behaviour")]
    pub xfcc: bool,

    /// Where this waypoint runs, as REGION[/ZONE[/SUBZONE]]: endpoints in the same place are preferred. Default: nowhere, so
    /// that no endpoint is nearer than another.
    #[arg(long, value_name = "LOCALITY", value_parser = locality, help_heading = "Behaviour")]
    pub locality: Option<Locality>,

    /// Pick MCP method and tool names for metrics and logs out of passing bytes, where no policy has to read them.
    #[arg(long, value_enum, default_value_t = Switch::On, help_heading = "Behaviour")]
    pub observe: Switch,

    /// Access log on standard output: one line per request and per opaque stream.
    #[arg(long, value_enum, default_value_t, help_heading = "Telling")]
    pub access_log: LogFormatArg,

    /// Arguments of MCP calls that the access log tells, separated by commas: dotted names as in policies, with :NUMBER for
    /// that many characters (64 otherwise) or :mask to say only that it is there. Default: none.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        env = "PORTCULLIS_LOG_ARGUMENTS",
        help_heading = "Telling"
    )]
    pub log_arguments: Vec<LoggedArgument>,

    /// Where spans go.
    #[command(flatten)]
    pub trace: TraceArgs,

    /// What is logged on standard error: error, warn, info, debug, trace, or filters like hbone=debug,info.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "PORTCULLIS_LOG",
        help_heading = "Telling"
    )]
    pub log: String,
}

/// How a refused MCP call looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DenyModeArg {
    /// As if the tool did not exist.
    #[default]
    Hide,
    /// A JSON-RPC error that says it was denied.
    Explicit,
    /// A tool result with isError, which the model reads.
    ModelVisible,
    /// HTTP 403 `RBAC: access denied`, as Envoy. Some clients give up their session then.
    Status,
}

impl From<DenyModeArg> for DenyMode {
    fn from(arg: DenyModeArg) -> Self {
        match arg {
            DenyModeArg::Hide => Self::Hide,
            DenyModeArg::Explicit => Self::Explicit,
            DenyModeArg::ModelVisible => Self::ModelVisible,
            DenyModeArg::Status => Self::Status,
        }
    }
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// One JSON object a line.
    #[default]
    Json,
    /// Istio's default text format.
    Text,
    /// None.
    Off,
}

impl From<LogFormatArg> for LogFormat {
    fn from(arg: LogFormatArg) -> Self {
        match arg {
            LogFormatArg::Json => Self::Json,
            LogFormatArg::Text => Self::Text,
            LogFormatArg::Off => Self::Off,
        }
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

fn locality(text: &str) -> Result<Locality, String> {
    let mut parts = text.split('/').map(std::sync::Arc::from);
    let mut part = || parts.next().unwrap_or_default();
    let locality = Locality { region: part(), zone: part(), subzone: part() };
    match (locality.region.is_empty(), parts.next()) {
        (false, None) => Ok(locality),
        _ => Err("is REGION, REGION/ZONE or REGION/ZONE/SUBZONE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_has_up_to_three_parts() {
        let of = |text: &str| locality(text).map(|l| (l.region, l.zone, l.subzone));
        assert_eq!(of("eu"), Ok(("eu".into(), "".into(), "".into())));
        assert_eq!(of("eu/a/r1"), Ok(("eu".into(), "a".into(), "r1".into())));
        assert!(of("").is_err() && of("/a").is_err() && of("a/b/c/d").is_err());
    }
}
