//! What is wrong with a document, or worth knowing about it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// What the document asks for is not in force.
    Error,
    /// In force, but probably not what was meant.
    Warning,
    /// Not this waypoint's business, or good to know.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

/// One remark about one document. Displays as `file:document kind namespace/name field: message`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The file, as found under the folder.
    pub file: PathBuf,
    /// Which document of the file, counted from 1; empty documents do not count. 0: the file as a whole.
    pub document: usize,
    /// Kind of the resource; empty where the document could not be read that far.
    pub kind: String,
    /// `namespace/name`, or the name alone where the kind has no namespace; empty where it could not be read.
    pub name: String,
    /// Path of the field, e.g. `spec.rules[0].when[1].key`.
    pub field: Option<String>,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.document)?;
        for part in [&self.kind, &self.name].into_iter().chain(&self.field) {
            if !part.is_empty() {
                write!(f, " {part}")?;
            }
        }
        write!(f, ": {}", self.message)
    }
}

/// A finding of a translator, which knows neither file nor name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remark {
    pub(super) severity: Severity,
    pub(super) field: Option<String>,
    pub(super) message: String,
}

/// What a translator has to say. Any error makes the document invalid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remarks(Vec<Remark>);

impl Remarks {
    pub(super) fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Error, field.into(), message.into());
    }

    pub(super) fn warning(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Warning, field.into(), message.into());
    }

    pub(super) fn note(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(Severity::Note, field.into(), message.into());
    }

    pub(super) fn push(&mut self, severity: Severity, field: String, message: String) {
        let field = (!field.is_empty()).then_some(field);
        let remark = Remark { severity, field, message };
        // Targets of a policy are read twice; a fault in them is one fault.
        if !self.0.contains(&remark) {
            self.0.push(remark);
        }
    }

    pub(super) fn has_errors(&self) -> bool {
        self.0.iter().any(|remark| remark.severity == Severity::Error)
    }

    /// The first error, as the reason why a policy is unusable.
    pub(super) fn first_error(&self) -> Option<String> {
        let first = self.0.iter().find(|remark| remark.severity == Severity::Error)?;
        Some(match &first.field {
            Some(field) => format!("{field}: {}", first.message),
            None => first.message.clone(),
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Remark> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_that_names_file_document_resource_and_field() {
        let mut finding = Finding {
            severity: Severity::Error,
            file: "a/b.yaml".into(),
            document: 2,
            kind: "AuthorizationPolicy".to_owned(),
            name: "tools/readers".to_owned(),
            field: Some("spec.rules[0].when[1].key".to_owned()),
            message: "not known".to_owned(),
        };
        let want = "a/b.yaml:2 AuthorizationPolicy tools/readers spec.rules[0].when[1].key: not known";
        assert_eq!(finding.to_string(), want);
        (finding.kind, finding.name, finding.field) = (String::new(), String::new(), None);
        assert_eq!(finding.to_string(), "a/b.yaml:2: not known");
    }
}
