//! Event streams over HTTP/1.1: written without hyper from their head on.
//!
//! hyper keeps two buffers of 8 KiB, and the room of a connection and of a request beside them, for as long as an answer goes on;
//! most of an event stream is silence. To go on with it, nothing has to be read, and only the chunked coding (RFC 9112 §7.1) is to
//! be written.

use std::io;

use bytes::Bytes;
use futures_util::FutureExt as _;
use hbone::Io;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, Version, response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::answer;
use super::framing::Framed;
use crate::body::{Body, BodyError};

/// Marks an answer whose request was read to its end, though it had a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestRead;

/// Whether the answer to a request may go on without hyper, as far as the request says: its connection stays, and no rule about
/// its body but the chunked coding applies to the answer.
pub(super) fn may_leave<B>(request: &Request<B>) -> bool {
    let closes = |headers: &HeaderMap| {
        let tokens =
            headers.get_all(CONNECTION).into_iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
        tokens.into_iter().any(|token| !token.trim_ascii().eq_ignore_ascii_case(b"keep-alive"))
    };
    let method = request.method();
    request.version() == Version::HTTP_11
        && !matches!(*method, Method::HEAD | Method::CONNECT)
        && !closes(request.headers())
}

/// Whether an answer lasts and may go on without hyper: an event stream without a length, to a request of which nothing is left.
pub(super) fn leaves(response: &Response<Body>, request_is_empty: bool) -> bool {
    let framed = [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING];
    answer::is_event_stream(response)
        && response.status() == http::StatusCode::OK
        && !framed.iter().any(|name| response.headers().contains_key(name))
        && (request_is_empty || response.extensions().get::<RequestRead>().is_some())
}

/// Bytes that are gathered before they are written, beyond which no further event is waited for.
const GATHERED: usize = 16 << 10;

/// The last chunk (RFC 9112 §7.1).
const END: &[u8] = b"0\r\n\r\n";

/// Writes an answer to its end, after which its connection serves the next request.
///
/// # Errors
/// The body broke, or the client is gone, or ended its side, which hyper takes for the same. What was written is no whole answer
/// then: the stream is to be dropped, never to be shut down.
pub(super) async fn carry<IO: Io, B>(io: &mut Framed<IO>, answer: Response<B>) -> io::Result<()>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin,
{
    let (parts, mut body) = answer.into_parts();
    let mut unwritten = head(&parts);
    drop(parts);
    let (mut byte, mut pipelined) = ([0], false);
    loop {
        // What is there goes together: a client that wants no more than the first event sees the end of a short stream beside it.
        let gathered = gather(&mut body, &mut unwritten);
        if !unwritten.is_empty() {
            io.write_all(&std::mem::take(&mut unwritten)).await?;
            io.flush().await?;
        }
        match gathered {
            Ok(Gathered::Some) => {}
            Ok(Gathered::All) => break,
            Err(error) => return Err(io::Error::other(error)),
        }
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            read = io.read(&mut byte), if !pipelined => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                pipelined = true;
                continue;
            }
        };
        let Some(frame) = frame else {
            io.write_all(END).await?;
            io.flush().await?;
            break;
        };
        chunk(frame.map_err(io::Error::other)?, &mut unwritten);
    }
    if pipelined {
        io.rewind(Bytes::copy_from_slice(&byte));
    }
    Ok(())
}

enum Gathered {
    /// There may be more, now or later.
    Some,
    /// The body has ended.
    All,
}

/// Takes what the body has without waiting.
fn gather<B>(body: &mut B, unwritten: &mut Vec<u8>) -> Result<Gathered, BodyError>
where
    B: HttpBody<Data = Bytes, Error = BodyError> + Unpin,
{
    while unwritten.len() < GATHERED {
        match body.frame().now_or_never() {
            None => return Ok(Gathered::Some),
            Some(None) => {
                unwritten.extend_from_slice(END);
                return Ok(Gathered::All);
            }
            Some(Some(frame)) => chunk(frame?, unwritten),
        }
    }
    Ok(Gathered::Some)
}

/// Trailers may be left out (RFC 9110 §6.5.1), and an event stream has no use for them. An empty chunk would be the end.
fn chunk(frame: Frame<Bytes>, unwritten: &mut Vec<u8>) {
    let Ok(data) = frame.into_data() else { return };
    if !data.is_empty() {
        unwritten.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        unwritten.extend_from_slice(&data);
        unwritten.extend_from_slice(b"\r\n");
    }
}

/// The names and values are valid by their types: none can end a line.
fn head(parts: &response::Parts) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    let reason = parts.status.canonical_reason().unwrap_or_default();
    for part in ["HTTP/1.1 ", parts.status.as_str(), " ", reason, "\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    for (name, value) in &parts.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::detect::Rewound;

    type Events = tokio::sync::mpsc::Sender<Result<Bytes, BodyError>>;

    /// An event stream, and what feeds it.
    fn events() -> (Events, Response<Body>) {
        let (feed, mut fed) = tokio::sync::mpsc::channel::<Result<Bytes, BodyError>>(4);
        let stream = futures_util::stream::poll_fn(move |cx| fed.poll_recv(cx));
        let body = http_body_util::StreamBody::new(futures_util::StreamExt::map(stream, |data| {
            data.map(Frame::data)
        }));
        let response = Response::builder().header(CONTENT_TYPE, "text/event-stream").header("x-a", "b");
        (feed, response.body(Body::Stream(Box::pin(body))).unwrap())
    }

    fn framed() -> (DuplexStream, Framed<DuplexStream>) {
        let (client, server) = duplex(1 << 16);
        (client, Framed::new(Rewound::new(Bytes::new(), server)))
    }

    const HEAD: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n";

    #[tokio::test]
    async fn events_are_chunks_and_the_connection_goes_on_with_what_came_meanwhile() {
        let ((mut client, mut io), (feed, response)) = (framed(), events());
        client.write_all(b"GET").await.unwrap();
        for data in ["data: 1\n\n", "", "data: 23456789abcdef\n\n"] {
            feed.send(Ok(data.into())).await.unwrap();
        }
        drop(feed);
        carry(&mut io, response).await.unwrap();
        let mut next = [0; 3];
        io.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"GET");
        drop(io);
        let mut sent = String::new();
        client.read_to_string(&mut sent).await.unwrap();
        let chunks = "9\r\ndata: 1\n\n\r\n16\r\ndata: 23456789abcdef\n\n\r\n0\r\n\r\n";
        assert_eq!(sent, format!("{HEAD}{chunks}"));
    }

    #[tokio::test]
    async fn a_client_that_ends_its_side_is_gone() {
        let ((mut client, mut io), (_feed, response)) = (framed(), events());
        client.shutdown().await.unwrap();
        let ended = carry(&mut io, response).await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_body_that_breaks_has_no_end() {
        let ((mut client, mut io), (feed, response)) = (framed(), events());
        feed.send(Ok("x".into())).await.unwrap();
        feed.send(Err("broken".into())).await.unwrap();
        assert!(carry(&mut io, response).await.is_err());
        drop(io);
        let mut sent = String::new();
        client.read_to_string(&mut sent).await.unwrap();
        assert_eq!(sent, format!("{HEAD}1\r\nx\r\n"));
    }

    #[test]
    fn only_answers_that_hyper_would_chunk_the_same_way_leave_it() {
        let (_feed, event_stream) = events();
        assert!(leaves(&event_stream, true) && !leaves(&event_stream, false));
        let with = |change: fn(&mut Response<Body>)| {
            let (_feed, mut response) = events();
            change(&mut response);
            response
        };
        let read = |response: &mut Response<Body>| {
            response.extensions_mut().insert(RequestRead);
        };
        assert!(leaves(&with(read), false));
        let kept: [fn(&mut Response<Body>); 4] = [
            |response| drop(response.headers_mut().insert(CONTENT_LENGTH, 3.into())),
            |response| drop(response.headers_mut().insert(CONNECTION, "close".parse().unwrap())),
            |response| drop(response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().unwrap())),
            |response| *response.status_mut() = http::StatusCode::NO_CONTENT,
        ];
        assert!(kept.into_iter().all(|change| !leaves(&with(change), true)));

        let request = |version, method: &str, connection: &str| {
            let request = Request::builder().version(version).method(method).header(CONNECTION, connection);
            may_leave(&request.body(()).unwrap())
        };
        assert!(
            request(Version::HTTP_11, "GET", "keep-alive") && request(Version::HTTP_11, "POST", "Keep-Alive")
        );
        assert!(
            !request(Version::HTTP_10, "GET", "keep-alive")
                && !request(Version::HTTP_11, "HEAD", "keep-alive")
        );
        assert!(
            !request(Version::HTTP_11, "GET", "close")
                && !request(Version::HTTP_11, "GET", "keep-alive, Close")
        );
    }
}
