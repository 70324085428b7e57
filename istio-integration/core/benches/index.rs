//! What the index of the workload API costs: resident bytes of 40,000 workloads, and the time of one change.
//!
//! `cargo bench -p istio-integration`

#![allow(missing_docs, reason = "criterion's macros make functions without them")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use istio_integration::feeds::istiod::{Index, Own};
use istio_protos::istio::workload::{Address, TunnelProtocol, Workload, address};

const WORKLOADS: u32 = 40_000;

/// A pod as a large mesh has them: 40 to a Deployment, each with a ServiceAccount, 100 Deployments to a namespace.
fn pod(number: u32) -> (String, Address) {
    let (deployment, namespace) = (number / 40, number / 4_000);
    let name = format!("service-{deployment}-7d9c6bd5f8-{number:05}");
    let namespace = format!("team-{namespace}");
    let uid = format!("Kubernetes//Pod/{namespace}/{name}");
    let [_, a, b, c] = number.to_be_bytes();
    let workload = Workload {
        uid: uid.clone(),
        addresses: vec![vec![10, a, b, c].into()],
        service_account: format!("service-{deployment}"),
        node: format!("node-{}", number % 500),
        canonical_name: format!("service-{deployment}"),
        canonical_revision: "v1".to_owned(),
        workload_name: format!("service-{deployment}"),
        cluster_id: "Kubernetes".to_owned(),
        tunnel_protocol: TunnelProtocol::Hbone.into(),
        namespace,
        name,
        ..Workload::default()
    };
    (uid, Address { r#type: Some(address::Type::Workload(workload)) })
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4_096
}

fn filled() -> Index {
    let mut index = Index::new(Own::default());
    for (name, address) in (0..WORKLOADS).map(pod) {
        assert_eq!(index.upsert(&name, address), Ok(()));
    }
    index
}

fn index(criterion: &mut Criterion) {
    let before = resident();
    let mut index = filled();
    let bytes = resident() - before;
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mib = bytes as f64 / f64::from(1 << 20);
    println!("{WORKLOADS} workloads: {mib:.1} MiB resident, {} bytes each", bytes / WORKLOADS as usize);
    assert!(bytes <= 40 << 20, "40,000 workloads may cost 40 MiB");
    let (name, address) = pod(17);
    criterion.bench_function("change of one workload of 40,000", |bencher| {
        bencher.iter(|| index.upsert(black_box(&name), black_box(address.clone())));
    });
    criterion.bench_function("snapshot of 40,000 workloads", |bencher| {
        bencher.iter(|| black_box(index.workloads().clone()));
    });
    criterion.bench_function("change of one while a snapshot is held", |bencher| {
        bencher.iter(|| {
            let held = index.workloads().clone();
            let changed = index.upsert(black_box(&name), black_box(address.clone()));
            (held, changed)
        });
    });
}

criterion_group!(benches, index);
criterion_main!(benches);
