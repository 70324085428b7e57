//! `portcullis proxy waypoint`: a waypoint of Istio, started as istiod starts one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;

use istio_integration::bootstrap::{Bootstrap, DrainTimes, Environment, Files, Flags};
use waypoint_model::Locality;
use waypoint_proxy::Settings;
use waypoint_proxy::limits::Limits;

use crate::cli::{ProxyArgs, ProxyKind, Switch, WaypointArgs};
use crate::config::{Addresses, ConfigError, Launch, session_key, taken};
use crate::identity::Source;
use crate::levels;
use crate::logging::{LogControl, LogForm};
use crate::mesh::Mesh;
use crate::run::{self, RunError};
use crate::settings;

/// Serves until it is told to stop.
///
/// # Errors
/// [`RunError`]; each text names the flag, variable or file, and what to do.
pub fn command(args: &ProxyArgs) -> Result<ExitCode, RunError> {
    let ProxyKind::Waypoint(args) = &args.kind;
    let files = args.root.as_deref().map_or_else(Files::of_container, Files::below);
    let filter = levels::filter(args).map_err(|fault| ConfigError { faults: vec![fault] })?;
    let form = if args.log_as_json { LogForm::Json } else { LogForm::Text };
    let log = LogControl::start(&filter, form)?;
    let Start { launch, workers } = launch(args, &Environment::of_process(), &files)?;
    if let Some(path) = &args.outlier_log_path {
        tracing::info!(path = %path.display(), "--outlierLogPath is not written; ejected endpoints are logged here");
    }
    run::serve(launch, log, workers)
}

/// What to start.
#[derive(Debug)]
pub struct Start {
    /// Everything that a waypoint needs.
    pub launch: Launch,
    /// Worker threads; `None`: one a CPU.
    pub workers: Option<NonZeroUsize>,
}

/// Checks flags and environment as a whole, and reads the settings and key files.
///
/// # Errors
/// All faults at once.
pub fn launch(args: &WaypointArgs, environment: &Environment, files: &Files) -> Result<Start, ConfigError> {
    let mut faults = Vec::new();
    let flags = Flags { domain: args.domain.clone(), service_cluster: args.service_cluster.clone() };
    let bootstrap = Bootstrap::read(environment, files, &flags);
    let bootstrap = bootstrap.map_err(|error| faults.extend(error.faults)).ok();
    let drain = bootstrap.as_ref().map(|bootstrap| bootstrap.drain).unwrap_or_default();
    let limits = taken(limits(args.settings.as_deref(), drain), &mut faults);
    let keys = args.session_keys.iter().filter_map(|path| taken(session_key(path), &mut faults)).collect();
    match (bootstrap, limits) {
        (Some(bootstrap), Some(limits)) if faults.is_empty() => Ok(start(args, bootstrap, limits, keys)),
        _ => Err(ConfigError { faults }),
    }
}

fn start(args: &WaypointArgs, bootstrap: Bootstrap, limits: Limits, session_keys: Vec<[u8; 32]>) -> Start {
    let workers = if args.concurrency.is_some() { args.workers() } else { bootstrap.workers };
    let identity = match &args.workload_api {
        Some(endpoint) => Source::WorkloadApi(endpoint.clone()),
        None => Source::Istiod(Box::new(bootstrap.clone())),
    };
    let launch = Launch {
        identity,
        crl: bootstrap.crl.clone(),
        addresses: addresses(),
        settings: Settings {
            limits,
            deny_mode: args.deny_mode.into(),
            xfcc: bootstrap.xfcc,
            observe: args.observe == Switch::On,
            log_arguments: args.log_arguments.clone(),
            push_hosts: args.push_hosts.clone(),
            adopt_tasks: args.adopt_tasks,
            origins: args.origins.clone(),
            session_keys,
        },
        // istiod tells it with our own workload.
        locality: Locality::default(),
        access_log: args.access_log.into(),
        // istiod says it for each port.
        tracing: None,
        mesh: Mesh::Istiod(Box::new(bootstrap)),
    };
    Start { launch, workers }
}

/// The ports that istiod's Deployment declares and probes.
fn addresses() -> Addresses {
    let all = |port| SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
    Addresses {
        hbone: all(15008),
        proxy_protocol: None,
        admin: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000),
        metrics: all(15020),
        envoy_metrics: Some(all(15090)),
        ready: all(15021),
    }
}

/// The settings file, and the environment's times where the file leaves the default.
fn limits(file: Option<&Path>, drain: DrainTimes) -> Result<Limits, String> {
    let defaults = Limits::default();
    let mut limits = match file {
        Some(path) => settings::load(path).map_err(|error| error.to_string())?,
        None => defaults.clone(),
    };
    if let (Some(deadline), true) = (drain.deadline, limits.drain_deadline == defaults.drain_deadline) {
        limits.drain_deadline = deadline;
        // A short shutdown leaves at least half of it to what is open.
        limits.drain_linger = limits.drain_linger.min(deadline / 2);
    }
    let faults = settings::faults(&limits);
    if faults.is_empty() {
        Ok(limits)
    } else {
        Err(format!("the times of the shutdown: {}", faults.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    /// As istiod renders them for a Gateway `wp` of namespace `app`, with `$(POD_NAMESPACE)` filled in by the kubelet.
    const STOCK: [&str; 10] = [
        "--domain",
        "app.svc.cluster.local",
        "--serviceCluster",
        "wp.app",
        "--proxyLogLevel",
        "warning",
        "--proxyComponentLogLevel",
        "misc:error",
        "--log_output_level",
        "default:info",
    ];

    fn parsed(flags: &[&str]) -> Result<WaypointArgs, clap::Error> {
        let words = ["portcullis", "proxy", "waypoint"].iter().chain(flags);
        let Command::Proxy(proxy) = Cli::try_parse_from(words)?.command else { panic!("proxy") };
        let ProxyKind::Waypoint(args) = proxy.kind;
        Ok(*args)
    }

    fn environment(changes: &[(&str, &str)]) -> Environment {
        let stock = [
            ("POD_NAME", "wp-1"),
            ("POD_NAMESPACE", "app"),
            ("INSTANCE_IP", "10.244.0.12"),
            ("SERVICE_ACCOUNT", "wp"),
            ("ISTIO_CPU_LIMIT", "2"),
        ];
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        stock.iter().chain(changes).map(owned).collect()
    }

    fn launched(flags: &[&str], changes: &[(&str, &str)]) -> Result<Start, ConfigError> {
        let nowhere = Files::below(Path::new("/nonexistent"));
        launch(&parsed(flags).unwrap(), &environment(changes), &nowhere)
    }

    #[test]
    fn istiods_own_command_line_is_enough() {
        let Start { launch, workers } = launched(&STOCK, &[]).unwrap();
        let Mesh::Istiod(bootstrap) = &launch.mesh else { panic!("istiod") };
        assert_eq!(bootstrap.node.id, "waypoint~10.244.0.12~wp-1.app~app.svc.cluster.local");
        assert_eq!(bootstrap.node.cluster, "wp.app");
        let ports = [launch.addresses.hbone, launch.addresses.metrics, launch.addresses.ready];
        assert_eq!(ports.map(|address| address.to_string()), ["[::]:15008", "[::]:15020", "[::]:15021"]);
        assert_eq!(launch.addresses.envoy_metrics.unwrap().to_string(), "[::]:15090");
        assert_eq!(launch.addresses.admin.to_string(), "127.0.0.1:15000");
        assert!(matches!(launch.identity, Source::Istiod(_)));
        assert_eq!(workers.map(NonZeroUsize::get), Some(2));
    }

    #[test]
    fn other_flags_that_istiod_may_render_are_taken_and_unknown_ones_named() {
        for flags in
            [&["--log_as_json"][..], &["--outlierLogPath=/var/log/outliers"], &["--concurrency", "3"]]
        {
            launched(flags, &[]).unwrap();
        }
        assert_eq!(launched(&["--concurrency", "3"], &[]).unwrap().workers.map(NonZeroUsize::get), Some(3));
        assert_eq!(launched(&["--concurrency", "0"], &[]).unwrap().workers, None);
        for flag in ["--stsPort", "--templateFile", "--log_target", "--meshConfig"] {
            let error = parsed(&[flag, "x"]).unwrap_err().to_string();
            assert!(error.contains(&format!("unexpected argument '{flag}'")), "{error}");
        }
        for kind in ["sidecar", "router"] {
            let error = Cli::try_parse_from(["portcullis", "proxy", kind]).unwrap_err().to_string();
            assert!(error.contains(&format!("unrecognized subcommand '{kind}'")), "{error}");
        }
    }

    #[test]
    fn a_shutdown_may_be_as_long_as_the_environment_says() {
        let of = |seconds| {
            let limits = launched(&[], &[("TERMINATION_DRAIN_DURATION_SECONDS", seconds)])
                .unwrap()
                .launch
                .settings
                .limits;
            (limits.drain_linger, limits.drain_deadline)
        };
        assert_eq!(of("60"), (Limits::default().drain_linger, Duration::from_secs(60)));
        assert_eq!(of("4"), (Duration::from_secs(2), Duration::from_secs(4)));
    }

    #[test]
    fn a_settings_file_wins_over_the_times_of_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.yaml");
        std::fs::write(&path, "drain_deadline: 20000\n").unwrap();
        let flags = ["--settings", path.to_str().unwrap()];
        let limits =
            launched(&flags, &[("TERMINATION_DRAIN_DURATION_SECONDS", "60")]).unwrap().launch.settings.limits;
        assert_eq!(limits.drain_deadline, Duration::from_secs(20));
    }

    #[test]
    fn faults_of_flags_and_environment_are_told_together() {
        let flags = ["--settings", "/nonexistent", "--session-key", "/nonexistent"];
        let error = launched(&flags, &[("POD_NAME", ""), ("SECRET_TTL", "soon")]).unwrap_err();
        assert_eq!(error.faults.len(), 4, "{error}");
    }

    #[test]
    fn another_source_of_certificates_can_be_chosen() {
        let launch = launched(&["--workload-api", "unix:///run/spire/agent.sock"], &[]).unwrap().launch;
        assert_eq!(launch.identity, Source::WorkloadApi("unix:///run/spire/agent.sock".to_owned()));
    }
}
