//! A source that renews over a scripted authority, with the clock turned by hand.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::authority::{Authority, Leaf};
use crate::{Fetch, RenewingSource, SvidSource as _, X509Svid, clock::Clock};

const ID: &str = "spiffe://td.example/ns/a/sa/b";

/// What the authority does when it is asked.
enum Answer {
    Svid(X509Svid),
    Fault(&'static str),
    Silence,
}

/// Answers in order, and says the last words again and again. Notes when it was asked, in seconds.
struct Script {
    answers: VecDeque<Answer>,
    start: Instant,
    asked: Arc<Mutex<Vec<f64>>>,
}

impl Fetch for Script {
    type Error = String;

    fn authority(&self) -> String {
        "the authority".to_owned()
    }

    async fn fetch(&mut self) -> Result<X509Svid, String> {
        self.asked.lock().unwrap().push(self.start.elapsed().as_secs_f64());
        match self.answers.pop_front() {
            Some(Answer::Svid(svid)) => Ok(svid),
            Some(Answer::Fault(fault)) => Err(fault.to_owned()),
            Some(Answer::Silence) => pending().await,
            None => Err("the authority is gone".to_owned()),
        }
    }
}

struct Play {
    source: RenewingSource,
    asked: Arc<Mutex<Vec<f64>>>,
    start: Instant,
}

impl Play {
    fn of(answers: impl IntoIterator<Item = Answer>) -> Self {
        let (start, began) = (Instant::now(), SystemTime::now());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script = Script { answers: answers.into_iter().collect(), start, asked: Arc::clone(&asked) };
        let clock = Clock::from_fn(move || began + start.elapsed());
        Self { source: RenewingSource::with_clock(script, clock).unwrap(), asked, start }
    }

    /// Turns the clock to this second of the play.
    async fn turn_to(&self, second: f64) {
        tokio::time::sleep_until(self.start + Duration::from_secs_f64(second)).await;
    }

    fn asked(&self) -> Vec<f64> {
        self.asked.lock().unwrap().clone()
    }

    fn serial(&self) -> Option<String> {
        self.source.watch().borrow().as_ref().map(|svid| svid.serial().to_owned())
    }

    fn roots(&self) -> usize {
        self.source.watch().borrow().as_ref().map_or(0, |svid| svid.bundles().for_own().roots().len())
    }
}

/// Dated back by two minutes, as istiod does.
fn living(authority: &Authority, seconds: i64) -> X509Svid {
    authority.svid_of(&Leaf { valid: (-120, seconds), ..Leaf::of(ID) })
}

#[tokio::test(start_paused = true)]
async fn half_of_the_life_is_counted_from_when_it_came() {
    let authority = Authority::root("root");
    // Certificates tell whole seconds, so up to one of the ten may be lost.
    let svids = [living(&authority, 10), living(&authority, 3600)];
    let serials = [svids[0].serial().to_owned(), svids[1].serial().to_owned()];
    let play = Play::of(svids.map(Answer::Svid));
    play.turn_to(1.0).await;
    assert_eq!(play.serial().as_ref(), Some(&serials[0]));
    assert_eq!(play.asked().len(), 1);
    play.turn_to(6.0).await;
    assert_eq!(play.serial().as_ref(), Some(&serials[1]));
    let renewed = play.asked()[1];
    assert!((4.0..=5.5).contains(&renewed), "{renewed}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_svid_and_is_tried_ever_sooner() {
    let authority = Authority::root("root");
    let svid = living(&authority, 20);
    let serial = svid.serial().to_owned();
    let play = Play::of([Answer::Svid(svid)]);
    play.turn_to(19.0).await;
    assert_eq!(play.serial(), Some(serial));
    assert_eq!(play.source.last_error().as_deref(), Some("the authority is gone"));
    let asked = play.asked();
    assert!(asked.len() >= 8, "{asked:?}");
    let last = asked.last().unwrap();
    assert!(*last > 18.0, "{asked:?}");
    for pair in asked.windows(2).skip(1) {
        assert!(pair[1] - pair[0] >= 0.2, "no spinning: {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn before_the_first_svid_the_fault_is_told_and_the_authority_is_waited_for() {
    let authority = Authority::root("root");
    let answers =
        [Answer::Fault("no token"), Answer::Fault("no token"), Answer::Svid(living(&authority, 3600))];
    let play = Play::of(answers);
    play.turn_to(0.3).await;
    assert_eq!((play.serial(), play.source.last_error().as_deref()), (None, Some("no token")));
    play.turn_to(2.0).await;
    assert!(play.serial().is_some());
    assert_eq!(play.source.last_error(), None);
    assert_eq!(play.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_says_nothing_is_given_up_in_time_for_another_try() {
    let authority = Authority::root("root");
    let answers = [
        Answer::Svid(living(&authority, 12)),
        Answer::Silence,
        Answer::Silence,
        Answer::Svid(living(&authority, 3600)),
    ];
    let play = Play::of(answers);
    let first = {
        play.turn_to(0.1).await;
        play.serial()
    };
    assert_eq!(play.source.last_error(), None);
    play.turn_to(8.3).await;
    let said = play.source.last_error().unwrap_or_default();
    assert!(said.starts_with("no answer of the authority within 1."), "{said:?} {:?}", play.asked());
    play.turn_to(11.0).await;
    assert_eq!(play.asked().len(), 4, "{:?}", play.asked());
    assert_ne!(play.serial(), first);
}

#[tokio::test(start_paused = true)]
async fn roots_that_are_no_longer_sent_count_until_the_svid_that_came_with_them_ended() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let play = Play::of([living(&old, 10), living(&new, 3600)].map(Answer::Svid));
    play.turn_to(1.0).await;
    assert_eq!(play.roots(), 1);
    play.turn_to(6.0).await;
    assert_eq!(play.roots(), 2);
    let serial = play.serial();
    play.turn_to(12.0).await;
    assert_eq!((play.roots(), play.serial()), (1, serial), "the old root went, the SVID stayed");
}

#[tokio::test(start_paused = true)]
async fn a_root_that_comes_again_is_no_former_one() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let svids = [living(&old, 4), living(&new, 4), living(&old, 3600)];
    let play = Play::of(svids.map(Answer::Svid));
    play.turn_to(7.0).await;
    assert_eq!(play.asked().len(), 3, "{:?}", play.asked());
    // The second's has ended too by now.
    assert_eq!(play.roots(), 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_any_more_when_nobody_listens() {
    let play = Play::of([]);
    play.turn_to(1.0).await;
    let (asked, start) = (Arc::clone(&play.asked), play.start);
    drop(play);
    tokio::time::sleep_until(start + Duration::from_secs(2)).await;
    let then = asked.lock().unwrap().len();
    tokio::time::sleep_until(start + Duration::from_secs(600)).await;
    assert_eq!(asked.lock().unwrap().len(), then);
}

#[test]
fn a_runtime_is_needed() {
    let script = Script { answers: VecDeque::new(), start: Instant::now(), asked: Arc::default() };
    assert!(RenewingSource::start(script).is_err());
}

#[test]
fn a_chain_that_peers_would_refuse_is_found_out() {
    let (one, other) = (Authority::root("root"), Authority::root("root"));
    one.svid(ID).check_chain().unwrap();
    let error = one.issue(&Leaf::of(ID)).svid(other.bundle()).check_chain().unwrap_err();
    assert_eq!(error.reason(), "untrusted");
    let usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let server_only = one.svid_of(&Leaf { usages, ..Leaf::of(ID) });
    assert_eq!(server_only.check_chain().unwrap_err().reason(), "usage");
}
