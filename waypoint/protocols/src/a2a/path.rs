//! Paths of the HTTP+JSON binding (A2A 0.3 §3.5.3, 1.0 §11.3), found by their end: an agent may be mounted anywhere.

use super::fields::is_path_id;
use super::operation::Operation;
use crate::reply::Malformed;
use ::http::Method;
use std::borrow::Cow;

/// What method and path alone say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An operation of the HTTP+JSON binding.
    Rest(Rest),
    /// Anything else: JSON-RPC if it is a POST, and plain HTTP if not.
    Other,
}

/// An operation of the HTTP+JSON binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) operation: Operation,
    pub(super) task: Option<String>,
    /// The segment before, where a tenant may stand. An agent that is mounted below a path has its mount there.
    pub(super) tenant: Tenant,
    /// Below `/v1`: 0.3.
    pub(super) old: bool,
}

/// What a path says of the tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tenant {
    None,
    /// The only segment before the operation.
    Segment(String),
    /// Several segments: which is a tenant, and which a mount, cannot be told.
    Unclear,
}

/// Tells what a path is.
///
/// # Errors
/// A path that one router takes for an operation and another does not: encoded, re-cased, with empty or dot segments or
/// path parameters; an id that is none.
pub(super) fn tell(method: &Method, path: &str) -> Result<Place, Malformed> {
    let path = decode(path)?;
    let segments: Vec<&str> = path.strip_prefix('/').unwrap_or(&path).split('/').collect();
    check(&segments)?;
    if let Some((operation, task, length)) = operation(method, &segments) {
        let before = segments.get(..segments.len() - length).unwrap_or_default();
        let task_is_clear = task.is_none_or(|task| is_path_id(task) && !is_like_an_operation("", task));
        if !task_is_clear || resembles(before) {
            return Err(Malformed::invalid("path_unclear"));
        }
        let (old, before) = match before.split_last() {
            Some((&"v1", before)) => (true, before),
            _ => (false, before),
        };
        let tenant = match before {
            [] => Tenant::None,
            // The public card is one agent's, and below `agent` there is only the extended card of 0.2.
            [tenant] => Tenant::Segment((*tenant).to_owned()),
            _ => Tenant::Unclear,
        };
        return Ok(Place::Rest(Rest { operation, task: task.map(str::to_owned), tenant, old }));
    }
    if resembles(&segments) { Err(Malformed::invalid("path_unclear")) } else { Ok(Place::Other) }
}

/// `%3A` is a colon to some routers, so it is one here. Nothing else in these paths needs an encoding.
fn decode(path: &str) -> Result<Cow<'_, str>, Malformed> {
    if !path.contains('%') {
        return Ok(path.into());
    }
    let decoded = path.replace("%3A", ":").replace("%3a", ":");
    if decoded.contains('%') { Err(Malformed::invalid("path_encoding")) } else { Ok(decoded.into()) }
}

fn check(segments: &[&str]) -> Result<(), Malformed> {
    let last = segments.len().saturating_sub(1);
    let bad = |(at, segment): (usize, &&str)| {
        matches!(*segment, "." | "..")
            || (segment.is_empty() && at != last)
            || segment.bytes().any(|byte| matches!(byte, b'\\' | b';') || !byte.is_ascii_graphic())
    };
    if segments.iter().enumerate().any(bad) { Err(Malformed::invalid("path_unclear")) } else { Ok(()) }
}

/// The operation, its task, and how many segments name it.
fn operation<'s>(method: &Method, segments: &[&'s str]) -> Option<(Operation, Option<&'s str>, usize)> {
    use Operation as O;
    let (get, post) = (method == Method::GET, method == Method::POST);
    if let Some(found) = push(method, segments) {
        return Some(found);
    }
    match segments {
        [.., "message:send"] if post => Some((O::SendMessage, None, 1)),
        [.., "message:stream"] if post => Some((O::SendStreamingMessage, None, 1)),
        [.., ".well-known", "agent-card.json" | "agent.json"] if get => Some((O::GetAgentCard, None, 2)),
        [.., "extendedAgentCard"] if get => Some((O::GetExtendedAgentCard, None, 1)),
        [.., "v1", "card"] if get => Some((O::GetExtendedAgentCard, None, 1)),
        [.., "agent", "authenticatedExtendedCard"] if get => Some((O::GetExtendedAgentCard, None, 2)),
        [.., "tasks", last] if get && !last.contains(':') => Some((O::GetTask, Some(*last), 2)),
        [.., "tasks", last] => {
            let (task, verb) = last.rsplit_once(':')?;
            match verb {
                "cancel" if post => Some((O::CancelTask, Some(task), 2)),
                "subscribe" if get || post => Some((O::SubscribeToTask, Some(task), 2)),
                _ => None,
            }
        }
        [.., "tasks"] if get => Some((O::ListTasks, None, 1)),
        _ => None,
    }
}

fn push<'s>(method: &Method, segments: &[&'s str]) -> Option<(Operation, Option<&'s str>, usize)> {
    use Operation as O;
    match segments {
        // `task` is written so in the service definition of 0.3.
        [.., "tasks" | "task", task, "pushNotificationConfigs"] if method == Method::POST => {
            Some((O::CreateTaskPushNotificationConfig, Some(*task), 3))
        }
        [.., "tasks", task, "pushNotificationConfigs"] if method == Method::GET => {
            Some((O::ListTaskPushNotificationConfigs, Some(*task), 3))
        }
        [.., "tasks", task, "pushNotificationConfigs", config] if is_path_id(config) => {
            let operation = match *method {
                Method::GET => O::GetTaskPushNotificationConfig,
                Method::DELETE => O::DeleteTaskPushNotificationConfig,
                _ => return None,
            };
            Some((operation, Some(*task), 4))
        }
        _ => None,
    }
}

fn resembles(segments: &[&str]) -> bool {
    let before = std::iter::once("").chain(segments.iter().copied());
    segments.iter().zip(before).any(|(segment, before)| is_like_an_operation(before, segment))
}

/// Whether some router may take the segment for a part of an operation's path.
fn is_like_an_operation(before: &str, segment: &str) -> bool {
    let (before, segment) = (before.to_ascii_lowercase(), segment.to_ascii_lowercase());
    let whole =
        ["tasks", "task", "pushnotificationconfigs", "extendedagentcard", "authenticatedextendedcard"];
    whole.contains(&segment.as_str())
        || segment.contains(':')
        || (segment == "card" && before == "v1")
        || (before == ".well-known" && segment.starts_with("agent"))
        || segment.contains("a2aservice")
}

#[cfg(test)]
mod tests {
    use super::*;
    use Operation as O;

    fn rest(method: &str, path: &str) -> Result<Option<(O, Option<String>)>, &'static str> {
        match tell(&method.parse().unwrap(), path) {
            Ok(Place::Rest(rest)) => Ok(Some((rest.operation, rest.task))),
            Ok(Place::Other) => Ok(None),
            Err(error) => Err(error.name),
        }
    }

    #[test]
    fn every_operation_is_found_below_any_mount() {
        let x = || Some("x".to_owned());
        let rows = [
            ("POST", "message:send", O::SendMessage, None),
            ("POST", "message%3Asend", O::SendMessage, None),
            ("POST", "message%3asend", O::SendMessage, None),
            ("POST", "message:stream", O::SendStreamingMessage, None),
            ("GET", "tasks", O::ListTasks, None),
            ("GET", "tasks/x", O::GetTask, x()),
            ("POST", "tasks/x:cancel", O::CancelTask, x()),
            ("POST", "tasks/x%3Acancel", O::CancelTask, x()),
            ("POST", "tasks/x:subscribe", O::SubscribeToTask, x()),
            ("GET", "tasks/x:subscribe", O::SubscribeToTask, x()),
            ("POST", "tasks/x/pushNotificationConfigs", O::CreateTaskPushNotificationConfig, x()),
            ("POST", "task/x/pushNotificationConfigs", O::CreateTaskPushNotificationConfig, x()),
            ("GET", "tasks/x/pushNotificationConfigs", O::ListTaskPushNotificationConfigs, x()),
            ("GET", "tasks/x/pushNotificationConfigs/c", O::GetTaskPushNotificationConfig, x()),
            ("DELETE", "tasks/x/pushNotificationConfigs/c", O::DeleteTaskPushNotificationConfig, x()),
            ("GET", "extendedAgentCard", O::GetExtendedAgentCard, None),
            ("GET", ".well-known/agent-card.json", O::GetAgentCard, None),
        ];
        for (method, path, operation, task) in rows {
            for mount in ["/", "/v1/", "/acme/", "/acme/v1/", "/a/b/c/", "/api/v1/acme/"] {
                let whole = format!("{mount}{path}");
                assert_eq!(rest(method, &whole), Ok(Some((operation, task.clone()))), "{method} {whole}");
            }
        }
        assert_eq!(rest("GET", "/v1/card"), Ok(Some((O::GetExtendedAgentCard, None))));
        assert_eq!(
            rest("GET", "/a/agent/authenticatedExtendedCard"),
            Ok(Some((O::GetExtendedAgentCard, None)))
        );
        assert_eq!(rest("GET", "/.well-known/agent.json"), Ok(Some((O::GetAgentCard, None))));
    }

    #[test]
    fn what_one_router_would_take_for_an_operation_is_refused() {
        for (method, path) in [
            ("POST", "/Message:Send"),
            ("POST", "/message:send/"),
            ("POST", "/message:send/x"),
            ("POST", "/message:other"),
            ("PUT", "/tasks/x"),
            ("POST", "/tasks/x"),
            ("POST", "/tasks"),
            ("POST", "/TASKS/x:cancel"),
            ("POST", "/tasks/x:Cancel"),
            ("GET", "/tasks/x:cancel"),
            ("POST", "/tasks/x:y:cancel"),
            ("POST", "/tasks/:cancel"),
            ("POST", "/tasks/x:cancel/"),
            ("POST", "/tasks/..:cancel"),
            ("POST", "//tasks/x:cancel"),
            ("POST", "/./tasks/x:cancel"),
            ("POST", "/a/../tasks/x:cancel"),
            ("POST", "/a;b/tasks/x:cancel"),
            ("POST", "\\tasks\\x:cancel"),
            ("GET", "/tasks/"),
            ("GET", "/tasks/tasks"),
            ("GET", "/tasks/a/tasks/b"),
            ("GET", "/tasks/x/pushnotificationconfigs"),
            ("DELETE", "/tasks/x/pushNotificationConfigs"),
            ("DELETE", "/task/x/pushNotificationConfigs/c"),
            ("GET", "/V1/card"),
            ("GET", "/.WELL-KNOWN/agent-card.json"),
            ("GET", "/.well-known/agent-card.json/"),
            ("POST", "/a2a.v1.A2AService/CancelTask"),
            ("POST", "/LF.a2a.v1.a2aservice/CancelTask"),
        ] {
            assert_eq!(rest(method, path), Err("path_unclear"), "{method} {path}");
        }
        for path in ["/tasks%2Fx:cancel", "/tasks/x%253Acancel", "/%74asks/x", "/a%20b"] {
            assert_eq!(rest("POST", path), Err("path_encoding"), "{path}");
        }
    }

    #[test]
    fn other_paths_are_json_rpc_or_plain() {
        for path in ["/", "/a2a", "/a2a/", "/a2a/v1", "/card", "/agent", "/message", "/v1"] {
            assert_eq!(rest("POST", path), Ok(None), "{path}");
        }
    }

    #[test]
    fn a_tenant_is_told_where_only_one_segment_can_be_it() {
        for (path, want) in [
            ("/tasks/x", Tenant::None),
            ("/v1/tasks/x", Tenant::None),
            ("/acme/tasks/x", Tenant::Segment("acme".to_owned())),
            ("/acme/v1/tasks/x", Tenant::Segment("acme".to_owned())),
            ("/api/acme/tasks/x", Tenant::Unclear),
        ] {
            let Ok(Place::Rest(rest)) = tell(&Method::GET, path) else { panic!("{path}") };
            assert_eq!(rest.tenant, want, "{path}");
        }
    }
}
