//! Members of objects that are judged, in either spelling of ProtoJSON (`taskId`, `task_id`), and in no other.

use crate::json::{Shape, Value, folds_to};
use crate::reply::Malformed;
use std::borrow::Cow;

/// An object whose judged members are clear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spelled<'d, 'b>(Value<'d, 'b>);

impl<'d, 'b> Spelled<'d, 'b> {
    /// Reads an object. `known`: what is judged, in camel case.
    ///
    /// # Errors
    /// A member in both spellings (readers differ in which one counts), or one that a reader without care for case would
    /// take for a known one; anything but an object.
    pub(super) fn read(object: Value<'d, 'b>, known: &[&str]) -> Result<Self, Malformed> {
        if !object.is(Shape::Object) {
            return Err(Malformed::params("not_an_object"));
        }
        let mut seen = vec![false; known.len()];
        for (key, _) in object.members() {
            let bare = bare(&key);
            let Some(at) = known.iter().position(|known| folds_to(&bare, known)) else { continue };
            let (Some(known), Some(seen)) = (known.get(at), seen.get_mut(at)) else { continue };
            if key != *known && key != snake(known) {
                return Err(Malformed::invalid("case_variant_key"));
            }
            if std::mem::replace(seen, true) {
                return Err(Malformed::invalid("spelling_twin"));
            }
        }
        Ok(Self(object))
    }

    /// A member, in either spelling; `null` is none (ProtoJSON).
    pub(super) fn get(self, name: &str) -> Option<Value<'d, 'b>> {
        let found = self.0.get(name).or_else(|| self.0.get(&snake(name)))?;
        (!found.is(Shape::Null)).then_some(found)
    }

    /// A text; an empty one is none (ProtoJSON).
    pub(super) fn text(self, name: &str) -> Result<Option<String>, Malformed> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| Malformed::params("not_a_string"))?;
        Ok((!text.is_empty()).then(|| text.into_owned()))
    }

    /// Texts of an array.
    pub(super) fn texts(self, name: &str) -> Result<Vec<String>, Malformed> {
        let Some(array) = self.get(name) else { return Ok(Vec::new()) };
        if !array.is(Shape::Array) {
            return Err(Malformed::params("not_an_array"));
        }
        let text = |value: Value<'_, '_>| value.as_str().map(Cow::into_owned);
        let texts =
            array.elements().map(|value| text(value).ok_or_else(|| Malformed::params("not_a_string")));
        texts.collect()
    }

    /// The only one of several members that mean the same.
    pub(super) fn one_of(self, names: &[&str]) -> Result<Option<Value<'d, 'b>>, Malformed> {
        let mut found = names.iter().filter_map(|name| self.get(name));
        let first = found.next();
        if found.next().is_some() {
            return Err(Malformed::invalid("spelling_twin"));
        }
        Ok(first)
    }
}

/// Without what sets words apart.
pub(super) fn bare(key: &str) -> Cow<'_, str> {
    if key.contains(['_', '-']) { key.replace(['_', '-'], "").into() } else { key.into() }
}

/// `taskId` as `task_id`.
pub(super) fn snake(camel: &str) -> String {
    let mut out = String::with_capacity(camel.len() + 4);
    for character in camel.chars() {
        if character.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(character.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Document;
    use crate::limits::Limits;

    fn read(text: &str) -> Result<Option<String>, &'static str> {
        let document = Document::read(text.as_bytes(), &Limits::default().request()).unwrap();
        let spelled = Spelled::read(document.root(), &["taskId", "id"]).map_err(|error| error.name)?;
        spelled.text("taskId").map_err(|error| error.name)
    }

    #[test]
    fn either_spelling_is_read_and_no_third() {
        for (text, want) in [
            (r#"{"taskId":"a"}"#, Ok(Some("a".to_owned()))),
            (r#"{"task_id":"a"}"#, Ok(Some("a".to_owned()))),
            (r#"{"task\u005fid":"a"}"#, Ok(Some("a".to_owned()))),
            (r#"{"taskId":null}"#, Ok(None)),
            (r#"{"taskId":""}"#, Ok(None)),
            (r#"{"other":1}"#, Ok(None)),
            (r#"{"taskId":"a","task_id":"a"}"#, Err("spelling_twin")),
            (r#"{"task_id":null,"taskId":"a"}"#, Err("spelling_twin")),
            (r#"{"taskid":"a"}"#, Err("case_variant_key")),
            (r#"{"TaskId":"a"}"#, Err("case_variant_key")),
            (r#"{"task-id":"a"}"#, Err("case_variant_key")),
            (r#"{"tas\u212aId":"a"}"#, Err("case_variant_key")),
            (r#"{"Task_ID":"a","taskId":"b"}"#, Err("case_variant_key")),
            (r#"{"taskId":1}"#, Err("not_a_string")),
            (r#"[]"#, Err("not_an_object")),
        ] {
            assert_eq!(read(text), want, "{text}");
        }
    }
}
