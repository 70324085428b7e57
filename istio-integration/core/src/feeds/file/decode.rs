//! JSON values into our own structs, with every field that we do not read listed by its path.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

use super::finding::{Remarks, Severity};
use super::strict::Strict;

/// How fields that a struct does not have are taken.
#[derive(Clone, Copy)]
pub(super) struct Unread {
    /// Paths that need no word: they cannot change what the waypoint does. `[]` stands for any index, a final `.*`
    /// for any one field.
    pub(super) harmless: &'static [&'static str],
    /// What any other field is.
    pub(super) severity: Severity,
}

/// Decodes a document's body. `None`, with an error that names the field, where it has not the shape of `T`.
pub(super) fn decode<T: DeserializeOwned>(body: &Value, unread: Unread, remarks: &mut Remarks) -> Option<T> {
    let mut ignored = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(Strict(body), &mut track);
    let decoded = serde_ignored::deserialize(tracked, |path| ignored.push(field_path(&path)));
    for path in ignored {
        report(path, unread, remarks);
    }
    match decoded {
        Ok(value) => Some(value),
        Err(error) => {
            let path = track.path().to_string();
            remarks.error(if path == "." { String::new() } else { path }, with_fix(error.to_string()));
            None
        }
    }
}

/// A text that YAML takes for a number or a boolean is the commonest fault of all.
fn with_fix(message: String) -> String {
    let scalar =
        message.contains("integer") || message.contains("boolean") || message.contains("floating point");
    if scalar && message.ends_with("expected a string") { message + ": put it in quotes" } else { message }
}

fn report(path: String, unread: Unread, remarks: &mut Remarks) {
    let general = general_path(&path);
    if unread.harmless.iter().any(|pattern| covers(pattern, &general)) {
        return;
    }
    let message = match unread.severity {
        Severity::Error => "is not supported: remove it",
        Severity::Warning | Severity::Note => "is not read here and has no effect",
    };
    remarks.push(unread.severity, path, message.to_owned());
}

fn covers(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(parent) => path.strip_prefix(parent).is_some_and(|child| !child.contains(['.', '['])),
        None => pattern == path,
    }
}

/// Every null is refused: the API server refuses one in a custom resource, and a template that lost its value must
/// not widen what a policy matches.
pub(super) fn refuse_nulls(value: &Value, path: &str, remarks: &mut Remarks) {
    match value {
        Value::Null => remarks.error(path, "is empty: give it a value or remove it"),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                refuse_nulls(item, &format!("{path}[{index}]"), remarks);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                refuse_nulls(field, &format!("{path}.{name}"), remarks);
            }
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Takes null members out of objects: in Kubernetes' own kinds a null is a field that was not given.
pub(super) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `spec.rules[0].from`, as `kubectl` and serde_path_to_error write it.
fn field_path(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field_path(parent)),
        Path::Map { parent, key } => {
            let parent = field_path(parent);
            if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") }
        }
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            field_path(parent)
        }
    }
}

/// The path with every index taken out.
fn general_path(path: &str) -> String {
    let mut general = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        inside = inside && c != ']';
        if !inside {
            general.push(c);
        }
        inside = inside || c == '[';
    }
    general
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Body {
        spec: Spec,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Spec {
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Item {
        port: u16,
    }

    const UNREAD: Unread = Unread {
        harmless: &["status", "spec.items[].image", "spec.items[].env.*"],
        severity: Severity::Warning,
    };

    fn fields(remarks: &Remarks) -> Vec<String> {
        remarks.iter().filter_map(|remark| remark.field.clone()).collect()
    }

    #[test]
    fn fields_that_are_not_read_are_listed_with_their_path() {
        let body = json!({"status": {"a": 1}, "extra": 1, "spec": {
            "items": [{"port": 1, "image": "x"}, {"port": 2, "prot": "x"}], "more": {"deep": 1}}});
        let mut remarks = Remarks::default();
        assert!(decode::<Body>(&body, UNREAD, &mut remarks).is_some());
        let mut got = fields(&remarks);
        got.sort();
        assert_eq!(got, ["extra", "spec.items[1].prot", "spec.more"]);
    }

    #[test]
    fn a_wrong_shape_names_the_field() {
        let rows = [
            (json!({"spec": {"items": [{"port": 1}, {"port": "http"}]}}), "spec.items[1].port"),
            (json!({"spec": {"items": [{"port": 70000}]}}), "spec.items[0].port"),
            (json!({"spec": {"items": 1}}), "spec.items"),
        ];
        for (body, want) in rows {
            let mut remarks = Remarks::default();
            assert_eq!(decode::<Body>(&body, UNREAD, &mut remarks), None, "{body}");
            assert_eq!(fields(&remarks), [want], "{body}");
        }
    }

    #[test]
    fn a_text_without_quotes_is_told_to_take_them() {
        let mut remarks = Remarks::default();
        assert_eq!(decode::<Vec<String>>(&json!(["80", 80]), UNREAD, &mut remarks), None);
        let message = &remarks.iter().next().unwrap().message;
        assert!(message.ends_with("expected a string: put it in quotes"), "{message}");
    }

    #[test]
    fn nulls_are_stripped_or_refused_by_path() {
        let mut body = json!({"a": null, "b": [{"c": null, "d": 1}, null]});
        let mut remarks = Remarks::default();
        refuse_nulls(&body, "spec", &mut remarks);
        assert_eq!(fields(&remarks), ["spec.a", "spec.b[0].c", "spec.b[1]"]);
        strip_nulls(&mut body);
        assert_eq!(body, json!({"b": [{"d": 1}, null]}));
    }
}
