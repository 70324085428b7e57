//! Reads descriptors and their comments into the source of a static table (`src/table.rs` says what the types mean).

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::fmt::Write as _;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};

/// Field numbers of `FileDescriptorProto`, `DescriptorProto` and `EnumDescriptorProto`, of which paths in source info consist.
const FILE_MESSAGE: i32 = 4;
const FILE_ENUM: i32 = 5;
const MESSAGE_FIELD: i32 = 2;
const MESSAGE_NESTED: i32 = 3;
const MESSAGE_ENUM: i32 = 4;
const ENUM_VALUE: i32 = 2;

#[derive(Default)]
struct Comments {
    leading: HashMap<Vec<i32>, String>,
    trailing: HashMap<Vec<i32>, String>,
}

struct Found<'a, D> {
    descriptor: &'a D,
    comment: String,
    /// Comments of fields or values, by index.
    parts: Vec<String>,
}

#[derive(Default)]
struct Walk<'a> {
    messages: BTreeMap<String, Found<'a, DescriptorProto>>,
    enums: BTreeMap<String, Found<'a, EnumDescriptorProto>>,
    /// Map entries: a message in the descriptor, a map to everyone else.
    entries: HashMap<String, &'a DescriptorProto>,
}

/// The table's source. Fails on a field whose trailing comment is not in the grammar.
pub(crate) fn render(set: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut walk = Walk::default();
    for file in &set.file {
        if !file.package().starts_with("google.protobuf") {
            walk.file(file);
        }
    }
    let messages: HashMap<&str, usize> =
        walk.messages.keys().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
    let enums: HashMap<&str, usize> = walk.enums.keys().enumerate().map(|(i, n)| (n.as_str(), i)).collect();

    let mut out = String::from("pub(crate) static MESSAGES: &[Message] = &[\n");
    for (name, found) in &walk.messages {
        let (doc, treatment) = message_comment(name, &found.comment)?;
        writeln!(out, "Message {{ name: {name:?}, doc: {doc:?}, treatment: {treatment}, fields: &[")?;
        let mut fields: Vec<_> = found.descriptor.field.iter().zip(&found.parts).collect();
        fields.sort_by_key(|(field, _)| field.number());
        for (field, comment) in fields {
            let treatment = part_comment(name, field.name(), comment)?;
            let kind = walk.kind(field, &messages, &enums)?;
            let repeated = field.label() == Label::Repeated;
            writeln!(
                out,
                "Field {{ number: {}, name: {:?}, kind: {kind}, repeated: {repeated}, treatment: {treatment} }},",
                field.number(),
                field.name(),
            )?;
        }
        out.push_str("] },\n");
    }
    out.push_str("];\npub(crate) static ENUMS: &[Enum] = &[\n");
    for (name, found) in &walk.enums {
        writeln!(out, "Enum {{ name: {name:?}, values: &[")?;
        for (value, comment) in found.descriptor.value.iter().zip(&found.parts) {
            let treatment = part_comment(name, value.name(), comment)?;
            writeln!(
                out,
                "Value {{ number: {}, name: {:?}, treatment: {treatment} }},",
                value.number(),
                value.name()
            )?;
        }
        out.push_str("] },\n");
    }
    out.push_str("];\n");
    Ok(out)
}

impl<'a> Walk<'a> {
    fn file(&mut self, file: &'a FileDescriptorProto) {
        let comments = Comments::of(file);
        for (index, message) in (0..).zip(&file.message_type) {
            self.message(file.package(), message, &[FILE_MESSAGE, index], &comments);
        }
        for (index, descriptor) in (0..).zip(&file.enum_type) {
            self.enumeration(file.package(), descriptor, &[FILE_ENUM, index], &comments);
        }
    }

    fn message(&mut self, scope: &str, message: &'a DescriptorProto, path: &[i32], comments: &Comments) {
        let name = format!("{scope}.{}", message.name());
        if message.options.as_ref().is_some_and(|options| options.map_entry()) {
            self.entries.insert(name, message);
            return;
        }
        for (index, nested) in (0..).zip(&message.nested_type) {
            self.message(&name, nested, &[path, &[MESSAGE_NESTED, index]].concat(), comments);
        }
        for (index, descriptor) in (0..).zip(&message.enum_type) {
            self.enumeration(&name, descriptor, &[path, &[MESSAGE_ENUM, index]].concat(), comments);
        }
        let parts = comments.parts(path, MESSAGE_FIELD, message.field.len());
        self.messages.insert(name, Found { descriptor: message, comment: comments.leading(path), parts });
    }

    fn enumeration(
        &mut self,
        scope: &str,
        descriptor: &'a EnumDescriptorProto,
        path: &[i32],
        comments: &Comments,
    ) {
        let parts = comments.parts(path, ENUM_VALUE, descriptor.value.len());
        let name = format!("{scope}.{}", descriptor.name());
        self.enums.insert(name, Found { descriptor, comment: String::new(), parts });
    }

    fn kind(
        &self,
        field: &FieldDescriptorProto,
        messages: &HashMap<&str, usize>,
        enums: &HashMap<&str, usize>,
    ) -> Result<String, Box<dyn Error>> {
        let type_name = field.type_name().trim_start_matches('.');
        if let Some(entry) = self.entries.get(type_name) {
            let [key, value] = entry.field.as_slice() else {
                return Err("a map entry has two fields".into());
            };
            let text_key = key.r#type() == Type::String;
            return Ok(format!(
                "Kind::Map {{ text_key: {text_key}, value: &{} }}",
                self.kind(value, messages, enums)?
            ));
        }
        Ok(match field.r#type() {
            Type::Enum => format!("Kind::Enum({})", enums.get(type_name).ok_or("an enum out of nowhere")?),
            Type::Message if type_name == "google.protobuf.Any" => "Kind::Any".to_owned(),
            Type::Message if type_name.starts_with("google.protobuf.") => "Kind::Opaque".to_owned(),
            Type::Message => {
                format!("Kind::Message({})", messages.get(type_name).ok_or("a message out of nowhere")?)
            }
            Type::String | Type::Bytes => "Kind::Scalar(Wire::Bytes)".to_owned(),
            Type::Fixed32 | Type::Sfixed32 | Type::Float => "Kind::Scalar(Wire::Fixed32)".to_owned(),
            Type::Fixed64 | Type::Sfixed64 | Type::Double => "Kind::Scalar(Wire::Fixed64)".to_owned(),
            Type::Group => return Err(format!("{} is a group", field.name()).into()),
            _ => "Kind::Scalar(Wire::Varint)".to_owned(),
        })
    }
}

impl Comments {
    fn of(file: &FileDescriptorProto) -> Self {
        let mut comments = Self::default();
        for location in file.source_code_info.iter().flat_map(|info| &info.location) {
            if let Some(text) = &location.leading_comments {
                comments.leading.insert(location.path.clone(), text.clone());
            }
            if let Some(text) = &location.trailing_comments {
                comments.trailing.insert(location.path.clone(), text.clone());
            }
        }
        comments
    }

    fn leading(&self, path: &[i32]) -> String {
        self.leading.get(path).cloned().unwrap_or_default()
    }

    fn parts(&self, path: &[i32], part: i32, count: usize) -> Vec<String> {
        (0..)
            .take(count)
            .map(|i| self.trailing.get([path, &[part, i]].concat().as_slice()).cloned().unwrap_or_default())
            .collect()
    }
}

/// The text of a message's comment, and its treatment: the last line, if it is one.
fn message_comment(name: &str, comment: &str) -> Result<(String, String), Box<dyn Error>> {
    let lines: Vec<_> = comment.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let Some((last, before)) = lines.split_last() else {
        return Err(format!("{name} has no comment").into());
    };
    match treatment(last) {
        Some(treatment) => Ok((before.join(" "), treatment)),
        None => Ok((lines.join(" "), "Treatment::Used".to_owned())),
    }
}

fn part_comment(name: &str, part: &str, comment: &str) -> Result<String, Box<dyn Error>> {
    treatment(comment.trim()).ok_or_else(|| {
        format!("{name}.{part}: {comment:?} is not `used`, `ignored: why` or `refused: why`").into()
    })
}

fn treatment(text: &str) -> Option<String> {
    if text == "used" {
        return Some("Treatment::Used".to_owned());
    }
    let (word, why) = text.split_once(": ")?;
    match word {
        "ignored" => Some(format!("Treatment::Ignored({why:?})")),
        "refused" => Some(format!("Treatment::Refused({why:?})")),
        _ => None,
    }
}
