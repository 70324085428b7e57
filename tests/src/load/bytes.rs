//! Callers of opaque ports, whose bytes come back.

use super::{Caller, Way};
use crate::application::hears;
use crate::ztunnel::TunnelStream;
use anyhow::Result;
use tokio::io::AsyncWriteExt as _;

/// One opaque stream.
pub struct Echoed(TunnelStream);

impl Echoed {
    /// Opens it.
    pub async fn open(way: &Way) -> Result<Self> {
        Ok(Self(way.open().await?))
    }
}

impl Caller for Echoed {
    async fn ask(&mut self) -> Result<()> {
        self.0.write_all(b"hello").await?;
        hears(&mut self.0, b"hello").await
    }
}

/// Opaque streams, one for each question.
pub struct FreshBytes(pub Way);

impl Caller for FreshBytes {
    async fn ask(&mut self) -> Result<()> {
        Echoed::open(&self.0).await?.ask().await
    }
}
