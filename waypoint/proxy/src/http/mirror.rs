//! Copies of requests (Envoy `request_mirror_policies`): sent beside the request, never before or instead of it, and their
//! answers are dropped.
//!
//! A copy has the request's permit: policies judged what it asks for, and a mirror is the route author's choice of a second
//! place for it. What an agent calls is never mirrored, since a tool would run twice.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use waypoint_policy::{Permit, Reads};

use crate::body::{Body, BodyError};
use crate::context::StreamContext;
use crate::drain::Phase;
use crate::routing::policy::Copies;
use crate::upstream::{Cluster, Pick, Version};

/// How long a copy may take where its route sets no limit (Envoy's default for routes).
const PATIENCE: Duration = Duration::from_secs(15);

/// Whether a request carries an agent's call, which must not run twice: by the policies of its destination, by headers of MCP,
/// or by the answers that an MCP client has to accept (MCP 2025-03-26, *Streamable HTTP*).
pub(crate) fn is_agent_call(reads: Reads, parts: &Parts) -> bool {
    let named = || parts.headers.keys().any(|name| name.as_str().starts_with("mcp-"));
    matches!(reads, Reads::Mcp | Reads::A2a)
        || named()
        || (parts.method == Method::POST && accepts_both(&parts.headers))
}

fn accepts_both(headers: &HeaderMap) -> bool {
    let accepts = |media: &str| {
        let lines = headers.get_all(ACCEPT).into_iter().filter_map(|line| line.to_str().ok());
        let mut kinds = lines.flat_map(|line| line.split(',')).filter_map(|kind| kind.split(';').next());
        kinds.any(|kind| kind.trim().eq_ignore_ascii_case(media))
    };
    accepts("application/json") && accepts("text/event-stream")
}

/// What all copies of one request share.
struct Shadow {
    cx: Arc<StreamContext>,
    permit: Permit,
    clusters: Vec<Arc<Cluster>>,
    head: Parts,
    version: Version,
    timeout: Duration,
}

/// Draws for each mirror, and arranges for copies of this request. A body that is not at hand is copied while it passes, up to
/// `limits.retry_replay`; a larger one is not mirrored, and counted.
pub(crate) fn shadow(
    cx: &Arc<StreamContext>,
    permit: &Permit,
    mirrors: &[Copies],
    version: Version,
    timeout: Option<Duration>,
    request: Request<Body>,
) -> Request<Body> {
    let drawn = mirrors.iter().filter(|mirror| fastrand::u32(..1_000_000) < mirror.fraction);
    let clusters: Vec<Arc<Cluster>> = drawn.map(|mirror| Arc::clone(&mirror.cluster)).collect();
    if clusters.is_empty() {
        return request;
    }
    let (parts, body) = request.into_parts();
    let timeout = timeout.unwrap_or(PATIENCE);
    let head = shadow_head(&parts);
    let shadow = Shadow { cx: Arc::clone(cx), permit: permit.clone(), clusters, head, version, timeout };
    let max = cx.shared.settings.limits.retry_replay;
    let body = match body {
        Body::Empty | Body::Full(None) => {
            shadow.send(Bytes::new());
            Body::Empty
        }
        Body::Full(Some(bytes)) if bytes.len() <= max => {
            shadow.send(bytes.clone());
            Body::Full(Some(bytes))
        }
        Body::Full(large) => {
            shadow.skip("too_large");
            Body::Full(large)
        }
        passing @ (Body::Incoming(_) | Body::Stream(_)) if passing.is_end_stream() => {
            shadow.send(Bytes::new());
            passing
        }
        passing @ (Body::Incoming(_) | Body::Stream(_)) => {
            Body::Stream(Box::pin(Tee { body: passing, kept: BytesMut::new(), max, shadow: Some(shadow) }))
        }
    };
    Request::from_parts(parts, body)
}

/// The head of a copy: its host says that it is one.
fn shadow_head(parts: &Parts) -> Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = parts.method.clone();
    head.version = parts.version;
    head.headers = parts.headers.clone();
    let of_uri = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = of_uri.or_else(|| parts.headers.get(HOST).map(HeaderValue::as_bytes)).unwrap_or_default();
    let host = std::str::from_utf8(host).unwrap_or_default();
    let mut uri = parts.uri.clone().into_parts();
    if let (Ok(authority), Ok(value)) =
        (Authority::try_from(shadow_host(host)), HeaderValue::try_from(shadow_host(host)))
    {
        head.headers.insert(HOST, value);
        uri.authority = uri.authority.is_some().then_some(authority);
    }
    head.uri = Uri::from_parts(uri).unwrap_or_else(|_malformed| parts.uri.clone());
    head
}

/// `-shadow` after the name, before the port (Envoy). An address keeps its brackets whole.
fn shadow_host(host: &str) -> String {
    match host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())) {
        Some((name, port)) => format!("{name}-shadow:{port}"),
        None => format!("{host}-shadow"),
    }
}

impl Shadow {
    /// Sends a copy to each mirror, in tasks of the stream's owner. Bodies in flight are bounded with those that are kept.
    fn send(self, body: Bytes) {
        for cluster in &self.clusters {
            let kibibytes = u32::try_from(body.len().div_ceil(1 << 10)).unwrap_or(u32::MAX);
            let Ok(share) = Arc::clone(&self.cx.shared.kept).try_acquire_many_owned(kibibytes) else {
                self.skip("busy");
                continue;
            };
            let request = Request::from_parts(self.head.clone(), Body::full(body.clone()));
            let (cx, permit, cluster) = (Arc::clone(&self.cx), self.permit.clone(), Arc::clone(cluster));
            let (version, timeout, mut drain) = (self.version, self.timeout, self.cx.drain.clone());
            self.cx.upgrades.spawn(async move {
                let _share = share; // For as long as the copy is on its way.
                let outcome = tokio::select! {
                    outcome = copy(&cx, &permit, &cluster, version, timeout, request) => outcome,
                    () = drain.reached(Phase::Aborting) => "failed",
                };
                cx.shared.telemetry.mirrored(outcome);
            });
        }
    }

    fn skip(&self, why: &'static str) {
        self.cx.shared.telemetry.mirrored(why);
    }
}

async fn copy(
    cx: &StreamContext,
    permit: &Permit,
    cluster: &Cluster,
    version: Version,
    timeout: Duration,
    request: Request<Body>,
) -> &'static str {
    let (pick, mut chosen) = (Pick::default(), None);
    let sent = cx.shared.upstreams.send(permit, cluster, &pick, version, Some(timeout), request, &mut chosen);
    let Ok(mut response) = sent.await else { return "failed" };
    // Read to its end, so that the connection may serve again.
    while let Some(frame) = response.body_mut().frame().await {
        if frame.is_err() {
            return "failed";
        }
    }
    "sent"
}

/// A body on its way, whose bytes are kept for the copies. Nothing is sent unless it passed whole.
struct Tee {
    body: Body,
    kept: BytesMut,
    max: usize,
    /// `None` once sent or given up.
    shadow: Option<Shadow>,
}

impl Tee {
    fn keep(&mut self, data: &Bytes) {
        if self.kept.len() + data.len() <= self.max {
            self.kept.extend_from_slice(data);
        } else if let Some(shadow) = self.shadow.take() {
            shadow.skip("too_large");
            self.kept = BytesMut::new();
        }
    }

    fn send(&mut self) {
        if let Some(shadow) = self.shadow.take() {
            shadow.send(std::mem::take(&mut self.kept).freeze());
        }
    }
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref().filter(|_| this.shadow.is_some()) {
                    this.keep(data);
                }
                // Who reads may not ask again after the last data or the trailers.
                if frame.is_trailers() || this.body.is_end_stream() {
                    this.send();
                }
            }
            Some(Err(_)) => this.shadow = None,
            None => this.send(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_so_in_its_host() {
        let rows =
            [("a.example", "a.example-shadow"), ("a.example:80", "a.example-shadow:80"), ("", "-shadow")];
        for (host, want) in rows {
            assert_eq!(shadow_host(host), want);
        }
        let request = Request::post("http://a.example:81/p?q").header(HOST, "a.example:81").header("x", "1");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let head = shadow_head(&parts);
        assert_eq!(
            (head.uri, head.method),
            ("http://a.example-shadow:81/p?q".parse().unwrap(), Method::POST)
        );
        assert_eq!(
            (&head.headers[HOST], &head.headers["x"]),
            (&"a.example-shadow:81".parse().unwrap(), &"1".parse().unwrap())
        );
    }

    #[test]
    fn an_agents_call_is_known_by_policy_headers_or_what_it_accepts() {
        let of = |request: http::request::Builder| request.body(()).unwrap().into_parts().0;
        let plain = || of(Request::post("/").header(ACCEPT, "application/json"));
        let rows = [
            (Reads::Http, plain(), false),
            (Reads::Mcp, plain(), true),
            (Reads::A2a, plain(), true),
            (Reads::Http, of(Request::get("/").header("mcp-session-id", "1")), true),
            (
                Reads::Http,
                of(Request::post("/").header(ACCEPT, "application/json, text/event-stream; q=1")),
                true,
            ),
            (Reads::Http, of(Request::get("/").header(ACCEPT, "application/json, text/event-stream")), false),
        ];
        for (reads, parts, want) in rows {
            assert_eq!(is_agent_call(reads, &parts), want, "{reads:?} {parts:?}");
        }
    }
}
