//! A Service whose pods die: no GOAWAY, no end of TLS, no leave of the mesh before. All that ran on them breaks where it is.
//!
//! What ran on a pod that died may be lost, and is counted apart. Whatever may be asked again (RFC 9110 §9.2.1), or had not
//! begun, must not be: the other pod is there.

use crate::ca::Ca;
use crate::http::full;
use crate::load::site::Site;
use crate::load::{App, Caller, Echoed, Kept, Sessions, Ticks, Way};
use crate::manifests::Port;
use crate::mesh::{Pod, Service};
use crate::upstream::Echo;
use crate::ztunnel::Inbound;
use anyhow::{Error, Result};
use http::{Request, StatusCode};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Its name, by which the waypoint's metrics know it too.
pub(super) const NAME: &str = "frail";

/// Its ports: HTTP and opaque.
const HTTP: u16 = 80;
const TCP: u16 = 83;

/// Ports of its pods.
const APP: u16 = 8080;
const ECHO: u16 = 9000;

/// From a death to the new beginning, and from there to the next death, which is another pod's.
const TURN: Duration = Duration::from_secs(2);

/// What the waypoint says of an endpoint that went away (Envoy's words).
const GONE: &str = "upstream connect error or disconnect/reset before headers";

/// A question that was lost to a death, and properly told so.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("lost with its pod")]
pub(super) struct Lost;

/// Who dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// The HTTP application of a pod, as by the kernel's want of memory. Its ztunnel and its other port live on.
    Application,
    /// All of a pod, and its ztunnel.
    Everything,
}

/// How many have died.
#[derive(Default)]
struct Deaths {
    any: AtomicU64,
    everything: AtomicU64,
}

impl Deaths {
    fn note(&self, victim: Victim) {
        self.any.fetch_add(1, Ordering::Relaxed);
        if victim == Victim::Everything {
            self.everything.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Of one caller: each death excuses one loss. A caller asks one thing at a time, so no death can break two.
pub(super) struct Excuses {
    deaths: Arc<Deaths>,
    used: u64,
}

impl Excuses {
    /// `error` as a loss, if somebody died since the one before.
    fn by_any(&mut self, error: Error) -> Error {
        self.by(self.deaths.any.load(Ordering::Relaxed), error)
    }

    /// The same, if that was a whole pod.
    fn by_everything(&mut self, error: Error) -> Error {
        self.by(self.deaths.everything.load(Ordering::Relaxed), error)
    }

    fn by(&mut self, deaths: u64, error: Error) -> Error {
        if deaths == self.used {
            return error.context("nobody had died");
        }
        self.used = deaths;
        error.context(Lost)
    }
}

/// The Service and its two pods.
pub(super) struct Frail {
    ca: Arc<Ca>,
    sessions: Sessions,
    service: Service,
    pods: Vec<Mortal>,
    deaths: Arc<Deaths>,
}

/// A pod, and what lives on it.
struct Mortal {
    pod: Pod,
    app: Option<App>,
    echo: Option<Echo>,
}

impl Frail {
    /// Starts the pods. The waypoint must not run yet.
    pub(super) async fn new(site: &mut Site) -> Result<Self> {
        let sessions = site.sessions.clone();
        let mut pods = Vec::new();
        for _ in 0..2 {
            let pod = site.setup.pod(NAME, true).await?;
            let mut mortal = Mortal { pod, app: None, echo: None };
            mortal.begin(&site.setup.ca, &sessions).await?;
            pods.push(mortal);
        }
        let port =
            |name, port, speaks, target_port| Port { target_port, ..Port::new(name, port).speaking(speaks) };
        let service =
            site.setup.service(NAME, &[port("http", HTTP, "http", APP), port("tcp", TCP, "tcp", ECHO)])?;
        Ok(Self { ca: site.setup.ca.clone(), sessions, service, pods, deaths: Arc::default() })
    }

    /// The authority of its HTTP port.
    pub(super) fn http(&self) -> String {
        self.service.authority(HTTP)
    }

    /// The authority of its opaque port.
    pub(super) fn tcp(&self) -> String {
        self.service.authority(TCP)
    }

    /// For a caller whose questions may be lost.
    pub(super) fn excuses(&self) -> Excuses {
        Excuses { deaths: self.deaths.clone(), used: 0 }
    }

    /// Lets one pod after the other die and begin anew until then, and tells how many deaths there were. All live at the end.
    pub(super) async fn die_until(&mut self, end: Instant) -> Result<u64> {
        let mut pace = interval(TURN);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let victims = [Victim::Everything, Victim::Everything, Victim::Application, Victim::Application];
        let mut deaths = 0;
        for (pod, victim) in (0..self.pods.len()).cycle().zip(victims.into_iter().cycle()) {
            pace.tick().await;
            if Instant::now() >= end {
                break;
            }
            let Some(mortal) = self.pods.get_mut(pod) else { break };
            self.deaths.note(victim);
            mortal.die(victim).await;
            deaths += 1;
            pace.tick().await;
            mortal.begin(&self.ca, &self.sessions).await?;
        }
        Ok(deaths)
    }
}

impl Mortal {
    /// Ends it as a killed process ends: the kernel closes its sockets, and nobody says a word (an aborted task drops its
    /// sockets likewise).
    async fn die(&mut self, victim: Victim) {
        if victim == Victim::Everything {
            // Before its applications, whose ends it would properly pass on.
            if let Some(ztunnel) = self.pod.ztunnel.take() {
                ztunnel.end().await;
            }
            self.echo = None;
        }
        if let Some(app) = self.app.take() {
            app.end().await;
        }
    }

    /// Starts what does not live.
    async fn begin(&mut self, ca: &Ca, sessions: &Sessions) -> Result<()> {
        if self.app.is_none() {
            self.app = Some(App::start(self.pod.port(APP), sessions.clone()).await?);
        }
        if self.echo.is_none() {
            self.echo = Some(Echo::start(self.pod.port(ECHO), b"").await?);
        }
        if self.pod.ztunnel.is_none() {
            let svid = ca.svid(&self.pod.id)?;
            self.pod.ztunnel = Some(Inbound::start(ca, &svid, self.pod.address).await?);
        }
        self.pod.ztunnel.iter().for_each(Inbound::forget);
        Ok(())
    }
}

/// Posts whose answer takes its time. One that runs when its pod dies may have been done, so nobody asks again: 503.
pub(super) struct SlowPosts {
    pub(super) client: Kept,
    pub(super) excuses: Excuses,
}

impl Caller for SlowPosts {
    async fn ask(&mut self) -> Result<()> {
        let post = Request::post("/slow").header("host", NAME).body(full("once"))?;
        let reply = self.client.exchange(post).await?;
        let told = anyhow::anyhow!("{} {}", reply.status, reply.text());
        match (reply.status, &*reply.text()) {
            (StatusCode::OK, "ok") => Ok(()),
            (StatusCode::SERVICE_UNAVAILABLE, GONE) => Err(self.excuses.by_any(told)),
            _ => Err(told),
        }
    }
}

/// An event stream, opened again when it broke. A clean end would say that there are no more events.
pub(super) struct BreakingEvents {
    pub(super) way: Way,
    pub(super) open: Option<Ticks>,
    pub(super) excuses: Excuses,
}

impl Caller for BreakingEvents {
    async fn ask(&mut self) -> Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Ticks::open(&self.way).await?,
        };
        match open.next().await {
            Err(error) if error.is::<hyper::Error>() => Err(self.excuses.by_any(error)),
            Err(error) => Err(error),
            Ok(()) => {
                self.open = Some(open);
                Ok(())
            }
        }
    }
}

/// An opaque stream, opened again when it was reset. A clean end would say that all bytes have come.
pub(super) struct BreakingBytes {
    pub(super) way: Way,
    pub(super) open: Option<Echoed>,
    pub(super) excuses: Excuses,
}

impl Caller for BreakingBytes {
    async fn ask(&mut self) -> Result<()> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Echoed::open(&self.way).await?,
        };
        match open.ask().await {
            Err(error) if is_reset(&error) => Err(self.excuses.by_everything(error)),
            Err(error) => Err(error),
            Ok(()) => {
                self.open = Some(open);
                Ok(())
            }
        }
    }
}

/// Opaque streams, one for each question. None may be refused: as long as no endpoint has taken it, another may.
pub(super) struct BriefBytes {
    pub(super) way: Way,
    pub(super) excuses: Excuses,
}

impl Caller for BriefBytes {
    async fn ask(&mut self) -> Result<()> {
        let echoed = async { Echoed::open(&self.way).await?.ask().await };
        echoed.await.map_err(|error| match is_reset(&error) {
            true => self.excuses.by_everything(error),
            false => error,
        })
    }
}

/// Whether a stream was reset, and neither ended nor was refused. A reset overtakes a 200 that has not gone out.
fn is_reset(error: &Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
            || cause.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_reset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_excuses_one_loss_of_each_caller_and_nothing_else() {
        let deaths = Arc::<Deaths>::default();
        let caller = || Excuses { deaths: deaths.clone(), used: 0 };
        let (mut one, mut other, mut bytes) = (caller(), caller(), caller());
        let broken = || anyhow::anyhow!("broken");
        assert!(!one.by_any(broken()).is::<Lost>(), "nobody has died");
        deaths.note(Victim::Application);
        assert!(one.by_any(broken()).is::<Lost>());
        assert!(!one.by_any(broken()).is::<Lost>(), "once is enough");
        assert!(other.by_any(broken()).is::<Lost>());
        assert!(!bytes.by_everything(broken()).is::<Lost>(), "its ztunnel and its bytes live on");
        deaths.note(Victim::Everything);
        assert!(bytes.by_everything(broken()).is::<Lost>());
        assert!(one.by_any(broken()).is::<Lost>());
    }
}
