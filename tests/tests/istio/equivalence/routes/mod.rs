//! The same routes, two judges, one way: our waypoint, and a real Envoy that runs the route configuration which istiod sent
//! to our waypoint. Compared is where a request arrives and in which form, or how it is answered instead.

mod known;
mod requests;
mod rules;
mod stage;

use super::{Draw, PATIENCE, Tree, setting};
use anyhow::{Result, bail, ensure};
use portcullis_tests::neighbours::tell;
use requests::Asked;
use serde_json::Value;
use stage::{Outcome, Stage};
use std::collections::BTreeMap;
use std::time::Instant;

/// Services, each with routes of its own.
const SERVICES: usize = 16;

/// Requests to each of them in a round.
const REQUESTS: usize = 40;

/// How often all routes are drawn anew.
const ROUNDS: u64 = 3;

#[tokio::test]
async fn the_same_routes_lead_the_same_way_here_and_in_envoy() -> Result<()> {
    let (seed, rounds) = (setting("PORTCULLIS_SEED", 4)?, setting("PORTCULLIS_ROUNDS", ROUNDS)?);
    let mut draw = Draw::new(seed);
    let mut stage = Stage::set(SERVICES).await?;
    let mut counts = BTreeMap::new();
    let begun = Instant::now();
    for round in 0..rounds {
        let mut rules = Vec::new();
        let mut asked = Vec::new();
        for slot in &stage.slots {
            rules.push(draw.tree(&slot.kind.rules())?);
            asked.push((0..REQUESTS).map(|_| draw.tree(&requests::request())).collect::<Result<Vec<_>>>()?);
        }
        stage.play(&current(&rules)).await?;
        let of = |(slot, trees): (usize, &Vec<Tree<Asked>>)| {
            trees.iter().map(move |tree| (slot, tree.current())).collect::<Vec<_>>()
        };
        let questions: Vec<_> = asked.iter().enumerate().flat_map(of).collect();
        for (at, [ours, envoys]) in stage.ask(&questions).await?.iter().enumerate() {
            if ours != envoys {
                let slot = at / REQUESTS;
                let (rules, asked) =
                    (rules.swap_remove(slot), asked.swap_remove(slot).swap_remove(at % REQUESTS));
                let example = Example { slot, rules, asked }.shrunk(&mut stage).await?;
                bail!("seed {seed}, round {round}: {example}");
            }
            *counts.entry(sort(envoys)).or_insert(0) += 1;
        }
    }
    tell(&format!("routes, seed {seed}: {counts:?} in {:.1} s", begun.elapsed().as_secs_f64()));
    for wanted in ["its own application", "another", "redirected", "answered", "no route"] {
        ensure!(counts.get(wanted).is_some_and(|count| *count >= 10), "too few of {wanted}: {counts:?}");
    }
    Ok(())
}

fn current(rules: &[Tree<Vec<Value>>]) -> Vec<Vec<Value>> {
    rules.iter().map(|tree| tree.current()).collect()
}

/// For the count of what was tried.
fn sort(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Reached { seen, .. } if seen["application"] == 0 => "its own application",
        Outcome::Reached { .. } => "another",
        Outcome::NoDestination => "no destination",
        Outcome::Answered { status: 300..=399, .. } => "redirected",
        Outcome::Answered { status: 404, .. } => "no route",
        Outcome::Answered { .. } => "answered",
    }
}

/// Routes and a request on which the judges differ.
struct Example {
    slot: usize,
    rules: Tree<Vec<Value>>,
    asked: Tree<Asked>,
}

impl Example {
    /// The smallest that was found, in words.
    async fn shrunk(mut self, stage: &mut Stage) -> Result<String> {
        let end = Instant::now() + PATIENCE;
        for of_rules in [true, false] {
            let mut smaller = self.simplify(of_rules);
            while smaller && Instant::now() < end {
                smaller = match self.differs(stage).await? {
                    Some(_) => self.simplify(of_rules),
                    None => self.complicate(of_rules),
                };
            }
            // Never end at an attempt that did not differ.
            while self.differs(stage).await?.is_none() && self.complicate(of_rules) {}
        }
        let asked = self.asked.current();
        let Some([ours, envoys]) = self.differs(stage).await? else {
            return Ok(format!("no difference when asked again: {asked:?}"));
        };
        let routes = stage.shown(&self.round(stage), self.slot);
        Ok(format!("ours {ours:#?}\nEnvoy's {envoys:#?}\n{routes}{asked:?}"))
    }

    fn round(&self, stage: &Stage) -> Vec<Vec<Value>> {
        let mut round = vec![Vec::new(); stage.slots.len()];
        round[self.slot] = self.rules.current();
        round
    }

    async fn differs(&self, stage: &mut Stage) -> Result<Option<[Outcome; 2]>> {
        stage.play(&self.round(stage)).await?;
        let outcomes = stage.ask(&[(self.slot, self.asked.current())]).await?;
        Ok(outcomes.into_iter().find(|[ours, envoys]| ours != envoys))
    }

    fn simplify(&mut self, of_rules: bool) -> bool {
        if of_rules { self.rules.simplify() } else { self.asked.simplify() }
    }

    fn complicate(&mut self, of_rules: bool) -> bool {
        if of_rules { self.rules.complicate() } else { self.asked.complicate() }
    }
}
