//! Byte streams of our own into the mesh: to the collectors that take our spans and to rate limit services, as requests go to
//! their clusters.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use waypoint_model::{ClusterKey, LimitService};
use waypoint_policy::{Attributes, Denial, Destination, PolicySet, Source};

use crate::snapshot::ConfigCell;
use crate::upstream::{Chosen, Cluster, Transport, UpstreamError, Upstreams};

/// Opens streams to collectors and rate limit services. Cheap to clone.
#[derive(Clone)]
pub struct Collectors {
    config: ConfigCell,
    upstreams: Arc<Upstreams>,
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// No port of the newest snapshot names it, or nobody delivered it.
    #[error("cluster {0} is not known")]
    Unknown(ClusterKey),
    /// It cannot be reached.
    #[error("cluster {0}")]
    Upstream(ClusterKey, #[source] UpstreamError),
    /// Never: where there are no policies everything is permitted.
    #[error("no permit")]
    Denied(#[source] Denial),
}

impl Collectors {
    /// As requests go: over the same endpoints, tunnels and identities.
    #[must_use]
    pub fn new(config: ConfigCell, upstreams: Arc<Upstreams>) -> Self {
        Self { config, upstreams }
    }

    /// A stream to an endpoint of this cluster. Cancel safe.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub async fn open(&self, key: &ClusterKey) -> Result<CollectorStream, CollectorError> {
        let snapshot = self.config.load();
        let cluster = snapshot.as_ref().and_then(|snapshot| snapshot.collectors.get(key));
        let cluster = cluster.ok_or_else(|| CollectorError::Unknown(key.clone()))?;
        self.open_cluster(cluster, key).await
    }

    /// A stream to an endpoint of a rate limit service. Cancel safe.
    ///
    /// # Errors
    /// [`CollectorError`].
    pub async fn open_limits(&self, service: &LimitService) -> Result<CollectorStream, CollectorError> {
        let key = match service {
            LimitService::Cluster(key) => key.clone(),
            LimitService::Service(host, port) => ClusterKey(format!("{host}:{port}").into()),
        };
        let snapshot = self.config.load();
        let cluster = snapshot.as_ref().and_then(|snapshot| snapshot.limit_services.get(service));
        let cluster = cluster.ok_or_else(|| CollectorError::Unknown(key.clone()))?;
        self.open_cluster(cluster, &key).await
    }

    async fn open_cluster(
        &self,
        cluster: &Arc<Cluster>,
        key: &ClusterKey,
    ) -> Result<CollectorStream, CollectorError> {
        // Policies are about what others ask of a service of ours; nobody asked for this.
        let nowhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let source = Source { identity: None, ip: nowhere, remote_ip: nowhere };
        let attributes =
            Attributes { source, destination: Destination { ip: None, port: 0, sni: None }, http: None };
        let permit = PolicySet::compile(&[], &[], true, 0).decide_stream(&attributes);
        let permit = permit.map_err(CollectorError::Denied)?;
        let opened = self.upstreams.open_stream(&permit, cluster, HeaderMap::new()).await;
        let (transport, chosen) = opened.map_err(|error| CollectorError::Upstream(key.clone(), error))?;
        Ok(CollectorStream { transport, _chosen: chosen })
    }
}

/// An open stream; its endpoint counts as busy while it is held.
pub struct CollectorStream {
    transport: Transport,
    _chosen: Chosen,
}

impl AsyncRead for CollectorStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CollectorStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
