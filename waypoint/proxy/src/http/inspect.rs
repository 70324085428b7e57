//! The one read of a body that is to be judged: bounded in size, in time and over all requests together.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::limits::Limits;
use crate::refusal::Refusal;

/// A body that was read whole. It holds its share of `inspected_total` until it is dropped.
pub(crate) struct Inspected {
    /// As received; what is sent on.
    pub(crate) bytes: Bytes,
    _share: Vec<OwnedSemaphorePermit>,
}

/// Largest body that is kept for as long as its answer streams.
const KEPT: usize = 64 << 10;

impl Inspected {
    /// Of a request that has none.
    pub(crate) fn nothing() -> Self {
        Self { bytes: Bytes::new(), _share: Vec::new() }
    }

    /// The same body under a share of `kept` instead of `inspected_total`, so that long answers leave the latter to requests.
    /// `None` where it is large, or too much is kept already.
    pub(crate) fn keep(&self, kept: &Arc<Semaphore>) -> Option<Self> {
        let kibibytes = u32::try_from(self.bytes.len().div_ceil(1 << 10)).ok()?;
        if self.bytes.len() > KEPT {
            return None;
        }
        let share = Arc::clone(kept).try_acquire_many_owned(kibibytes).ok()?;
        Some(Self { bytes: Bytes::copy_from_slice(&self.bytes), _share: vec![share] })
    }
}

/// Reads a body to its end. Trailers are dropped: nothing in them may steer a request that was judged without them.
///
/// # Errors
/// [`Refusal::TooLargeToInspect`] (before reading, where its length is declared), [`Refusal::InspectionBusy`] and
/// [`Refusal::BodyNotReceived`] or [`Refusal::BodyTooSlow`].
pub(crate) async fn read(
    body: Incoming,
    total: &Arc<Semaphore>,
    limits: &Limits,
) -> Result<Inspected, Refusal> {
    match timeout(limits.inspection_timeout, collect(body, total, limits.inspected_body)).await {
        Ok(read) => read,
        Err(_elapsed) => Err(Refusal::BodyTooSlow),
    }
}

async fn collect(mut body: Incoming, total: &Arc<Semaphore>, limit: usize) -> Result<Inspected, Refusal> {
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > limit {
        return Err(Refusal::TooLargeToInspect { limit });
    }
    let mut budget = Budget { total, permits: Vec::new(), bytes: 0 };
    budget.cover(declared)?;
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() else { continue };
        let held = first.len() + joined.len() + data.len();
        if held > limit {
            return Err(Refusal::TooLargeToInspect { limit });
        }
        budget.cover(held)?;
        if first.is_empty() && joined.is_empty() {
            first = data; // One frame is the usual case, and is not copied.
            continue;
        }
        joined.reserve(declared.saturating_sub(joined.len()).max(data.len()));
        joined.extend_from_slice(&std::mem::take(&mut first));
        joined.extend_from_slice(&data);
    }
    let bytes = if joined.is_empty() { first } else { joined.freeze() };
    Ok(Inspected { bytes, _share: budget.permits })
}

/// A body whose framing is wrong is the client's fault; one that breaks off is not answered by anybody.
fn broken(error: &hyper::Error) -> Refusal {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => Refusal::BadRequest("body_framing"),
        _other => Refusal::BodyNotReceived,
    }
}

struct Budget<'a> {
    total: &'a Arc<Semaphore>,
    permits: Vec<OwnedSemaphorePermit>,
    /// Bytes that the permits cover.
    bytes: usize,
}

impl Budget<'_> {
    /// Shares come in steps of 16 KiB, so that a body in small frames does not ask for every one of them.
    fn cover(&mut self, bytes: usize) -> Result<(), Refusal> {
        let missing = bytes.saturating_sub(self.bytes).div_ceil(1 << 10);
        if missing == 0 {
            return Ok(());
        }
        let step = u32::try_from(missing.max(16)).unwrap_or(u32::MAX);
        let permit =
            Arc::clone(self.total).try_acquire_many_owned(step).map_err(|_none| Refusal::InspectionBusy)?;
        self.permits.push(permit);
        self.bytes += (step as usize) << 10;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_answer_keeps_a_small_body_from_a_budget_of_its_own() {
        let (total, kept) = (Arc::new(Semaphore::new(8192)), Arc::new(Semaphore::new(80)));
        let body = |bytes: usize| {
            let share = Arc::clone(&total).try_acquire_many_owned(16).unwrap();
            Inspected { bytes: Bytes::from(vec![b' '; bytes]), _share: vec![share] }
        };
        let small = body(KEPT).keep(&kept).unwrap();
        assert_eq!((total.available_permits(), kept.available_permits()), (8192, 16));
        assert!(body(KEPT).keep(&kept).is_none(), "the budget is used up");
        assert!(body(KEPT + 1).keep(&kept).is_none(), "too large");
        drop(small);
        assert_eq!((total.available_permits(), kept.available_permits()), (8192, 80));
    }
}
