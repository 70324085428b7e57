//! Events of the process' life, one JSON line each: what a supervisor or a test waits for.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A listener is bound.
    Listening {
        /// `hbone`, `proxy_protocol`, `admin`, `metrics`, `envoy_metrics` or `ready`.
        what: &'static str,
        /// Where; with the port that was given for port 0.
        address: SocketAddr,
    },
    /// Certificate, configuration and listeners are there.
    Ready {
        /// Snapshot that serves first.
        generation: u64,
    },
    /// The shutdown went a step on.
    Stopping {
        /// `lingering`, `draining` or `aborting`.
        phase: &'static str,
    },
    /// Nothing is served any more.
    Stopped {
        /// Connections that were cut at the deadline.
        connections_cut: usize,
        /// Streams that were cut at the deadline.
        streams_cut: usize,
    },
}

/// Who is told. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(&Event) + Send + Sync>);

impl Events {
    /// Calls `hear` with each event, on the thread where it happens.
    #[must_use]
    pub fn new(hear: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// JSON lines on standard error.
    #[must_use]
    pub fn to_stderr() -> Self {
        Self::new(|event| {
            let Ok(mut line) = serde_json::to_vec(event) else { return };
            line.push(b'\n');
            // One write, so that lines of the log don't come between. Nobody may be listening.
            let _ = std::io::stderr().lock().write_all(&line);
        })
    }

    /// Tells one event.
    pub fn tell(&self, event: Event) {
        (self.0)(&event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_lines_of_the_contract() {
        let rows = [
            (
                Event::Listening { what: "hbone", address: "127.0.0.1:34567".parse().unwrap() },
                r#"{"event":"listening","what":"hbone","address":"127.0.0.1:34567"}"#,
            ),
            (Event::Ready { generation: 1 }, r#"{"event":"ready","generation":1}"#),
            (Event::Stopping { phase: "draining" }, r#"{"event":"stopping","phase":"draining"}"#),
            (
                Event::Stopped { connections_cut: 1, streams_cut: 2 },
                r#"{"event":"stopped","connections_cut":1,"streams_cut":2}"#,
            ),
        ];
        for (event, line) in rows {
            assert_eq!(serde_json::to_string(&event).unwrap(), line);
        }
    }
}
