//! Inner HTTP/1.1 on one stream: driven by hyper while requests come, held by nothing while none does.
//!
//! hyper keeps two buffers of 8 KiB and the room of a request for as long as a connection lives, and agents keep thousands of them
//! alive. So one that rests is taken apart, down to its stream, and put together again by the first byte of the next request.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hbone::Io;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1::{Builder, UpgradeableConnection};
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use super::framing::{Framed, Running, Seen};
use super::request;
use crate::body::{Body, BodyError};
use crate::context::StreamContext;
use crate::detect::Rewound;
use crate::drain::{DrainWatch, Phase};
use crate::limits::Limits;

/// How often a connection is asked whether it rests. Seldom enough to cost one that is used nothing.
const REST: Duration = Duration::from_millis(200);

/// Serves requests until the stream ends. During a drain the client is told to leave and running requests finish.
pub(super) async fn serve<IO: Io>(io: Rewound<IO>, cx: Arc<StreamContext>) -> Result<(), hyper::Error> {
    let mut io = Framed::new(io);
    let settings = settings(&cx.shared.settings.limits);
    loop {
        let rested = Box::pin(work(io, &settings, &cx)).await?;
        let Some(mut resting) = rested else { return Ok(()) };
        match next_request(&mut resting, &cx).await {
            Ok(Some(byte)) => resting.rewind(byte),
            Ok(None) => {
                // Fails only where the client is gone.
                let _ = resting.shutdown().await;
                return Ok(());
            }
            Err(_gone) => return Ok(()),
        }
        io = resting;
    }
}

/// Serves until the connection ends, which gives `None`, or rests.
async fn work<IO: Io>(
    io: Framed<IO>,
    settings: &Builder,
    cx: &Arc<StreamContext>,
) -> Result<Option<Framed<IO>>, hyper::Error> {
    let (seen, drain) = (Arc::clone(io.seen()), cx.drain.clone());
    let service = service_fn({
        let seen = Arc::clone(&seen);
        // Boxed: hyper would keep the room of the longest way that a request can take.
        move |incoming| Box::pin(answer(Arc::clone(cx), incoming, Arc::clone(&seen)))
    });
    let mut connection = settings.serve_connection(TokioIo::new(io), service).with_upgrades();
    if ends(&mut connection, &seen, drain).await? {
        return Ok(None);
    }
    let Some(parts) = connection.into_parts() else { return Ok(None) };
    let mut io = parts.io.into_inner();
    io.rewind(parts.read_buf);
    Ok(Some(io))
}

/// Drives a connection until it ends (`true`), or rests.
async fn ends<I, S>(
    connection: &mut UpgradeableConnection<I, S>,
    seen: &Seen,
    mut drain: DrainWatch,
) -> Result<bool, hyper::Error>
where
    S: HttpService<Incoming, ResBody = Answer, Error = Infallible>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut leaving = false;
    let asked = sleep(REST);
    tokio::pin!(asked);
    loop {
        // All arms keep what they wait for outside of the loop, but for `reached`, which has nothing to lose.
        tokio::select! {
            biased;
            ended = &mut *connection => return ended.map(|()| true),
            () = drain.reached(Phase::Draining), if !leaving => {
                leaving = true;
                Pin::new(&mut *connection).graceful_shutdown();
            }
            () = &mut asked, if !leaving => {
                if seen.rests() {
                    return Ok(false);
                }
                asked.as_mut().reset(Instant::now() + REST);
            }
        }
    }
}

/// The first byte of the next request. `None`: there will be none, since the client ended the stream, was silent for as long as a
/// head may take, or a drain begins.
async fn next_request<IO: Io>(io: &mut Framed<IO>, cx: &StreamContext) -> io::Result<Option<Bytes>> {
    let (mut drain, mut byte) = (cx.drain.clone(), [0]);
    let read = tokio::select! {
        biased;
        read = timeout(cx.shared.settings.limits.request_head_timeout, io.read(&mut byte)) => read,
        () = drain.reached(Phase::Draining) => return Ok(None),
    };
    match read {
        Ok(read) => Ok((read? > 0).then(|| Bytes::copy_from_slice(&byte))),
        Err(_elapsed) => {
            cx.shared.telemetry.limit_hit("request_head_timeout");
            Ok(None)
        }
    }
}

async fn answer(
    cx: Arc<StreamContext>,
    incoming: Request<Incoming>,
    seen: Arc<Seen>,
) -> Result<Response<Answer>, Infallible> {
    let (version, running) = (incoming.version(), Running::begin(&seen));
    let mut response = request::handle(&cx, incoming, seen.is_ambiguous()).await;
    if version < Version::HTTP_2 && leaves(&cx.drain, response.status()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Answer { body, _running: running }))
}

/// Whether a connection ends with this answer. From the linger on: the drain closes connections that rest, and a request may be
/// on its way then. One that is in use has left by itself before.
fn leaves(drain: &DrainWatch, status: StatusCode) -> bool {
    drain.phase() > Phase::Serving && status != StatusCode::SWITCHING_PROTOCOLS
}

fn settings(limits: &Limits) -> Builder {
    let header_list = usize::try_from(limits.header_list).unwrap_or(usize::MAX);
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_head_timeout)
        .half_close(false)
        .keep_alive(true)
        .max_buf_size(header_list.max(8 << 10));
    builder
}

/// An answer's body; its connection does not rest before it has gone.
struct Answer {
    body: Body,
    _running: Running,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
