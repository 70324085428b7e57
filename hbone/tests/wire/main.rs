//! The crate against raw HTTP/2 peers and against itself, over pipes and loopback sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "the helpers are test code too"
)]

mod copying;
mod mixing;
mod pooling;
mod serving;
mod streaming;
mod support;
mod watching;
