//! A source's ztunnel that follows the endpoints of a waypoint: each new connection goes to one that is ready.

use super::Way;
use crate::wait;
use crate::ztunnel::{Outbound, TunnelStream};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How often it looks. istiod pushes to a ztunnel about as fast.
const LOOK: Duration = Duration::from_millis(100);

/// Cheap to clone.
#[derive(Clone)]
pub struct Follower(Arc<Inner>);

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
    /// Follows what `look` finds ready, by a ztunnel that `outbound` makes for each address. A look that finds nothing
    /// out (`None`) changes nothing. Returns when there is a waypoint that is ready.
    ///
    /// # Errors
    /// When none is for too long.
    pub async fn start<F>(
        look: impl Fn() -> F + Send + 'static,
        outbound: impl Fn(SocketAddr) -> Result<Outbound> + Send + Sync + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Option<Vec<SocketAddr>>> + Send,
    {
        let (told, mut ready) = watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            while !told.is_closed() {
                if let Some(found) = look().await {
                    told.send_replace(found);
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        wait::within("a waypoint that is ready", ready.wait_for(|ready| !ready.is_empty())).await??;
        Ok(Self(Arc::new(Inner {
            ready,
            outbound: Box::new(outbound),
            kept: Mutex::default(),
            turn: AtomicUsize::new(0),
            task: task.abort_handle(),
        })))
    }

    /// The waypoints that are ready now.
    #[must_use]
    pub fn ready(&self) -> Vec<SocketAddr> {
        self.0.ready.borrow().clone()
    }

    /// Waits until exactly these waypoints are ready.
    pub async fn knows(&self, wanted: &[SocketAddr]) -> Result<()> {
        let sorted = |mut addresses: Vec<SocketAddr>| {
            addresses.sort();
            addresses
        };
        let wanted = sorted(wanted.to_vec());
        let mut ready = self.0.ready.clone();
        wait::within(
            "the client knows the waypoints",
            ready.wait_for(|ready| sorted(ready.clone()) == wanted),
        )
        .await??;
        Ok(())
    }

    /// A way to `authority`, by turns over all waypoints that are ready.
    #[must_use]
    pub fn way(&self, authority: &str) -> Way {
        let (this, authority) = (self.clone(), authority.to_owned());
        Way::by(move || {
            let (this, authority) = (this.clone(), authority.clone());
            async move { this.connect(&authority).await }
        })
    }

    /// A way to `authority` through this waypoint, whether it is ready or not.
    #[must_use]
    pub fn way_through(&self, waypoint: SocketAddr, authority: &str) -> Way {
        let (this, authority) = (self.clone(), authority.to_owned());
        Way::by(move || {
            let (outbound, authority) = (this.outbound(waypoint), authority.clone());
            async move { outbound?.connect(&authority).await }
        })
    }

    async fn connect(&self, authority: &str) -> Result<TunnelStream> {
        let ready = self.ready();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let address = *ready.get(turn % ready.len().max(1)).context("no waypoint is ready")?;
        let outbound = self.outbound(address)?;
        outbound.connect(authority).await.with_context(|| format!("to {address} of {ready:?}"))
    }

    fn outbound(&self, address: SocketAddr) -> Result<Outbound> {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match kept.get(&address) {
            Some(outbound) => outbound.clone(),
            None => kept.entry(address).or_insert((self.0.outbound)(address)?).clone(),
        })
    }
}
