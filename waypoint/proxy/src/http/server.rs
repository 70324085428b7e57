//! Inner HTTP/1.1 and HTTP/2 with prior knowledge, on one stream of a tunnel.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hbone::{Broken, Guarded, Io};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use super::framing::{Ambiguous, Framed};
use super::request;
use crate::body::Body;
use crate::context::StreamContext;
use crate::detect::{self, Rewound, Spoken};
use crate::drain::{DrainWatch, Phase};
use crate::limits::Limits;
use crate::telemetry::Telemetry;

/// Windows of an inner HTTP/2 connection, in bytes. The tunnel's own windows hold what is in flight; these need only keep it busy.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Time for a stream that was accepted shortly before the drain to say its first bytes: its client knows of no other way.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves requests until the stream ends. During a drain the client is told to leave and running requests finish.
///
/// `broken` ends them at once: hyper sees a client's reset only when it reads, and it does not while it holds a byte of a next
/// request, or while the endpoint takes no more of this one's body.
pub(crate) async fn serve<IO: Io>(mut io: IO, broken: Broken, cx: StreamContext) {
    let Some((spoken, first)) = first_bytes(&mut io, &cx).await else { return };
    let (io, ambiguous) = Framed::new(Rewound::new(first, io));
    let (upgrades, drain) = (cx.upgrades.clone(), cx.drain.clone());
    let limits = cx.shared.settings.limits.clone();
    let telemetry = cx.shared.telemetry.clone();
    let cx = Arc::new(cx);
    let service = service_fn(move |incoming| answer(Arc::clone(&cx), incoming, ambiguous.clone()));
    let ended = match spoken {
        Spoken::Http1 => {
            let connection = http1(&limits).serve_connection(TokioIo::new(io), service).with_upgrades();
            drive(connection, |connection| connection.graceful_shutdown(), broken, drain).await
        }
        Spoken::Http2 => {
            let io = Guarded::new(io, telemetry.hits().observer(), limits.idle_frames);
            let connection = http2(&limits).serve_connection(TokioIo::new(io), service);
            drive(connection, |connection| connection.graceful_shutdown(), broken, drain).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "inner connection ended");
        count(&error, &telemetry);
    }
    upgrades.close();
    upgrades.wait().await;
}

/// What hyper answers or ends by itself is counted as what we refuse.
fn count(error: &hyper::Error, telemetry: &Telemetry) {
    let http2 = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    if error.is_parse_too_large() {
        telemetry.limit_hit("header_list");
        telemetry.refused("head_too_large");
    } else if error.is_timeout() {
        telemetry.limit_hit("request_head_timeout");
    } else if let Some(http2) = http2.filter(|http2| http2.is_library()) {
        telemetry.refused(http2_fault(http2));
    } else if error.is_parse() {
        telemetry.refused("http1_malformed");
    }
}

/// Floods of an inner connection are told apart from those of tunnels.
fn http2_fault(error: &h2::Error) -> &'static str {
    match hbone::fault(error) {
        "flood" => "http2_flood",
        "flow_control" => "http2_flow_control",
        _other => "http2_malformed",
    }
}

async fn answer(
    cx: Arc<StreamContext>,
    incoming: Request<Incoming>,
    ambiguous: Ambiguous,
) -> Result<Response<Body>, Infallible> {
    let version = incoming.version();
    let mut response = request::handle(&cx, incoming, ambiguous.is_set()).await;
    if version < Version::HTTP_2 && leaves(&cx.drain, response.status()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Whether an HTTP/1.1 connection ends with this answer. From the linger on: the drain closes connections that rest, and a
/// request may be on its way then. One that is in use has left by itself before.
fn leaves(drain: &DrainWatch, status: StatusCode) -> bool {
    drain.phase() > Phase::Serving && status != StatusCode::SWITCHING_PROTOCOLS
}

/// The version of HTTP, and what was read to tell it. `None`: the stream said nothing in time, or ended.
async fn first_bytes<IO: Io>(io: &mut IO, cx: &StreamContext) -> Option<(Spoken, Bytes)> {
    let mut drain = cx.drain.clone();
    let read = timeout(cx.shared.settings.limits.request_head_timeout, detect::spoken(io));
    tokio::pin!(read);
    let read = tokio::select! {
        biased;
        read = &mut read => read,
        () = drain.reached(Phase::Draining) => timeout(LAST_WORDS, read).await.ok()?,
    };
    match read {
        Ok(Ok(first)) => Some(first),
        Ok(Err(_ended)) => None,
        Err(_elapsed) => {
            cx.shared.telemetry.limit_hit("request_head_timeout");
            None
        }
    }
}

/// Runs a connection; when the drain begins, its client is told to `leave`. Once its stream is broken it is dropped, and all that it
/// carries with it.
async fn drive<C: Future<Output = Result<(), hyper::Error>>>(
    connection: C,
    leave: impl FnOnce(Pin<&mut C>),
    broken: Broken,
    mut drain: DrainWatch,
) -> Result<(), hyper::Error> {
    tokio::pin!(connection, broken);
    tokio::select! {
        ended = &mut connection => return ended,
        () = &mut broken => return Ok(()),
        () = drain.reached(Phase::Draining) => leave(connection.as_mut()),
    }
    tokio::select! {
        ended = connection => ended,
        () = broken => Ok(()),
    }
}

fn http1(limits: &Limits) -> http1::Builder {
    let header_list = usize::try_from(limits.header_list).unwrap_or(usize::MAX);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_head_timeout)
        .half_close(false)
        .keep_alive(true)
        .max_buf_size(header_list.max(8 << 10));
    builder
}

fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // Twice, so that what is a little too large is answered, logged and counted by us, and the rest by h2.
        .max_header_list_size(limits.header_list.saturating_mul(2))
        .max_concurrent_streams(limits.streams_per_connection)
        .initial_stream_window_size(limits.stream_window.min(STREAM_WINDOW))
        .initial_connection_window_size(limits.connection_window.min(CONNECTION_WINDOW))
        .max_send_buf_size(limits.send_buffer);
    builder
}
