//! What is asked of Envoy's admin port, answered in its form (`envoy.admin.v3`): `istioctl proxy-config` and others read it.

mod clusters;
mod dump;
mod routes;
mod secrets;
mod server;

pub(super) use clusters::Clusters;
pub(super) use dump::Configs;
pub(super) use server::{certificates, listeners, named, server_info};

use std::time::SystemTime;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A list whose items are made one by one while they are written, so that never all of them are in memory.
struct Each<F>(F);

impl<F, I> Serialize for Each<F>
where
    F: Fn() -> I,
    I: Iterator,
    I::Item: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((self.0)())
    }
}

/// As ProtoJSON has `google.protobuf.Timestamp`.
pub(super) fn timestamp(at: SystemTime) -> Option<String> {
    OffsetDateTime::from(at).format(&Rfc3339).ok()
}
