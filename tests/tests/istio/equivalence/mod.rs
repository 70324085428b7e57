//! The same policies, three judges, one verdict: our waypoint fed by istiod, our waypoint fed by the manifests, and a real
//! Envoy that runs the filters which istiod sent. Asked are requests of HTTP, messages of MCP and connections of opaque bytes,
//! by workloads of the mesh and by others that its CA vouches for.
//!
//! `PORTCULLIS_SEED` draws other policies and requests; `PORTCULLIS_ROUNDS` draws more of them.

mod callers;
mod known;
mod messages;
mod policies;
mod questions;
mod requests;
mod routes;
mod services;
mod stage;
mod streams;
mod verdict;

use anyhow::{Context, Result, bail, ensure};
use policies::{About, Policy};
use portcullis_tests::neighbours::tell;
use proptest::strategy::{BoxedStrategy, Strategy as _, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use questions::Question;
use stage::{Round, Stage};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use verdict::Answers;

/// Services, each with policies of its own.
const SERVICES: usize = 16;

/// What Services are about, in turn.
const KINDS: [About; 4] = [About::Http, About::Http, About::Mcp, About::Opaque];

/// Requests or connections to each of them in a round.
const REQUESTS: usize = 40;

/// How often all policies are drawn anew.
const ROUNDS: u64 = 4;

/// Policies of one Service, and of the Gateway.
const MOST: (usize, usize) = (3, 1);

/// Examples of each sort that there must be, so that agreement says something.
const WANTED: [(&str, usize); 8] = [
    ("Http Allowed", 20),
    ("Http Denied", 20),
    ("Http Unauthenticated", 20),
    ("Mcp Allowed", 20),
    ("Mcp Denied", 20),
    ("Opaque Allowed", 20),
    ("Opaque Denied", 20),
    ("list in part", 1),
];

/// How long a smaller example is looked for before what is there has to do.
const PATIENCE: Duration = Duration::from_secs(60);

type Tree<T> = Box<dyn ValueTree<Value = T>>;

#[tokio::test]
async fn the_same_policies_give_the_same_verdict_from_istiod_from_manifests_and_in_envoy() -> Result<()> {
    let (seed, rounds) = (setting("PORTCULLIS_SEED", 4)?, setting("PORTCULLIS_ROUNDS", ROUNDS)?);
    let mut draw = Draw::new(seed);
    let kinds: Vec<_> = KINDS.into_iter().cycle().take(SERVICES).collect();
    let mut stage = Stage::set(&kinds).await?;
    let mut counts = BTreeMap::new();
    let begun = Instant::now();
    for round in 0..rounds {
        let drawn = draw.round(&stage)?;
        stage.play(&drawn.round()).await?;
        let questions = drawn.questions();
        let answers = stage.ask(&questions).await?;
        for (at, answers) in answers.iter().enumerate() {
            if !answers.agree() {
                let example = shrunk(&mut stage, drawn, at).await?;
                bail!("seed {seed}, round {round}: {example}");
            }
            *counts.entry(counted(&stage, &questions[at], answers)).or_insert(0) += 1;
        }
    }
    tell(&format!("equivalence, seed {seed}: {counts:?} in {:.1} s", begun.elapsed().as_secs_f64()));
    for (wanted, least) in WANTED {
        let count = counts.get(wanted).copied().unwrap_or(0);
        ensure!(count >= least, "too few of {wanted}: {counts:?}");
    }
    Ok(())
}

/// What an example is of, for the count of all.
fn counted(stage: &Stage, (slot, question): &(usize, Question), answers: &Answers) -> String {
    let offered = question.message().map_or(0, |message| message.entries().len());
    match answers.envoy.shown.len() {
        shown if 0 < shown && shown < offered => "list in part".to_owned(),
        _ => format!("{:?} {:?}", stage.slots[*slot].about, answers.envoy.verdict),
    }
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
        let mut drawn = Drawn { gateway, services: Vec::new(), questions: Vec::new() };
        for slot in &stage.slots {
            drawn.services.push(self.tree(&policies::policies(slot.about, MOST.0))?);
            let asked = questions::question(slot.about);
            drawn.questions.push((0..REQUESTS).map(|_| self.tree(&asked)).collect::<Result<_>>()?);
        }
        Ok(drawn)
    }
}

/// A round that can be made smaller.
struct Drawn {
    gateway: Tree<Vec<Policy>>,
    services: Vec<Tree<Vec<Policy>>>,
    questions: Vec<Vec<Tree<Question>>>,
}

impl Drawn {
    fn round(&self) -> Round {
        Round {
            gateway: self.gateway.current(),
            services: self.services.iter().map(|tree| tree.current()).collect(),
        }
    }

    /// Questions with the index of their Service.
    fn questions(&self) -> Vec<(usize, Question)> {
        let of = |(slot, trees): (usize, &Vec<Tree<Question>>)| {
            trees.iter().map(move |tree| (slot, tree.current())).collect::<Vec<_>>()
        };
        self.questions.iter().enumerate().flat_map(of).collect()
    }
}

/// The smallest policies and question found on which the judges still differ, in words.
async fn shrunk(stage: &mut Stage, mut drawn: Drawn, at: usize) -> Result<String> {
    let slot = at / REQUESTS;
    let mut example = Example {
        slot,
        gateway: drawn.gateway,
        policies: drawn.services.swap_remove(slot),
        question: drawn.questions.swap_remove(slot).swap_remove(at % REQUESTS),
        keeps_gateway: false,
    };
    // Usually the Gateway's policies have no part in it.
    if example.differs(stage).await?.is_none() {
        example.keeps_gateway = true;
    }
    let end = Instant::now() + PATIENCE;
    for part in [Part::Policies, Part::Gateway, Part::Question] {
        example.shrink(part, stage, end).await?;
    }
    let round = example.round(stage);
    let Some(answers) = example.differs(stage).await? else {
        return Ok(format!(
            "no difference when asked again\n{}{:?}",
            stage.shown(&round),
            example.question.current()
        ));
    };
    Ok(format!("{answers:#?}\n{}{:#?}", stage.shown(&round), example.question.current()))
}

/// What may be made smaller.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Policies,
    Gateway,
    Question,
}

struct Example {
    slot: usize,
    gateway: Tree<Vec<Policy>>,
    policies: Tree<Vec<Policy>>,
    question: Tree<Question>,
    keeps_gateway: bool,
}

impl Example {
    fn round(&self, stage: &Stage) -> Round {
        let mut services = vec![Vec::new(); stage.slots.len()];
        services[self.slot] = self.policies.current();
        let gateway = if self.keeps_gateway { self.gateway.current() } else { Vec::new() };
        Round { gateway, services }
    }

    async fn differs(&self, stage: &mut Stage) -> Result<Option<Answers>> {
        stage.play(&self.round(stage)).await?;
        let answers = stage.ask(&[(self.slot, self.question.current())]).await?;
        Ok(answers.into_iter().find(|answers| !answers.agree()))
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
            Part::Question => self.question.simplify(),
        }
    }

    fn complicate(&mut self, part: Part) -> bool {
        match part {
            Part::Policies => self.policies.complicate(),
            Part::Gateway => self.keeps_gateway && self.gateway.complicate(),
            Part::Question => self.question.complicate(),
        }
    }
}
