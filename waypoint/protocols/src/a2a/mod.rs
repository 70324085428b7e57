//! The Agent2Agent protocol, versions 0.2, 0.3 and 1.0, over JSON-RPC, HTTP+JSON and gRPC.
//!
//! Whatever is spoken becomes one [`Operation`] and the things that it names, so one rule holds on every binding.

mod answer;
mod body;
mod card;
mod fields;
mod grpc;
mod head;
mod operation;
mod path;
mod protobuf;
mod push;
mod request;
mod screen;
mod spelling;
mod stream;
mod subject;

pub use answer::{Why, refuse};
pub use card::elsewhere;
pub use head::Head;
pub use operation::{Binding, Operation};
pub use request::Request;
pub use screen::{Handle, Owner, screen_grpc, screen_json};
pub use stream::{GrpcScreen, SseScreen};
pub use subject::Subject;
