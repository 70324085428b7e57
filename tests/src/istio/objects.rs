//! Kubernetes objects as JSON.

use anyhow::{Context, Result};
use serde_json::Value;

/// What lies at `pointer` (RFC 6901); null where nothing does.
pub(super) fn at<'v>(object: &'v Value, pointer: &str) -> &'v Value {
    object.pointer(pointer).unwrap_or(&Value::Null)
}

/// The text at `pointer`.
pub(super) fn text<'v>(object: &'v Value, pointer: &str) -> Result<&'v str> {
    at(object, pointer).as_str().with_context(|| format!("no text at {pointer} of {object}"))
}

/// The list at `pointer`; empty where there is none.
pub(super) fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    at(object, pointer).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Istio's file of resource definitions is 2 MB of prose; every other limit of the reader stays.
const MAX_NODES: usize = 2_000_000;

/// The documents of a YAML text, parted by lines `---`; empty ones are left out.
pub(super) fn documents(text: &str) -> Result<Vec<Value>> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        match line.trim_end() == "---" {
            true => documents.push(String::new()),
            false => documents.last_mut().into_iter().for_each(|last| *last += &format!("{line}\n")),
        }
    }
    let values = documents.iter().map(|document| {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_nodes: MAX_NODES,
                max_events: 2 * MAX_NODES,
                max_total_scalar_bytes: 1 << 26,
            },
            with_snippet: false,
        };
        let first = document.lines().take(6).collect::<Vec<_>>().join("\n");
        serde_saphyr::from_str_with_options::<Value>(document, options).with_context(|| first)
    });
    let values = values.collect::<Result<Vec<_>>>()?;
    Ok(values.into_iter().filter(|value| !value.is_null()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_parted_at_markers_that_begin_a_line() {
        let text = "# nothing\n---\na: 1\nb: |\n  x\n  ---\n  y\n---\nc: \"on\"\n";
        assert_eq!(documents(text).unwrap(), [json!({"a": 1, "b": "x\n---\ny\n"}), json!({"c": "on"})]);
    }
}
