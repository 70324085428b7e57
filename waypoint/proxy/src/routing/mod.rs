//! Which rule of a service's routes takes a request, and what it changes on the way.
pub(crate) mod host;
pub(crate) mod matching;
pub(crate) mod policy;
pub(crate) mod rewrite;
mod rule;
pub(crate) mod table;
pub(crate) mod values;
