//! Helpers of the tests: documents from text, and a mesh from text.

use std::path::Path;
use std::sync::Arc;

use super::document::{Contents, Document};
use super::finding::Remarks;
use super::options::Options;
use super::{Finding, Loaded, Severity};

/// The one document of a text.
pub(super) fn document(yaml: &str) -> Document {
    let contents = Contents::read(&Arc::from(Path::new("test.yaml")), yaml);
    assert_eq!(contents.findings, [], "{yaml}");
    let [document] = <[Document; 1]>::try_from(contents.documents).unwrap();
    document
}

/// The fields that remarks name, with how much they matter.
pub(super) fn fields(remarks: &Remarks) -> Vec<(Severity, String)> {
    remarks.iter().map(|remark| (remark.severity, remark.field.clone().unwrap_or_default())).collect()
}

/// A folder with one file of that text, loaded.
pub(super) fn load(yaml: &str) -> Loaded {
    load_with(yaml, &Options::default())
}

/// As [`load`], with settings.
pub(super) fn load_with(yaml: &str, options: &Options) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("test.yaml"), yaml).unwrap();
    super::load(dir.path(), options).unwrap()
}

/// Findings of one severity, without the folder they were found in.
pub(super) fn findings(loaded: &Loaded, severity: Severity) -> Vec<String> {
    let matter = loaded.findings.iter().filter(|finding| finding.severity == severity);
    matter.map(|finding| Finding { file: "test.yaml".into(), ..finding.clone() }.to_string()).collect()
}
