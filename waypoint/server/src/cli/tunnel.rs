//! Flags of `tunnel`.

use std::net::SocketAddr;

use clap::Args;

use super::{SourceArgs, SpiffeArg};

/// Flags of `tunnel`.
#[derive(Clone, Debug, Args)]
pub struct TunnelArgs {
    /// Local address whose connections are carried; loopback only, for it gives our identity to whoever connects.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: SocketAddr,

    /// The waypoint: where its HBONE listener is, as host:port.
    #[arg(long, value_name = "HOST:PORT")]
    pub via: String,

    /// Where the tunnel leads: a service's address or host name, and its port.
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,

    /// Identity to call with.
    #[command(flatten)]
    pub source: SourceArgs,

    /// The waypoint's SPIFFE ID; connections to anybody else fail. Default: any identity of our trust domain that the
    /// waypoint proves, which it prints.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub expect: Option<SpiffeArg>,
}
