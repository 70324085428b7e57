//! What a client tells a server that it can do: servers must not ask for more.

use super::asks::ServerAsk;
use super::method::INITIALIZE;
use crate::json::{Document, Shape, Value, folds_to, quote};
use crate::limits::Limits;
use bytes::{Bytes, BytesMut};

/// Where requests of 2026-07-28 tell it; before, `initialize` does.
const IN_META: &str = "io.modelcontextprotocol/clientCapabilities";

/// A message without the capabilities that its server may not use: `sampling`, `roots`, `elicitation`, and `tasks` where
/// neither sampling nor elicitation is left to be run as one. `None`: it tells of none of them.
///
/// `may`: whether a server could be allowed to ask. Only the objects that hold capabilities are written anew; every other
/// byte stays.
pub fn strip_capabilities(
    body: &[u8],
    limits: &Limits,
    may: &mut dyn FnMut(&ServerAsk<'_>) -> bool,
) -> Option<Bytes> {
    let document = Document::read(body, &limits.request()).ok()?;
    let root = document.root();
    let params = root.get("params")?;
    let opens = root.get("method").and_then(Value::as_str).as_deref() == Some(INITIALIZE);
    let mut told = [
        params.get("capabilities").filter(|_| opens),
        params.get("_meta").and_then(|meta| meta.get(IN_META)),
    ];
    told.sort_by_key(|told| told.map(Value::span));
    let forbidden = forbidden(may);
    let mut out = BytesMut::with_capacity(body.len());
    let mut at = 0;
    for told in told.into_iter().flatten().filter(|told| told.is(Shape::Object)) {
        if let Some(left) = without(told, &forbidden) {
            let (start, end) = told.span();
            out.extend_from_slice(body.get(at..start)?);
            out.extend_from_slice(left.as_bytes());
            at = end;
        }
    }
    if at == 0 {
        return None;
    }
    out.extend_from_slice(body.get(at..)?);
    Some(out.freeze())
}

fn forbidden(may: &mut dyn FnMut(&ServerAsk<'_>) -> bool) -> Vec<&'static str> {
    let [sampling, roots, form, url] = ServerAsk::ALL;
    let (samples, elicits) = (may(&sampling), may(&form) || may(&url));
    let rows = [
        ("sampling", samples),
        ("roots", may(&roots)),
        ("elicitation", elicits),
        ("tasks", samples || elicits),
    ];
    rows.into_iter().filter(|(_, may)| !may).map(|(name, _)| name).collect()
}

/// The object without these members, however a reader that ignores case would know them. `None`: it has none of them.
fn without(object: Value<'_, '_>, forbidden: &[&str]) -> Option<String> {
    let goes = |key: &str| forbidden.iter().any(|name| folds_to(key, name));
    if !object.members().any(|(key, _)| goes(&key)) {
        return None;
    }
    let left = object.members().filter(|(key, _)| !goes(key));
    let left: Vec<String> = left.map(|(key, value)| format!("{}:{}", quote(&key), value.raw())).collect();
    Some(format!("{{{}}}", left.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{FactKey, Facts as _, Truth};

    fn stripped(body: &str, forbidden: &[&str]) -> Option<String> {
        let mut may = |ask: &ServerAsk<'_>| {
            ask.ask(&FactKey::ServerRequest, &mut |what| forbidden.contains(&what)) == Truth::No
        };
        let bytes = strip_capabilities(body.as_bytes(), &Limits::default(), &mut may)?;
        Some(String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn only_what_is_forbidden_goes() {
        let initialize = |capabilities: &str| {
            format!(
                r#"{{ "jsonrpc":"2.0","id":1,"method":"initialize","params":{{"capabilities": {capabilities} ,"x":1.0}}}}"#
            )
        };
        let modern = |capabilities: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"_meta":{{"io.modelcontextprotocol/clientCapabilities":{capabilities},"a":2e0}},"capabilities":{{"sampling":{{}}}}}}}}"#
            )
        };
        let all = r#"{"roots":{"listChanged":true},"sampling":{"tools":{}}, "elicitation":{"form":{}},"tasks":{"list":{}},"experimental":{"a":[1]}}"#;
        for (row, forbidden, left) in [
            ("nothing", &[][..], None),
            (
                "sampling",
                &["sampling"],
                Some(
                    r#"{"roots":{"listChanged":true},"elicitation":{"form":{}},"tasks":{"list":{}},"experimental":{"a":[1]}}"#,
                ),
            ),
            (
                "elicitation and sampling, and so tasks",
                &["elicitation", "sampling"],
                Some(r#"{"roots":{"listChanged":true},"experimental":{"a":[1]}}"#),
            ),
            (
                "roots",
                &["roots"],
                Some(
                    r#"{"sampling":{"tools":{}},"elicitation":{"form":{}},"tasks":{"list":{}},"experimental":{"a":[1]}}"#,
                ),
            ),
        ] {
            assert_eq!(stripped(&initialize(all), forbidden), left.map(initialize), "{row}");
            assert_eq!(stripped(&modern(all), forbidden), left.map(modern), "{row}, modern");
        }
        assert_eq!(stripped(&initialize(r#"{"Sampling":{}}"#), &["sampling"]), Some(initialize("{}")));
        assert_eq!(stripped(&initialize(r#"{"roots":{}}"#), &["sampling"]), None);
        assert_eq!(stripped(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, &["sampling"]), None);
    }
}
