//! HTTP inside a tunnel, in the order in which a request meets it.

pub(crate) mod a2a;
pub(crate) mod affinity;
mod agent_screen;
pub(crate) mod answer;
pub(crate) mod asked;
pub(crate) mod cors;
pub(crate) mod exchange;
pub(crate) mod fault;
pub(crate) mod framing;
pub(crate) mod headers;
mod http1;
mod http_sse;
pub(crate) mod inspect;
pub(crate) mod lasting;
mod limit;
mod list_changed;
pub(crate) mod mcp;
mod messages;
pub(crate) mod mirror;
pub(crate) mod passing;
mod path;
pub(crate) mod request;
pub(crate) mod screen;
pub(crate) mod server;
mod state;
pub(crate) mod upgrade;
pub(crate) mod watched;
