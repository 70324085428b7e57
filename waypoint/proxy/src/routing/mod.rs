//! Which rule of a service's routes takes a request, and what it changes on the way.
mod host;
mod matching;
mod rewrite;
pub(crate) mod table;
