//! Inner HTTP/1.1 and HTTP/2 with prior knowledge, on one stream of a tunnel.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hbone::{Broken, Guarded, Io};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use super::{http1, request};
use crate::context::StreamContext;
use crate::detect::{self, Rewound, Spoken};
use crate::drain::Phase;
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
    let (upgrades, telemetry) = (cx.upgrades.clone(), cx.shared.telemetry.clone());
    let (io, cx) = (Rewound::new(first, io), Arc::new(cx));
    // Boxed: a stream that has said nothing yet need not hold the room of what it may say.
    let carried = async {
        match spoken {
            Spoken::Http1 => Box::pin(http1::serve(io, cx)).await,
            Spoken::Http2 => Box::pin(serve_http2(io, cx)).await,
        }
    };
    let ended = tokio::select! {
        ended = carried => ended,
        () = broken => Ok(()),
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

async fn serve_http2<IO: Io>(io: Rewound<IO>, cx: Arc<StreamContext>) -> Result<(), hyper::Error> {
    let mut drain = cx.drain.clone();
    let shared = &cx.shared;
    let (settings, idle_frames) = (http2(&shared.settings.limits), shared.settings.limits.idle_frames);
    let io = Guarded::new(io, shared.telemetry.hits().observer(), idle_frames);
    let service = service_fn(move |incoming| {
        let cx = Arc::clone(&cx);
        // Boxed: hyper would keep the room of the longest way that a request can take.
        Box::pin(async move { Ok::<_, Infallible>(request::handle(&cx, incoming, false).await) })
    });
    let connection = settings.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => ended,
        () = drain.reached(Phase::Draining) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
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
