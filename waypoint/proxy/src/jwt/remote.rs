//! Keys that are fetched: at need, once for all who wait, and again before they end. Without keys nothing is verified.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::HOST;
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use waypoint_model::ClusterKey;

use super::keys::KeySet;
use super::rejection::Rejection;

/// Largest set that is read, in bytes.
const MAX_SET: usize = 1 << 20;

/// After a failed fetch, none is tried for this long.
const RETRY: Duration = Duration::from_secs(1);

/// Where keys are, and for how long they are used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) uri: String,
    pub(crate) cluster: Option<ClusterKey>,
    pub(crate) timeout: Duration,
    pub(crate) cache: Duration,
}

/// The keys of one source. They outlive a snapshot.
pub(crate) struct RemoteKeys {
    source: Source,
    newest: ArcSwapOption<Fetched>,
    /// Held while fetching; when the last fetch failed.
    fetching: Mutex<Option<Instant>>,
    refreshing: AtomicBool,
    /// Owns the fetches that no request waits for. Each ends within its timeout.
    background: TaskTracker,
}

struct Fetched {
    keys: Arc<KeySet>,
    at: Instant,
}

/// Why there are no keys. Told to the log, never to a client.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("keys of a cluster are not fetched yet: {0}")]
    Cluster(ClusterKey),
    #[error("only http:// is fetched, and its server's name or address must be there")]
    Uri,
    #[error("it took longer than {0:?}")]
    Timeout(Duration),
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the exchange failed")]
    Exchange(#[source] hyper::Error),
    #[error("the connection ended")]
    Ended,
    #[error("answered with {0}")]
    Status(http::StatusCode),
    #[error("the answer is cut off or larger than {MAX_SET} bytes")]
    Body,
    #[error("the answer holds no usable key")]
    NoKeys,
}

impl RemoteKeys {
    pub(crate) fn new(source: Source) -> Arc<Self> {
        Arc::new(Self {
            source,
            newest: ArcSwapOption::empty(),
            fetching: Mutex::new(None),
            refreshing: AtomicBool::new(false),
            background: TaskTracker::new(),
        })
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// The keys, fetched if there are none that may still be used. Cancel safe.
    ///
    /// # Errors
    /// [`Rejection::Fetch`].
    pub(super) async fn get(self: &Arc<Self>) -> Result<Arc<KeySet>, Rejection> {
        if let Some((keys, age)) = self.held() {
            if age > self.source.cache.mul_f32(0.8) {
                self.refresh();
            }
            return Ok(keys);
        }
        let mut failed = self.fetching.lock().await;
        if let Some((keys, _)) = self.held() {
            return Ok(keys); // Fetched while this one waited.
        }
        self.fetch_once(&mut failed).await
    }

    /// The keys that are here already.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        self.held().map(|(keys, _)| keys)
    }

    fn held(&self) -> Option<(Arc<KeySet>, Duration)> {
        let newest = self.newest.load();
        let (keys, age) = newest.as_ref().map(|fetched| (Arc::clone(&fetched.keys), fetched.at.elapsed()))?;
        (age < self.source.cache).then_some((keys, age))
    }

    /// Fetches while the keys that are here go on being used.
    fn refresh(self: &Arc<Self>) {
        if self.refreshing.swap(true, Ordering::Relaxed) {
            return;
        }
        let this = Arc::clone(self);
        self.background.spawn(async move {
            let mut failed = this.fetching.lock().await;
            // Its failure is logged; the keys that are here last on.
            let _fetched = this.fetch_once(&mut failed).await;
            this.refreshing.store(false, Ordering::Relaxed);
        });
    }

    async fn fetch_once(&self, failed: &mut Option<Instant>) -> Result<Arc<KeySet>, Rejection> {
        if failed.is_some_and(|at| at.elapsed() < RETRY) {
            return Err(Rejection::Fetch);
        }
        let timeout = self.source.timeout;
        let fetched = tokio::time::timeout(timeout, fetch(&self.source)).await;
        match fetched.unwrap_or(Err(FetchError::Timeout(timeout))) {
            Ok(keys) => {
                let keys = Arc::new(keys);
                self.newest.store(Some(Arc::new(Fetched { keys: Arc::clone(&keys), at: Instant::now() })));
                *failed = None;
                Ok(keys)
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(uri = self.source.uri, %error, cause, "JWKS cannot be fetched");
                *failed = Some(Instant::now());
                Err(Rejection::Fetch)
            }
        }
    }
}

async fn fetch(source: &Source) -> Result<KeySet, FetchError> {
    if let Some(cluster) = &source.cluster {
        // The seam for clusters: connect to one of its endpoints here instead of to the URI's host.
        return Err(FetchError::Cluster(cluster.clone()));
    }
    let uri: Uri = source.uri.parse().map_err(|_malformed| FetchError::Uri)?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(FetchError::Uri);
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80)));
    let stream = stream.await.map_err(FetchError::Connect)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(FetchError::Exchange)?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::get(path).header(HOST, authority.as_str()).body(Empty::<Bytes>::new());
    let request = request.map_err(|_malformed| FetchError::Uri)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(FetchError::Exchange)?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_SET).collect().await;
        Ok(body.map_err(|_cut| FetchError::Body)?.to_bytes())
    };
    tokio::pin!(exchange, connection);
    let text = tokio::select! {
        biased; // An answer that came with the connection's end is an answer.
        text = &mut exchange => text,
        _ended = &mut connection => exchange.await.map_err(|_lost| FetchError::Ended),
    }?;
    let keys = KeySet::parse(&text);
    if keys.is_empty() { Err(FetchError::NoKeys) } else { Ok(keys) }
}
