//! Byte streams to a rate limit service, for tonic's channel, which dials again when its connection ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use tower_service::Service;
use waypoint_model::LimitService;
use waypoint_proxy::{CollectorError, CollectorStream, Collectors};

/// The way to one service.
#[derive(Clone)]
pub(super) struct Connector {
    to: LimitService,
    mesh: Collectors,
}

impl Connector {
    pub(super) fn new(to: LimitService, mesh: Collectors) -> Self {
        Self { to, mesh }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<CollectorStream>;
    type Error = CollectorError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CollectorError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), CollectorError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Self { to, mesh } = self.clone();
        Box::pin(async move { mesh.open_limits(&to).await.map(TokioIo::new) })
    }
}
