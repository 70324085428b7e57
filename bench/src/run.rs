//! Carrying the cases: all contestants of a case in turn, round after round.

use crate::cases::{Case, Contestant};
use crate::contestant::Running;
use crate::figures::Round;
use crate::load::{self, Load};
use crate::report::{CaseReport, ContestantReport};
use crate::world::World;
use anyhow::{Context as _, Result};
use portcullis_tests::wait;
use std::time::Duration;

/// How many times its time a round may take, on a machine that does other things as well.
const PATIENCE: u32 = 5;

/// What a round may take besides, to open thousands of things.
const HOLDING: Duration = Duration::from_secs(120);

/// How much is carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Rounds of each contestant.
    pub rounds: usize,
    /// Time of one round.
    pub time: Duration,
    /// Time of one round whose tail latencies count.
    pub open_time: Duration,
}

impl Effort {
    /// The time of one round of `load`.
    pub(crate) fn of(self, load: &Load) -> Duration {
        if load.counts_tails() { self.open_time } else { self.time }
    }
}

/// Carries one case.
///
/// # Errors
/// When a contestant does not start, or an answer is wrong.
pub(crate) async fn case(world: &World, case: &Case, effort: Effort) -> Result<CaseReport> {
    let (present, missing) = split(world, case);
    let mut running: Vec<Option<Running>> = Vec::new();
    for contestant in &present {
        let started = match case.load.needs_fresh_process() {
            true => None,
            false => Some(start(world, contestant, case).await?),
        };
        running.push(started);
    }
    let mut rounds = vec![Vec::new(); present.len()];
    let time = effort.of(&case.load);
    for round in 0..effort.rounds {
        eprint!("  {} round {} of {}:", case.name, round + 1, effort.rounds);
        // Each round begins with another one, so that nobody always comes after the same.
        for turn in 0..present.len() {
            let at = (turn + round) % present.len();
            let (Some(contestant), Some(kept), Some(rounds)) =
                (present.get(at), running.get(at), rounds.get_mut(at))
            else {
                continue;
            };
            eprint!(" {}", contestant.name);
            let fresh;
            let running = match kept {
                Some(running) => running,
                None => {
                    fresh = start(world, contestant, case).await?;
                    &fresh
                }
            };
            let what = format!("{} through {}", case.name, contestant.name);
            let carried = Box::pin(case.load.carry(running, time));
            let carried = wait::within_time(time * PATIENCE + HOLDING, &what, carried);
            rounds.push(carried.await?.with_context(|| what.clone())?);
        }
        eprintln!();
    }
    let contestants = present.into_iter().zip(rounds);
    let contestants = contestants.map(|(contestant, rounds)| report(contestant, rounds)).collect();
    Ok(CaseReport { name: case.name.clone(), about: case.about.clone(), contestants, missing })
}

/// Starts a contestant, and sees that it refuses what it must.
pub(crate) async fn start(world: &World, contestant: &Contestant, case: &Case) -> Result<Running> {
    let what = || format!("{} for {}", contestant.name, case.name);
    let running = contestant.kind.start(world, case.load.app()).await.with_context(what)?;
    if let Some(ask) = case.forbidden.as_ref().filter(|_| contestant.kind.judges()) {
        load::refused(ask, &running).await.with_context(what)?;
    }
    Ok(running)
}

fn report(contestant: &Contestant, rounds: Vec<Round>) -> ContestantReport {
    ContestantReport { name: contestant.name.to_owned(), rounds }
}

/// Those who can carry the case here, and the names of the others.
fn split<'a>(world: &World, case: &'a Case) -> (Vec<&'a Contestant>, Vec<String>) {
    let (missing, present): (Vec<_>, Vec<_>) =
        case.contestants.iter().partition(|contestant| contestant.kind.missing(world).is_some());
    (present, missing.into_iter().map(|contestant| contestant.name.to_owned()).collect())
}
