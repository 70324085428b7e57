//! Streams of answers, read message by message: server-sent events, and frames of gRPC.

use super::grpc::PREFIX;
use super::operation::{Binding, Operation};
use super::screen::{Owner, screen_grpc, screen_json};
use crate::limits::Limits;
use crate::mcp::{Screened, Unscreenable};
use crate::sse::{Cutter, Piece, lines};
use bytes::{Bytes, BytesMut};

/// Reads an event stream. What passes is never changed; an event with something of somebody else's ends it.
#[derive(Debug)]
pub struct SseScreen {
    cutter: Cutter,
    operation: Operation,
    binding: Binding,
    limits: Limits,
}

impl SseScreen {
    /// Reads one stream from its beginning.
    #[must_use]
    pub fn new(operation: Operation, binding: Binding, limits: Limits) -> Self {
        Self { cutter: Cutter::new(limits.sse_event), operation, binding, limits }
    }

    /// Bytes that may be sent on now.
    ///
    /// # Errors
    /// [`Unscreenable`]: the stream must end here.
    pub fn push(
        &mut self,
        chunk: &[u8],
        owner: &mut dyn Owner,
        counts: &mut Screened,
    ) -> Result<Bytes, Unscreenable> {
        self.cutter.push(chunk);
        let mut out = BytesMut::new();
        while let Some(piece) =
            self.cutter.next().map_err(|_long| Unscreenable { name: "event_too_large" })?
        {
            match piece {
                Piece::Passing(bytes) => out.extend_from_slice(bytes),
                Piece::Event(event) => {
                    let data = data(event);
                    screen_json(&data, self.operation, self.binding, &self.limits, owner, counts)?;
                    out.extend_from_slice(event);
                }
            }
        }
        Ok(out.freeze())
    }
}

/// The data of an event, whatever the event is called: some clients look at the name, some do not.
fn data(event: &[u8]) -> Vec<u8> {
    let mut data: Vec<u8> = Vec::new();
    for line in lines(event) {
        if let (b"data", value) = line.field() {
            if !data.is_empty() {
                data.push(b'\n');
            }
            data.extend_from_slice(value);
        }
    }
    data
}

/// Reads the messages of a gRPC answer, each as soon as it is whole.
#[derive(Debug)]
pub struct GrpcScreen {
    buffer: BytesMut,
    operation: Operation,
    limit: usize,
}

impl GrpcScreen {
    /// Reads one answer from its beginning.
    #[must_use]
    pub fn new(operation: Operation, limits: &Limits) -> Self {
        Self { buffer: BytesMut::new(), operation, limit: limits.list }
    }

    /// Bytes that may be sent on now: whole messages only.
    ///
    /// # Errors
    /// [`Unscreenable`]: the answer must end here.
    pub fn push(
        &mut self,
        chunk: &[u8],
        owner: &mut dyn Owner,
        counts: &mut Screened,
    ) -> Result<Bytes, Unscreenable> {
        self.buffer.extend_from_slice(chunk);
        let mut out = BytesMut::new();
        while let Some(([compressed, length @ ..], rest)) = self.buffer.split_first_chunk::<PREFIX>() {
            if *compressed != 0 {
                return Err(Unscreenable { name: "grpc_compressed" });
            }
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if length > self.limit {
                return Err(Unscreenable { name: "list_too_large" });
            }
            let Some(message) = rest.get(..length) else { break };
            match screen_grpc(message, self.operation, owner, counts)? {
                None => out.extend_from_slice(&self.buffer.split_to(PREFIX + length)),
                Some(changed) => {
                    let _replaced = self.buffer.split_to(PREFIX + length);
                    let length = u32::try_from(changed.len()).unwrap_or(u32::MAX);
                    out.extend_from_slice(&[0]);
                    out.extend_from_slice(&length.to_be_bytes());
                    out.extend_from_slice(&changed);
                }
            }
        }
        Ok(out.freeze())
    }

    /// Whether a message is left half read, so that the answer broke off.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        !self.buffer.is_empty()
    }
}
