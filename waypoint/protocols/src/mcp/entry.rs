//! Entries of list answers, as the calls that they offer.

use super::subject::Target;
use crate::facts::{FactKey, Facts, Given, Kind, Truth, tell};
use crate::limits::Limits;
use crate::uri::{is_canonical, is_canonical_template};
use std::borrow::Cow;

/// What a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// `result.tools[].name`
    Tools,
    /// `result.prompts[].name`
    Prompts,
    /// `result.resources[].uri`
    Resources,
    /// `result.resourceTemplates[].uriTemplate`
    ResourceTemplates,
    /// `result.tasks[].taskId`. Calls on tasks are not built, so every entry is hidden.
    Tasks,
}

impl ListKind {
    pub(super) const ALL: [Self; 5] =
        [Self::Tools, Self::Prompts, Self::Resources, Self::ResourceTemplates, Self::Tasks];

    /// The member of `result` that holds the list.
    pub(super) fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resourceTemplates",
            Self::Tasks => "tasks",
        }
    }

    /// The member of an entry that names what it offers.
    pub(super) fn name_member(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::ResourceTemplates => "uriTemplate",
            Self::Tasks => "taskId",
        }
    }

    /// The call that an entry offers.
    fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/call",
            Self::Prompts => "prompts/get",
            Self::Resources | Self::ResourceTemplates => "resources/read",
            Self::Tasks => "tasks/get",
        }
    }

    /// What an entry names; `None` where it names nothing that could be called.
    pub(super) fn target<'b>(self, name: Cow<'b, str>, limits: &Limits) -> Option<Target<'b>> {
        let is_name =
            |name: &str| !name.is_empty() && name.len() <= limits.name && !name.contains(char::is_control);
        match self {
            Self::Tools => is_name(&name).then_some(Target::Tool(name)),
            Self::Prompts => is_name(&name).then_some(Target::Prompt(name)),
            Self::Resources => is_canonical(&name).then_some(Target::Resource(name)),
            Self::ResourceTemplates => is_canonical_template(&name).then_some(Target::Template(name)),
            Self::Tasks => None,
        }
    }
}

/// One entry of a list answer, judged as the call it offers. Its arguments, session and revision are not known yet;
/// of a resource template only what stands before the first `{` is.
#[derive(Debug)]
pub struct Entry<'a> {
    /// What the list is of.
    pub kind: ListKind,
    /// Name of the tool or prompt, URI, or URI template.
    pub name: Cow<'a, str>,
    pub(super) target: Target<'a>,
}

impl Facts for Entry<'_> {
    fn kind(&self) -> Kind {
        Kind::Call
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match key {
            FactKey::Method => tell(Some(self.kind.method()), test),
            FactKey::Kind => tell(Kind::Call.as_str(), test),
            FactKey::Tool | FactKey::Prompt | FactKey::Resource | FactKey::Task => self.target.ask(key, test),
            FactKey::Argument(_) if !matches!(self.target, Target::Tool(_) | Target::Prompt(_)) => Truth::No,
            FactKey::Argument(_) | FactKey::Session | FactKey::ProtocolVersion => Truth::NotYet,
            FactKey::ToolHint(_) | FactKey::ServerRequest | FactKey::ServerRequestHost => Truth::No,
            FactKey::A2a(_) => Truth::NotYet,
        }
    }

    fn arguments(&self) -> Given<'_> {
        if matches!(self.target, Target::Tool(_) | Target::Prompt(_)) {
            Given::NotYet
        } else {
            Given::Nothing
        }
    }

    fn known_prefix(&self, key: &FactKey) -> Option<&str> {
        self.target.known_prefix(key)
    }
}
