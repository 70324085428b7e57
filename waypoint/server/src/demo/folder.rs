//! The folder of manifests that the waypoint reads: the files under `manifests/`, with the addresses of this run put in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// File name and text, as a user would `kubectl apply` them.
const MANIFESTS: &[(&str, &str)] = &[
    ("gateway.yaml", include_str!("manifests/gateway.yaml")),
    ("services.yaml", include_str!("manifests/services.yaml")),
    ("workloads.yaml", include_str!("manifests/workloads.yaml")),
    ("github-policies.yaml", include_str!("manifests/github-policies.yaml")),
    ("ledger-policy.yaml", include_str!("manifests/ledger-policy.yaml")),
];

/// What stands for `${NAME}` in the manifests.
pub(super) type Value = (&'static str, String);

/// A folder that is gone when this value is dropped.
pub(super) struct Folder {
    root: TempDir,
}

impl Folder {
    /// Writes all manifests.
    pub(super) fn write(values: &[Value]) -> Result<Self> {
        let root = tempfile::Builder::new().prefix("portcullis-demo-").tempdir()?;
        let folder = Self { root };
        fs::create_dir(folder.manifests())?;
        for (name, text) in MANIFESTS {
            let text = fill(text, values).with_context(|| (*name).to_owned())?;
            fs::write(folder.manifests().join(name), text)?;
        }
        Ok(folder)
    }

    /// For `--manifests`.
    pub(super) fn manifests(&self) -> PathBuf {
        self.root.path().join("manifests")
    }

    /// Beside the manifests: certificates.
    pub(super) fn path(&self) -> &Path {
        self.root.path()
    }

    /// Replaces the one place where `from` stands in a manifest, in one step, as an editor would that saves safely.
    pub(super) fn edit(&self, name: &str, from: &str, to: &str) -> Result<()> {
        let path = self.manifests().join(name);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let found = text.matches(from).count();
        ensure!(found == 1, "{name} has {found} places that say {from:?}");
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, text.replace(from, to))?;
        fs::rename(&fresh, &path)?;
        Ok(())
    }
}

fn fill(text: &str, values: &[Value]) -> Result<String> {
    let filled = values
        .iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value));
    ensure!(!filled.contains("${"), "a value is missing");
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_value_is_an_error() {
        let values = [("A", "1".to_owned())];
        assert_eq!(fill("a: ${A}\nb: [${A}]\n", &values).unwrap(), "a: 1\nb: [1]\n");
        assert!(fill("a: ${B}\n", &values).is_err());
    }

    #[test]
    fn an_edit_that_would_change_nothing_or_too_much_is_an_error() {
        let folder = written();
        assert!(folder.edit("ledger-policy.yaml", "[ops/auditor, agents/coder]", "[ops/auditor]").is_ok());
        for from in ["[ops/auditor, agents/coder]", "ledger"] {
            assert!(folder.edit("ledger-policy.yaml", from, "x").is_err(), "{from}");
        }
    }

    /// With some address for every name.
    fn written() -> Folder {
        let names = MANIFESTS.iter().flat_map(|(_, text)| text.split("${").skip(1));
        let names = names.filter_map(|rest| rest.split_once('}').map(|(name, _)| name));
        let value =
            |name: &'static str| (name, if name.ends_with("PORT") { "9000" } else { "127.1.2.3" }.to_owned());
        let values: Vec<Value> = names.map(value).collect();
        Folder::write(&values).unwrap()
    }
}
