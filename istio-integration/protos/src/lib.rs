//! Messages of Envoy and Istio that istiod sends to a waypoint: only the fields that we understand.
//!
//! The files in `proto/` have Envoy's, xDS's and Istio's names and numbers and leave out what istiod of this release
//! does not send. So what is not in them is *unknown* by construction: [`decode()`] finds it and names it, whatever it
//! is and wherever. Each field says in its trailing comment what is done with it, see [`table`].

mod any;
pub mod table;

mod decode;
mod finding;
mod inspect;
mod json;
mod wire;

pub use any::{Any, TYPE_PREFIX, type_name};
pub use decode::{DecodeError, Decoded, decode, unpack};
pub use finding::{Finding, Step, What};
pub use inspect::{Nested, inspect};
pub use json::{NotAMessage, from_json, to_json};
pub use wire::Malformed;

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::use_self, rustdoc::all)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}
pub use messages::*;
