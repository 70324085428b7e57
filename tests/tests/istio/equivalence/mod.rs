//! The same policies, three judges, one verdict: our waypoint fed by istiod, our waypoint fed by the manifests, and a real
//! Envoy that runs the filters which istiod sent.
//!
//! `PORTCULLIS_SEED` draws other policies and requests; `PORTCULLIS_ROUNDS` draws more of them.

mod known;
mod policies;
mod requests;
mod routes;
mod stage;

use anyhow::{Context, Result, bail, ensure};
use policies::{About, Policy};
use portcullis_tests::neighbours::tell;
use proptest::strategy::{BoxedStrategy, Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use requests::Asked;
use stage::{Round, Stage, Verdict, Verdicts};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Services, each with policies of its own.
const SERVICES: usize = 12;

/// Requests to each of them in a round.
const REQUESTS: usize = 40;

/// How often all policies are drawn anew.
const ROUNDS: u64 = 4;

/// Policies of one Service, and of the Gateway.
const MOST: (usize, usize) = (3, 1);

/// How long a smaller example is looked for before what is there has to do.
const PATIENCE: Duration = Duration::from_secs(60);

type Tree<T> = Box<dyn ValueTree<Value = T>>;

#[tokio::test]
async fn the_same_policies_give_the_same_verdict_from_istiod_from_manifests_and_in_envoy() -> Result<()> {
    let (seed, rounds) = (setting("PORTCULLIS_SEED", 4)?, setting("PORTCULLIS_ROUNDS", ROUNDS)?);
    let mut draw = Draw::new(seed);
    let mut stage = Stage::set(SERVICES).await?;
    let mut counts = BTreeMap::new();
    let begun = Instant::now();
    for round in 0..rounds {
        let drawn = draw.round(&stage)?;
        stage.play(&drawn.round()).await?;
        let questions = drawn.questions();
        let verdicts = stage.ask(&questions).await?;
        for (at, verdicts) in verdicts.iter().enumerate() {
            if !verdicts.agree() {
                let example = shrunk(&mut stage, drawn, at).await?;
                bail!("seed {seed}, round {round}: {example}");
            }
            *counts.entry(verdicts.envoy).or_insert(0) += 1;
        }
    }
    tell(&format!("equivalence, seed {seed}: {counts:?} in {:.1} s", begun.elapsed().as_secs_f64()));
    for wanted in [Verdict::Allowed, Verdict::Denied, Verdict::Unauthenticated] {
        ensure!(counts.get(&wanted).is_some_and(|count| *count >= 20), "too few of {wanted:?}: {counts:?}");
    }
    Ok(())
}

fn setting(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}

/// Draws what a seed says.
struct Draw(TestRunner);

impl Draw {
    fn new(seed: u64) -> Self {
        let bytes: Vec<u8> = seed.to_le_bytes().repeat(4);
        Self(TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)))
    }

    fn tree<T: std::fmt::Debug + 'static>(&mut self, strategy: &BoxedStrategy<T>) -> Result<Tree<T>> {
        strategy.new_tree(&mut self.0).map_err(|why| anyhow::anyhow!("nothing can be drawn: {why}"))
    }

    fn round(&mut self, stage: &Stage) -> Result<Drawn> {
        let gateway = self.tree(&policies::policies(About::Http, MOST.1))?;
        let mut drawn = Drawn { gateway, services: Vec::new(), requests: Vec::new() };
        for slot in &stage.slots {
            drawn.services.push(self.tree(&policies::policies(slot.about, MOST.0))?);
            let asked = requests::request(slot.about);
            drawn.requests.push((0..REQUESTS).map(|_| self.tree(&asked)).collect::<Result<_>>()?);
        }
        Ok(drawn)
    }
}

/// A round that can be made smaller.
struct Drawn {
    gateway: Tree<Vec<Policy>>,
    services: Vec<Tree<Vec<Policy>>>,
    requests: Vec<Vec<Tree<Asked>>>,
}

impl Drawn {
    fn round(&self) -> Round {
        Round {
            gateway: self.gateway.current(),
            services: self.services.iter().map(|tree| tree.current()).collect(),
        }
    }

    /// Requests with the index of their Service.
    fn questions(&self) -> Vec<(usize, Asked)> {
        let of = |(slot, trees): (usize, &Vec<Tree<Asked>>)| {
            trees.iter().map(move |tree| (slot, tree.current())).collect::<Vec<_>>()
        };
        self.requests.iter().enumerate().flat_map(of).collect()
    }
}

/// The smallest policies and request found on which the judges still differ, in words.
async fn shrunk(stage: &mut Stage, mut drawn: Drawn, at: usize) -> Result<String> {
    let slot = at / REQUESTS;
    let mut example = Example {
        slot,
        gateway: drawn.gateway,
        policies: drawn.services.swap_remove(slot),
        request: drawn.requests.swap_remove(slot).swap_remove(at % REQUESTS),
        keeps_gateway: false,
    };
    // Usually the Gateway's policies have no part in it.
    if example.differs(stage).await?.is_none() {
        example.keeps_gateway = true;
    }
    let end = Instant::now() + PATIENCE;
    for part in [Part::Policies, Part::Gateway, Part::Request] {
        example.shrink(part, stage, end).await?;
    }
    let round = example.round(stage);
    let Some(verdicts) = example.differs(stage).await? else {
        return Ok(format!(
            "no difference when asked again\n{}{:?}",
            stage.shown(&round),
            example.request.current()
        ));
    };
    Ok(format!("{verdicts:#?}\n{}{:#?}", stage.shown(&round), example.request.current()))
}

/// What may be made smaller.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Policies,
    Gateway,
    Request,
}

struct Example {
    slot: usize,
    gateway: Tree<Vec<Policy>>,
    policies: Tree<Vec<Policy>>,
    request: Tree<Asked>,
    keeps_gateway: bool,
}

impl Example {
    fn round(&self, stage: &Stage) -> Round {
        let mut services = vec![Vec::new(); stage.slots.len()];
        services[self.slot] = self.policies.current();
        let gateway = if self.keeps_gateway { self.gateway.current() } else { Vec::new() };
        Round { gateway, services }
    }

    async fn differs(&self, stage: &mut Stage) -> Result<Option<Verdicts>> {
        stage.play(&self.round(stage)).await?;
        let verdicts = stage.ask(&[(self.slot, self.request.current())]).await?;
        Ok(verdicts.into_iter().find(|verdicts| !verdicts.agree()))
    }

    async fn shrink(&mut self, part: Part, stage: &mut Stage, end: Instant) -> Result<()> {
        let mut smaller = self.simplify(part);
        while smaller && Instant::now() < end {
            smaller = match self.differs(stage).await? {
                Some(_) => self.simplify(part),
                None => self.complicate(part),
            };
        }
        // Never end at an attempt that did not differ.
        while self.differs(stage).await?.is_none() && self.complicate(part) {}
        Ok(())
    }

    fn simplify(&mut self, part: Part) -> bool {
        match part {
            Part::Policies => self.policies.simplify(),
            Part::Gateway => self.keeps_gateway && self.gateway.simplify(),
            Part::Request => self.request.simplify(),
        }
    }

    fn complicate(&mut self, part: Part) -> bool {
        match part {
            Part::Policies => self.policies.complicate(),
            Part::Gateway => self.keeps_gateway && self.gateway.complicate(),
            Part::Request => self.request.complicate(),
        }
    }
}
