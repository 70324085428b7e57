//! Where the words come from: variables and files, as values that a test can make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Environment variables. An empty one counts as not set: Deployments write `""` for what they do not know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of the process. A variable that is no UTF-8 is none of ours.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The first of these that is set.
    pub(super) fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    /// Those whose names begin so, without that beginning, in the order of their names.
    pub(super) fn beginning<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        Self(variables.into_iter().collect())
    }
}

/// Mounted files, by their paths in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// The container's own.
    #[must_use]
    pub fn of_container() -> Self {
        Self::below(Path::new("/"))
    }

    /// Below another folder that stands for the container's root: for tests, and for running beside a cluster.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Where a path of the container is. A relative one (`./var/run/…`, as Istio writes its defaults) is read from the root,
    /// which is the working directory of Istio's own image.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches("./").trim_start_matches('/'))
    }
}
