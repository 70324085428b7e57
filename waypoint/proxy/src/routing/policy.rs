//! What a rule does beside choosing a backend, compiled.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::HeaderName;
use waypoint_model::{Cors, Fault, HashKey, Retries, RetryOn, RoutePolicy};

use super::table::Resolve;
use crate::upstream::Cluster;

/// A compiled [`RoutePolicy`].
#[derive(Default)]
pub(crate) struct Policy {
    pub(crate) retries: Option<Arc<Retries>>,
    pub(crate) mirrors: Vec<Copies>,
    pub(crate) cors: Option<CrossOrigin>,
    pub(crate) fault: Fault,
    pub(crate) hash: Vec<HashKey>,
    pub(crate) no_upgrade: bool,
}

/// Where copies go.
pub(crate) struct Copies {
    pub(crate) cluster: Arc<Cluster>,
    /// In millionths.
    pub(crate) fraction: u32,
}

/// A [`Cors`] whose headers were checked.
pub(crate) struct CrossOrigin {
    pub(crate) cors: Cors,
    /// `None`: the header is left out.
    pub(crate) allow_methods: Option<HeaderValue>,
    pub(crate) allow_headers: Option<HeaderValue>,
    pub(crate) expose_headers: Option<HeaderValue>,
    pub(crate) max_age: Option<HeaderValue>,
}

impl Policy {
    /// Compiles. A mirror that leads nowhere is left out: the request itself goes its way (Gateway API, Envoy).
    ///
    /// # Errors
    /// What cannot be carried out, by name: the rule is broken then.
    pub(super) fn compile(policy: &RoutePolicy, cluster: &mut Resolve<'_>) -> Result<Arc<Self>, String> {
        let mut mirrors = Vec::new();
        for mirror in &policy.mirrors {
            match cluster(&mirror.target) {
                Ok(cluster) => mirrors.push(Copies { cluster, fraction: mirror.fraction }),
                Err(why) => tracing::warn!(%why, "a mirror leads nowhere"),
            }
        }
        let fault = policy.fault.clone().unwrap_or_default();
        check_fault(&fault)?;
        policy.hash.iter().try_for_each(check_hash)?;
        if let Some(retries) = &policy.retries {
            check_retries(retries)?;
        }
        Ok(Arc::new(Self {
            retries: policy.retries.clone().filter(|retries| retries.attempts > 0).map(Arc::new),
            mirrors,
            cors: policy.cors.as_ref().map(CrossOrigin::compile).transpose()?,
            fault,
            hash: policy.hash.clone(),
            no_upgrade: policy.no_upgrade,
        }))
    }
}

impl CrossOrigin {
    pub(crate) fn compile(cors: &Cors) -> Result<Self, String> {
        let value = |name: &str, text: &str| {
            let value = HeaderValue::try_from(text).map_err(|_bad| format!("`{text}` cannot be {name}"));
            value.map(|value| (!value.is_empty()).then_some(value))
        };
        Ok(Self {
            allow_methods: value("access-control-allow-methods", &cors.allow_methods)?,
            allow_headers: value("access-control-allow-headers", &cors.allow_headers)?,
            expose_headers: value("access-control-expose-headers", &cors.expose_headers)?,
            max_age: value("access-control-max-age", &cors.max_age)?,
            cors: cors.clone(),
        })
    }
}

fn check_fault(fault: &Fault) -> Result<(), String> {
    match (fault.abort, fault.grpc_abort) {
        (Some(_), Some(_)) => Err("a fault aborts with one status, not two".to_owned()),
        (Some((status, _)), _) if !(200..600).contains(&status) => {
            Err(format!("{status} is no status of an aborted request"))
        }
        (_, Some((code, _))) if code > 16 => Err(format!("{code} is no gRPC status")),
        _fine => Ok(()),
    }
}

fn check_hash(key: &HashKey) -> Result<(), String> {
    let token = |text: &str| HeaderName::try_from(text).is_ok();
    match key {
        HashKey::Header(name) if name != ":authority" && !token(name) => {
            Err(format!("`{name}` is no header name"))
        }
        HashKey::Cookie { name, path, .. }
            if !token(name) || path.contains(';') || HeaderValue::try_from(path).is_err() =>
        {
            Err(format!("`{name}` with the path `{path}` is no cookie"))
        }
        HashKey::Header(_) | HashKey::Cookie { .. } | HashKey::Query(_) | HashKey::SourceIp => Ok(()),
    }
}

fn check_retries(retries: &Retries) -> Result<(), String> {
    let bad = |on: &RetryOn| match on {
        RetryOn::Statuses(statuses) => statuses.iter().find(|status| !(200..600).contains(*status)).copied(),
        _other => None,
    };
    match retries.on.iter().find_map(bad) {
        Some(status) => Err(format!("{status} is no status to retry after")),
        None if retries.backoff.is_some_and(|pause| pause > Duration::from_secs(60)) => {
            Err("a pause of more than a minute between attempts".to_owned())
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_name() {
        let fault = |fault| RoutePolicy { fault: Some(fault), ..RoutePolicy::default() };
        let cookie =
            |name: &str, path: &str| HashKey::Cookie { name: name.into(), path: path.into(), ttl: None };
        let hash = |key| RoutePolicy { hash: vec![key], ..RoutePolicy::default() };
        let cors = Cors { allow_methods: "GET\r\nx: y".into(), ..Cors::default() };
        let statuses = Retries {
            attempts: 1,
            on: vec![RetryOn::Statuses(vec![503, 99])],
            per_try_timeout: None,
            backoff: None,
        };
        let rows = [
            (fault(Fault { abort: Some((101, 1)), ..Fault::default() }), "101"),
            (fault(Fault { grpc_abort: Some((17, 1)), ..Fault::default() }), "17"),
            (fault(Fault { abort: Some((500, 1)), grpc_abort: Some((1, 1)), delay: None }), "two"),
            (hash(HashKey::Header("a b".into())), "a b"),
            (hash(cookie("a;b", "/")), "a;b"),
            (hash(cookie("a", "/; Domain=x")), "Domain=x"),
            (RoutePolicy { cors: Some(cors), ..RoutePolicy::default() }, "allow-methods"),
            (RoutePolicy { retries: Some(statuses), ..RoutePolicy::default() }, "99"),
        ];
        for (policy, named) in rows {
            let error = Policy::compile(&policy, &mut |_| Err(String::new())).err().unwrap();
            assert!(error.contains(named), "{policy:?}: {error}");
        }
    }
}
