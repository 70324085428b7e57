//! Reading agent protocols over HTTP: MCP and A2A. Pure: no I/O, no clock, no async.
//!
//! The crate answers one question about a request: *what does it ask for, and could another parser read it
//! differently?* What is ambiguous is [`Malformed`] and never forwarded; what is clear becomes [`Facts`] that a
//! policy may test. On the way back, [`mcp::screen_json`] and [`mcp::SseScreen`] take out of list answers what the
//! peer may not call.
//!
//! A request's way: [`mcp::Head::read`] → (policy, with the head alone) → [`mcp::Exchange::read`] → policy, once per
//! [`mcp::Subject`] → [`mcp::sanitize`] and the original bytes go on, or [`mcp::refuse`] words the answer.
//!
//! A2A goes the same way: [`a2a::Head::read`] tells the binding (JSON-RPC, REST, gRPC), [`a2a::Request::read`] the
//! operation and what it names, in the words of 1.0 whatever was spoken; [`a2a::refuse`] words the answer, and
//! [`a2a::screen_json`], [`a2a::SseScreen`] and [`a2a::GrpcScreen`] read what an agent answers.
//!
//! Every entry point takes bytes and returns a value, so each can be fuzzed as it stands.

pub mod a2a;
mod facts;
mod http;
pub mod json;
mod jsonrpc;
mod limits;
pub mod mcp;
mod reply;
mod sse;
mod uri;

pub use facts::{
    A2aKey, FactKey, Facts, Given, Kind, Plain, ServerRequest, ToolHint, Truth, UnknownFact, Unread,
};
pub use http::{Media, is_coded, response_media};
pub use limits::Limits;
pub use reply::{Malformed, Reply};
