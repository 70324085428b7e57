//! The Model Context Protocol, revisions 2024-11-05 to 2026-07-28, over HTTP.

mod answer;
mod asks;
mod capabilities;
mod edits;
mod entry;
mod exchange;
mod head;
mod http_sse;
mod limited;
mod list_changed;
mod message;
mod method;
mod observe;
mod revision;
mod routing;
mod screen;
mod state;
mod subject;

pub use answer::{
    DenyMode, Explanation, no_access, refuse, refuse_explaining, session_not_found, too_large, unscreenable,
};
pub use asks::{Answering, ServerAsk};
pub use capabilities::strip_capabilities;
pub use entry::{Entry, ListKind};
pub use exchange::Exchange;
pub use head::{Head, HeadKind};
pub(crate) use head::{check_bodiless, check_framing, check_method, check_override, check_upgrade};
pub use http_sse::{TwoSessions, carrier, endpoint_session, replaced, session_in_query};
pub use limited::limited;
pub use list_changed::ListChanges;
pub use message::{Message, Trace};
pub use method::{Method, methods};
pub use observe::observe;
pub use revision::Revision;
pub use routing::sanitize;
pub use screen::{Judge, Screened, SseScreen, Unscreenable, Withheld, error_of_client, screen_json};
pub use state::{State, state_not_found};
pub use subject::Subject;
