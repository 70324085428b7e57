//! What a message of gRPC names. Numbers are those of `a2a.proto`: package `a2a.v1` of 0.3 and `lf.a2a.v1` of 1.0.

use super::fields::{Named, task_in_name};
use super::operation::{Operation, Vocabulary};
use super::protobuf::{Message, Wire, text};
use crate::reply::Malformed;

/// Bytes before a message: whether it is compressed, and its length (gRPC over HTTP/2, *Length-Prefixed-Message*).
pub(super) const PREFIX: usize = 5;

/// The only message of a request: no operation of A2A takes a stream.
///
/// # Errors
/// Less or more than one message, or a compressed one: its bytes are not its content.
pub(super) fn only_message(body: &[u8]) -> Result<&[u8], Malformed> {
    let (prefix, message) =
        body.split_first_chunk::<PREFIX>().ok_or_else(|| Malformed::parse("grpc_frame"))?;
    let [compressed, length @ ..] = prefix;
    if *compressed != 0 {
        return Err(Malformed::media("grpc_compressed"));
    }
    if usize::try_from(u32::from_be_bytes(*length)) == Ok(message.len()) {
        Ok(message)
    } else {
        Err(Malformed::parse("grpc_frame"))
    }
}

/// Reads what a request of this operation names.
///
/// # Errors
/// A message that could be read in two ways.
pub(super) fn read(
    operation: Operation,
    vocabulary: Vocabulary,
    message: &[u8],
    named: &mut Named,
) -> Result<(), Malformed> {
    let message = Message::read(message)?;
    match vocabulary {
        Vocabulary::New => new(operation, &message, named),
        Vocabulary::Old => old(operation, &message, named),
    }
}

/// Package `lf.a2a.v1`.
fn new(operation: Operation, m: &Message<'_>, named: &mut Named) -> Result<(), Malformed> {
    use Operation as O;
    // Only this one has its tenant elsewhere.
    named.of_tenant(m.text(if operation == O::ListTaskPushNotificationConfigs { 4 } else { 1 })?)?;
    match operation {
        O::SendMessage | O::SendStreamingMessage => {
            let sent = m.message(2)?.ok_or_else(|| Malformed::params("no_message"))?;
            said(&sent, named)?;
            sent.all(8).try_for_each(|task| text(task?).map(|task| named.refers(task)))?;
            metadata(m.message(4)?, named)?;
            let configuration = m.message(3)?;
            let config = configuration.map(|configuration| configuration.message(2)).transpose()?.flatten();
            config.map_or(Ok(()), |config| push_config(&config, named))
        }
        O::GetTask | O::CancelTask | O::SubscribeToTask => {
            named.about(m.text(2)?)?;
            if operation == O::CancelTask { metadata(m.message(3)?, named) } else { Ok(()) }
        }
        O::ListTasks => named.in_context(m.text(2)?),
        O::CreateTaskPushNotificationConfig => {
            named.about(m.text(3)?)?;
            push_config(m, named)
        }
        O::GetTaskPushNotificationConfig | O::DeleteTaskPushNotificationConfig => named.about(m.text(2)?),
        O::ListTaskPushNotificationConfigs => named.about(m.text(1)?),
        O::GetExtendedAgentCard | O::GetAgentCard => Ok(()),
    }
}

/// `TaskPushNotificationConfig` of 1.0.
fn push_config(config: &Message<'_>, named: &mut Named) -> Result<(), Malformed> {
    named.of_tenant(config.text(1)?)?;
    if let Some(task) = config.text(3)? {
        named.refers(task);
    }
    named.push_urls.extend(config.text(4)?);
    Ok(())
}

/// Package `a2a.v1`.
fn old(operation: Operation, m: &Message<'_>, named: &mut Named) -> Result<(), Malformed> {
    use Operation as O;
    match operation {
        O::SendMessage | O::SendStreamingMessage => {
            said(&m.message(1)?.ok_or_else(|| Malformed::params("no_message"))?, named)?;
            metadata(m.message(3)?, named)?;
            let configuration = m.message(2)?;
            let push = configuration.map(|configuration| configuration.message(2)).transpose()?.flatten();
            named.push_urls.extend(push.map(|push| push.text(2)).transpose()?.flatten());
            Ok(())
        }
        O::CreateTaskPushNotificationConfig => {
            named.about(in_name(m, true)?)?;
            let Some(config) = m.message(3)? else { return Ok(()) };
            if let Some(task) = in_name(&config, true)? {
                named.refers(task);
            }
            let push = config.message(2)?;
            named.push_urls.extend(push.map(|push| push.text(2)).transpose()?.flatten());
            Ok(())
        }
        _ if operation.needs_task() => named.about(in_name(m, operation.is_push())?),
        _ => Ok(()),
    }
}

/// The task in the resource name that is a message's first field.
fn in_name(m: &Message<'_>, push: bool) -> Result<Option<String>, Malformed> {
    m.text(1)?.map(|name| task_in_name(&name, push)).transpose()
}

/// `Message`, whose numbers up to 7 are those of either package.
fn said(message: &Message<'_>, named: &mut Named) -> Result<(), Malformed> {
    named.in_context(message.text(2)?)?;
    named.about(message.text(3)?)?;
    metadata(message.message(6)?, named)?;
    message.all(7).try_for_each(|extension| text(extension?).map(|extension| named.extends(extension)))
}

/// `google.protobuf.Struct`: a map, of whose entries readers take the last.
fn metadata(metadata: Option<Message<'_>>, named: &mut Named) -> Result<(), Malformed> {
    let Some(metadata) = metadata else { return Ok(()) };
    let mut keys = std::collections::HashSet::new();
    for entry in metadata.all(1) {
        let entry = Message::read(entry?)?;
        let key = entry.text(1)?.unwrap_or_default();
        if !keys.insert(key.clone()) {
            return Err(Malformed::parse("duplicate_key"));
        }
        let value = entry.message(2)?;
        let text = value.as_ref().map(struct_text).transpose()?.flatten();
        named.metadata.push((key, text));
    }
    Ok(())
}

/// `google.protobuf.Value`, a choice of one: field 3 is its text.
fn struct_text(value: &Message<'_>) -> Result<Option<String>, Malformed> {
    match value.fields() {
        [field] if field.number == 3 => match field.value {
            Wire::Bytes(bytes) => text(bytes).map(Some),
            Wire::Varint(_) | Wire::Fixed => Err(Malformed::parse("wire_type")),
        },
        [] | [_] => Ok(None),
        _ => Err(Malformed::parse("duplicate_field")),
    }
}
