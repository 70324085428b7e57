//! The examples that documentation shows are what they say.
#![allow(missing_docs, clippy::expect_used)]

use std::path::PathBuf;

use istio_integration::feeds::file::{Loaded, Options, Severity, load};
use waypoint_model::{Action, Protocol, Service, TunnelKind};

fn example(name: &str) -> Loaded {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    load(&dir, &Options::default()).expect("the folder is there")
}

/// The one service that the waypoint fronts.
fn fronted(loaded: &Loaded) -> &Service {
    let mut fronted = loaded.mesh.services.values().filter(|service| service.fronted);
    let service = fronted.next().expect("a service");
    assert!(fronted.next().is_none(), "one service");
    service
}

const EXAMPLES: [&str; 4] = ["arguments", "basic", "opaque-tcp", "two-teams"];

#[test]
fn every_example_loads_without_errors_or_warnings() {
    for name in EXAMPLES {
        let loaded = example(name);
        let faults: Vec<_> = loaded.findings.iter().filter(|f| f.severity != Severity::Note).collect();
        assert!(faults.is_empty(), "{name}: {faults:?}");
    }
}

#[test]
fn no_example_is_left_out_of_these_tests() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let folders = std::fs::read_dir(dir).expect("the folder is there").filter_map(Result::ok);
    let folders = folders.filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, EXAMPLES);
}

#[test]
fn every_example_has_a_service_with_a_ready_tunnelled_endpoint_that_names_its_identity() {
    for name in EXAMPLES {
        let loaded = example(name);
        let service = fronted(&loaded);
        assert_eq!(service.vips.len(), 1, "{name}");
        let [endpoint] = service.endpoints.as_slice() else { panic!("{name}: one endpoint") };
        assert!(endpoint.ready && endpoint.ports.len() == service.ports.len(), "{name}");
        let workload = &loaded.mesh.workloads.get(&endpoint.workload).unwrap();
        assert_eq!(workload.tunnel, TunnelKind::Hbone, "{name}");
        let identity = workload.identity.as_ref().and_then(|id| id.workload()).expect("an identity");
        assert_eq!(identity.service_account, service.name, "{name}");
    }
}

#[test]
fn no_line_that_gets_lost_from_a_policy_opens_its_service() {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/arguments");
    let dir = tempfile::tempdir().expect("a folder");
    for file in ["namespaces.yaml", "waypoint.yaml", "github-mcp.yaml"] {
        std::fs::copy(source.join(file), dir.path().join(file)).expect("copied");
    }
    let text = std::fs::read_to_string(source.join("policy.yaml")).expect("read");
    let lines: Vec<&str> = text.lines().collect();
    for lost in (0..lines.len()).filter(|index| !lines[*index].starts_with('#')) {
        let kept = lines.iter().enumerate().filter(|(index, _)| *index != lost);
        let kept: Vec<&str> = kept.map(|(_, line)| *line).collect();
        std::fs::write(dir.path().join("policy.yaml"), kept.join("\n")).expect("written");
        let loaded = load(dir.path(), &Options::default()).expect("the folder is there");
        let service = loaded.mesh.services.values().next().expect("a service");
        assert!(!service.policies.is_empty(), "without line {lost} ({}): {:?}", lines[lost], loaded.findings);
    }
}

#[test]
fn protocols_are_as_declared() {
    let rows = [("basic", 80, Protocol::Http), ("opaque-tcp", 5432, Protocol::Tcp)];
    for (name, port, want) in rows {
        assert_eq!(fronted(&example(name)).ports[&port].protocol, want, "{name}");
    }
}

#[test]
fn two_teams_has_both_actions_and_a_dry_run() {
    let loaded = example("two-teams");
    let policies = fronted(&loaded).policies.iter().map(|key| &loaded.mesh.policies[key]);
    let got: Vec<_> = policies.map(|policy| (&*policy.key.name, policy.action, policy.dry_run)).collect();
    let want = [
        ("blue-releases", Action::Allow, false),
        ("known-teams-only", Action::Deny, true),
        ("no-sandboxes", Action::Deny, false),
        ("red-triages", Action::Allow, false),
    ];
    assert_eq!(got, want);
}
