//! Every method a client may send, in all revisions, and what it names.

use super::Revision::{self, V2024_11_05 as A, V2025_03_26, V2025_11_25 as D, V2026_07_28 as E};
use crate::facts::Kind;

/// One method of the table (schema unions `ClientRequest` and `ClientNotification` of each revision).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The method as on the wire; compared exactly.
    pub name: &'static str,
    /// First and last revision that defines it. It is judged alike in every revision: servers run methods of
    /// revisions that were not declared.
    pub revisions: (Revision, Revision),
    pub(super) names: Names,
}

/// What the parameters of a method name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Nothing: opens, keeps or ends a session.
    Lifecycle,
    /// Nothing: asks for a list.
    List,
    /// `params.name`, a tool; `params.arguments`.
    Tool,
    /// `params.name`, a prompt; `params.arguments`.
    Prompt,
    /// `params.uri`, a resource.
    Resource,
    /// `params.ref`, a prompt or a resource.
    Reference,
    /// `params.notifications`: resources, tasks and lists.
    Subscriptions,
    /// Recognized by name, and refused until ownership of tasks is built.
    NotBuilt,
}

impl Method {
    /// What sort of message it is. A `subscriptions/listen` that names a resource is a call.
    pub fn kind(&self) -> Kind {
        match self.names {
            Names::Lifecycle => Kind::Lifecycle,
            Names::List | Names::Subscriptions => Kind::List,
            Names::Tool | Names::Prompt | Names::Resource | Names::Reference | Names::NotBuilt => Kind::Call,
        }
    }

    /// Whether a request of this revision (`None`: not declared in the body) asks for a method that it took away.
    pub(super) fn is_gone_from(&self, declared: Option<Revision>) -> bool {
        declared == Some(E) && self.revisions.1 != E
    }

    /// Whether messages of this method can be judged. The others are refused by name.
    pub fn is_built(&self) -> bool {
        self.names != Names::NotBuilt
    }
}

/// All methods, for lints and bounded metric labels.
pub fn methods() -> &'static [Method] {
    TABLE
}

/// The row of a method.
pub(super) fn find(name: &str) -> Option<&'static Method> {
    TABLE.iter().find(|method| method.name == name)
}

const fn row(name: &'static str, names: Names, first: Revision, last: Revision) -> Method {
    Method { name, revisions: (first, last), names }
}

static TABLE: &[Method] = &[
    // The most frequent first: the table is searched in order.
    row("tools/call", Names::Tool, A, E),
    row("tools/list", Names::List, A, E),
    row("prompts/get", Names::Prompt, A, E),
    row("prompts/list", Names::List, A, E),
    row("resources/read", Names::Resource, A, E),
    row("resources/list", Names::List, A, E),
    row("resources/templates/list", Names::List, A, E),
    row("resources/subscribe", Names::Resource, A, D),
    row("resources/unsubscribe", Names::Resource, A, D),
    row("completion/complete", Names::Reference, A, E),
    row("initialize", Names::Lifecycle, A, D),
    row("ping", Names::Lifecycle, A, D),
    row("logging/setLevel", Names::Lifecycle, A, D),
    row("server/discover", Names::Lifecycle, E, E),
    row("subscriptions/listen", Names::Subscriptions, E, E),
    row("notifications/initialized", Names::Lifecycle, A, D),
    row("notifications/cancelled", Names::Lifecycle, A, D),
    row("notifications/progress", Names::Lifecycle, A, D),
    row("notifications/roots/list_changed", Names::Lifecycle, A, D),
    // Of tasks that the client itself hosts: it tells of its own.
    row("notifications/tasks/status", Names::Lifecycle, D, D),
    // Tasks belong to the identity that created them (2025-11-25, and the tasks extension of 2026-07-28). Until that
    // is kept, they are refused.
    row("tasks/get", Names::NotBuilt, D, E),
    row("tasks/result", Names::NotBuilt, D, D),
    row("tasks/cancel", Names::NotBuilt, D, E),
    row("tasks/list", Names::NotBuilt, D, D),
    row("tasks/update", Names::NotBuilt, E, E),
];

/// `initialize` may not be part of a batch.
pub(super) const INITIALIZE: &str = "initialize";

/// Opens a stream of notifications (2026-07-28).
pub(super) const LISTEN: &str = "subscriptions/listen";

/// The only revision with batches.
pub(super) const BATCHES: Revision = V2025_03_26;
