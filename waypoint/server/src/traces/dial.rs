//! Byte streams to a collector, for gRPC and for single POSTs.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use opentelemetry_http::{HttpClient, HttpError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower_service::Service;
use waypoint_model::CollectorAddress;
use waypoint_proxy::{CollectorError, Collectors};

/// Largest answer that is read: it says how many spans were refused, and why.
const ANSWER: usize = 64 << 10;

/// A byte stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// Of an address outside of the mesh.
    #[error("TCP to {0}")]
    Tcp(String, #[source] std::io::Error),
    /// Of a cluster.
    #[error(transparent)]
    Mesh(#[from] CollectorError),
}

/// The way to one collector. Cheap to clone.
#[derive(Clone)]
pub(super) struct Way {
    to: CollectorAddress,
    mesh: Collectors,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to.fmt(f)
    }
}

impl Way {
    pub(super) fn new(to: CollectorAddress, mesh: Collectors) -> Self {
        Self { to, mesh }
    }

    async fn open(self) -> Result<Box<dyn Stream>, DialError> {
        match &self.to {
            CollectorAddress::Host(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                let stream = stream.map_err(|error| DialError::Tcp(format!("{host}:{port}"), error))?;
                // A batch is one write; waiting for more would only delay it.
                let _unsupported = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            CollectorAddress::Cluster(key) => Ok(Box::new(self.mesh.open(key).await?)),
        }
    }
}

/// For tonic's channel, which dials again when its connection ends.
#[derive(Clone, Debug)]
pub(super) struct Connector(pub(super) Way);

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Stream>>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let way = self.0.clone();
        Box::pin(async move { way.open().await.map(TokioIo::new) })
    }
}

/// A connection for each POST: there is one a second at most. Its caller sets the deadline.
#[derive(Debug)]
pub(super) struct Post(pub(super) Way);

impl HttpClient for Post {
    fn send_bytes<'post, 'sent>(
        &'post self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'post: 'sent,
        Self: 'sent,
    {
        Box::pin(async move {
            let stream = TokioIo::new(self.0.clone().open().await?);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
            let exchange = async {
                let response = sender.send_request(origin_form(request)?).await?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
                Ok::<_, HttpError>(Response::from_parts(head, body))
            };
            tokio::pin!(exchange);
            // The connection is driven here, and ends with the exchange.
            tokio::select! {
                answered = &mut exchange => answered,
                ended = connection => match ended {
                    Ok(()) => exchange.await,
                    Err(error) => Err(error.into()),
                },
            }
        })
    }
}

/// As a server, not a proxy, is asked (RFC 9112 §3.2.1).
fn origin_form(mut request: Request<Bytes>) -> Result<Request<Full<Bytes>>, HttpError> {
    let host =
        request.uri().authority().map(|authority| HeaderValue::try_from(authority.as_str())).transpose()?;
    let path = request.uri().path_and_query().cloned().map(Uri::from);
    *request.uri_mut() = path.unwrap_or_default();
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    Ok(request.map(Full::new))
}
