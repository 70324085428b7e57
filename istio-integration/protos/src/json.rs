//! Messages as protobuf JSON, with what is in each `Any` written out: the form of Envoy's `config_dump`.

use std::sync::LazyLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, Value};
use prost_reflect::{ReflectMessage as _, SerializeOptions};
use serde_json::{Map, Value as Json, json};

use crate::table::{self, Treatment};
use crate::{Any, type_name};

/// Descriptors of `proto/`, for JSON only; inspection has its own table, which needs no start.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| {
    DescriptorPool::decode(include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin")).as_slice()).ok()
});

/// The message as JSON, `@type` first, names as in the `.proto` files, unset fields left out: ProtoJSON as
/// Envoy writes it in its dumps. Readers of ProtoJSON take these names and those in lower camel case alike.
///
/// A type that `proto/` does not have, bytes that do not decode, and a type that is treated as a whole and holds
/// something unknown, are given as `{"@type": …, "value": base64}`. An unknown field of a type that is used is left
/// out; [`crate::inspect()`] names it.
pub fn to_json(type_url: &str, value: &[u8]) -> Json {
    let mut object = Map::new();
    object.insert("@type".to_owned(), type_url.into());
    match decoded(type_url, value) {
        Some(message) => match well_known(&message) {
            Some(json) => drop(object.insert("value".to_owned(), json)),
            None => object.extend(fields(&message)),
        },
        None => drop(object.insert("value".to_owned(), base64(value).into())),
    }
    Json::Object(object)
}

/// The message that ProtoJSON with an `@type` says, as Istio's `EnvoyFilter` has it.
///
/// # Errors
/// What is wrong, with the name of a field where one is not known: a type that `proto/` does not have, a field that its
/// message does not have, or a value of another kind.
pub fn from_json(json: &Json) -> Result<Any, NotAMessage> {
    let Json::Object(members) = json else { return Err(NotAMessage("is no object".to_owned())) };
    let type_url = members.get("@type").and_then(Json::as_str);
    let type_url = type_url.ok_or_else(|| NotAMessage("has no @type".to_owned()))?;
    let name = type_name(type_url);
    let unknown = || NotAMessage(format!("{name} is not known"));
    let descriptor = POOL.as_ref().and_then(|pool| pool.get_message_by_name(name)).ok_or_else(unknown)?;
    let members = members.iter().filter(|(key, _)| *key != "@type");
    let members: Map<String, Json> = members.map(|(key, value)| (key.clone(), value.clone())).collect();
    let message = DynamicMessage::deserialize(descriptor, Json::Object(members));
    let message = message.map_err(|error| NotAMessage(error.to_string()))?;
    Ok(Any { type_url: type_url.to_owned(), value: message.encode_to_vec().into() })
}

/// Why JSON is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAMessage(String);

fn decoded(type_url: &str, value: &[u8]) -> Option<DynamicMessage> {
    let name = type_name(type_url);
    let descriptor = POOL.as_ref()?.get_message_by_name(name)?;
    let message = DynamicMessage::decode(descriptor, value).ok()?;
    let as_a_whole = table::message(name).is_some_and(|row| row.treatment != Treatment::Used);
    (!as_a_whole || is_understood(&message)).then_some(message)
}

fn is_understood(message: &DynamicMessage) -> bool {
    message.unknown_fields().next().is_none() && message.fields().all(|(_, value)| is_value_understood(value))
}

fn is_value_understood(value: &Value) -> bool {
    match value {
        Value::Message(message) => is_understood(message),
        Value::List(values) => values.iter().all(is_value_understood),
        Value::Map(entries) => entries.values().all(is_value_understood),
        _ => true,
    }
}

fn fields(message: &DynamicMessage) -> Map<String, Json> {
    let json = |(field, value): (FieldDescriptor, &Value)| {
        let mut json = field_json(&field, value);
        if field.full_name() == KEYS {
            hide_keys(&mut json);
        }
        (field.name().to_owned(), json)
    };
    message.fields().map(json).collect()
}

/// Keys of tokens: a symmetric one verifies and signs alike, so a dump does not show it.
const KEYS: &str = "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider.local_jwks";

/// Members of a JWK that only its owner may know (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
const SECRETS: [&str; 8] = ["k", "d", "p", "q", "dp", "dq", "qi", "oth"];

fn hide_keys(source: &mut Json) {
    let Json::Object(source) = source else { return };
    for (name, value) in source.iter_mut().filter(|(name, _)| name.starts_with("inline_")) {
        let set = value.as_str().filter(|_| name == "inline_string");
        let set = set.and_then(|text| serde_json::from_str::<Json>(text).ok());
        *value = match set {
            Some(mut set) => {
                hide(&mut set);
                set.to_string().into()
            }
            None => "(not shown)".into(),
        };
    }
}

fn hide(value: &mut Json) {
    match value {
        Json::Object(members) => members.iter_mut().for_each(|(name, value)| {
            if SECRETS.contains(&name.as_str()) {
                *value = "(not shown)".into();
            } else {
                hide(value);
            }
        }),
        Json::Array(entries) => entries.iter_mut().for_each(hide),
        _ => {}
    }
}

fn field_json(field: &FieldDescriptor, value: &Value) -> Json {
    match value {
        Value::List(values) => values.iter().map(|value| value_json(&field.kind(), value)).collect(),
        Value::Map(entries) => {
            let Kind::Message(entry) = field.kind() else { return Json::Null };
            let kind = entry.map_entry_value_field().kind();
            // A map has no order of its own: sorted, so that the same message gives the same text.
            let sorted: std::collections::BTreeMap<_, _> =
                entries.iter().map(|(key, value)| (key_text(key), value_json(&kind, value))).collect();
            Json::Object(sorted.into_iter().collect())
        }
        value => value_json(&field.kind(), value),
    }
}

fn value_json(kind: &Kind, value: &Value) -> Json {
    match value {
        Value::Bool(value) => (*value).into(),
        Value::I32(value) => (*value).into(),
        Value::U32(value) => (*value).into(),
        // 64 bits do not fit a JSON number everywhere, so ProtoJSON has them as text.
        Value::I64(value) => value.to_string().into(),
        Value::U64(value) => value.to_string().into(),
        Value::F32(value) => float(f64::from(*value)),
        Value::F64(value) => float(*value),
        Value::String(value) => value.as_str().into(),
        Value::Bytes(value) => base64(value).into(),
        Value::EnumNumber(number) => enum_json(kind.as_enum(), *number),
        Value::Message(message) => message_json(message),
        Value::List(_) | Value::Map(_) => Json::Null,
    }
}

fn message_json(message: &DynamicMessage) -> Json {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        return any_json(message);
    }
    well_known(message).unwrap_or_else(|| Json::Object(fields(message)))
}

fn any_json(any: &DynamicMessage) -> Json {
    let url = any.get_field_by_number(1);
    let value = any.get_field_by_number(2);
    let text = url.as_deref().and_then(Value::as_str).unwrap_or_default();
    let bytes = value.as_deref().and_then(Value::as_bytes).cloned().unwrap_or_default();
    if text.is_empty() { json!({}) } else { to_json(text, &bytes) }
}

/// Protobuf's own types have forms of their own: a duration is `"1.500s"`, a wrapper is what it wraps.
fn well_known(message: &DynamicMessage) -> Option<Json> {
    if message.descriptor().parent_file().package_name() != "google.protobuf" {
        return None;
    }
    message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).ok()
}

fn enum_json(descriptor: Option<&EnumDescriptor>, number: i32) -> Json {
    descriptor.and_then(|e| e.get_value(number)).map_or_else(|| number.into(), |value| value.name().into())
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn float(value: f64) -> Json {
    match value {
        value if value.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        value if value.fract() == 0.0 && value.abs() < 1e15 => (value as i64).into(),
        value => value.into(),
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
