//! What is wanted of a type.

use std::collections::BTreeSet;

/// The name that stands for all names (xDS protocol, "How the client specifies what resources to return").
const ALL: &str = "*";

/// Which resources of a type are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// All that there are.
    All,
    /// These; none of them: the type is not asked for.
    Listed(BTreeSet<String>),
}

impl Names {
    /// Exactly these.
    pub fn listed<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::Listed(names.into_iter().map(Into::into).collect())
    }

    /// Whether `name` is wanted.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Listed(names) => names.contains(name),
        }
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Listed(names) if names.is_empty())
    }

    /// Names of the first request of a stream: none for all of them.
    pub(super) fn subscribe(&self) -> Vec<String> {
        match self {
            Self::All => Vec::new(),
            Self::Listed(names) => names.iter().cloned().collect(),
        }
    }

    /// Names that stand here and not in `other`.
    pub(super) fn without(&self, other: &Self) -> Vec<String> {
        match (self, other) {
            (Self::All, Self::All) => Vec::new(),
            (Self::All, Self::Listed(_)) => vec![ALL.to_owned()],
            (Self::Listed(names), Self::All) => names.iter().cloned().collect(),
            (Self::Listed(names), Self::Listed(others)) => names.difference(others).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_what_a_request_says() {
        let (ab, bc) = (Names::listed(["a", "b"]), Names::listed(["b", "c"]));
        let none = Names::listed::<String>([]);
        let rows: [(&Names, &Names, &[&str]); 6] = [
            (&ab, &bc, &["a"]),
            (&ab, &ab, &[]),
            (&ab, &none, &["a", "b"]),
            (&Names::All, &ab, &["*"]),
            (&ab, &Names::All, &["a", "b"]),
            (&Names::All, &Names::All, &[]),
        ];
        for (new, old, want) in rows {
            assert_eq!(new.without(old), want, "{new:?} without {old:?}");
        }
        assert!(none.is_empty() && !ab.is_empty() && !Names::All.is_empty());
    }
}
