//! The data plane: tunnels in, an identity, a destination, an operation and a permit, in that order, and a tunnel out.
//!
//! The files stand in the order in which a request meets them; `docs/architecture.md` follows one through them.

mod body;
mod collector;
mod context;
mod decided;
mod detect;
pub mod drain;
mod handles;
mod http;
mod jwt;
pub mod limits;
mod listener;
pub mod offline;
mod opaque;
mod origin;
mod peer_watch;
mod peers;
mod rates;
mod refusal;
mod routing;
mod sandwich;
mod sessions;
mod settings;
pub mod snapshot;
mod socket;
pub mod telemetry;
mod tunnel;
pub mod upstream;

pub use collector::{CollectorError, CollectorStream, Collectors};
pub use jwt::Rejection;
pub use limits::Limits;
pub use listener::{Inbound, ListenerError, Proxy};
pub use origin::{NoOrigin, WebOrigin};
pub use rates::{LimitAnswer, LimitAsked, LimitQuestion, LimitServices, LimitUnanswered, Limited};
pub use refusal::Refusal;
pub use settings::Settings;
pub use snapshot::ConfigCell;
