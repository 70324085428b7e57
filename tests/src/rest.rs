//! After every test: what the waypoint counts as open must come down to nothing once its clients are gone.
//!
//! A test's clients are gone when its runtime is, and that is after its last line. So the process is given to the test's thread, and
//! looked at when that ends.

use crate::lines::Lines;
use crate::portcullis::Metrics;
use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tokio::process::Child;

/// What must be zero: connections and streams of clients, what runs for them at endpoints, bodies that are held.
const AT_REST: [&str; 4] = [
    "portcullis_tunnels",
    "portcullis_streams",
    "portcullis_upstream_requests",
    "portcullis_inspected_bytes",
];

/// How long a busy machine may take for that.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

thread_local! {
    static WATCHED: RefCell<Vec<Watched>> = const { RefCell::new(Vec::new()) };
}

/// Keeps a running waypoint until this thread ends, and ends all tests if it is not at rest then.
pub(crate) fn watch(child: Child, metrics: SocketAddr, events: &Lines) {
    if std::thread::panicking() {
        return; // The test has failed already; the child is killed.
    }
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let watched = Watched { child, metrics, test, events: events.clone() };
    // Fails only while the thread ends, and then nobody can be told.
    let _ = WATCHED.try_with(|all| all.borrow_mut().push(watched));
}

struct Watched {
    child: Child,
    metrics: SocketAddr,
    test: String,
    events: Lines,
}

impl Drop for Watched {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let open = match (self.child.try_wait(), self.scrape()) {
                (Ok(Some(_)) | Err(_), _) => return, // It has ended, as some tests want.
                (_, Ok(scrape)) => raised(&scrape),
                (_, Err(error)) => vec![format!("no metrics: {error}")],
            };
            if open.is_empty() {
                return;
            }
            if Instant::now() > end {
                // Standard error itself: what is printed by a test that has ended is shown to nobody.
                let _ = writeln!(
                    std::io::stderr(),
                    "after {} this stays open: {open:?}; {:?}",
                    self.test,
                    self.events.all()
                );
                let _ = self.child.start_kill();
                std::process::exit(101);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Watched {
    fn scrape(&self) -> std::io::Result<Metrics> {
        let mut tcp = TcpStream::connect_timeout(&self.metrics, PATIENCE)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.write_all(b"GET /stats/prometheus HTTP/1.1\r\nHost: metrics\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        tcp.read_to_string(&mut text)?;
        Ok(Metrics(text))
    }
}

/// Which gauges are not at rest.
fn raised(scrape: &Metrics) -> Vec<String> {
    let values = AT_REST.map(|name| (name, scrape.sum(name, &[])));
    values.iter().filter(|(_, value)| *value != 0.0).map(|(name, value)| format!("{name} {value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raised_gauge_is_named() {
        let scrape =
            Metrics("portcullis_streams 2\nportcullis_tunnels 0\nportcullis_upstream_connections 9\n".into());
        assert_eq!(raised(&scrape), ["portcullis_streams 2"]);
    }
}
