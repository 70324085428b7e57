//! All routes of one service port, compiled (Gateway API `HTTPRoute`), and what was selected for one request.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use waypoint_model::{
    Backend, BackendTarget, HeaderChange, PathRewrite, Redirect, Rewrite, Route, RouteAction, RouteMatch,
    RouteRule, WorkloadUid,
};

use super::host::{HostPattern, split_authority};
use super::matching::{Matcher, Subject};
use super::rewrite;
pub(crate) use super::rewrite::{change, redirect};
use crate::upstream::Cluster;

/// All routes of one service port, compiled; precedence as the Gateway API says. Without routes everything goes to the
/// service itself.
pub struct RouteTable {
    /// In the order in which they are asked.
    entries: Vec<(Matcher, Arc<Rule>)>,
    /// The way when no route is attached to the port; `None` when one is.
    default: Option<Forward>,
}

/// What was selected for one request.
pub enum Selected {
    /// Goes to a backend.
    Forward(Forward),
    /// Answered here, by [`redirect`].
    Redirect {
        /// Where to.
        redirect: Redirect,
        /// Name of the rule, for the log.
        name: Arc<str>,
        /// The prefix that matched, without its trailing slash; empty where the whole path was compared.
        matched: Arc<str>,
        /// For [`change`], on the answer.
        response_headers: Arc<[HeaderChange]>,
    },
    /// 500 (Gateway API: a rule without a usable backend).
    Broken {
        /// Name of the rule, for the log.
        name: Arc<str>,
        /// For the log, never for the client.
        why: Arc<str>,
    },
}

/// The way of one request to one backend.
#[derive(Clone)]
pub struct Forward {
    /// Name of the rule, for the log; `default` without routes.
    pub name: Arc<str>,
    /// Where to.
    pub cluster: Arc<Cluster>,
    /// Changes by the rule.
    pub request_headers: Arc<[HeaderChange]>,
    /// Changes for this backend only, after those of the rule.
    pub backend_headers: Arc<[HeaderChange]>,
    /// For [`change`], on the response.
    pub response_headers: Arc<[HeaderChange]>,
    /// New host or path.
    pub rewrite: Option<Arc<Rewrite>>,
    /// The prefix that matched, without its trailing slash.
    pub matched_prefix: Option<Arc<str>>,
    /// The whole request.
    pub timeout: Option<Duration>,
    /// One attempt.
    pub backend_timeout: Option<Duration>,
}

/// One compiled rule, shared by its matches.
struct Rule {
    name: Arc<str>,
    response_headers: Arc<[HeaderChange]>,
    action: Action,
}

enum Action {
    /// By weight, the sum of which is the number; never zero.
    Split {
        backends: Vec<Share>,
        total: u64,
    },
    Redirect(Redirect),
    Broken(Arc<str>),
}

/// One backend; weights are greater than zero.
struct Share {
    weight: u64,
    to: Result<Forward, Arc<str>>,
}

impl RouteTable {
    /// Compiles `routes`, which stand in the order of their age. `own`: the service's own cluster, the way when no route is
    /// attached. `cluster` finds backends, or says why there is none.
    ///
    /// What cannot work (a missing backend, a header name that is none) does not fail here: it is selected as
    /// [`Selected::Broken`], so that a broken rule never widens another.
    pub fn compile(
        port: u16,
        routes: &[Arc<Route>],
        own: &Arc<Cluster>,
        cluster: &mut dyn FnMut(&BackendTarget) -> Result<Arc<Cluster>, String>,
    ) -> Self {
        let attached: Vec<&Arc<Route>> =
            routes.iter().filter(|route| route.port.is_none_or(|only| only == port)).collect();
        let mut entries = Vec::new();
        for route in &attached {
            let hosts = HostPattern::of_route(&route.hostnames);
            for rule in &route.rules {
                let compiled = Arc::new(Rule::compile(rule, cluster));
                let everything = [RouteMatch::default()];
                let matches = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
                let pairs = hosts.iter().flat_map(|host| matches.iter().map(move |wanted| (host, wanted)));
                entries.extend(
                    pairs.map(|(host, wanted)| (Matcher::new(host.clone(), wanted), Arc::clone(&compiled))),
                );
            }
        }
        entries.sort_by_key(|(matcher, _)| Reverse(matcher.precedence()));
        let default = attached.is_empty().then(|| Forward::to_own(own));
        Self { entries, default }
    }

    /// The way of one request. `None`: routes exist and none matches (404). `path` is normalized, without query; weights use
    /// a random number, but a session goes where its workload (`pinned`) is.
    #[must_use]
    pub fn select(
        &self,
        authority: &str,
        path: &str,
        query: Option<&str>,
        parts: &http::request::Parts,
        pinned: Option<&WorkloadUid>,
    ) -> Option<Selected> {
        if let Some(default) = &self.default {
            return Some(Selected::Forward(default.clone()));
        }
        let host = split_authority(authority).0.to_ascii_lowercase();
        let (method, headers) = (&parts.method, &parts.headers);
        let subject = Subject { host: &host, authority, path, query, method, headers };
        let (matcher, rule) = self.entries.iter().find(|(matcher, _)| matcher.matches(&subject))?;
        Some(rule.select(matcher.prefix(), pinned))
    }
}

impl Rule {
    fn compile(
        rule: &RouteRule,
        cluster: &mut dyn FnMut(&BackendTarget) -> Result<Arc<Cluster>, String>,
    ) -> Self {
        let action = match unusable(rule) {
            Some(why) => Action::Broken(why.into()),
            None => Action::compile(rule, cluster),
        };
        Self {
            name: rule.name.as_str().into(),
            response_headers: rule.response_headers.clone().into(),
            action,
        }
    }

    fn select(&self, prefix: Option<&Arc<str>>, pinned: Option<&WorkloadUid>) -> Selected {
        let broken = |why: &Arc<str>| Selected::Broken { name: Arc::clone(&self.name), why: Arc::clone(why) };
        match &self.action {
            Action::Broken(why) => broken(why),
            Action::Redirect(redirect) => Selected::Redirect {
                redirect: redirect.clone(),
                name: Arc::clone(&self.name),
                matched: prefix.cloned().unwrap_or_default(),
                response_headers: Arc::clone(&self.response_headers),
            },
            Action::Split { backends, total } => {
                match kept(backends, pinned).or_else(|| share(backends, fastrand::u64(..*total))) {
                    Some(Share { to: Ok(forward), .. }) => {
                        Selected::Forward(Forward { matched_prefix: prefix.cloned(), ..forward.clone() })
                    }
                    Some(Share { to: Err(why), .. }) => broken(why),
                    None => broken(&"the weights do not add up".into()),
                }
            }
        }
    }
}

/// The backend that has the workload of a session.
fn kept<'a>(backends: &'a [Share], pinned: Option<&WorkloadUid>) -> Option<&'a Share> {
    let pinned = pinned?;
    backends.iter().find(|share| share.to.as_ref().is_ok_and(|forward| forward.cluster.holds(pinned)))
}

/// The backend in whose part of the sum of weights `number` falls.
fn share(backends: &[Share], number: u64) -> Option<&Share> {
    let mut end = 0;
    backends.iter().find(|share| {
        end += share.weight;
        number < end
    })
}

impl Action {
    fn compile(
        rule: &RouteRule,
        cluster: &mut dyn FnMut(&BackendTarget) -> Result<Arc<Cluster>, String>,
    ) -> Self {
        let (backends, rewrite) = match &rule.action {
            RouteAction::Redirect(redirect) => return Self::Redirect(redirect.clone()),
            RouteAction::Respond { .. } => return Self::Broken("direct responses are not built".into()),
            RouteAction::Forward { backends, rewrite } => (backends, rewrite),
        };
        let rewrite = (*rewrite != Rewrite::default()).then(|| Arc::new(rewrite.clone()));
        let used = backends.iter().filter(|backend| backend.weight > 0);
        let backends: Vec<Share> = used
            .map(|backend| Share {
                weight: u64::from(backend.weight),
                to: forward(rule, backend, rewrite.as_ref(), cluster),
            })
            .collect();
        match backends.iter().map(|share| share.weight).sum() {
            0 => Self::Broken("no backend has a weight".into()),
            total => Self::Split { backends, total },
        }
    }
}

fn forward(
    rule: &RouteRule,
    backend: &Backend,
    rewrite: Option<&Arc<Rewrite>>,
    cluster: &mut dyn FnMut(&BackendTarget) -> Result<Arc<Cluster>, String>,
) -> Result<Forward, Arc<str>> {
    let cluster = cluster(&backend.target)?;
    Ok(Forward {
        name: rule.name.as_str().into(),
        cluster,
        request_headers: rule.request_headers.clone().into(),
        backend_headers: backend.request_headers.clone().into(),
        response_headers: rule.response_headers.clone().into(),
        rewrite: rewrite.cloned(),
        matched_prefix: None,
        timeout: rule.timeout,
        backend_timeout: rule.backend_timeout,
    })
}

/// Why a rule cannot be carried out as written; found once, here, rather than with each request.
fn unusable(rule: &RouteRule) -> Option<String> {
    let none: &[Backend] = &[];
    let (backends, path) = match &rule.action {
        RouteAction::Forward { backends, rewrite } => (&backends[..], rewrite.path.as_ref()),
        RouteAction::Redirect(redirect) => (none, redirect.path.as_ref()),
        RouteAction::Respond { .. } => (none, None),
    };
    let of_backends = backends.iter().flat_map(|backend| &backend.request_headers);
    let mut changes = rule.request_headers.iter().chain(&rule.response_headers).chain(of_backends);
    if let Some(bad) = changes.find(|change| !rewrite::is_valid(change)) {
        return Some(format!("{bad:?} is no valid header"));
    }
    let whole = |wanted: &RouteMatch| matches!(wanted.path, Some(waypoint_model::PathMatch::Exact(_)));
    if matches!(path, Some(PathRewrite::Prefix(_))) && rule.matches.iter().any(whole) {
        return Some("a prefix can be replaced only where a prefix is matched".to_owned());
    }
    match &rule.action {
        RouteAction::Redirect(redirect) if !matches!(redirect.status, 301..=303 | 307 | 308) => {
            Some(format!("{} is no status of a redirect", redirect.status))
        }
        RouteAction::Redirect(_) | RouteAction::Forward { .. } | RouteAction::Respond { .. } => None,
    }
}

impl Forward {
    /// The way to the service itself.
    fn to_own(own: &Arc<Cluster>) -> Self {
        Self {
            name: "default".into(),
            cluster: Arc::clone(own),
            request_headers: Arc::default(),
            backend_headers: Arc::default(),
            response_headers: Arc::default(),
            rewrite: None,
            matched_prefix: None,
            timeout: None,
            backend_timeout: None,
        }
    }

    /// Applies header changes and rewrites to a request head on its way up. The path in `parts` must be the one that was
    /// given to [`RouteTable::select`]. Extensions stay as they are.
    ///
    /// # Errors
    /// When the outcome is no valid URI or header; the request must not be sent then.
    pub fn apply(&self, parts: &mut http::request::Parts) -> Result<(), http::Error> {
        for change in self.request_headers.iter().chain(self.backend_headers.iter()) {
            rewrite::change_request(parts, change)?;
        }
        match &self.rewrite {
            Some(rewrite) => rewrite::apply(rewrite, self.matched_prefix.as_deref(), parts),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
