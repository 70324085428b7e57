//! An AuthorizationPolicy manifest: whatever its `spec` says, an error in it means that its target is refused.
//!
//! The input stands below `spec:`, beside a reference to the one service of the folder.
#![no_main]

use istio_integration::feeds::file::{FactCheck, Options, Severity, load};
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use waypoint_model::{MeshConfig, Service};
use waypoint_policy::{PolicySet, check_fact};

const SERVICE: &str = "apiVersion: v1
kind: Service
metadata: {name: github, namespace: tools}
spec:
  clusterIP: 10.96.0.1
  ports: [{name: mcp, port: 8080, appProtocol: http}]
";

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: tools}
spec:
  targetRefs: [{group: '', kind: Service, name: github}]
";

/// As the binary does it: a fact that no reader tells is refused, and so is a condition that is not understood.
const FACTS: FactCheck = check_fact;

thread_local! {
    static FOLDER: TempDir = {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("service.yaml"), SERVICE).expect("a file");
        folder
    };
}

fuzz_target!(|text: &str| {
    // A further document would be another matter than this policy.
    if text.contains("---") || text.contains("\n...") || text.contains('\r') {
        return;
    }
    let loaded = FOLDER.with(|folder| {
        std::fs::write(folder.path().join("policy.yaml"), format!("{POLICY}{text}")).expect("a file");
        load(folder.path(), &Options { fact_check: Some(FACTS), ..Options::default() })
            .expect("a folder that is there")
    });
    let mesh = &loaded.mesh;
    let service = mesh.services.values().next().expect("the service");
    for opaque in [false, true] {
        let policies: Vec<_> =
            service.policies.iter().filter_map(|key| mesh.policies.get(key).cloned()).collect();
        PolicySet::compile(&policies, &[], opaque, 1);
    }
    let wrong = loaded.findings.iter().any(|finding| finding.severity == Severity::Error);
    assert!(!wrong || refuses(mesh, service), "{:#?}", loaded.findings);
});

/// Whether some policy of the service cannot be enforced, which refuses everything.
fn refuses(mesh: &MeshConfig, service: &Service) -> bool {
    service.policies.iter().any(|key| mesh.policies.get(key).is_none_or(|policy| policy.unusable.is_some()))
}
