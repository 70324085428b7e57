//! Protobuf's `Struct` as JSON.

use prost_types::value::Kind;
use prost_types::{Struct, Value};
use serde_json::Value as Json;

/// The same object.
pub(super) fn json(object: &Struct) -> Json {
    Json::Object(object.fields.iter().map(|(name, value)| (name.clone(), self::value(value))).collect())
}

fn value(value: &Value) -> Json {
    match value.kind.as_ref() {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::NumberValue(number)) => {
            serde_json::Number::from_f64(*number).map_or(Json::Null, Json::Number)
        }
        Some(Kind::StringValue(text)) => Json::String(text.clone()),
        Some(Kind::BoolValue(flag)) => Json::Bool(*flag),
        Some(Kind::StructValue(object)) => json(object),
        Some(Kind::ListValue(list)) => Json::Array(list.values.iter().map(self::value).collect()),
    }
}
