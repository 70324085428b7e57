//! The running waypoint as anybody sees it from outside: its events, its ports, its metrics.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::agent::Connection;
use crate::events::{Event, Events};

/// How long a start or a change of the configuration may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often metrics are looked at while something is waited for.
const LOOK: Duration = Duration::from_millis(5);

/// What the events have told so far.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    hbone: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    ready: bool,
}

/// A waypoint that is being started.
pub(super) struct Starting {
    told: watch::Receiver<Told>,
}

/// A waypoint that serves.
#[derive(Clone, Debug)]
pub(super) struct Running {
    /// Where tunnels are accepted.
    pub(super) hbone: SocketAddr,
    /// The admin port.
    pub(super) admin: SocketAddr,
    /// The metrics port.
    pub(super) metrics: SocketAddr,
}

impl Starting {
    /// Listens to the events of a waypoint.
    pub(super) fn listen() -> (Self, Events) {
        let (tell, told) = watch::channel(Told::default());
        let events = Events::new(move |event| {
            tell.send_modify(|told| match *event {
                Event::Listening { what: "hbone", address } => told.hbone = Some(address),
                Event::Listening { what: "admin", address } => told.admin = Some(address),
                Event::Listening { what: "metrics", address } => told.metrics = Some(address),
                Event::Ready { .. } => told.ready = true,
                _ => {}
            });
        });
        (Self { told }, events)
    }

    /// Waits until it says that it is ready.
    pub(super) async fn ready(mut self) -> Result<Running> {
        let told = timeout(PATIENCE, self.told.wait_for(|told| told.ready));
        let told = *told.await.context("the waypoint did not become ready")??;
        Ok(Running {
            hbone: told.hbone.context("no HBONE listener")?,
            admin: told.admin.context("no admin listener")?,
            metrics: told.metrics.context("no metrics listener")?,
        })
    }
}

impl Running {
    /// What `/stats/prometheus` says now.
    pub(super) async fn scrape(&self) -> Result<Scrape> {
        let mut connection = Connection::direct(self.metrics).await?;
        let request = Request::get("/stats/prometheus").header(header::HOST, self.metrics.to_string());
        let answer = connection.send(request.body(Full::new(Bytes::new()))?).await?;
        Ok(Scrape(String::from_utf8(answer.into_body().to_vec())?))
    }

    /// Waits until a newer configuration than `generation` serves; how long that took.
    pub(super) async fn newer_than(&self, generation: f64) -> Result<Duration> {
        let start = Instant::now();
        self.until(|scrape| scrape.sum("portcullis_config_generation", &[]) > generation).await?;
        Ok(start.elapsed())
    }

    /// Waits until the metrics say so, and returns them.
    pub(super) async fn until(&self, holds: impl Fn(&Scrape) -> bool) -> Result<Scrape> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let scrape = self.scrape().await?;
            if holds(&scrape) || Instant::now() > deadline {
                return Ok(scrape);
            }
            sleep(LOOK).await;
        }
    }
}

/// A scrape in the Prometheus text format.
#[derive(Clone, Debug)]
pub(super) struct Scrape(String);

impl Scrape {
    /// The sum of all series called `name` that carry these labels; zero when there is none.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |series: &Series<'_>| labels.iter().all(|(key, value)| series.label(key) == Some(*value));
        self.series(name).filter(fits).map(|series| series.value).sum()
    }

    /// All series called `name`.
    pub(super) fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Series<'a>> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let inside = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}'));
            let labels = if labels.is_empty() { "" } else { inside? };
            Some(Series { labels, value: value.parse().ok()? })
        })
    }
}

/// One line of a scrape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Series<'a> {
    labels: &'a str,
    /// Its value.
    pub(super) value: f64,
}

impl<'a> Series<'a> {
    /// A label's value. Values in this demo hold no quote and no comma.
    pub(super) fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let (key, value) = label.split_once('=')?;
            (key == name).then(|| value.trim_matches('"'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_name_and_labels() {
        let scrape =
            Scrape("# HELP a x\na{b=\"1\",c=\"2\"} 3\na{b=\"1\",c=\"3\"} 4\na_total 9\nd 5\n".to_owned());
        assert!((scrape.sum("a", &[("b", "1")]) - 7.0).abs() < f64::EPSILON);
        assert!((scrape.sum("a", &[("c", "3")]) - 4.0).abs() < f64::EPSILON);
        assert!((scrape.sum("d", &[]) - 5.0).abs() < f64::EPSILON);
        assert!(scrape.sum("d", &[("b", "1")]).abs() < f64::EPSILON);
        assert_eq!(scrape.series("a").next().unwrap().label("c"), Some("2"));
    }
}
