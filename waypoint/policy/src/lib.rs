//! Policies compiled and decided. Pure: no I/O, no clock, no async.
//!
//! All policies of one destination become one [`PolicySet`], merged per action as Istio merges them: AUDIT is recorded,
//! a DENY rule that matches refuses, and where any ALLOW policy is attached one of their rules must match. A [`Permit`]
//! is what the data plane needs to send a request, and only this crate makes one.
//!
//! Answers have three values ([`agent_protocols::Truth`]): the head of a request is judged first, and its body is read
//! only when the answer depends on it ([`HeadVerdict::ReadBody`]).
//!
//! | file | holds |
//! |---|---|
//! | `attributes.rs` | what a rule may ask about |
//! | `decision.rs` | permits and denials, and what they tell the log |
//! | `set.rs` | the rules of one destination and the order in which they are asked |
//! | `compile.rs` | model → clauses; Istio's rule for opaque ports |
//! | `rules.rs` | rules of one action, and the index that finds the few that could match |
//! | `matcher.rs`, `strings.rs`, `addresses.rs` | leaves |
//! | `truth.rs` | three-valued logic |
//! | `cel/` | conditions: expressions over arguments and request |
//! | `lint.rs` | traps that `check` warns of |

mod addresses;
mod attributes;
mod cel;
mod compile;
mod decision;
mod index;
mod lint;
mod matcher;
mod port;
mod rules;
mod set;
mod strings;
mod truth;

pub use attributes::{Attributes, Destination, HttpAttributes, Source};
pub use cel::check_fact;
pub use decision::{Denial, DenyReason, HeadVerdict, Permit, RuleName, Shadow};
pub use lint::{Trap, lint};
pub use set::{PolicySet, Reads, Unavailable, asks_port};
