//! All routes of one service port, compiled, and what was selected for one request.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use waypoint_model::{BackendTarget, Route, RouteMatch, RouteOrder, WorkloadUid};

use super::host::{HostPattern, split_authority};
use super::matching::{Matched, Matcher, Subject};
use super::policy::Policy;
use super::rewrite::{self, Redirector, Rewriter};
use super::rule::Rule;
use super::values::{Change, Facts};
use crate::upstream::Cluster;

/// Finds the endpoints that a backend stands for, or says why there are none.
pub(crate) type Resolve<'a> = dyn FnMut(&BackendTarget) -> Result<Arc<Cluster>, String> + 'a;

/// All routes of one service port, compiled. Without routes everything goes to the service itself.
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
    /// Answered here.
    Answer(Answer),
    /// 500 (Gateway API: a rule without a usable backend).
    Broken {
        /// Name of the rule, for the log.
        name: Arc<str>,
        /// For the log, never for the client.
        why: Arc<str>,
    },
}

/// An answer that a rule gives itself.
#[derive(Clone)]
pub struct Answer {
    /// Name of the rule, for the log.
    pub name: Arc<str>,
    /// What is answered.
    pub(crate) own: Own,
    /// On the answer.
    pub(crate) response_headers: Arc<[Change]>,
    /// What else the rule does.
    pub(crate) policy: Arc<Policy>,
}

/// What a rule answers itself.
#[derive(Clone)]
pub(crate) enum Own {
    /// A redirect, and what of the path was matched.
    Redirect(Arc<Redirector>, Matched),
    /// A status and a body.
    Respond(StatusCode, Bytes),
}

/// The way of one request to one backend.
#[derive(Clone)]
pub struct Forward {
    /// Name of the rule, for the log; `default` without routes.
    pub name: Arc<str>,
    /// Where to.
    pub cluster: Arc<Cluster>,
    /// On the request, in this order.
    pub(crate) request_headers: Arc<[Change]>,
    /// On the response, in this order.
    pub(crate) response_headers: Arc<[Change]>,
    /// New host or path.
    pub(crate) rewrite: Option<Arc<Rewriter>>,
    /// What of the path was matched.
    pub(crate) matched: Matched,
    /// The whole request.
    pub timeout: Option<Duration>,
    /// One attempt.
    pub backend_timeout: Option<Duration>,
    /// What else the rule does.
    pub(crate) policy: Arc<Policy>,
}

impl Selected {
    /// Name of the rule.
    pub(crate) fn name(&self) -> &Arc<str> {
        match self {
            Self::Forward(Forward { name, .. })
            | Self::Answer(Answer { name, .. })
            | Self::Broken { name, .. } => name,
        }
    }

    /// What else the rule does.
    ///
    /// # Errors
    /// Why the rule is broken.
    pub(crate) fn policy(&self) -> Result<Arc<Policy>, Arc<str>> {
        match self {
            Self::Forward(Forward { policy, .. }) | Self::Answer(Answer { policy, .. }) => {
                Ok(Arc::clone(policy))
            }
            Self::Broken { why, .. } => Err(Arc::clone(why)),
        }
    }
}

impl RouteTable {
    /// Compiles `routes`, which stand in the order of their age. `own`: the service's own cluster, the way when no route is
    /// attached. `cluster` finds backends.
    ///
    /// Rules of routes with [`RouteOrder::Precedence`] are asked first, the most specific first (Gateway API). Then those of
    /// [`RouteOrder::AsWritten`], in the order of the routes and of their rules; these are never sorted.
    ///
    /// What cannot work (a missing backend, a header name that is none) does not fail here: it is selected as
    /// [`Selected::Broken`], so that a broken rule never widens another.
    pub(crate) fn compile(
        port: u16,
        routes: &[Arc<Route>],
        own: &Arc<Cluster>,
        cluster: &mut Resolve<'_>,
    ) -> Self {
        let attached: Vec<&Arc<Route>> =
            routes.iter().filter(|route| route.port.is_none_or(|only| only == port)).collect();
        let (mut entries, mut written) = (Vec::new(), Vec::new());
        for route in &attached {
            match route.order {
                RouteOrder::Precedence => compile(route, cluster, &mut entries),
                RouteOrder::AsWritten => compile(route, cluster, &mut written),
            }
        }
        entries.sort_by_key(|(matcher, _)| Reverse(matcher.precedence()));
        entries.append(&mut written);
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
        Some(rule.select(matcher.matched(path), pinned))
    }
}

/// One entry for each host name and match of a route.
fn compile(route: &Route, cluster: &mut Resolve<'_>, entries: &mut Vec<(Matcher, Arc<Rule>)>) {
    let hosts = HostPattern::of_route(&route.hostnames);
    for rule in &route.rules {
        let compiled = Arc::new(Rule::compile(rule, route.order, cluster));
        let everything = [RouteMatch::default()];
        let matches = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
        let pairs = hosts.iter().flat_map(|host| matches.iter().map(move |wanted| (host, wanted)));
        let matcher = |(host, wanted): (&HostPattern, _)| Matcher::new(host.clone(), wanted, route.order);
        entries.extend(pairs.map(|pair| (matcher(pair), Arc::clone(&compiled))));
    }
}

impl Forward {
    /// The way to the service itself.
    fn to_own(own: &Arc<Cluster>) -> Self {
        Self {
            name: "default".into(),
            cluster: Arc::clone(own),
            request_headers: Arc::default(),
            response_headers: Arc::default(),
            rewrite: None,
            matched: Matched::Whole,
            timeout: None,
            backend_timeout: None,
            policy: Arc::default(),
        }
    }

    /// Applies header changes and rewrites to a request head on its way up. The path in `parts` must be the one that was
    /// given to [`RouteTable::select`]. Extensions stay as they are.
    ///
    /// # Errors
    /// When the outcome is no valid URI or header; the request must not be sent then.
    pub(crate) fn apply(&self, parts: &mut http::request::Parts, facts: &Facts) -> Result<(), http::Error> {
        for change in self.request_headers.iter() {
            if let Some(settled) = change.settle(facts, &parts.headers)? {
                rewrite::change_request(parts, &settled)?;
            }
        }
        match &self.rewrite {
            Some(rewrite) => rewrite.apply(&self.matched, parts),
            None => Ok(()),
        }
    }
}

/// Changes of a response, with what its request says put into their values; for [`rewrite::change`].
///
/// # Errors
/// When the outcome is no valid header.
pub(crate) fn settle<'a>(
    changes: &'a [Change],
    facts: &Facts,
    request: &http::HeaderMap,
) -> Result<Cow<'a, [Change]>, http::Error> {
    if changes.iter().all(Change::is_settled) {
        return Ok(Cow::Borrowed(changes));
    }
    let settled: Result<Vec<Option<Change>>, _> =
        changes.iter().map(|change| change.settle(facts, request)).collect();
    Ok(Cow::Owned(settled?.into_iter().flatten().collect()))
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
