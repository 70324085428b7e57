//! What the strict reader accepts, another reader takes for the same value.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

use agent_protocols::json::{Bounds, Document, JsonError, Shape, Value};
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds { depth: 64, members: 1000, key: 64 };

/// The value as another reader would hold it; `None` where a number is beyond that reader.
fn convert(value: Value<'_, '_>) -> Option<serde_json::Value> {
    Some(match value.shape() {
        Shape::Object => {
            let members = value.members().map(|(key, value)| Some((key.into_owned(), convert(value)?)));
            serde_json::Value::Object(members.collect::<Option<_>>()?)
        }
        Shape::Array => serde_json::Value::Array(value.elements().map(convert).collect::<Option<_>>()?),
        Shape::String => serde_json::Value::String(value.as_str().unwrap().into_owned()),
        Shape::Number => serde_json::from_str(value.raw()).ok()?,
        Shape::Bool => serde_json::Value::Bool(value.raw() == "true"),
        Shape::Null => serde_json::Value::Null,
    })
}

#[track_caller]
fn agrees(body: &[u8]) {
    let Ok(document) = Document::read(body, &BOUNDS) else { return };
    let Some(ours) = convert(document.root()) else { return };
    let theirs: serde_json::Value = serde_json::from_slice(body).expect("accepted here, so accepted there");
    assert_eq!(ours, theirs);
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        proptest::num::f64::NORMAL.prop_map(serde_json::Value::from),
        ".{0,12}".prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(5, 60, 20, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(serde_json::Value::from),
            proptest::collection::btree_map("[a-c\"\\\\é\u{1}-\u{3}]{0,4}", inner, 0..20)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

#[test]
fn large_objects_are_checked_for_duplicates_as_small_ones_are() {
    for count in [2, 15, 16, 17, 18, 300] {
        for twin in [r#""k0""#, r#""k\u0030""#] {
            for place in [1, count / 2, count] {
                let mut keys: Vec<String> = (0..count).map(|n| format!(r#""k{n}""#)).collect();
                let text = |keys: &[String]| {
                    format!(
                        "{{{}}}",
                        keys.iter().map(|k| format!("{k}:{{\"k0\":1}}")).collect::<Vec<_>>().join(",")
                    )
                };
                assert!(Document::read(text(&keys).as_bytes(), &BOUNDS).is_ok(), "{count}");
                keys.insert(place, twin.to_owned());
                let refused = Document::read(text(&keys).as_bytes(), &BOUNDS).unwrap_err();
                assert_eq!(refused, JsonError::DuplicateKey, "{count} {twin} {place}");
            }
        }
    }
}

#[test]
fn many_members_cost_no_more_than_their_sorting() {
    let bounds = Bounds { depth: 64, members: 100_000, key: 1024 };
    let keys =
        |prefix: &str| (0..100_000).map(|n| format!("\"{prefix}{n}\":0")).collect::<Vec<_>>().join(",");
    for prefix in ["", "\\u0061", "a-long-common-prefix-"] {
        let body = format!("{{{}}}", keys(prefix));
        let started = std::time::Instant::now();
        assert!(Document::read(body.as_bytes(), &bounds).is_ok());
        // Pair by pair it would be five billion comparisons: minutes without optimization.
        assert!(started.elapsed().as_secs() < 10, "{prefix}");
    }
}

#[test]
fn values_are_found_where_they_are() {
    let text = r#" {"a":[1,{"b":"\u0063"},[]],"d":{},"e":null} "#;
    let document = Document::read(text.as_bytes(), &BOUNDS).unwrap();
    let root = document.root();
    assert_eq!(root.span(), (1, text.len() - 1));
    let list: Vec<&str> = root.get("a").unwrap().elements().map(Value::raw).collect();
    assert_eq!(list, ["1", r#"{"b":"\u0063"}"#, "[]"]);
    assert_eq!(root.get("a").unwrap().elements().nth(1).unwrap().get("b").unwrap().as_str().unwrap(), "c");
    assert_eq!(root.members().map(|(key, _)| key.into_owned()).collect::<Vec<_>>(), ["a", "d", "e"]);
    assert!(root.get("b").is_none() && root.get("d").unwrap().members().next().is_none());
    assert!(root.elements().next().is_none() && root.get("e").unwrap().get("x").is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_json_text_without_twins_is_read_as_others_read_it(value in json(), pretty: bool) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let document = Document::read(text.as_bytes(), &BOUNDS);
        match document {
            Ok(document) => prop_assert_eq!(convert(document.root()), Some(serde_json::from_str(&text).unwrap())),
            Err(error) => prop_assert_eq!(error, JsonError::Members),
        }
    }

    #[test]
    fn a_damaged_text_is_refused_or_read_as_others_read_it(
        value in json(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(b'"'), Just(b'\\'), Just(b'{'), Just(b'}'), Just(b','), Just(b'0'), Just(b'-'), Just(b'u')]), 1..4),
    ) {
        let mut text = serde_json::to_vec(&value).unwrap();
        for (index, byte) in damage {
            let at = index.index(text.len());
            text[at] = byte;
        }
        agrees(&text);
    }

    #[test]
    fn texts_of_json_parts_are_refused_or_read_as_others_read_them(
        parts in proptest::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ",", ":", "\"a\"", "\"b\\u0061\"", "\"\\ud83d", "\\ude00\"", "1", "-0", "0.5", "1e3", "true", "null", " ", "\n", "\"a\":1",
        ]), 0..24),
    ) {
        agrees(parts.concat().as_bytes());
    }
}
