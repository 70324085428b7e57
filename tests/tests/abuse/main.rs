//! What must not get past the shipped binary, and what must: the bypass catalogue of MCP tried as a restricted peer,
//! refusals read to the byte, sessions of other identities, lists of misbehaving servers, policies that change.
//!
//! The rows carry the numbers of the catalogue: J for JSON and JSON-RPC, R for resource URIs, H for HTTP, S for what a
//! server sends. H-20, a client that goes round the waypoint to the pod, is a matter of the pod's own ztunnel: it admits
//! the waypoint's identity only, by a policy that the documentation asks for.

#![cfg(test)]

mod arguments;
mod asks;
mod batches;
mod certificates;
mod changes;
mod eras;
mod frames;
mod heads;
mod http2;
mod http_sse;
mod json;
mod lists;
mod methods;
mod origins;
mod records;
mod refusals;
mod resources;
mod sealed;
mod sessions;
mod split;
mod stage;
mod states;
mod table;
