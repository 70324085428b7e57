//! How a caller's connections get to a Service.

use anyhow::Result;
use futures_util::future::BoxFuture;
use portcullis_tests::ztunnel::{Outbound, TunnelStream};
use std::sync::Arc;

/// Opens streams to one authority. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Way(Arc<dyn Fn() -> BoxFuture<'static, Result<TunnelStream>> + Send + Sync>);

impl Way {
    /// As `open` does.
    pub(crate) fn by<F>(open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<TunnelStream>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(open())))
    }

    /// Over the ztunnel's one connection.
    pub(crate) fn pooled(ztunnel: &Outbound, authority: &str) -> Self {
        let (ztunnel, authority) = (ztunnel.clone(), authority.to_owned());
        Self::by(move || {
            let (ztunnel, authority) = (ztunnel.clone(), authority.clone());
            async move { ztunnel.connect(&authority).await }
        })
    }

    /// Over a connection of its own for each stream, with a handshake.
    pub(crate) fn anew(ztunnel: &Outbound, authority: &str) -> Self {
        let (ztunnel, authority) = (ztunnel.clone(), authority.to_owned());
        Self::by(move || {
            let (ztunnel, authority) = (ztunnel.clone(), authority.clone());
            async move { ztunnel.dial().await?.connect(&authority).await }
        })
    }

    /// A stream.
    pub(crate) async fn open(&self) -> Result<TunnelStream> {
        (self.0)().await
    }
}
