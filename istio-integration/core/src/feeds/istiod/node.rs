//! From what the Deployment told us to what xDS wants to know.

use prost_types::value::Kind as ValueKind;
use prost_types::{ListValue, Struct, Value};
use xds_client::{BearerToken, Node, Roots, Security, Settings};

use super::Own;
use crate::bootstrap::Bootstrap;

/// Header by which istiod knows the cluster whose token it is shown.
const CLUSTER_HEADER: &str = "clusterid";

/// How istiod is reached and shown who we are.
pub(super) fn settings(bootstrap: &Bootstrap) -> Settings {
    let security = Security::Tls {
        roots: Roots::File(bootstrap.xds.root.clone()),
        server_name: Some(bootstrap.xds.server_name.clone()),
    };
    Settings {
        token: Some(BearerToken::File(bootstrap.token.clone())),
        headers: vec![(CLUSTER_HEADER.to_owned(), bootstrap.cluster.clone())],
        ..Settings::new(bootstrap.xds.authority(), security)
    }
}

/// Who we are to xDS.
pub(super) fn node(bootstrap: &Bootstrap) -> Node {
    Node {
        id: bootstrap.node.id.clone(),
        cluster: bootstrap.node.cluster.clone(),
        metadata: Some(structure(&bootstrap.node.metadata)),
        user_agent_name: "portcullis".to_owned(),
        user_agent_version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Where we stand.
pub(super) fn own(bootstrap: &Bootstrap) -> Own {
    Own { network: bootstrap.network.clone() }
}

fn structure(object: &serde_json::Map<String, serde_json::Value>) -> Struct {
    let fields = object.iter().map(|(name, member)| (name.clone(), value(member)));
    Struct { fields: fields.collect() }
}

fn value(json: &serde_json::Value) -> Value {
    let kind = match json {
        serde_json::Value::Null => ValueKind::NullValue(0),
        serde_json::Value::Bool(truth) => ValueKind::BoolValue(*truth),
        // Numbers of a Struct are doubles, as those of JSON.
        serde_json::Value::Number(number) => ValueKind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => ValueKind::StringValue(text.clone()),
        serde_json::Value::Array(items) => {
            ValueKind::ListValue(ListValue { values: items.iter().map(value).collect() })
        }
        serde_json::Value::Object(object) => ValueKind::StructValue(structure(object)),
    };
    Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn metadata_is_carried_over_whole() {
        let json =
            json!({"a": "b", "n": 1.5, "t": true, "nothing": null, "list": [1, "x"], "in": {"deep": {}}});
        let back = |made: &Struct| {
            fn json_of(value: &Value) -> serde_json::Value {
                match value.kind.as_ref().unwrap() {
                    ValueKind::NullValue(_) => json!(null),
                    ValueKind::BoolValue(truth) => json!(truth),
                    ValueKind::NumberValue(number) if number.fract() == 0.0 => json!(*number as i64),
                    ValueKind::NumberValue(number) => json!(number),
                    ValueKind::StringValue(text) => json!(text),
                    ValueKind::ListValue(list) => list.values.iter().map(json_of).collect(),
                    ValueKind::StructValue(inner) => object_of(inner),
                }
            }
            fn object_of(made: &Struct) -> serde_json::Value {
                made.fields.iter().map(|(name, value)| (name.clone(), json_of(value))).collect()
            }
            object_of(made)
        };
        let serde_json::Value::Object(object) = &json else { panic!("an object") };
        assert_eq!(back(&structure(object)), json);
    }
}
