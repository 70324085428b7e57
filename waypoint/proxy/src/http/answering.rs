//! Answers to servers in their clients' place: what a server asked for and may not is refused, so that it does not wait.

use std::sync::Arc;
use std::time::Duration;

use agent_protocols::mcp as protocol;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use tokio::sync::Semaphore;
use waypoint_policy::Permit;

use super::asked::Asked;
use super::mcp::SESSION;
use crate::body::Body;
use crate::drain::Phase;
use crate::upstream::{Cluster, Pick, Version};

/// How long a server may take to accept an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// Answers of one stream that are under way. A server that asks faster than it listens is not answered.
const AT_ONCE: usize = 8;

/// How the answers of one stream reach the server that asked on it.
#[derive(Clone)]
pub(crate) struct Answering {
    cluster: Arc<Cluster>,
    uri: Uri,
    headers: HeaderMap,
    pick: Pick,
    version: Version,
    under_way: Arc<Semaphore>,
}

impl Answering {
    /// As the request that opened the stream went up, in the same session. `None` in revisions whose clients answer nothing.
    pub(crate) fn of(parts: &Parts, cluster: &Arc<Cluster>, pick: &Pick, version: Version) -> Option<Self> {
        let revision = parts.headers.get("mcp-protocol-version").and_then(|version| version.to_str().ok());
        if revision
            .is_some_and(|revision| protocol::Revision::parse(revision) == protocol::Revision::V2026_07_28)
        {
            return None;
        }
        // A stream without a session is one of the transport with two endpoints (2024-11-05): answers go elsewhere there.
        if parts.method == Method::GET && !parts.headers.contains_key(SESSION) {
            return None;
        }
        let mut headers = parts.headers.clone();
        for name in ["last-event-id", "mcp-method", "mcp-name", "content-digest"] {
            headers.remove(name);
        }
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let under_way = Arc::new(Semaphore::new(AT_ONCE));
        let pick = Pick { retries: None, backend_timeout: None, ..pick.clone() };
        Some(Self { cluster: Arc::clone(cluster), uri: parts.uri.clone(), headers, pick, version, under_way })
    }

    /// To the endpoint that the stream comes from.
    pub(crate) fn to(mut self, endpoint: Option<&waypoint_model::WorkloadUid>) -> Self {
        self.pick.pinned = self.pick.pinned.or_else(|| endpoint.cloned());
        self
    }

    /// Tells the server that its client has no such capability. Not where a policy forbids the client to answer at all.
    pub(crate) fn refuse(&self, asked: &Asked, id: &str) {
        let cx = asked.cx();
        let (permit, share) = (asked.permit_answer(), Arc::clone(&self.under_way).try_acquire_owned());
        let (Some(permit), Ok(share)) = (permit, share) else {
            cx.shared.telemetry.refused("server_request_unanswered");
            return;
        };
        let (this, cx, body) = (self.clone(), Arc::clone(cx), protocol::error_of_client(id));
        let mut drain = cx.drain.clone();
        cx.upgrades.clone().spawn(async move {
            let _share = share; // For as long as it is on its way.
            tokio::select! {
                () = this.send(&cx, &permit, body) => {}
                () = drain.reached(Phase::Aborting) => {}
            }
        });
    }

    async fn send(&self, cx: &crate::context::StreamContext, permit: &Permit, body: String) {
        let mut request = Request::new(Body::full(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let (upstreams, mut chosen) = (&cx.shared.upstreams, None);
        let sent = upstreams
            .send(permit, &self.cluster, &self.pick, self.version, Some(PATIENCE), request, &mut chosen)
            .await;
        if sent.is_err() {
            cx.shared.telemetry.refused("server_request_unanswered");
        }
    }
}
