//! The table in `docs/istio.md` is what `proto/` says. `cargo xtask istio-table --write` writes it anew.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::{env, fs};

use istio_protos::table::{self, Message, Treatment};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/istio.md");
const BEGIN: &str = "<!-- table of messages: begin -->\n";
const END: &str = "<!-- table of messages: end -->\n";

#[test]
fn the_document_lists_every_message_field_and_value() {
    let document = fs::read_to_string(DOCUMENT).unwrap();
    let (before, rest) = document.split_once(BEGIN).unwrap();
    let (printed, after) = rest.split_once(END).unwrap();
    if env::var_os("WRITE_ISTIO_TABLE").is_some() {
        fs::write(DOCUMENT, [before, BEGIN, &render(), END, after].concat()).unwrap();
    } else {
        assert!(
            printed == render(),
            "docs/istio.md differs from proto/: run `cargo xtask istio-table --write`"
        );
    }
}

#[test]
fn every_reason_is_a_reason() {
    for message in table::messages() {
        let fields = message.fields.iter().map(|field| field.treatment);
        for treatment in fields.chain([message.treatment]) {
            if let Treatment::Ignored(why) | Treatment::Refused(why) = treatment {
                assert!(why.len() > 5 && !why.contains('|'), "{}: {why:?}", message.name);
            }
        }
    }
}

fn render() -> String {
    let mut text =
        String::from("| message | used | ignored, and why | refused, and why |\n|---|---|---|---|\n");
    for message in table::messages().iter().filter(|message| !is_part(message)) {
        let name = message.name;
        let (used, ignored, refused) = match message.treatment {
            Treatment::Used => columns(message),
            Treatment::Ignored(why) => (String::new(), format!("all: {why}"), String::new()),
            Treatment::Refused(why) => (String::new(), String::new(), format!("all: {why}")),
        };
        writeln!(text, "| `{name}`: {} | {used} | {ignored} | {refused} |", message.doc).unwrap();
    }
    text.push_str("\nValues of enumerations that are refused or ignored:\n\n| enumeration | value | why |\n|---|---|---|\n");
    for (name, value) in table::enums().iter().flat_map(|e| e.values.iter().map(|value| (e.name, value))) {
        match value.treatment {
            Treatment::Used => {}
            Treatment::Ignored(why) => {
                writeln!(text, "| `{name}` | `{}` | ignored: {why} |", value.name).unwrap()
            }
            Treatment::Refused(why) => {
                writeln!(text, "| `{name}` | `{}` | refused: {why} |", value.name).unwrap()
            }
        }
    }
    text
}

/// Whether a message belongs to one that is treated as a whole, whose row says all.
fn is_part(message: &Message) -> bool {
    matches!(message.treatment, Treatment::Ignored(why) | Treatment::Refused(why) if why.starts_with("see "))
}

/// Fields by treatment; those with the same reason stand together.
fn columns(message: &Message) -> (String, String, String) {
    let used: Vec<_> = message.fields.iter().filter(|field| field.treatment == Treatment::Used).collect();
    let used: Vec<_> = used.iter().map(|field| format!("`{}`", field.name)).collect();
    let ignored = reasons(message, |treatment| match treatment {
        Treatment::Ignored(why) => Some(why),
        _ => None,
    });
    let refused = reasons(message, |treatment| match treatment {
        Treatment::Refused(why) => Some(why),
        _ => None,
    });
    (used.join(", "), ignored, refused)
}

fn reasons(message: &Message, pick: fn(Treatment) -> Option<&'static str>) -> String {
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for (field, why) in message.fields.iter().filter_map(|field| Some((field, pick(field.treatment)?))) {
        let name = format!("`{}`", field.name);
        match groups.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, names)) => names.push(name),
            None => groups.push((why, vec![name])),
        }
    }
    let texts: Vec<_> = groups.iter().map(|(why, names)| format!("{}: {why}", names.join(", "))).collect();
    texts.join("; ")
}
