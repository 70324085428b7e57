//! From the first request to stop to the exit: the order of `Phase`, with its clock.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use waypoint_proxy::drain::{Drain, Phase};
use waypoint_proxy::limits::Limits;

use crate::events::{Event, Events};

/// Somebody wants the process to end: a signal, `/quitquitquit`, the demo's end. A second one skips ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop;

/// Where stops come in. Few ever do, so the queue is short.
#[must_use]
pub fn stops() -> (mpsc::Sender<Stop>, mpsc::Receiver<Stop>) {
    mpsc::channel(4)
}

/// How long what was aborted is waited for.
const ABORTED: Duration = Duration::from_secs(2);

/// What was still open when the deadline passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Connections.
    pub connections: usize,
    /// Streams.
    pub streams: usize,
}

/// Waits for the first stop, then moves the phases: lingering (not ready, still accepting), draining (GOAWAY, streams
/// finish), aborting (the rest is reset). `served` ends when nothing is open any more; `open` counts connections and streams.
///
/// Each further stop skips to the next phase. If nobody is left who could ask for a stop, it waits for ever.
pub async fn drain(
    drain: &Drain,
    limits: &Limits,
    stops: &mut mpsc::Receiver<Stop>,
    events: &Events,
    served: impl Future<Output = ()>,
    open: impl Fn() -> (usize, usize),
) -> Cut {
    tokio::pin!(served);
    if !asked(stops, &mut served).await {
        return Cut::default();
    }
    let start = Instant::now();
    let enter = |phase: Phase, name: &'static str| {
        drain.advance(phase);
        let (connections, streams) = open();
        tracing::info!(connections, streams, "{name}");
        events.tell(Event::Stopping { phase: name });
    };
    enter(Phase::Lingering, "lingering");
    let lingered = wait(start + limits.drain_linger, stops, &mut served).await;
    if lingered == Waited::Served {
        return Cut::default();
    }
    enter(Phase::Draining, "draining");
    let drained = wait(start + limits.drain_deadline, stops, &mut served).await;
    if drained == Waited::Served {
        return Cut::default();
    }
    let (connections, streams) = open();
    enter(Phase::Aborting, "aborting");
    if tokio::time::timeout(ABORTED, &mut served).await.is_err() {
        tracing::warn!("some connections did not end although they were aborted");
    }
    Cut { connections, streams }
}

/// Why a phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    Deadline,
    Asked,
    Served,
}

/// `false`: everything ended without anybody asking.
async fn asked(stops: &mut mpsc::Receiver<Stop>, served: &mut (impl Future<Output = ()> + Unpin)) -> bool {
    tokio::select! {
        stop = next(stops) => { let Stop = stop; true }
        () = served => false,
    }
}

async fn wait(
    until: Instant,
    stops: &mut mpsc::Receiver<Stop>,
    served: &mut (impl Future<Output = ()> + Unpin),
) -> Waited {
    // Each arm is cancel safe; the deadline is looked at last, so that an end at the same moment is an end.
    tokio::select! {
        biased;
        () = served => Waited::Served,
        stop = next(stops) => { let Stop = stop; Waited::Asked }
        () = sleep_until(until) => Waited::Deadline,
    }
}

async fn next(stops: &mut mpsc::Receiver<Stop>) -> Stop {
    match stops.recv().await {
        Some(stop) => stop,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::oneshot;
    use waypoint_proxy::drain;

    use super::*;

    /// Runs a drain with paused time; `stops` at these seconds, streams end at `ends`. Returns phases with their seconds.
    async fn story(stops_at: &[u64], ends: Option<u64>) -> (Vec<(String, u64)>, Cut, u64) {
        let start = Instant::now();
        let (ask, mut stops) = stops();
        let (handle, _watch) = drain::channel();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hear = Arc::clone(&heard);
        let events = Events::new(move |event| {
            if let Event::Stopping { phase } = event {
                hear.lock().unwrap().push(((*phase).to_owned(), start.elapsed().as_secs()));
            }
        });
        let (end, ended) = oneshot::channel::<()>();
        let times = stops_at.to_vec();
        let script = async move {
            let _keep = (&ask, &end);
            for at in times {
                sleep_until(start + Duration::from_secs(at)).await;
                ask.send(Stop).await.unwrap();
            }
            match ends {
                Some(at) => sleep_until(start + Duration::from_secs(at)).await,
                None => std::future::pending().await,
            }
        };
        let served = async move {
            let _ = ended.await;
        };
        let limits = Limits::default();
        let script = tokio::spawn(script);
        let cut = drain_story(&handle, &limits, &mut stops, &events, served).await;
        script.abort();
        let heard = heard.lock().unwrap().clone();
        (heard, cut, start.elapsed().as_secs())
    }

    async fn drain_story(
        handle: &Drain,
        limits: &Limits,
        stops: &mut mpsc::Receiver<Stop>,
        events: &Events,
        served: impl Future<Output = ()>,
    ) -> Cut {
        drain(handle, limits, stops, events, served, || (2, 3)).await
    }

    fn phases(list: &[(&str, u64)]) -> Vec<(String, u64)> {
        list.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn streams_that_end_are_waited_for_and_nothing_is_cut() {
        let (heard, cut, ended) = story(&[1], Some(10)).await;
        assert_eq!(heard, phases(&[("lingering", 1), ("draining", 4)]));
        assert_eq!((cut, ended), (Cut::default(), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_open_at_the_deadline_is_cut_and_counted() {
        let (heard, cut, ended) = story(&[0], None).await;
        assert_eq!(heard, phases(&[("lingering", 0), ("draining", 3), ("aborting", 25)]));
        assert_eq!((cut, ended), (Cut { connections: 2, streams: 3 }, 27));
    }

    #[tokio::test(start_paused = true)]
    async fn each_further_stop_skips_ahead() {
        let (heard, cut, ended) = story(&[0, 1, 2], None).await;
        assert_eq!(heard, phases(&[("lingering", 0), ("draining", 1), ("aborting", 2)]));
        assert_eq!((cut.streams, ended), (3, 4));
    }
}
