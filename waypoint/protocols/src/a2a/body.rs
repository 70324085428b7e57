//! What a JSON body names: `params` of JSON-RPC, or the body of a REST request. Versions spell and nest it differently, and
//! servers of several versions read either, so everything is looked for.

use super::fields::{Named, task_in_name};
use super::operation::{Operation, Vocabulary};
use super::spelling::Spelled;
use crate::json::{Shape, Value};
use crate::reply::Malformed;

/// Members of a request, of any operation.
const REQUEST: &[&str] = &[
    "tenant",
    "id",
    "name",
    "parent",
    "taskId",
    "contextId",
    "message",
    "request",
    "configuration",
    "metadata",
    "config",
    "configId",
    "pushNotificationConfig",
    "pushNotificationConfigId",
    "taskPushNotificationConfig",
    "pushNotification",
    "url",
];
const MESSAGE: &[&str] = &[
    "messageId",
    "taskId",
    "contextId",
    "referenceTaskIds",
    "extensions",
    "metadata",
    "parts",
    "content",
    "role",
];
const CONFIGURATION: &[&str] =
    &["pushNotificationConfig", "taskPushNotificationConfig", "pushNotification", "acceptedOutputModes"];
const PUSH: &[&str] =
    &["tenant", "id", "name", "taskId", "url", "config", "pushNotificationConfig", "token", "authentication"];
/// A push notification config inside a config inside a request.
const PUSH_NESTING: usize = 3;

/// Reads what a request of this operation names.
///
/// # Errors
/// A member that is spelled twice, that is none, or that contradicts another.
pub(super) fn read(
    operation: Operation,
    vocabulary: Vocabulary,
    rest: bool,
    params: Value<'_, '_>,
    named: &mut Named,
) -> Result<(), Malformed> {
    let params = Spelled::read(params, REQUEST)?;
    named.of_tenant(params.text("tenant")?)?;
    named.in_context(params.text("contextId")?)?;
    metadata(params.get("metadata"), named)?;
    if operation.sends() {
        return send(params, named);
    }
    if operation.needs_task() {
        about(operation, vocabulary, rest, params, named)?;
    }
    if operation == Operation::CreateTaskPushNotificationConfig {
        named.push_urls.extend(params.text("url")?);
        let nested = params.one_of(&["config", "pushNotificationConfig", "taskPushNotificationConfig"])?;
        push(nested, PUSH_NESTING, named)?;
    }
    Ok(())
}

/// The task, from every member that may name it.
fn about(
    operation: Operation,
    vocabulary: Vocabulary,
    rest: bool,
    params: Spelled<'_, '_>,
    named: &mut Named,
) -> Result<(), Malformed> {
    named.about(params.text("taskId")?)?;
    // Of a push notification config 1.0 and REST call the config `id`; JSON-RPC up to 0.3 the task.
    let id_is_the_task = !operation.is_push() || (vocabulary == Vocabulary::Old && !rest);
    if id_is_the_task {
        named.about(params.text("id")?)?;
    }
    for name in ["name", "parent"] {
        let told = params.text(name)?.map(|name| task_in_name(&name, operation.is_push())).transpose()?;
        named.about(told)?;
    }
    Ok(())
}

fn send(params: Spelled<'_, '_>, named: &mut Named) -> Result<(), Malformed> {
    // `request` is the field's own name in 0.3, which ProtoJSON takes for `message`.
    let message = params.one_of(&["message", "request"])?.ok_or_else(|| Malformed::params("no_message"))?;
    let message = Spelled::read(message, MESSAGE)?;
    named.about(message.text("taskId")?)?;
    named.in_context(message.text("contextId")?)?;
    message.texts("referenceTaskIds")?.into_iter().for_each(|task| named.refers(task));
    message.texts("extensions")?.into_iter().for_each(|extension| named.extends(extension));
    metadata(message.get("metadata"), named)?;
    let Some(configuration) = params.get("configuration") else { return Ok(()) };
    let configuration = Spelled::read(configuration, CONFIGURATION)?;
    let names = ["pushNotificationConfig", "taskPushNotificationConfig", "pushNotification"];
    push(configuration.one_of(&names)?, PUSH_NESTING, named)
}

/// A push notification config, however deep its version puts the URL. Other tasks that it names are judged too.
fn push(config: Option<Value<'_, '_>>, depth: usize, named: &mut Named) -> Result<(), Malformed> {
    let Some(config) = config else { return Ok(()) };
    if depth == 0 {
        return Err(Malformed::params("push_config_too_deep"));
    }
    let config = Spelled::read(config, PUSH)?;
    named.of_tenant(config.text("tenant")?)?;
    if let Some(task) = config.text("taskId")? {
        named.refers(task);
    }
    if let Some(name) = config.text("name")? {
        named.refers(task_in_name(&name, true)?);
    }
    named.push_urls.extend(config.text("url")?);
    push(config.one_of(&["pushNotificationConfig", "config"])?, depth - 1, named)
}

fn metadata(metadata: Option<Value<'_, '_>>, named: &mut Named) -> Result<(), Malformed> {
    let Some(metadata) = metadata else { return Ok(()) };
    if !metadata.is(Shape::Object) {
        return Err(Malformed::params("not_an_object"));
    }
    let told = metadata.members().map(|(key, value)| (key.into_owned(), value.as_str().map(Into::into)));
    named.metadata.extend(told);
    Ok(())
}
