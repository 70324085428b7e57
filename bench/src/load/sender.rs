//! Requests, and the end of a stream that sends them one after the other.

use crate::backend::App;
use crate::contestant::Way;
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::ops::RangeInclusive;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Windows of HTTP/2 inside a tunnel, of a stream and of a connection, in bytes.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);

/// A request, and what its answer must be.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Where it goes.
    pub app: App,
    /// How many bytes the answer's body may have.
    pub answer: RangeInclusive<usize>,
    request: Request<Full<Bytes>>,
}

impl Ask {
    /// GET `path`, answered with exactly `size` bytes.
    pub(crate) fn get(app: App, path: &str, size: usize) -> Result<Self> {
        Self::new(app, Method::GET, path, Bytes::new(), size..=size)
    }

    /// POST `body` to `path`, answered with as many bytes as `answer` says.
    pub(crate) fn post(app: App, path: &str, body: Bytes, answer: RangeInclusive<usize>) -> Result<Self> {
        Self::new(app, Method::POST, path, body, answer)
    }

    fn new(app: App, method: Method, path: &str, body: Bytes, answer: RangeInclusive<usize>) -> Result<Self> {
        // HTTP/2 takes its authority from the URI.
        let uri = if app == App::Http1 { path.to_owned() } else { format!("http://app.tools{path}") };
        let mut request = Request::builder().method(method).uri(uri).body(Full::new(body))?;
        if app == App::Http1 {
            request.headers_mut().insert("host", HeaderValue::from_static("app.tools"));
        }
        Ok(Self { app, answer, request })
    }

    /// The same with one more header.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        self.request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
        Ok(self)
    }
}

/// Sends requests on one stream.
pub(crate) enum Sender {
    /// One at a time.
    One(http1::SendRequest<Full<Bytes>>),
    /// Several at once, by clones.
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    /// Opens a stream for requests to `app`.
    pub(crate) async fn open(way: &Way, app: App) -> Result<Self> {
        let io = TokioIo::new(way.stream().await?);
        if app == App::Http1 {
            let (send, driver) = http1::handshake(io).await?;
            // Its end shows at the sender.
            tokio::spawn(driver);
            return Ok(Self::One(send));
        }
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.initial_stream_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
        let (send, driver) = http.handshake(io).await?;
        tokio::spawn(driver);
        Ok(Self::Two(send))
    }

    /// Another sender on the same stream, where the protocol allows it.
    pub(crate) fn another(&self) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Two(send) => Some(Self::Two(send.clone())),
        }
    }

    /// Sends `ask` and reads its whole answer.
    ///
    /// # Errors
    /// When the answer is another than it should be.
    pub(crate) async fn exchange(&mut self, ask: &Ask) -> Result<()> {
        let response = self.send(ask).await?;
        let grpc = ask.app == App::Grpc;
        let (bytes, trailers) = read(response).await?;
        ensure!(ask.answer.contains(&bytes), "an answer of {bytes} bytes where {:?} are due", ask.answer);
        let done = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        ensure!(!grpc || done.is_some_and(|status| status == "0"), "no grpc-status 0: {trailers:?}");
        Ok(())
    }

    /// Sends `ask` and returns its answer when the head is there.
    ///
    /// # Errors
    /// When it is not 200.
    pub(crate) async fn send(&mut self, ask: &Ask) -> Result<Incoming> {
        let answer = self.head(ask).await?;
        let status = answer.status();
        if status != StatusCode::OK {
            let told = answer.into_body().collect().await?.to_bytes();
            anyhow::bail!("answered with {status}: {}", String::from_utf8_lossy(&told));
        }
        Ok(answer.into_body())
    }

    /// Sends `ask`, which is to be refused.
    ///
    /// # Errors
    /// When the answer is another than 403.
    pub(crate) async fn refused(&mut self, ask: &Ask) -> Result<()> {
        let status = self.head(ask).await?.status();
        ensure!(status == StatusCode::FORBIDDEN, "{status} for a request that no rule allows");
        Ok(())
    }

    async fn head(&mut self, ask: &Ask) -> Result<Response<Incoming>> {
        let request = ask.request.clone();
        match self {
            Self::One(send) => {
                send.ready().await.context("the connection ended")?;
                Ok(send.send_request(request).await?)
            }
            Self::Two(send) => {
                send.ready().await.context("the connection ended")?;
                Ok(send.send_request(request).await?)
            }
        }
    }
}

/// Sends `ask` over HTTP/1.1 on a stream of its own, and ends the stream on both sides, as a client does that is done.
///
/// # Errors
/// When the answer is another than it should be, or the stream does not end.
pub(crate) async fn once(way: &Way, ask: &Ask) -> Result<()> {
    let (send, driver) = http1::handshake(TokioIo::new(way.stream().await?)).await?;
    let asked = async {
        let mut sender = Sender::One(send);
        sender.exchange(ask).await
    };
    let (asked, parts) = tokio::join!(asked, driver.without_shutdown());
    asked?;
    let mut io = parts?.io.into_inner();
    io.shutdown().await?;
    let after = io.read(&mut [0; 1]).await?;
    ensure!(after == 0, "bytes after the answer");
    Ok(())
}

/// Reads a body to its end: how many bytes, and the trailers.
async fn read(mut body: Incoming) -> Result<(usize, Option<HeaderMap>)> {
    let mut bytes = 0;
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => bytes += data.len(),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes, trailers))
}
