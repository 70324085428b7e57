//! The endpoints of a waypoint's Service, as the cluster tells them.

use anyhow::Result;
use portcullis_tests::istio::{Lab, Pod, Waypoint};
use portcullis_tests::load::Follower;
use portcullis_tests::ztunnel::HBONE_PORT;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};

/// The ztunnel of `pod`, for the waypoints of which `one` is.
pub(crate) async fn follower(pod: &Pod, one: &Waypoint) -> Result<Follower> {
    let identity = pod.certificate().await?;
    let (pod, expect) = (pod.clone(), one.id());
    let outbound = move |address| pod.ztunnel_with(&identity.svid, &identity.roots, address, &expect);
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?labelSelector=kubernetes.io/service-name%3D{}",
        one.pod.namespace,
        super::WAYPOINT
    );
    let api = Lab::get()?.api.clone();
    let look = move || {
        let (api, path) = (api.clone(), path.clone());
        async move { api.get(&path).await.ok().map(|slices| addresses(&slices)) }
    };
    Follower::start(look, outbound).await
}

/// Addresses that are ready, of all slices.
fn addresses(slices: &Value) -> Vec<SocketAddr> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let endpoints = list(slices, "items").into_iter().flat_map(|slice| list(&slice, "endpoints"));
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let address = |endpoint: Value| endpoint["addresses"][0].as_str()?.parse::<Ipv4Addr>().ok();
    ready.filter_map(address).map(|address| (address, HBONE_PORT).into()).collect()
}
