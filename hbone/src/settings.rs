//! Bounds of one connection.

use crate::error::BadSettings;
use crate::observer::Observer;
use std::time::Duration;

/// Fewest streams that may be offered: ztunnel assumes 100 until it has read our SETTINGS, and would queue unseen.
const MIN_STREAMS: u32 = 100;

/// Largest flow-control window (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Smallest and largest frame size that may be announced (RFC 9113 §6.5.2).
const FRAME_SIZES: std::ops::RangeInclusive<u32> = 1 << 14..=(1 << 24) - 1;

/// Largest send buffer of a stream: what one flow-control window can take.
const MAX_SEND_BUFFER: usize = MAX_WINDOW as usize;

/// Bounds of one HBONE connection, both as server and as client. `Default` is the documented default, chosen to equal
/// ztunnel's own where it has one.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Flow-control window of one stream, in bytes (RFC 9113 §6.9.2). Default 4 MiB.
    pub stream_window: u32,
    /// Flow-control window of the connection, in bytes. Default 16 MiB. Must exceed `stream_window`: with equal windows
    /// one stalled stream starves all others.
    pub connection_window: u32,
    /// Streams that the peer may have open (SETTINGS_MAX_CONCURRENT_STREAMS); one more is answered with REFUSED_STREAM.
    /// Default 200; below 100 ztunnel would queue unseen, so that is refused.
    pub max_streams: u32,
    /// Largest frame that the peer may send, in bytes (SETTINGS_MAX_FRAME_SIZE). Default 1 MiB.
    pub max_frame_size: u32,
    /// Largest header list that the peer may send, in bytes (SETTINGS_MAX_HEADER_LIST_SIZE). Default 64 KiB.
    pub max_header_list: u32,
    /// Bytes of one stream that may wait to be written to the connection; then writers wait. Default 400 KiB.
    pub send_buffer: usize,
    /// Pause between a PING's answer and the next PING. Default 10 s.
    pub ping_interval: Duration,
    /// How long a PING may stay unanswered before the connection is dead. Default 20 s.
    pub ping_timeout: Duration,
    /// How long the HTTP/2 handshake may take: as server until the client's preface, as client until the server's
    /// SETTINGS. Default 10 s.
    pub handshake_timeout: Duration,
    /// Streams that we reset and still remember, so that frames already on their way are ignored instead of ending the
    /// connection. Default 100.
    pub max_concurrent_reset_streams: usize,
    /// Streams that the peer may have opened and reset again before they were accepted; one more ends the connection with
    /// ENHANCE_YOUR_CALM (rapid reset, CVE-2023-44487). Default 100: a source pod that dies with its tunnels half open
    /// must not look like an attack.
    pub max_pending_accept_reset_streams: usize,
    /// Streams that may be reset for the peer's own protocol errors or refused over the connection's life; one more ends
    /// the connection with ENHANCE_YOUR_CALM. Default 1024.
    pub max_local_error_reset_streams: usize,
    /// What DATA frames under 256 bytes that nobody has read yet may cost, in bytes: each costs what it lacks to 256. Beyond it the
    /// connection ends with ENHANCE_YOUR_CALM, since the bookkeeping of tiny frames outgrows what flow control allows for. Default
    /// 16 MiB, some 65,000 of the smallest; a stalled reader of small events comes near it, and it is shared by all streams.
    pub small_frame_budget: usize,
    /// Frames of an accepted connection's peer that carry nothing (PING, SETTINGS, RST_STREAM, WINDOW_UPDATE, PRIORITY, CONTINUATION,
    /// empty DATA) in one second, less four for each DATA frame of theirs or ours that holds 64 bytes or more; one more ends the
    /// connection with ENHANCE_YOUR_CALM. Default 2000: a busy source pod whose clients all give up at once sends some hundreds.
    pub idle_frames: usize,
    /// Who is told when a bound is reached.
    pub observer: Observer,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            max_streams: 200,
            max_frame_size: 1 << 20,
            max_header_list: 64 << 10,
            send_buffer: 400 << 10,
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(20),
            handshake_timeout: Duration::from_secs(10),
            max_concurrent_reset_streams: 100,
            max_pending_accept_reset_streams: 100,
            max_local_error_reset_streams: 1024,
            small_frame_budget: 16 << 20,
            idle_frames: 2000,
            observer: Observer::default(),
        }
    }
}

impl Settings {
    /// Checks what HTTP/2 and ztunnel demand. [`crate::handshake`] and [`crate::connect`] do it too, so a caller needs this
    /// only to report a fault when its configuration is read.
    ///
    /// # Errors
    /// The first fault found.
    pub fn validate(&self) -> Result<(), BadSettings> {
        if self.connection_window <= self.stream_window {
            return Err(BadSettings::ConnectionWindow {
                connection: self.connection_window,
                stream: self.stream_window,
            });
        }
        if self.connection_window > MAX_WINDOW || self.stream_window == 0 {
            return Err(BadSettings::Window);
        }
        if self.max_streams < MIN_STREAMS {
            return Err(BadSettings::TooFewStreams(self.max_streams));
        }
        if !FRAME_SIZES.contains(&self.max_frame_size) {
            return Err(BadSettings::FrameSize(self.max_frame_size));
        }
        if !(1..=MAX_SEND_BUFFER).contains(&self.send_buffer) {
            return Err(BadSettings::SendBuffer(self.send_buffer));
        }
        Ok(())
    }

    pub(crate) fn server(&self) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_concurrent_streams(self.max_streams)
            .max_frame_size(self.max_frame_size)
            .max_header_list_size(self.max_header_list)
            .max_send_buffer_size(self.send_buffer)
            .max_concurrent_reset_streams(self.max_concurrent_reset_streams)
            .max_pending_accept_reset_streams(self.max_pending_accept_reset_streams)
            .max_local_error_reset_streams(Some(self.max_local_error_reset_streams))
            .data_frame_budget(self.small_frame_budget);
        builder
    }

    pub(crate) fn client(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_frame_size(self.max_frame_size)
            .max_header_list_size(self.max_header_list)
            .max_send_buffer_size(self.send_buffer)
            .max_concurrent_reset_streams(self.max_concurrent_reset_streams)
            .max_local_error_reset_streams(Some(self.max_local_error_reset_streams))
            .data_frame_budget(self.small_frame_budget);
        builder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_contract() {
        let s = Settings::default();
        assert_eq!(s.validate(), Ok(()));
        assert_eq!((s.stream_window, s.connection_window), (4_194_304, 16_777_216));
        assert_eq!((s.max_frame_size, s.max_streams, s.max_header_list), (1_048_576, 200, 65_536));
        assert_eq!(s.send_buffer, 409_600);
        assert_eq!(
            (s.ping_interval.as_secs(), s.ping_timeout.as_secs(), s.handshake_timeout.as_secs()),
            (10, 20, 10)
        );
    }

    #[test]
    fn settings_that_would_starve_or_panic_are_refused() {
        let base = Settings::default;
        let table = [
            (
                Settings { connection_window: 4 << 20, ..base() },
                BadSettings::ConnectionWindow { connection: 4 << 20, stream: 4 << 20 },
            ),
            (
                Settings { connection_window: 1, ..base() },
                BadSettings::ConnectionWindow { connection: 1, stream: 4 << 20 },
            ),
            (Settings { connection_window: 1 << 31, ..base() }, BadSettings::Window),
            (Settings { stream_window: 0, ..base() }, BadSettings::Window),
            (Settings { max_streams: 99, ..base() }, BadSettings::TooFewStreams(99)),
            (Settings { max_frame_size: 16_383, ..base() }, BadSettings::FrameSize(16_383)),
            (Settings { max_frame_size: 1 << 24, ..base() }, BadSettings::FrameSize(1 << 24)),
            (Settings { send_buffer: 0, ..base() }, BadSettings::SendBuffer(0)),
            (Settings { send_buffer: usize::MAX, ..base() }, BadSettings::SendBuffer(usize::MAX)),
        ];
        for (settings, fault) in table {
            assert_eq!(settings.validate(), Err(fault), "{settings:?}");
        }
    }
}
