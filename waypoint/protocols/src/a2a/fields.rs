//! What a request names, whatever binding said it.

use crate::reply::Malformed;

/// Ids are visible and short; UUIDs are usual.
const MAX_ID: usize = 256;
/// URIs of extensions and push notifications.
const MAX_URI: usize = 2048;
/// Tasks that one message refers to, and extensions that it asks for.
const MAX_NAMED: usize = 32;

/// The things named, as they were told; not yet judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// The task that it is about, then those that it refers to.
    pub(super) tasks: Vec<String>,
    pub(super) context: Option<String>,
    pub(super) tenant: Option<String>,
    pub(super) extensions: Vec<String>,
    /// Where push notifications are to go.
    pub(super) push_urls: Vec<String>,
    /// Metadata of the request and of its message; `None` is no text.
    pub(super) metadata: Vec<(String, Option<String>)>,
}

impl Named {
    /// The task that a request is about: every place that names one names the same.
    pub(super) fn about(&mut self, task: Option<String>) -> Result<(), Malformed> {
        match (task, self.tasks.first()) {
            (Some(task), None) => self.tasks.push(task),
            (Some(task), Some(known)) if task != *known => return Err(Malformed::params("tasks_disagree")),
            _ => {}
        }
        Ok(())
    }

    /// A further task.
    pub(super) fn refers(&mut self, task: String) {
        if !self.tasks.contains(&task) {
            self.tasks.push(task);
        }
    }

    pub(super) fn in_context(&mut self, context: Option<String>) -> Result<(), Malformed> {
        one(&mut self.context, context, "contexts_disagree")
    }

    pub(super) fn of_tenant(&mut self, tenant: Option<String>) -> Result<(), Malformed> {
        one(&mut self.tenant, tenant, "tenants_disagree")
    }

    pub(super) fn extends(&mut self, extension: String) {
        if !self.extensions.contains(&extension) {
            self.extensions.push(extension);
        }
    }

    /// Bounds, and what no id or URI is.
    pub(super) fn check(&self) -> Result<(), Malformed> {
        if self.tasks.len() > MAX_NAMED || self.extensions.len() > MAX_NAMED {
            return Err(Malformed::params("too_many_named"));
        }
        let mut ids = self.tasks.iter().chain(&self.context).chain(&self.tenant);
        if !ids.all(|id| is_text(id, MAX_ID)) {
            return Err(Malformed::params("bad_id"));
        }
        let mut uris = self.extensions.iter().chain(&self.push_urls);
        if !uris.all(|uri| is_text(uri, MAX_URI)) {
            return Err(Malformed::params("bad_uri"));
        }
        Ok(())
    }
}

fn one(slot: &mut Option<String>, told: Option<String>, why: &'static str) -> Result<(), Malformed> {
    match (told, &slot) {
        (Some(told), Some(known)) if told != **known => Err(Malformed::params(why)),
        (Some(told), None) => {
            *slot = Some(told);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn is_text(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && !text.contains(char::is_control)
}

/// What may stand as an id in a path (A-7: a router takes `:` and `/` for its own).
pub(super) fn is_path_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
        && id.bytes().any(|byte| byte != b'.')
}

/// The task in a resource name of 0.3, `tasks/{id}` or `tasks/{id}/pushNotificationConfigs[/{config}]`.
///
/// # Errors
/// Any other name.
pub(super) fn task_in_name(name: &str, push: bool) -> Result<String, Malformed> {
    let bad = || Malformed::params("bad_name");
    let mut parts = name.split('/');
    if parts.next() != Some("tasks") {
        return Err(bad());
    }
    let id = parts.next().filter(|id| is_path_id(id)).ok_or_else(bad)?;
    match (parts.next(), parts.next(), parts.next()) {
        (None, _, _) | (Some("pushNotificationConfigs"), None, _)
            if push || name.matches('/').count() == 1 => {}
        (Some("pushNotificationConfigs"), Some(config), None) if push && is_path_id(config) => {}
        _ => return Err(bad()),
    }
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_name_names_one_task() {
        let config = "tasks/x/pushNotificationConfigs";
        for (name, push, want) in [
            ("tasks/x", false, Some("x")),
            ("tasks/x", true, Some("x")),
            (config, true, Some("x")),
            ("tasks/x/pushNotificationConfigs/c", true, Some("x")),
            (config, false, None),
            ("tasks/x/pushNotificationConfigs/c/d", true, None),
            ("tasks/x/other", true, None),
            ("tasks/", false, None),
            ("tasks/..", false, None),
            ("tasks/x:cancel", false, None),
            ("tasks/x%2fy", false, None),
            ("task/x", false, None),
            ("/tasks/x", false, None),
            ("x", false, None),
            ("", false, None),
        ] {
            assert_eq!(task_in_name(name, push).ok().as_deref(), want, "{name}");
        }
    }

    #[test]
    fn places_that_name_the_same_thing_agree() {
        let mut named = Named::default();
        named.about(Some("a".to_owned())).unwrap();
        named.about(None).unwrap();
        named.about(Some("a".to_owned())).unwrap();
        assert_eq!(named.about(Some("b".to_owned())).unwrap_err().name, "tasks_disagree");
        named.of_tenant(Some("t".to_owned())).unwrap();
        assert_eq!(named.of_tenant(Some("u".to_owned())).unwrap_err().name, "tenants_disagree");
    }
}
