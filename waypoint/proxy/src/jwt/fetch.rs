//! One fetch of keys: from the host of a URI, or through a cluster.

use bytes::Bytes;
use http::header::HOST;
use http::uri::PathAndQuery;
use http::{Request, StatusCode, Uri};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use waypoint_model::ClusterKey;

use super::keys::KeySet;
use super::remote::{Source, Way};
use crate::upstream::UpstreamError;

/// Largest set that is read, in bytes.
const MAX_SET: usize = 1 << 20;

/// Why there are no keys. Told to the log, never to a client.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("cluster {0} was not delivered")]
    NoCluster(ClusterKey),
    /// Whoever stands between could write the keys.
    #[error("https:// is asked for, and cluster {0} has no TLS")]
    NoTls(ClusterKey),
    #[error("only http://, and through a cluster https://, is fetched, and the server must be named")]
    Uri,
    #[error("it took longer than {0:?}")]
    Timeout(std::time::Duration),
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("through its cluster")]
    Cluster(#[source] UpstreamError),
    #[error("the exchange failed")]
    Exchange(#[source] hyper::Error),
    #[error("the connection ended")]
    Ended,
    #[error("answered with {0}")]
    Status(StatusCode),
    #[error("the answer is cut off or larger than {MAX_SET} bytes")]
    Body,
    #[error("the answer holds no usable key")]
    NoKeys,
}

/// Fetches the keys of `source` once; `way`: to its cluster, if that was delivered. The caller bounds the time. Cancel safe.
///
/// # Errors
/// A [`FetchError`]; an answer without one usable key is one too.
pub(super) async fn fetch(source: &Source, way: Option<&Way>) -> Result<KeySet, FetchError> {
    let uri: Uri = source.uri.parse().map_err(|_malformed| FetchError::Uri)?;
    let text = match &source.cluster {
        Some(key) => through(key, way, uri).await?,
        None => direct(&uri).await?,
    };
    let keys = KeySet::parse(&text);
    if keys.is_empty() { Err(FetchError::NoKeys) } else { Ok(keys) }
}

/// Through a cluster: what its endpoints are and what is spoken to them is the cluster's to say, as in Envoy.
async fn through(key: &ClusterKey, way: Option<&Way>, uri: Uri) -> Result<Bytes, FetchError> {
    let way = way.ok_or_else(|| FetchError::NoCluster(key.clone()))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("https"), Some(_)) if !way.cluster.originates_tls() => {
            return Err(FetchError::NoTls(key.clone()));
        }
        (Some("http" | "https"), Some(_)) => {}
        _ => return Err(FetchError::Uri),
    }
    let request = Request::get(uri).body(()).map_err(|_malformed| FetchError::Uri)?;
    let response = way.upstreams.fetch(&way.cluster, request).await.map_err(FetchError::Cluster)?;
    let (head, body) = response.into_parts();
    whole(head.status, body).await
}

/// From the host of the URI, without TLS.
async fn direct(uri: &Uri) -> Result<Bytes, FetchError> {
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(FetchError::Uri);
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80)));
    let stream = stream.await.map_err(FetchError::Connect)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(FetchError::Exchange)?;
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let request = Request::get(path).header(HOST, authority.as_str()).body(Empty::<Bytes>::new());
    let request = request.map_err(|_malformed| FetchError::Uri)?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(FetchError::Exchange)?.into_parts();
        whole(head.status, body).await
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased; // An answer that came with the connection's end is an answer.
        text = &mut exchange => text,
        _ended = &mut connection => exchange.await.map_err(|_lost| FetchError::Ended),
    }
}

async fn whole<B>(status: StatusCode, body: B) -> Result<Bytes, FetchError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    if !status.is_success() {
        return Err(FetchError::Status(status));
    }
    let body = Limited::new(body, MAX_SET).collect().await;
    Ok(body.map_err(|_cut| FetchError::Body)?.to_bytes())
}
