//! `--to SVC[.NS][:PORT]`: which port of which service is meant.

use std::collections::BTreeSet;
use std::sync::Arc;

use waypoint_model::{MeshConfig, Service};

/// A service's port.
#[derive(Clone, Debug)]
pub struct Target {
    /// The service.
    pub service: Arc<Service>,
    /// Service port.
    pub port: u16,
}

/// Why nothing is meant. Texts list what there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownTarget {
    /// No service of that name.
    #[error("{asked}: no such service{}{}", did_you_mean(.near.as_deref()), list("; there is", .known))]
    Service {
        /// As given.
        asked: String,
        /// A name that is written almost so.
        near: Option<String>,
        /// Services that this waypoint fronts.
        known: Vec<String>,
    },
    /// Several services of that name.
    #[error("{asked}: several services{}; add the namespace", list(": ", .matching))]
    Ambiguous {
        /// As given.
        asked: String,
        /// Those that match.
        matching: Vec<String>,
    },
    /// A service that does not go through this waypoint.
    #[error(
        "{0}: this waypoint does not front it, so its policies decide nothing here (label istio.io/use-waypoint)"
    )]
    NotFronted(String),
    /// Not a port of the service, or several and none given.
    #[error("{asked}: {problem}; {service} has port{}", list("", .ports))]
    Port {
        /// As given.
        asked: String,
        /// What is wrong.
        problem: &'static str,
        /// The service.
        service: String,
        /// Its ports.
        ports: Vec<String>,
    },
}

fn did_you_mean(near: Option<&str>) -> String {
    near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default()
}

fn list(lead: &str, names: &[String]) -> String {
    match names {
        [] => " (the folder has none)".to_owned(),
        names => format!("{lead} {}", names.join(", ")),
    }
}

/// Finds the port of a fronted service by name, `name.namespace`, host name or virtual address.
///
/// # Errors
/// [`UnknownTarget`], which lists what there is.
pub fn find(mesh: &MeshConfig, asked: &str) -> Result<Target, UnknownTarget> {
    let (name, port) = match asked.rsplit_once(':') {
        Some((name, port)) => match port.parse::<u16>() {
            Ok(number) => (name, Some(number)),
            Err(_) if port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(0)),
            Err(_) => (asked, None),
        },
        None => (asked, None),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let service = service(mesh, asked, name)?;
    let port = choose_port(service, asked, port)?;
    Ok(Target { service: Arc::clone(service), port })
}

fn service<'a>(mesh: &'a MeshConfig, asked: &str, name: &str) -> Result<&'a Arc<Service>, UnknownTarget> {
    let matching: Vec<&Arc<Service>> =
        mesh.services.values().filter(|service| is_named(service, name)).collect();
    let fronted: Vec<&Arc<Service>> = matching.iter().copied().filter(|service| service.fronted).collect();
    match (fronted.as_slice(), matching.as_slice()) {
        ([one], _) => Ok(one),
        ([], [one, ..]) => Err(UnknownTarget::NotFronted(one.key.hostname.to_string())),
        ([], []) => Err(unknown(mesh, asked, name)),
        (several, _) => Err(UnknownTarget::Ambiguous {
            asked: asked.to_owned(),
            matching: several.iter().map(|service| short(service)).collect(),
        }),
    }
}

fn is_named(service: &Service, name: &str) -> bool {
    let same = |text: &str| text.eq_ignore_ascii_case(name);
    let address = name.parse::<std::net::IpAddr>().is_ok_and(|ip| service.vips.contains(&ip));
    let in_cluster = [".svc", ""].iter().any(|end| same(&format!("{}{end}", short(service))));
    address
        || same(&service.key.hostname)
        || service.aliases.iter().any(|alias| same(alias))
        || same(&service.name)
        || in_cluster
}

/// `name.namespace`, as short as it can be told apart; the host name for services that have no such name.
fn short(service: &Service) -> String {
    if service.key.hostname.starts_with(&format!("{}.{}.", service.name, service.key.namespace)) {
        format!("{}.{}", service.name, service.key.namespace)
    } else {
        service.key.hostname.to_string()
    }
}

fn unknown(mesh: &MeshConfig, asked: &str, name: &str) -> UnknownTarget {
    let fronted = mesh.services.values().filter(|service| service.fronted);
    let known: BTreeSet<String> = fronted.map(|service| short(service)).collect();
    let distance = |known: &String| {
        let bare = known.split('.').next().unwrap_or(known);
        strsim::damerau_levenshtein(known, name).min(strsim::damerau_levenshtein(bare, name))
    };
    let near = known.iter().min_by_key(|known| distance(known)).filter(|known| distance(known) <= 3);
    UnknownTarget::Service {
        asked: asked.to_owned(),
        near: near.cloned(),
        known: known.iter().cloned().collect(),
    }
}

fn choose_port(service: &Service, asked: &str, port: Option<u16>) -> Result<u16, UnknownTarget> {
    let problem = |problem| UnknownTarget::Port {
        asked: asked.to_owned(),
        problem,
        service: short(service),
        ports: service.ports.keys().map(ToString::to_string).collect(),
    };
    match port {
        Some(port) if service.ports.contains_key(&port) => Ok(port),
        Some(_) => Err(problem("no such port")),
        None => match service.ports.keys().collect::<Vec<_>>().as_slice() {
            [port] => Ok(**port),
            _ => Err(problem("name a port")),
        },
    }
}

#[cfg(test)]
mod tests {
    use waypoint_model::{Map, Protocol, ServiceKey, ServicePort};

    use super::*;

    fn mesh(services: &[(&str, &str, bool, &[u16])]) -> MeshConfig {
        let mut mesh = MeshConfig::default();
        for (name, namespace, fronted, ports) in services {
            let key = ServiceKey::new(namespace, &format!("{name}.{namespace}.svc.cluster.local"));
            let port = |port: &u16| (*port, ServicePort::new(None, Protocol::Http));
            let service = Service {
                key: key.clone(),
                name: (*name).to_owned(),
                fronted: *fronted,
                aliases: Vec::new(),
                vips: vec!["10.96.0.7".parse().unwrap()],
                ports: ports.iter().map(port).collect::<Map<_, _>>(),
                endpoints: Vec::new(),
                policies: Vec::new(),
                routes: Vec::new(),
                jwt: Vec::new(),
            };
            mesh.services.insert(key, Arc::new(service));
        }
        mesh
    }

    #[test]
    fn a_service_is_found_by_any_of_its_names() {
        let mesh = mesh(&[("github", "tools", true, &[80, 81])]);
        for name in [
            "github:80",
            "github.tools:80",
            "github.tools.svc:80",
            "github.tools.svc.cluster.local:80",
            "GitHub.tools.svc.cluster.local.:80",
            "10.96.0.7:80",
        ] {
            assert_eq!(find(&mesh, name).map(|target| target.port), Ok(80), "{name}");
        }
    }

    #[test]
    fn what_is_not_found_comes_with_what_there_is() {
        let two = mesh(&[
            ("github", "tools", true, &[80, 81]),
            ("github", "other", true, &[80]),
            ("plain", "tools", false, &[80]),
        ]);
        let rows = [
            ("gihtub.tools", "no such service (did you mean github.tools?); there is"),
            ("nothing-like-it", "there is github.other, github.tools"),
            ("github", "several services"),
            ("github.tools", "name a port; github.tools has port 80, 81"),
            ("github.tools:99", "no such port"),
            ("github.tools:99999", "no such port"),
            ("plain", "does not front it"),
        ];
        for (asked, says) in rows {
            let error = find(&two, asked).unwrap_err().to_string();
            assert!(error.contains(says), "{asked}: {error}");
        }
        let error = find(&MeshConfig::default(), "x").unwrap_err().to_string();
        assert!(error.contains("the folder has none"), "{error}");
    }
}
