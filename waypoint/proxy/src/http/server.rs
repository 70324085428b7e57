//! Inner HTTP/1.1 and HTTP/2 with prior knowledge, on one stream of a tunnel.

use std::convert::Infallible;
use std::sync::Arc;

use hbone::Io;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;

use super::framing::Framed;
use super::request;
use crate::context::StreamContext;
use crate::drain::Phase;
use crate::limits::Limits;

/// Windows of an inner HTTP/2 connection, in bytes. The tunnel's own windows hold what is in flight; these need only keep it busy.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Serves requests until the stream ends. During a drain the client is told to leave and running requests finish.
pub(crate) async fn serve<IO: Io>(io: IO, cx: StreamContext) {
    let builder = builder(&cx.shared.settings.limits);
    let upgrades = cx.upgrades.clone();
    let mut drain = cx.drain.clone();
    let cx = Arc::new(cx);
    let (io, ambiguous) = Framed::new(io);
    let service = service_fn(move |incoming| {
        let (cx, ambiguous) = (Arc::clone(&cx), ambiguous.is_set());
        async move { Ok::<_, Infallible>(request::handle(&cx, incoming, ambiguous).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = drain.reached(Phase::Draining) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "inner connection ended");
    }
    upgrades.close();
    upgrades.wait().await;
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    let header_list = usize::try_from(limits.header_list).unwrap_or(usize::MAX);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_head_timeout)
        .half_close(false)
        .keep_alive(true)
        .max_buf_size(header_list.max(8 << 10));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(limits.header_list)
        .max_concurrent_streams(limits.streams_per_connection)
        .initial_stream_window_size(limits.stream_window.min(STREAM_WINDOW))
        .initial_connection_window_size(limits.connection_window.min(CONNECTION_WINDOW))
        .max_send_buf_size(limits.send_buffer);
    builder
}
