//! Bounds of reading. Each is reached by a test beside the reader that enforces it.

use crate::json::Bounds;

/// Bounds of what is read, with the documented defaults as [`Default`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request body, in bytes. Default 4 MiB, as the SDKs' own servers have it. Beyond it: 413.
    pub body: usize,
    /// Nesting of objects and arrays. Default 64. Beyond it: 400 `-32600`.
    pub depth: usize,
    /// Object members and array elements of one request body, all levels together. Default 100,000. Beyond it: 400
    /// `-32600`.
    pub members: usize,
    /// Object key as written, in bytes. Default 1 KiB. Beyond it: 400 `-32600`.
    pub key: usize,
    /// Messages of one batch. Default 100. Beyond it: 400 `-32600`.
    pub batch: usize,
    /// Name of a tool or prompt, in bytes. Default 256. Beyond it: 400 `-32602`.
    pub name: usize,
    /// `Mcp-Param-*` headers of one request. Default 64. Beyond it: 431.
    pub parameters: usize,
    /// One answer that is screened, in bytes. Default 8 MiB. Beyond it the answer is not sent.
    pub list: usize,
    /// Entries of one list in an answer. Default 10,000. Beyond it the answer is not sent.
    pub list_items: usize,
    /// Object members and array elements of one answer. Default 1,000,000, which 10,000 entries with large schemas
    /// stay under. Beyond it the answer is not sent.
    pub list_members: usize,
    /// One server-sent event, in bytes as received. Default 8 MiB: a list answer is one event, so a lower bound than
    /// [`Limits::list`] would make the transport decide. Beyond it the stream ends.
    pub sse_event: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 4 << 20,
            depth: 64,
            members: 100_000,
            key: 1 << 10,
            batch: 100,
            name: 256,
            parameters: 64,
            list: 8 << 20,
            list_items: 10_000,
            list_members: 1_000_000,
            sse_event: 8 << 20,
        }
    }
}

impl Limits {
    /// Bounds of the JSON reader for a request.
    pub(crate) fn request(&self) -> Bounds {
        Bounds { depth: self.depth, members: self.members, key: self.key }
    }

    /// Bounds of the JSON reader for an answer.
    pub(crate) fn answer(&self) -> Bounds {
        Bounds { depth: self.depth, members: self.list_members, key: self.key }
    }
}
