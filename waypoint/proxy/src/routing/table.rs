// SKELETON
use crate::upstream::Cluster;
use std::sync::Arc;
use std::time::Duration;
use waypoint_model::{HeaderChange, Redirect, Rewrite, Route, ServiceKey};

/// All routes of one service port, compiled; precedence as the Gateway API says. Without routes everything goes to the service itself.
pub struct RouteTable {
    _p: (),
}
/// What was selected for one request.
pub enum Selected {
    Forward(Forward),
    Redirect {
        redirect: Redirect,
        name: Arc<str>,
        /* matched prefix */ matched: Arc<str>,
        response_headers: Arc<[HeaderChange]>,
    },
    /// 500, named in the log
    Broken {
        name: Arc<str>,
        why: Arc<str>,
    },
}
pub struct Forward {
    pub name: Arc<str>,
    pub cluster: Arc<Cluster>,
    pub request_headers: Arc<[HeaderChange]>,
    pub backend_headers: Arc<[HeaderChange]>,
    pub response_headers: Arc<[HeaderChange]>,
    pub rewrite: Option<Arc<Rewrite>>,
    pub matched_prefix: Option<Arc<str>>,
    pub timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
}
impl RouteTable {
    /// `own`: the service's own cluster (default route). `cluster`: finds backends.
    pub fn compile(
        port: u16,
        routes: &[Arc<Route>],
        own: &Arc<Cluster>,
        cluster: &mut dyn FnMut(&ServiceKey, u16) -> Option<Arc<Cluster>>,
    ) -> Self {
        todo!()
    }
    /// `None`: routes exist and none matches (404). `path` is normalized, without query; weights use a random number.
    pub fn select(
        &self,
        authority: &str,
        path: &str,
        query: Option<&str>,
        parts: &http::request::Parts,
    ) -> Option<Selected> {
        todo!()
    }
}
impl Forward {
    /// Applies header changes and rewrites to a request head on its way up.
    pub fn apply(&self, parts: &mut http::request::Parts) -> Result<(), http::Error> {
        todo!()
    }
}
/// Builds the Location and status of a redirect (RFC 9110 §15.4).
pub fn redirect(
    redirect: &Redirect,
    matched: &str,
    authority: &str,
    path: &str,
    query: Option<&str>,
) -> Result<http::Response<crate::body::Body>, http::Error> {
    todo!()
}
/// Response header changes.
pub fn change(headers: &mut http::HeaderMap, changes: &[HeaderChange]) {
    todo!()
}
