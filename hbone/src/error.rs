//! What can go wrong, one small enum a layer.

use http::StatusCode;
use std::sync::Arc;
use std::{error, io};

/// Why settings cannot be used; see the fields of [`crate::Settings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadSettings {
    /// One stalled stream would starve all others.
    #[error("the connection window ({connection} bytes) must exceed the stream window ({stream} bytes)")]
    ConnectionWindow {
        /// The connection's window, in bytes.
        connection: u32,
        /// A stream's window, in bytes.
        stream: u32,
    },
    /// A window of 0, or one above 2^31-1 (RFC 9113 §6.9.1).
    #[error("a flow-control window has 1 to 2147483647 bytes")]
    Window,
    /// ztunnel assumes 100.
    #[error("{0} streams per connection are fewer than the 100 that ztunnel assumes")]
    TooFewStreams(u32),
    /// RFC 9113 §6.5.2.
    #[error("a frame size of {0} bytes is outside 16384 to 16777215")]
    FrameSize(u32),
    /// A send buffer of 0 could never send.
    #[error("a send buffer of {0} bytes is outside 1 to 2147483647")]
    SendBuffer(usize),
}

/// Why a connection ended, or did not come to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// HTTP/2 broke: a protocol error, a GOAWAY with an error, or the byte stream failed.
    #[error("HTTP/2 failed")]
    Http2(#[from] h2::Error),
    /// The HTTP/2 handshake took longer than [`crate::Settings::handshake_timeout`].
    #[error("the HTTP/2 handshake took too long")]
    Timeout,
    /// A PING was not answered within [`crate::Settings::ping_timeout`]. All streams have been failed.
    #[error("a PING was not answered in time")]
    KeepaliveTimeout,
    /// A flood that a bound of [`crate::Settings`] ended, by [`Self::reason`].
    #[error("a flood: {0}")]
    Flood(&'static str),
    /// The settings cannot be used.
    #[error("unusable settings")]
    Settings(#[from] BadSettings),
}

impl ConnectionError {
    /// A bounded name of what the peer did, for metrics. `lost`: the byte stream broke, which is nobody's fault; `tls`: it carried
    /// what TLS cannot open.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Http2(error) => fault(error),
            Self::Timeout => "handshake_timeout",
            Self::KeepaliveTimeout => "ping_timeout",
            Self::Flood(reason) => reason,
            Self::Settings(_) => "settings",
        }
    }
}

/// A bounded name of what broke HTTP/2, for metrics; see [`ConnectionError::reason`].
#[must_use]
pub fn fault(error: &h2::Error) -> &'static str {
    if error.is_remote() {
        return "peer_error";
    }
    match error.reason() {
        // What rustls says of a record that is none, or that was tampered with.
        None if error.get_io().is_some_and(|io| io.kind() == io::ErrorKind::InvalidData) => "tls",
        None => "lost",
        Some(h2::Reason::ENHANCE_YOUR_CALM) => "flood",
        Some(h2::Reason::FLOW_CONTROL_ERROR) => "flow_control",
        Some(h2::Reason::FRAME_SIZE_ERROR) => "frame_size",
        Some(h2::Reason::COMPRESSION_ERROR) => "compression",
        Some(_other) => "protocol",
    }
}

/// Which flood a GOAWAY of h2 is for. It tells floods apart there only, and keeps that from those who hold the connection.
pub(crate) fn flood(debug: &[u8]) -> Option<&'static str> {
    const FLOODS: [(&[u8], &str); 5] = [
        (b"too_many_resets", "resets"),
        (b"too_many_internal_reset", "refused_streams"),
        (b"too_many_data_frames", "small_frames"),
        (b"too_many_continuations", "continuations"),
        (b"header_list_way_too_lar", "header_list"),
    ];
    FLOODS.iter().find(|(said, _)| debug.starts_with(said)).map(|(_, reason)| *reason)
}

/// Why a stream broke. Never a clean end: that is `None` or EOF.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The connection below broke, or HTTP/2 was not spoken properly.
    #[error("HTTP/2 failed")]
    Http2(#[source] h2::Error),
    /// One side reset the stream with RST_STREAM.
    #[error("the stream was reset: {0:?}")]
    Reset(Reset),
    /// The peer sent trailers, which a CONNECT stream cannot carry (RFC 9113 §8.5).
    #[error("trailers on a CONNECT stream")]
    Trailers,
    /// Bytes were to be sent after END_STREAM.
    #[error("the stream's sending side is finished")]
    Finished,
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        match error.reason() {
            Some(reason) if error.is_reset() => Self::Reset(reason.into()),
            _ => Self::Http2(error),
        }
    }
}

impl From<StreamError> for io::Error {
    /// One kind whatever broke, so that no reader takes a lost connection for an end.
    fn from(error: StreamError) -> Self {
        let kind = match error {
            StreamError::Finished => io::ErrorKind::BrokenPipe,
            StreamError::Http2(_) | StreamError::Reset(_) | StreamError::Trailers => {
                io::ErrorKind::ConnectionReset
            }
        };
        Self::new(kind, error)
    }
}

/// The code of a RST_STREAM (RFC 9113 §7).
///
/// ztunnel reads `NoError` and `Cancel` as a clean end, so neither may be used to tell of bytes that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// CANCEL: the stream is no longer wanted.
    Cancel,
    /// INTERNAL_ERROR.
    InternalError,
    /// REFUSED_STREAM: nothing was processed, it may be tried elsewhere.
    RefusedStream,
    /// CONNECT_ERROR: the connection behind the tunnel was reset or closed abnormally (RFC 9113 §8.5).
    ConnectError,
    /// NO_ERROR: a whole answer was sent and the rest of the request is not wanted.
    NoError,
    /// Any other code. [`h2::Reason::PROTOCOL_ERROR`] is 1, [`h2::Reason::STREAM_CLOSED`] is 5.
    Other(u32),
}

impl From<h2::Reason> for Reset {
    fn from(reason: h2::Reason) -> Self {
        match reason {
            h2::Reason::CANCEL => Self::Cancel,
            h2::Reason::INTERNAL_ERROR => Self::InternalError,
            h2::Reason::REFUSED_STREAM => Self::RefusedStream,
            h2::Reason::CONNECT_ERROR => Self::ConnectError,
            h2::Reason::NO_ERROR => Self::NoError,
            other => Self::Other(other.into()),
        }
    }
}

impl From<Reset> for h2::Reason {
    fn from(reset: Reset) -> Self {
        match reset {
            Reset::Cancel => Self::CANCEL,
            Reset::InternalError => Self::INTERNAL_ERROR,
            Reset::RefusedStream => Self::REFUSED_STREAM,
            Reset::ConnectError => Self::CONNECT_ERROR,
            Reset::NoError => Self::NO_ERROR,
            Reset::Other(code) => code.into(),
        }
    }
}

/// Why no tunnel was opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No connection: the connector failed, or the HTTP/2 handshake did. Shared by all that waited for the dial.
    #[error("no connection to the endpoint")]
    Connect(#[source] Arc<dyn error::Error + Send + Sync>),
    /// The peer answered with another status than 200 (ztunnel: 400 not its address, 401 policy, 503 no upstream).
    #[error("the endpoint answered CONNECT with {0}")]
    Status(StatusCode),
    /// The stream broke before it was answered. `Reset(RefusedStream)`: refused on two connections, nothing was processed.
    #[error("the stream broke before it was answered")]
    Stream(#[source] StreamError),
    /// Longer than [`crate::PoolSettings::open_timeout`], dial and answer together.
    #[error("opening took too long")]
    Timeout,
}

/// Which side of a copied stream broke. The other side has been reset.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The accepted tunnel.
    #[error("the downstream tunnel broke")]
    Downstream(#[source] StreamError),
    /// The tunnel or socket that was opened for it.
    #[error("the upstream connection broke")]
    Upstream(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_codes_map_to_the_wire_and_back() {
        let table = [
            (0, Reset::NoError),
            (1, Reset::Other(1)),
            (2, Reset::InternalError),
            (5, Reset::Other(5)),
            (7, Reset::RefusedStream),
            (8, Reset::Cancel),
            (10, Reset::ConnectError),
            (99, Reset::Other(99)),
        ];
        for (code, reset) in table {
            assert_eq!(Reset::from(h2::Reason::from(code)), reset);
            assert_eq!(u32::from(h2::Reason::from(reset)), code);
        }
    }
}
