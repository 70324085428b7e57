//! Inner HTTP/1.1 on one stream: driven by hyper while requests come, held by nothing while none does.
//!
//! hyper keeps two buffers of 8 KiB and the room of a request for as long as a connection lives, and agents keep thousands of them
//! alive. So one that rests is taken apart, down to its stream, and put together again by the first byte of the next request; and so
//! is one whose answer is an event stream (`lasting`).

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
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
use super::{lasting, request};
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
        let mut resting = match Box::pin(work(io, &settings, &cx)).await? {
            Left::Nothing => return Ok(()),
            Left::Resting(io) => io,
            Left::Answering(mut io, answer) => {
                if let Err(error) = Box::pin(lasting::carry(&mut io, *answer)).await {
                    tracing::debug!(%error, "an event stream ended before its end");
                    return Ok(()); // Dropped, the stream does not look like an end.
                }
                io
            }
        };
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

/// What hyper leaves of a connection.
enum Left<IO> {
    Nothing,
    /// Nothing is under way.
    Resting(Framed<IO>),
    /// This answer is to be written, and nothing of it or of another is.
    Answering(Framed<IO>, Box<Response<Answer>>),
}

/// An answer on its way from the service, which hyper owns, to the one who drives hyper.
type Handed = Arc<Mutex<Option<Box<Response<Answer>>>>>;

/// Serves until the connection ends, rests, or has an answer that lasts.
async fn work<IO: Io>(
    io: Framed<IO>,
    settings: &Builder,
    cx: &Arc<StreamContext>,
) -> Result<Left<IO>, hyper::Error> {
    let (seen, drain, handed) = (Arc::clone(io.seen()), cx.drain.clone(), Handed::default());
    let service = service_fn({
        let (seen, handed) = (Arc::clone(&seen), Arc::clone(&handed));
        // Boxed: hyper would keep the room of the longest way that a request can take.
        move |incoming| Box::pin(answer(Arc::clone(cx), incoming, Arc::clone(&seen), Arc::clone(&handed)))
    });
    let mut connection = settings.serve_connection(TokioIo::new(io), service).with_upgrades();
    let driven = drive(&mut connection, &seen, &handed, drain).await?;
    if matches!(driven, Driven::Ended) {
        return Ok(Left::Nothing);
    }
    let Some(parts) = connection.into_parts() else { return Ok(Left::Nothing) };
    let mut io = parts.io.into_inner();
    io.rewind(parts.read_buf);
    Ok(match driven {
        Driven::Ended => Left::Nothing,
        Driven::Rests => Left::Resting(io),
        Driven::Handed(answer) => Left::Answering(io, answer),
    })
}

/// How driving hyper came to its end.
enum Driven {
    Ended,
    Rests,
    Handed(Box<Response<Answer>>),
}

/// Drives a connection until it ends, rests, or hands an answer over.
async fn drive<I, S>(
    connection: &mut UpgradeableConnection<I, S>,
    seen: &Seen,
    handed: &Handed,
    mut drain: DrainWatch,
) -> Result<Driven, hyper::Error>
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
            driven = step(connection, handed) => return driven,
            () = drain.reached(Phase::Draining), if !leaving => {
                leaving = true;
                Pin::new(&mut *connection).graceful_shutdown();
            }
            () = &mut asked, if !leaving => {
                if seen.rests() {
                    return Ok(Driven::Rests);
                }
                asked.as_mut().reset(Instant::now() + REST);
            }
        }
    }
}

/// hyper's own steps. The service runs within them, so what it hands over is there when they are done.
async fn step<I, S>(
    connection: &mut UpgradeableConnection<I, S>,
    handed: &Handed,
) -> Result<Driven, hyper::Error>
where
    S: HttpService<Incoming, ResBody = Answer, Error = Infallible>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    poll_fn(|cx| match Pin::new(&mut *connection).poll(cx) {
        Poll::Ready(ended) => Poll::Ready(ended.map(|()| Driven::Ended)),
        Poll::Pending => match handed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(answer) => Poll::Ready(Ok(Driven::Handed(answer))),
            None => Poll::Pending,
        },
    })
    .await
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
    handed: Handed,
) -> Result<Response<Answer>, Infallible> {
    let (may_leave, is_empty) = (lasting::may_leave(&incoming), incoming.is_end_stream());
    let (version, running) = (incoming.version(), Running::begin(&seen));
    let mut response = request::handle(&cx, incoming, seen.is_ambiguous()).await;
    if version < Version::HTTP_2 && leaves(&cx.drain, response.status()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let leaves = may_leave && lasting::leaves(&response, is_empty) && seen.is_between_answers();
    let answer = response.map(|body| Answer { body, _running: running });
    if leaves {
        *handed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(answer));
        return std::future::pending().await; // Dropped with what drives it.
    }
    Ok(answer)
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
