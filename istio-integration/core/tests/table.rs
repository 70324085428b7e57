//! What the table in `docs/istio.md` calls used is read by a translator: a field that nobody looks at is ignored, and the
//! table has to say so.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use istio_protos::table::{self, Treatment};

/// Fields that are used by what they hold alone: something in there is refused, and so is what it belongs to.
const CONTAINERS: [&str; 6] = [
    "connect_config",
    "least_request_lb_config",
    "listener_filters",
    "original_dst_lb_config",
    "ring_hash_lb_config",
    "upstream_http_protocol_options",
];
/// Of spans, which are told of elsewhere.
const TRACING: [&str; 4] = [
    "envoy.config.core.v3.GrpcService",
    "envoy.config.trace.v3.",
    "envoy.type.tracing.v3.",
    "envoy.type.metadata.v3.",
];

/// Sources of the translators, without their tests.
fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            into.push_str(text.split("#[cfg(test)]").next().unwrap());
        }
    }
}

/// `tls_params` as a variant of a oneof.
fn variant(name: &str) -> String {
    let parts = name.split('_').map(|part| {
        let (first, rest) = part.split_at(part.len().min(1));
        first.to_uppercase() + rest
    });
    parts.collect()
}

#[test]
fn every_field_that_is_called_used_is_read() {
    let mut text = String::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/feeds/istiod"), &mut text);
    let words: BTreeSet<&str> =
        text.split(|character: char| !character.is_alphanumeric() && character != '_').collect();
    let mut unread = Vec::new();
    let used = |treatment: &Treatment| *treatment == Treatment::Used;
    for message in table::messages().iter().filter(|message| used(&message.treatment)) {
        if TRACING.iter().any(|prefix| message.name.starts_with(prefix)) || message.name.contains(".Tracing")
        {
            continue;
        }
        for field in message.fields.iter().filter(|field| used(&field.treatment)) {
            let read = words.contains(field.name) || words.contains(variant(field.name).as_str());
            if !read && !CONTAINERS.contains(&field.name) {
                unread.push(format!("{}.{}", message.name, field.name));
            }
        }
    }
    assert!(unread.is_empty(), "used, and nobody reads it: {unread:#?}");
}
