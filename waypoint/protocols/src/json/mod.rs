//! JSON read strictly: one reading of a text, or none.

mod decimal;
mod document;
mod strict;
mod text;

pub use document::{Document, Elements, LookedUp, Members, Shape, Value};
pub use strict::{Bounds, JsonError};

pub(crate) use text::{folds_to, is_twin, plain_run, quote};
