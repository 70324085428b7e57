//! Which rule of a service's routes takes a request, and what it changes on the way.
mod host;
pub(crate) mod matching;
pub(crate) mod rewrite;
mod rule;
pub(crate) mod table;
pub(crate) mod values;
