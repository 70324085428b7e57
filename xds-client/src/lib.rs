//! Delta ADS (xDS over one gRPC stream): which resources are wanted, held and refused, and the stream that carries them.
//!
//! Knows the envelope (`envoy.service.discovery.v3`) and no resource. [`Session`] is the protocol as a pure state machine:
//! messages in, messages out. [`Client`] is the stream around it: dial, credentials, keepalive, backoff.

mod backoff;
mod client;
mod dial;
mod failure;
mod proto;
mod session;
mod settings;

pub use backoff::Backoff;
pub use client::{Client, Event};
pub use failure::{CannotConnect, Failure};
pub use proto::{
    Any, ControlPlane, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource as WireResource, Status,
};
pub use session::{Names, Received, Refused, Resource, Session, Token, Update};
pub use settings::{BearerToken, Roots, Security, Settings, UnusableSettings};
