//! Reading agent protocols over HTTP: MCP now, A2A next. Pure: no I/O, no clock, no async.
//!
//! The crate answers one question about a request: *what does it ask for, and could another parser read it
//! differently?* What is ambiguous is [`Malformed`] and never forwarded; what is clear becomes [`Facts`] that a
//! policy may test. On the way back, [`mcp::screen_json`] and [`mcp::SseScreen`] take out of list answers what the
//! peer may not call.
//!
//! A request's way: [`mcp::Head::read`] → (policy, with the head alone) → [`mcp::Exchange::read`] → policy, once per
//! [`mcp::Subject`] → [`mcp::sanitize`] and the original bytes go on, or [`mcp::refuse`] words the answer.
//!
//! Every entry point takes bytes and returns a value, so each can be fuzzed as it stands.

mod facts;
mod http;
pub mod json;
mod jsonrpc;
mod limits;
pub mod mcp;
mod reply;
mod sse;
mod uri;

pub use facts::{FactKey, Facts, Given, Kind, Plain, ToolHint, Truth, UnknownFact, Unread};
pub use http::{Media, is_coded, response_media};
pub use limits::Limits;
pub use reply::{Malformed, Reply};
