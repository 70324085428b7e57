//! Listeners: what is fronted, who may use it and where it goes.
//!
//! ```text
//! listeners ─┬ matcher_tree                     which address and port lead to which chain
//!            ├ chain ─┬ http_connection_manager ─┬ rbac ─ permission, principal ─ header, metadata, peer, strings
//!            │        └ network                  ├ jwt
//!            │                                   ├ route_configuration ─ route_match, route_action, route_filters
//!            │                                   ├ rate_limit ─ description, terms
//!            │                                   └ access_log, metrics, tracing, xfcc
//!            ├ policies                         the same policy is the same `Arc`; the last good one stays
//!            └ tunnel ─ trust_domains           what the tunnel's own listener adds, and whom it accepts
//! ```

mod access_log;
mod address;
mod chain;
mod duration;
mod expr;
mod header;
mod header_change;
mod http_connection_manager;
mod json;
mod jwt;
mod listeners;
mod matcher_tree;
mod metadata;
mod metrics;
mod network;
mod peer;
mod percent;
mod permission;
mod policies;
mod principal;
mod rate_limit;
mod rbac;
mod re2;
mod retry;
mod route_action;
mod route_configuration;
mod route_filters;
mod route_match;
mod strings;
mod template;
mod tracing;
mod translated;
mod trust_domains;
mod tunnel;
mod unpack;
mod xfcc;

pub use listeners::Listeners;
pub(super) use listeners::{MAIN, concerns_all};
pub(in crate::feeds) use rate_limit::{Limit, TYPES as LIMITS, translate as limit};
pub use translated::{FrontedPods, FrontedPort, Refused, Translated};
