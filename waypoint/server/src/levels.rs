//! Istio's log flags as a filter of ours: `--log_output_level` for the control side, `--proxyLogLevel` and
//! `--proxyComponentLogLevel` for the traffic.

use crate::cli::WaypointArgs;

/// Crates and modules that carry traffic.
const TRAFFIC: &[&str] = &["waypoint_proxy", "hbone"];

/// Envoy's components (`source/common/common/logger.h`) by what answers to them here. The many without an answer are left out.
const COMPONENTS: &[(&str, &[&str])] = &[
    ("conn_handler", &["waypoint_proxy::listener", "waypoint_proxy::tunnel"]),
    ("connection", &["waypoint_proxy::listener", "waypoint_proxy::tunnel", "certs"]),
    ("filter", &["waypoint_proxy::http"]),
    ("http", &["waypoint_proxy::http"]),
    ("http2", &["hbone"]),
    ("pool", &["waypoint_proxy::upstream"]),
    ("rbac", &["waypoint_proxy::http", "waypoint_proxy::opaque"]),
    ("router", &["waypoint_proxy::upstream", "waypoint_proxy::routing"]),
    ("upstream", &["waypoint_proxy::upstream"]),
];

/// Scopes of Istio's agent by what answers to them here.
const SCOPES: &[(&str, &[&str])] = &[
    ("ads", &["xds_client", "istio_integration::feeds"]),
    ("adsc", &["xds_client"]),
    ("ca", &["istio_integration::ca", "certs"]),
    ("cache", &["istio_integration::ca", "certs"]),
    ("citadelclient", &["istio_integration::ca"]),
    ("delta", &["xds_client"]),
    ("deltaadsc", &["xds_client"]),
    ("hbone", &["hbone"]),
    ("sds", &["istio_integration::ca", "certs"]),
    ("security", &["istio_integration::ca", "certs"]),
    ("xdsproxy", &["xds_client", "istio_integration::feeds"]),
];

/// One of the two families of level names.
#[derive(Clone, Copy)]
struct Family {
    flag: &'static str,
    /// Their name, and ours.
    levels: &'static [(&'static str, &'static str)],
    scopes: &'static [(&'static str, &'static [&'static str])],
}

const ENVOY: Family = Family {
    flag: "--proxyLogLevel",
    levels: &[
        ("trace", "trace"),
        ("debug", "debug"),
        ("info", "info"),
        ("warning", "warn"),
        ("warn", "warn"),
        ("error", "error"),
        ("err", "error"),
        ("critical", "error"),
        ("off", "off"),
    ],
    scopes: COMPONENTS,
};

const AGENT: Family = Family {
    flag: "--log_output_level",
    levels: &[
        ("debug", "debug"),
        ("info", "info"),
        ("warn", "warn"),
        ("error", "error"),
        ("fatal", "error"),
        ("none", "off"),
    ],
    scopes: SCOPES,
};

/// The filter that these flags ask for.
///
/// # Errors
/// Names the flag and the word that is no level.
pub fn filter(args: &WaypointArgs) -> Result<String, String> {
    if let Some(filter) = &args.log {
        return Ok(filter.clone());
    }
    let agent = Levels::read(AGENT, &args.log_output_level)?;
    let traffic = Levels::read(ENVOY, &args.proxy_log_level)?;
    let components = Family { flag: "--proxyComponentLogLevel", ..ENVOY };
    let components = Levels::read(components, &args.proxy_component_log_level)?;
    let mut parts = vec![agent.base.unwrap_or("info").to_owned()];
    let level = components.base.or(traffic.base).unwrap_or("warn");
    parts.extend(TRAFFIC.iter().map(|target| format!("{target}={level}")));
    for levels in [agent, traffic, components] {
        parts.extend(levels.targets.iter().map(|(target, level)| format!("{target}={level}")));
    }
    Ok(parts.join(","))
}

/// What one flag says.
struct Levels {
    base: Option<&'static str>,
    targets: Vec<(&'static str, &'static str)>,
}

impl Levels {
    fn read(family: Family, text: &str) -> Result<Self, String> {
        let mut read = Self { base: None, targets: Vec::new() };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (scope, level) = part.split_once(':').unwrap_or(("default", part));
            let level = family.level(level)?;
            if scope == "default" || scope == "all" {
                read.base = Some(level);
            } else if let Some((_, targets)) = family.scopes.iter().find(|(name, _)| *name == scope) {
                read.targets.extend(targets.iter().map(|target| (*target, level)));
            }
        }
        Ok(read)
    }
}

impl Family {
    fn level(&self, word: &str) -> Result<&'static str, String> {
        let known = self.levels.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
        known.map(|(_, ours)| *ours).ok_or_else(|| {
            let names: Vec<&str> = self.levels.iter().map(|(name, _)| *name).collect();
            format!("{}: `{word}` is no level\n  fix: write {}", self.flag, names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command, ProxyKind};

    fn of(flags: &[&str]) -> Result<String, String> {
        let words = ["portcullis", "proxy", "waypoint"].iter().chain(flags);
        let Command::Proxy(proxy) = Cli::try_parse_from(words).unwrap().command else { panic!("proxy") };
        let ProxyKind::Waypoint(args) = proxy.kind;
        filter(&args)
    }

    #[test]
    fn istios_levels_become_ours() {
        for (flags, filter) in [
            (&[][..], "info,waypoint_proxy=warn,hbone=warn"),
            (&["--log_output_level", "none", "--proxyLogLevel", "off"], "off,waypoint_proxy=off,hbone=off"),
            (&["--proxyLogLevel", "critical"], "info,waypoint_proxy=error,hbone=error"),
            (
                &["--proxyLogLevel", "debug", "--log_output_level", "all:debug"],
                "debug,waypoint_proxy=debug,hbone=debug",
            ),
            (
                &["--proxyLogLevel", "info,misc:error,http2:trace"],
                "info,waypoint_proxy=info,hbone=info,hbone=trace",
            ),
            (
                &[
                    "--log_output_level",
                    "default:warn,xdsproxy:debug,dns:debug",
                    "--proxyComponentLogLevel",
                    "misc:error,rbac:debug",
                ],
                "warn,waypoint_proxy=warn,hbone=warn,xds_client=debug,istio_integration::feeds=debug,\
                 waypoint_proxy::http=debug,waypoint_proxy::opaque=debug",
            ),
            (&["--log", "hbone=trace,info"], "hbone=trace,info"),
        ] {
            let made = of(flags).unwrap();
            assert_eq!(made, filter, "{flags:?}");
            assert!(crate::logging::check(&made).is_ok(), "{made}");
        }
    }

    #[test]
    fn an_unknown_level_is_refused_with_its_flag() {
        for (flag, value) in [
            ("--proxyLogLevel", "loud"),
            ("--proxyComponentLogLevel", "rbac:loud"),
            ("--log_output_level", "default:trace"),
            ("--log_output_level", "loud"),
        ] {
            let fault = of(&[flag, value]).unwrap_err();
            assert!(fault.starts_with(flag) && fault.contains("fix: "), "{fault}");
        }
    }
}
