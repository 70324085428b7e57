//! Changes of a metric's labels.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderName;
use waypoint_model::{LabelValue, MetricOverride};

use super::super::captured::Side;
use super::super::labels::{OTHER, UNKNOWN};
use super::expression::Expression;
use super::facts::Facts;
use super::parse::parse;

/// Values that are kept of one label; each further one is `other`. A client may choose them.
const VALUES: usize = 100;
/// Longest value, in bytes; a longer one is `other`.
const LONGEST: usize = 256;

/// Labels that are set and removed.
#[derive(Debug, Default)]
pub(in super::super) struct Changes {
    set: Vec<(String, Tag)>,
    remove: HashSet<String>,
}

#[derive(Debug)]
enum Tag {
    /// The same always.
    Text(String),
    /// Of the request, bounded where its values are not few.
    Expression(Expression, Option<Seen>),
}

/// The first values that were seen. Reading takes no lock.
#[derive(Debug, Default)]
struct Seen(ArcSwap<HashSet<Arc<str>>>);

impl Seen {
    fn bound<'a>(&self, value: Cow<'a, str>) -> Cow<'a, str> {
        if value.len() > LONGEST {
            return Cow::Borrowed(OTHER);
        }
        let seen = self.0.load();
        if seen.contains(&*value) {
            return value;
        }
        if seen.len() >= VALUES {
            return Cow::Borrowed(OTHER);
        }
        self.0.rcu(|seen| {
            let mut seen = seen.as_ref().clone();
            if seen.len() < VALUES {
                seen.insert(Arc::from(&*value));
            }
            seen
        });
        if self.0.load().contains(&*value) { value } else { Cow::Borrowed(OTHER) }
    }
}

impl Changes {
    /// Adds an override; what cannot be used is told to `unusable`.
    pub(super) fn add(&mut self, told: &MetricOverride, unusable: &mut dyn FnMut(String)) {
        for (label, value) in &told.set {
            if !is_label(label) {
                unusable(format!("{label:?} is no name of a metric's label"));
                continue;
            }
            self.remove.remove(label);
            self.set.retain(|(set, _)| set != label);
            self.set.push((label.clone(), tag(label, value, unusable)));
        }
        for label in &told.remove {
            self.set.retain(|(set, _)| set != label);
            self.remove.insert(label.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Whether a label is left out.
    pub(in super::super) fn removes(&self, label: &str) -> bool {
        self.remove.contains(label)
    }

    /// Labels that are set, with their values for this record.
    pub(in super::super) fn values<'a>(
        &'a self,
        facts: &'a Facts<'a>,
    ) -> impl Iterator<Item = (&'a str, String)> + 'a {
        self.set.iter().map(|(label, tag)| (label.as_str(), tag.value(facts).into_owned()))
    }

    /// Calls `see` with each header that is named.
    pub(super) fn headers(&self, see: &mut dyn FnMut(Side, &HeaderName)) {
        for (_, tag) in &self.set {
            if let Tag::Expression(expression, _) = tag {
                expression.headers(see);
            }
        }
    }
}

impl Tag {
    fn value<'a>(&'a self, facts: &Facts<'a>) -> Cow<'a, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Expression(expression, seen) => {
                let value = expression.value(facts);
                let text =
                    value.map_or(Cow::Borrowed(UNKNOWN), |value| Cow::Owned(value.text().into_owned()));
                match seen {
                    Some(seen) => seen.bound(text),
                    None => text,
                }
            }
        }
    }
}

fn tag(label: &str, value: &LabelValue, unusable: &mut dyn FnMut(String)) -> Tag {
    match value {
        LabelValue::Text(text) => Tag::Text(text.clone()),
        LabelValue::Attribute(text) => match parse(text) {
            Ok(Expression::Text(text)) => Tag::Text(text),
            Ok(expression) => {
                let seen = expression.has_many_values().then(Seen::default);
                Tag::Expression(expression, seen)
            }
            Err(error) => {
                unusable(format!("label {label} is always {UNKNOWN}: {error}"));
                Tag::Text(UNKNOWN.to_owned())
            }
        },
    }
}

/// Prometheus' names, less those that mean something to it.
fn is_label(name: &str) -> bool {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    starts && fits && !name.starts_with("__") && name != "le"
}
