//! One rule, compiled: which of its backends takes a request, or what it answers itself.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use waypoint_model::{
    Backend, PathMatch, PathRewrite, Rewrite, RouteAction, RouteMatch, RouteOrder, RouteRule, WorkloadUid,
};

use super::matching::Matched;
use super::policy::Policy;
use super::rewrite::{Redirector, Rewriter};
use super::table::{Answer, Forward, Own, Resolve, Selected};
use super::values::{self, Change};

/// One compiled rule, shared by its matches.
pub(super) struct Rule {
    name: Arc<str>,
    policy: Arc<Policy>,
    action: Action,
}

enum Action {
    /// By weight, the sum of which is the number; never zero.
    Split {
        backends: Vec<Share>,
        total: u64,
    },
    Redirect(Arc<Redirector>, Arc<[Change]>),
    Respond(StatusCode, Bytes, Arc<[Change]>),
    Broken(Arc<str>),
}

/// One backend; weights are greater than zero.
struct Share {
    weight: u64,
    to: Result<Forward, Arc<str>>,
}

/// What all backends of a rule share.
struct Common<'a> {
    rule: &'a RouteRule,
    order: RouteOrder,
    policy: &'a Arc<Policy>,
    rewrite: Option<Arc<Rewriter>>,
}

impl Rule {
    /// Compiles. What cannot be carried out as written is found here, once, rather than with each request.
    pub(super) fn compile(rule: &RouteRule, order: RouteOrder, cluster: &mut Resolve<'_>) -> Self {
        let name = rule.name.as_str().into();
        let compiled = Policy::compile(&rule.policy, cluster).and_then(|policy| {
            let action = Action::compile(rule, order, &policy, cluster)?;
            Ok((policy, action))
        });
        match compiled {
            Ok((policy, action)) => Self { name, policy, action },
            Err(why) => Self { name, policy: Arc::default(), action: Action::Broken(why.into()) },
        }
    }

    pub(super) fn select(&self, matched: Matched, pinned: Option<&WorkloadUid>) -> Selected {
        let broken = |why: &Arc<str>| Selected::Broken { name: Arc::clone(&self.name), why: Arc::clone(why) };
        let answer = |own, changes: &Arc<[Change]>| {
            let (name, response_headers) = (Arc::clone(&self.name), Arc::clone(changes));
            Selected::Answer(Answer { name, own, response_headers, policy: Arc::clone(&self.policy) })
        };
        match &self.action {
            Action::Broken(why) => broken(why),
            Action::Redirect(redirect, changes) => {
                answer(Own::Redirect(Arc::clone(redirect), matched), changes)
            }
            Action::Respond(status, body, changes) => answer(Own::Respond(*status, body.clone()), changes),
            Action::Split { backends, total } => {
                match kept(backends, pinned).or_else(|| share(backends, fastrand::u64(..*total))) {
                    Some(Share { to: Ok(forward), .. }) => {
                        Selected::Forward(Forward { matched, ..forward.clone() })
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
        order: RouteOrder,
        policy: &Arc<Policy>,
        cluster: &mut Resolve<'_>,
    ) -> Result<Self, String> {
        let response_headers = || values::compile(&rule.response_headers).map(Arc::from);
        check_prefix(rule, order)?;
        let (backends, rewrite) = match &rule.action {
            RouteAction::Redirect(redirect) => {
                return Ok(Self::Redirect(Redirector::compile(redirect)?, response_headers()?));
            }
            RouteAction::Respond { status, body } => {
                return Ok(Self::Respond(own_status(*status)?, body.clone().into(), response_headers()?));
            }
            RouteAction::Forward { backends, rewrite } => (backends, rewrite),
        };
        let common = Common { rule, order, policy, rewrite: Rewriter::compile(rewrite)? };
        let used = backends.iter().filter(|backend| backend.weight > 0);
        let shares: Result<Vec<Share>, String> = used.map(|backend| common.share(backend, cluster)).collect();
        let backends = shares?;
        match backends.iter().map(|share| share.weight).sum() {
            0 => Err("no backend has a weight".to_owned()),
            total => Ok(Self::Split { backends, total }),
        }
    }
}

/// A final status; one of 1xx would leave the client waiting.
fn own_status(status: u16) -> Result<StatusCode, String> {
    let status = StatusCode::from_u16(status).ok().filter(|status| (200..600).contains(&status.as_u16()));
    status.ok_or_else(|| "the status of the answer is none".to_owned())
}

/// The Gateway API replaces prefixes only where one is matched; a control plane's rule then replaces all of the path.
fn check_prefix(rule: &RouteRule, order: RouteOrder) -> Result<(), String> {
    let path = match &rule.action {
        RouteAction::Forward { rewrite: Rewrite { path, .. }, .. } => path.as_ref(),
        RouteAction::Redirect(redirect) => redirect.path.as_ref(),
        RouteAction::Respond { .. } => None,
    };
    let whole = |wanted: &RouteMatch| matches!(wanted.path, Some(PathMatch::Exact(_) | PathMatch::Regex(_)));
    let replaces = matches!(path, Some(PathRewrite::Prefix(_)));
    if replaces && order == RouteOrder::Precedence && rule.matches.iter().any(whole) {
        return Err("a prefix can be replaced only where a prefix is matched".to_owned());
    }
    Ok(())
}

impl Common<'_> {
    /// `Err`: the whole rule is broken; a backend that leads nowhere breaks its own share only.
    fn share(&self, backend: &Backend, cluster: &mut Resolve<'_>) -> Result<Share, String> {
        let forward = self.forward(backend)?;
        let to = cluster(&backend.target).map_err(Arc::from);
        Ok(Share { weight: u64::from(backend.weight), to: to.map(forward) })
    }

    fn forward(
        &self,
        backend: &Backend,
    ) -> Result<impl FnOnce(Arc<crate::upstream::Cluster>) -> Forward, String> {
        let Self { rule, order, policy, rewrite } = self;
        // Envoy changes a request for the weighted cluster and then for the route; the Gateway API the other way round, so
        // that what is closer to the backend has the last word. A response goes the way back in both.
        let request = match order {
            RouteOrder::Precedence => rule.request_headers.iter().chain(&backend.request_headers),
            RouteOrder::AsWritten => backend.request_headers.iter().chain(&rule.request_headers),
        };
        let request_headers: Arc<[Change]> = values::compile(request)?.into();
        let response = backend.response_headers.iter().chain(&rule.response_headers);
        let response_headers: Arc<[Change]> = values::compile(response)?.into();
        let (name, rewrite) = (rule.name.as_str().into(), rewrite.clone());
        let (timeout, backend_timeout, policy) = (rule.timeout, rule.backend_timeout, Arc::clone(policy));
        Ok(move |cluster| Forward {
            name,
            cluster,
            request_headers,
            response_headers,
            rewrite,
            matched: Matched::Whole,
            timeout,
            backend_timeout,
            policy,
        })
    }
}
