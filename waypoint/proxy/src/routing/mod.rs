//! Which rule of a service's routes takes a request.
pub mod table;
