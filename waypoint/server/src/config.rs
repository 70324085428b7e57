//! The command line of `run`, checked as a whole: what is left is a [`Launch`] that only the outside world can refuse.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use waypoint_model::{Locality, TracingSettings};
use waypoint_proxy::Settings;
use waypoint_proxy::limits::Limits;
use waypoint_proxy::telemetry::LogFormat;

use crate::cli::{RunArgs, Switch};
use crate::identity::Source;
use crate::mesh::{Mesh, MeshSource};
use crate::settings;
use crate::traces;

/// Everything that a waypoint needs to start.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What tells us what the mesh looks like.
    pub mesh: Mesh,
    /// Where our certificate comes from.
    pub identity: Source,
    /// Revocation lists.
    pub crl: Option<PathBuf>,
    /// Where to listen.
    pub addresses: Addresses,
    /// Bounds and choices of the data plane.
    pub settings: Settings,
    /// Where we run; the default is nowhere.
    pub locality: Locality,
    /// Form of the access log.
    pub access_log: LogFormat,
    /// How ports are traced that the configuration says nothing of.
    pub tracing: Option<TracingSettings>,
}

/// Where to listen. Port 0 takes a free one.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// HBONE tunnels.
    pub hbone: SocketAddr,
    /// Plain connections with a PROXY header; loopback.
    pub proxy_protocol: Option<SocketAddr>,
    /// Admin; loopback.
    pub admin: SocketAddr,
    /// Metrics.
    pub metrics: SocketAddr,
    /// Metrics again, where scrapers of Envoy look for them.
    pub envoy_metrics: Option<SocketAddr>,
    /// Readiness.
    pub ready: SocketAddr,
}

/// Everything that is wrong with a command line and the files it names.
#[derive(Debug, thiserror::Error)]
#[error("{}", faults.join("\nerror: "))]
pub struct ConfigError {
    /// One text each; names the flag.
    pub faults: Vec<String>,
}

/// Checks the flags of `run` and reads the settings and key files.
///
/// # Errors
/// All faults at once.
pub fn launch(args: &RunArgs) -> Result<Launch, ConfigError> {
    let mut faults = Vec::new();
    let addresses = addresses(args, &mut faults);
    let identity = taken(Source::try_from(&args.identity.source), &mut faults);
    let limits = match &args.settings {
        Some(path) => taken(settings::load(path), &mut faults),
        None => Some(Limits::default()),
    };
    let keys: Vec<_> =
        args.session_keys.iter().filter_map(|path| taken(session_key(path), &mut faults)).collect();
    let tracing = taken(traces::settings(&args.trace), &mut faults);
    match (identity, limits, tracing) {
        (Some(identity), Some(limits), Some(tracing)) if faults.is_empty() => Ok(Launch {
            mesh: Mesh::Manifests(MeshSource::from(&args.mesh)),
            identity,
            crl: args.identity.crl.clone(),
            addresses,
            settings: Settings {
                limits,
                deny_mode: args.deny_mode.into(),
                xfcc: args.xfcc,
                observe: args.observe == Switch::On,
                log_arguments: args.log_arguments.clone(),
                push_hosts: args.push_hosts.clone(),
                adopt_tasks: args.adopt_tasks,
                origins: args.origins.clone(),
                session_keys: keys,
            },
            locality: args.locality.clone().unwrap_or_default(),
            access_log: args.access_log.into(),
            tracing,
        }),
        _ => Err(ConfigError { faults }),
    }
}

pub(crate) fn taken<T, E: ToString>(result: Result<T, E>, faults: &mut Vec<String>) -> Option<T> {
    result.map_err(|error| faults.push(error.to_string())).ok()
}

fn addresses(args: &RunArgs, faults: &mut Vec<String>) -> Addresses {
    let mut loopback = |flag: &str, address: SocketAddr, why: &str| {
        if !address.ip().is_loopback() {
            faults.push(format!("{flag} {address}: must be a loopback address (127.0.0.1 or [::1]), {why}"));
        }
    };
    loopback("--admin-address", args.admin_address, "it shows the configuration and stops the process");
    if let Some(address) = args.proxy_protocol_address {
        loopback("--proxy-protocol-address", address, "whoever connects there may claim any identity");
    }
    Addresses {
        hbone: args.hbone_address,
        proxy_protocol: args.proxy_protocol_address,
        admin: args.admin_address,
        metrics: args.metrics_address,
        envoy_metrics: None,
        ready: args.ready_address,
    }
}

/// Exactly 32 bytes, or their base64. Errors never show what is in the file.
pub(crate) fn session_key(path: &Path) -> Result<[u8; 32], String> {
    let named = |what: String| format!("--session-key {}: {what}", path.display());
    let bytes = fs::read(path).map_err(|error| named(error.to_string()))?;
    let raw = <[u8; 32]>::try_from(bytes.as_slice()).ok();
    let decoded = || {
        let decoded = STANDARD.decode(bytes.trim_ascii()).ok()?;
        <[u8; 32]>::try_from(decoded.as_slice()).ok()
    };
    raw.or_else(decoded).ok_or_else(|| {
        named("not 32 bytes, raw or in base64; make one with `openssl rand -base64 32`".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(flags: &[&str]) -> Result<Launch, ConfigError> {
        let fixed = ["portcullis", "run", "--manifests", "m"];
        let cli = Cli::try_parse_from(fixed.iter().chain(flags)).unwrap();
        let Command::Run(args) = cli.command else { panic!("run") };
        launch(&args)
    }

    const FILES: [&str; 6] = ["--cert-chain", "c", "--key", "k", "--trust-bundle", "b"];

    #[test]
    fn defaults_are_those_of_the_contract() {
        let launch = parsed(&FILES).unwrap();
        assert_eq!(launch.addresses.hbone.to_string(), "0.0.0.0:15008");
        assert_eq!(launch.addresses.admin.to_string(), "127.0.0.1:15000");
        assert_eq!(launch.addresses.metrics.to_string(), "0.0.0.0:15020");
        assert_eq!(launch.addresses.ready.to_string(), "0.0.0.0:15021");
        assert_eq!(launch.addresses.proxy_protocol, None);
        assert_eq!(launch.access_log, LogFormat::Json);
        assert!(launch.settings.observe && !launch.settings.xfcc && launch.settings.session_keys.is_empty());
        let Mesh::Manifests(source) = launch.mesh else { panic!("manifests") };
        assert_eq!(source.options.trust_domain, "cluster.local");
        assert_eq!(source.options.cluster, "Kubernetes");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let error = parsed(&[
            "--admin-address",
            "0.0.0.0:15000",
            "--proxy-protocol-address",
            "10.0.0.1:15088",
            "--settings",
            "/nonexistent",
            "--session-key",
            "/nonexistent",
        ])
        .unwrap_err();
        let named: Vec<&str> = error.faults.iter().filter_map(|fault| fault.split(' ').next()).collect();
        let want = ["--admin-address", "--proxy-protocol-address", "no", "--settings", "--session-key"];
        assert_eq!(named, want, "{error}");
    }

    #[test]
    fn a_session_key_is_32_bytes_raw_or_in_base64_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let base64 = STANDARD.encode([7; 32]) + "\n";
        for good in [[7; 32].as_slice(), base64.as_bytes()] {
            fs::write(&path, good).unwrap();
            assert_eq!(session_key(&path).unwrap(), [7; 32]);
        }
        for bad in ["", "short", &"x".repeat(64)] {
            fs::write(&path, bad).unwrap();
            let error = session_key(&path).unwrap_err();
            assert!(error.contains("32 bytes") && (bad.is_empty() || !error.contains(bad)), "{error}");
        }
    }

    #[test]
    fn key_and_chain_come_together_and_not_beside_the_workload_api() {
        let rows: [&[&str]; 3] = [
            &["--cert-chain", "c"],
            &["--key", "k"],
            &["--workload-api", "unix:///x", "--cert-chain", "c", "--key", "k", "--trust-bundle", "b"],
        ];
        for flags in rows {
            let fixed = ["portcullis", "run", "--manifests", "m"];
            assert!(Cli::try_parse_from(fixed.iter().chain(flags)).is_err(), "{flags:?}");
        }
    }
}
