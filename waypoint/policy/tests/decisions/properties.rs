//! The engine against the slow reference, on random policies, requests and facts.

use std::sync::Arc;

use agent_protocols::{Kind, Plain, Unread};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use waypoint_model::Policy;
use waypoint_policy::{Denial, HeadVerdict, Permit, PolicySet};

use crate::generate::{completion, policies, request, told};
use crate::reference::{Expected, Question};
use crate::support::GENERATION;
use crate::told::{Fact, Told};

fn compiled(policies: &[Policy], opaque: bool) -> PolicySet {
    let policies: Vec<Arc<Policy>> = policies.iter().cloned().map(Arc::new).collect();
    PolicySet::compile(&policies, &[], opaque, GENERATION)
}

fn got(verdict: Result<Permit, Denial>) -> Expected {
    match verdict {
        Ok(permit) => Expected {
            verdict: Ok(permit.rule().cloned()),
            audited: permit.audited().to_vec(),
            shadow: permit.shadow().clone(),
        },
        Err(denial) => {
            Expected { verdict: Err(denial.reason), audited: denial.audited, shadow: *denial.shadow }
        }
    }
}

/// The same cases in every run; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for more and for others.
fn config() -> ProptestConfig {
    let from_environment = ProptestConfig::default();
    let rng_seed = match from_environment.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed => fixed,
    };
    ProptestConfig { rng_seed, ..from_environment }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_request_is_decided_as_the_reference_decides(policies in policies(), request in request(), facts in told()) {
        let set = compiled(&policies, false);
        let question = Question { policies: &policies, request: &request, facts: &facts, opaque: false };
        prop_assert_eq!(got(set.decide(&request.attributes(), &facts)), question.decided());
        prop_assert_eq!(set.might_allow(&request.attributes(), &facts), question.might_allow());
    }

    #[test]
    fn an_opaque_stream_is_decided_as_the_reference_decides(policies in policies(), request in request()) {
        let request = request.opaque();
        let set = compiled(&policies, true);
        let question = Question { policies: &policies, request: &request, facts: &Plain, opaque: true };
        prop_assert_eq!(got(set.decide_stream(&request.attributes())), question.decided());
        prop_assert_eq!(set.any_access(&request.attributes()), question.might_allow());
    }

    #[test]
    fn a_stream_without_a_head_is_decided_as_the_reference_decides(policies in policies(), request in request()) {
        let request = request.opaque();
        let set = compiled(&policies, false);
        let question = Question { policies: &policies, request: &request, facts: &Plain, opaque: false };
        prop_assert_eq!(got(set.decide_stream(&request.attributes())), question.decided());
        let question = Question { facts: &Unread, ..question };
        prop_assert_eq!(set.any_access(&request.attributes()), question.might_allow());
    }

    #[test]
    fn the_head_decides_exactly_when_the_reference_finds_nothing_open(policies in policies(), request in request()) {
        let question = Question { policies: &policies, request: &request, facts: &Unread, opaque: false };
        let decided = match compiled(&policies, false).decide_head(&request.attributes()) {
            HeadVerdict::Permit(_) => Some(true),
            HeadVerdict::Deny(_) => Some(false),
            HeadVerdict::ReadBody => None,
        };
        prop_assert_eq!(decided, question.decided_by_head());
    }

    /// What the head decides holds for whatever the body turns out to say, of any kind; a permit records the same.
    #[test]
    fn no_body_overturns_the_head(policies in policies(), request in request(), bodies in prop::collection::vec(told(), 8)) {
        let set = compiled(&policies, false);
        let head = set.decide_head(&request.attributes());
        for facts in &bodies {
            let whole = set.decide(&request.attributes(), facts);
            match (&head, whole) {
                (HeadVerdict::Permit(early), Ok(late)) => {
                    prop_assert_eq!(early.audited(), late.audited());
                    prop_assert_eq!(early.shadow(), late.shadow());
                }
                (HeadVerdict::Deny(_), Err(_)) | (HeadVerdict::ReadBody, _) => {}
                (early, late) => prop_assert!(false, "{early:?} became {late:?} with {facts:?}"),
            }
        }
    }

    /// A list entry that is hidden, and a peer without access, could never have called.
    #[test]
    fn what_is_hidden_could_never_be_called(
        policies in policies(), request in request(), entry in told(), completions in prop::collection::vec(completion(), 8),
    ) {
        let set = compiled(&policies, false);
        let (shown, access) = (set.might_allow(&request.attributes(), &entry), set.any_access(&request.attributes()));
        for completion in completions {
            let call = complete(&entry, &completion);
            let permitted = set.decide(&request.attributes(), &call).is_ok();
            prop_assert!(!permitted || (shown && access), "{:?} is permitted, shown {}, access {}", call, shown, access);
        }
    }
}

/// The call that an entry offers, with its open facts filled in.
fn complete(entry: &Told, completion: &std::collections::BTreeMap<String, Fact>) -> Told {
    let filled = entry.facts.iter().map(|(key, fact)| {
        let fact = if *fact == Fact::NotYet { completion.get(key).unwrap_or(fact) } else { fact };
        (key.clone(), fact.clone())
    });
    Told { kind: Kind::Call, facts: filled.collect() }
}
