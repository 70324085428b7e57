//! Requests of the waypoint itself.

use std::sync::Arc;

use http::{Request, Response};

use super::cluster::Cluster;
use super::send::Message;
use super::{Pick, UpstreamError, Upstreams, Version};
use crate::body::Body;

impl Upstreams {
    /// Fetches something that the configuration names, such as keys of tokens, through a cluster: with its endpoints, its
    /// tunnel and its TLS. The only way to an endpoint without a permit: no client asked for it, so there is nobody to be
    /// judged, and nothing that a client says goes out. The caller bounds the time. Cancel safe: dropped, it is reset.
    ///
    /// # Errors
    /// An [`UpstreamError`] of the last attempt.
    pub(crate) async fn fetch(
        &self,
        cluster: &Cluster,
        request: Request<()>,
    ) -> Result<Response<Body>, UpstreamError> {
        let version = cluster.version(Version::Http1, request.version());
        let message = Message::new(request.map(|()| Body::Empty), version, cluster, 0);
        let mut message = message.map_err(|error| UpstreamError::Connect {
            endpoint: cluster.service().key.to_string(),
            source: Arc::new(error),
        })?;
        self.send_to(cluster, &Pick::default(), version, None, &mut message, &mut None).await
    }
}
