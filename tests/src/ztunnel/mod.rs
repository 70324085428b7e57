//! Stand-ins for the two ztunnels beside the waypoint, on raw `h2`, so that tests see every status, reset and GOAWAY.

mod inbound;
mod outbound;
mod stream;

pub use inbound::{Answer, Inbound, SeenConnect};
pub use outbound::{Connection, Outbound, Refused};
pub use stream::TunnelStream;

/// Port of HBONE on every pod (Istio).
pub const HBONE_PORT: u16 = 15008;

/// Windows as ztunnel sets them, in bytes: one stream, and the connection.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);
