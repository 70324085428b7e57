//! How a caller's connections get to a Service.

use crate::ztunnel::{Outbound, TunnelStream};
use anyhow::Result;
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Opens streams to one authority. Cheap to clone.
#[derive(Clone)]
pub struct Way(Arc<dyn Fn() -> BoxFuture<'static, Result<TunnelStream>> + Send + Sync>);

impl Way {
    /// As `open` does.
    pub fn by<F>(open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<TunnelStream>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(open())))
    }

    /// Over the ztunnel's one connection.
    #[must_use]
    pub fn pooled(ztunnel: &Outbound, authority: &str) -> Self {
        let (ztunnel, authority) = (ztunnel.clone(), authority.to_owned());
        Self::by(move || {
            let (ztunnel, authority) = (ztunnel.clone(), authority.clone());
            async move { ztunnel.connect(&authority).await }
        })
    }

    /// Over a connection of its own for each stream, with a handshake.
    #[must_use]
    pub fn anew(ztunnel: &Outbound, authority: &str) -> Self {
        let (ztunnel, authority) = (ztunnel.clone(), authority.to_owned());
        Self::by(move || {
            let (ztunnel, authority) = (ztunnel.clone(), authority.clone());
            async move { ztunnel.dial().await?.connect(&authority).await }
        })
    }

    /// A stream.
    pub async fn open(&self) -> Result<TunnelStream> {
        (self.0)().await
    }
}
