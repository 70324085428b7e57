//! A source's ztunnel that follows the endpoints of a waypoint: each new connection goes to one that is ready.

use super::Way;
use anyhow::{Context, Result};
use portcullis_tests::istio::{Lab, Pod, Waypoint};
use portcullis_tests::ztunnel::{HBONE_PORT, Outbound, TunnelStream};
use serde_json::Value;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How often it looks. istiod pushes to a ztunnel about as fast.
const LOOK: Duration = Duration::from_millis(100);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Follower(Arc<Inner>);

struct Inner {
    ready: watch::Receiver<Vec<SocketAddr>>,
    /// A ztunnel for each waypoint that was ever ready, with the connection that it keeps.
    outbound: Box<dyn Fn(SocketAddr) -> Result<Outbound> + Send + Sync>,
    kept: Mutex<HashMap<SocketAddr, Outbound>>,
    turn: AtomicUsize,
    task: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    /// The ztunnel of `pod`, for the waypoints of which `one` is.
    pub(crate) async fn of(pod: &Pod, one: &Waypoint) -> Result<Self> {
        let identity = pod.certificate().await?;
        let (pod, expect) = (pod.clone(), one.id());
        let outbound = move |address| pod.ztunnel_with(&identity.svid, &identity.roots, address, &expect);
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?labelSelector=kubernetes.io/service-name%3D{}",
            one.pod.namespace,
            super::WAYPOINT
        );
        let lab = Lab::get()?;
        let (told, mut ready) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            while !told.is_closed() {
                if let Ok(slices) = lab.api.get(&path).await {
                    told.send_replace(addresses(&slices));
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        ready.wait_for(|ready| !ready.is_empty()).await?;
        Ok(Self(Arc::new(Inner {
            ready,
            outbound: Box::new(outbound),
            kept: Mutex::default(),
            turn: AtomicUsize::new(0),
            task: task.abort_handle(),
        })))
    }

    /// The waypoints that are ready now.
    pub(crate) fn ready(&self) -> Vec<SocketAddr> {
        self.0.ready.borrow().clone()
    }

    /// A way to `authority`.
    pub(crate) fn way(&self, authority: &str) -> Way {
        let (this, authority) = (self.clone(), authority.to_owned());
        Way::by(move || {
            let (this, authority) = (this.clone(), authority.clone());
            async move { this.connect(&authority).await }
        })
    }

    async fn connect(&self, authority: &str) -> Result<TunnelStream> {
        let ready = self.ready();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let address = *ready.get(turn % ready.len().max(1)).context("no waypoint is ready")?;
        let outbound = {
            let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
            match kept.get(&address) {
                Some(outbound) => outbound.clone(),
                None => kept.entry(address).or_insert((self.0.outbound)(address)?).clone(),
            }
        };
        outbound.connect(authority).await.with_context(|| format!("to {address} of {ready:?}"))
    }
}

/// Addresses that are ready, of all slices.
fn addresses(slices: &Value) -> Vec<SocketAddr> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let endpoints = list(slices, "items").into_iter().flat_map(|slice| list(&slice, "endpoints"));
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let address = |endpoint: Value| endpoint["addresses"][0].as_str()?.parse::<Ipv4Addr>().ok();
    ready.filter_map(address).map(|address| (address, HBONE_PORT).into()).collect()
}
