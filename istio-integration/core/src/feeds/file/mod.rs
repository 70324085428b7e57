//! The `file` feed: a folder of the manifests that a user would `kubectl apply`.
//!
//! A document is read (`document.rs`), translated by the file of its kind into what it says on its own, and then all
//! documents are joined (`mesh.rs`): endpoints to services, services to this waypoint, policies and routes to services.
//! What cannot be honoured is a [`Finding`] that names file, document and field; nothing is skipped in silence.

mod attachment;
mod authorization_policy;
mod authorization_rule;
mod backend;
mod binding;
mod condition;
mod decode;
mod document;
mod duration;
mod endpoint_slice;
mod endpoints;
mod envoy_filter;
mod finding;
mod folder;
mod gateway;
mod http_route;
mod http_route_filter;
mod http_route_match;
mod http_route_policy;
mod mesh;
mod meta;
mod namespace;
mod node;
mod options;
mod pod;
mod protocol;
mod read;
mod reference_grant;
mod request_authentication;
mod request_principal;
mod resource;
mod scan;
mod service;
mod service_entry;
mod strict;
mod trust_domain;
mod watch;
mod workload;
mod workload_entry;

#[cfg(test)]
mod testing;

pub use document::Origin;
pub use finding::{Finding, Severity};
pub use folder::{Folder, LoadError, Loaded, load};
pub use options::{FactCheck, Options};
pub use watch::watch;
