//! [`TracingSettings`] compiled: which requests are traced, and what their spans say beside what all say.

use std::sync::Arc;

use http::HeaderName;
use waypoint_model::{Collector, DryRunTag, SpanTag, SpanTagValue, TraceForm, TracingSettings};

use super::super::captured::Side;
use super::super::exchange::DryRun;
use super::facts::{Facts, Value};
use super::format::plain;
use super::operator::{Piece, pieces};

/// Shares are counted in hundredths of a percent.
const ALL: u32 = 10_000;

/// How a port is traced.
#[derive(Debug)]
pub(in super::super) struct Tracer {
    sampling: u32,
    /// Whether upstreams are told.
    pub(in super::super) propagate: bool,
    /// Forms in which they are told, beside W3C's and the caller's.
    pub(in super::super) forms: Vec<TraceForm>,
    /// Longest path that is told.
    pub(in super::super) max_path: usize,
    /// Where spans go.
    pub(in super::super) collector: Arc<Collector>,
    tags: Vec<(String, Tag)>,
}

#[derive(Debug)]
enum Tag {
    Text(String),
    Header(HeaderName, String),
    Format(Vec<Piece>),
    DryRun(DryRunTag),
}

impl Tracer {
    /// Compiles; a tag that cannot be used as it is written is told to `said`, and left out.
    pub(in super::super) fn compile(settings: &TracingSettings, said: &mut dyn FnMut(String)) -> Self {
        let tags = settings.tags.iter().filter_map(|tag| Some((tag.name.clone(), compile(tag, said)?)));
        Self {
            sampling: settings.sampling.min(ALL),
            propagate: settings.propagate,
            forms: settings.forms.clone(),
            max_path: settings.max_path,
            collector: Arc::clone(&settings.collector),
            tags: tags.collect(),
        }
    }

    /// Whether a trace that begins here is recorded: drawn for each.
    pub(in super::super) fn draws(&self) -> bool {
        fastrand::u32(..ALL) < self.sampling
    }

    /// The tags that have a value for this request.
    pub(in super::super) fn tags<'a>(
        &'a self,
        facts: &'a Facts<'_>,
    ) -> impl Iterator<Item = (&'a str, String)> + 'a {
        self.tags.iter().filter_map(|(name, tag)| Some((name.as_str(), tag.value(facts)?)))
    }

    /// Calls `see` with each header that a tag names.
    pub(super) fn headers(&self, see: &mut dyn FnMut(Side, &HeaderName)) {
        for (_, tag) in &self.tags {
            match tag {
                Tag::Header(name, _) => see(Side::Request, name),
                Tag::Format(pieces) => pieces.iter().for_each(|piece| {
                    if let Piece::Operator(operator) = piece {
                        operator.headers(see);
                    }
                }),
                Tag::Text(_) | Tag::DryRun(_) => {}
            }
        }
    }
}

impl Tag {
    fn value(&self, facts: &Facts<'_>) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Header(name, otherwise) => {
                let told = facts.header(Side::Request, name).map(|value| value.text().into_owned());
                told.or_else(|| (!otherwise.is_empty()).then(|| otherwise.clone()))
            }
            Self::Format(pieces) => formatted(pieces, facts),
            Self::DryRun(part) => dry_run(*part, facts.dry_run()?),
        }
    }
}

/// Without any of the values that a format asks for there is nothing to tell.
fn formatted(pieces: &[Piece], facts: &Facts<'_>) -> Option<String> {
    let known = |piece: &Piece| match piece {
        Piece::Literal(_) => false,
        Piece::Operator(operator) => {
            operator.value(facts).is_some_and(|value| value != Value::Text("".into()))
        }
    };
    let operators = pieces.iter().any(|piece| matches!(piece, Piece::Operator(_)));
    (!operators || pieces.iter().any(known)).then(|| plain(pieces, facts))
}

/// As Envoy's RBAC filter tells of shadow rules.
fn dry_run(part: DryRunTag, told: &DryRun) -> Option<String> {
    let by_deny = told.denied && told.rule.is_some();
    match part {
        DryRunTag::DenyName if by_deny => told.rule.as_ref().map(ToString::to_string),
        DryRunTag::DenyResult => Some(if by_deny { "denied" } else { "allowed" }.to_owned()),
        DryRunTag::AllowName if !told.denied => told.rule.as_ref().map(ToString::to_string),
        DryRunTag::AllowResult if !by_deny => Some(if told.denied { "denied" } else { "allowed" }.to_owned()),
        DryRunTag::DenyName | DryRunTag::AllowName | DryRunTag::AllowResult => None,
    }
}

fn compile(tag: &SpanTag, said: &mut dyn FnMut(String)) -> Option<Tag> {
    Some(match &tag.value {
        SpanTagValue::Text(text) => Tag::Text(text.clone()),
        SpanTagValue::Environment(name, otherwise) => {
            let value =
                std::env::var(name).ok().or_else(|| (!otherwise.is_empty()).then(|| otherwise.clone()));
            Tag::Text(value?)
        }
        SpanTagValue::DryRun(part) => Tag::DryRun(*part),
        SpanTagValue::Header(name, otherwise) => match name.to_ascii_lowercase().parse() {
            Ok(name) => Tag::Header(name, otherwise.clone()),
            Err(_invalid) => {
                said(format!("span tag {}: {name:?} is no header", tag.name));
                return None;
            }
        },
        SpanTagValue::Format(format) => {
            let mut unknown = |what: &str| {
                let what: String = what.chars().take(60).collect();
                said(format!("span tag {}: operator {what} is not known here", tag.name));
            };
            Tag::Format(pieces(format, &mut unknown))
        }
    })
}
