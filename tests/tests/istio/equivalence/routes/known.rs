//! Where the judges of routes differ on purpose. What is not here has to be equal.
//!
//! Beside these, Envoy tells an application the path before a rewrite in a header of its own, and its own answers where there
//! is no destination have the status and the headers that the route says; ours are 500, without them.

use super::requests::Asked;
use super::rules::OWN;
use super::stage::{Outcome, Stage};
use anyhow::Result;
use serde_json::{Value, json};

/// A rule of a VirtualService, a request, and what becomes of it here and in Envoy.
struct Difference {
    why: &'static str,
    rule: Value,
    asked: Asked,
    outcomes: [&'static str; 2],
}

fn differences() -> [Difference; 2] {
    [
        Difference {
            why: "percent-encoding is written in upper case (RFC 3986 §6.2.2.1), so that policies see one form of a path",
            rule: json!({"route": [{"destination": {"host": OWN}}]}),
            asked: Asked::get("/a%2fb"),
            outcomes: ["/a%2Fb", "/a%2fb"],
        },
        Difference {
            why: "a redirect to another scheme leads to its usual port (Gateway API); Envoy keeps that of the request",
            rule: json!({"redirect": {"scheme": "https"}}),
            asked: Asked { host: "app.example:8080", ..Asked::get("/a") },
            outcomes: ["https://app.example/a", "https://app.example:8080/a"],
        },
    ]
}

#[tokio::test]
async fn routes_differ_only_where_that_is_meant() -> Result<()> {
    let differences = differences();
    // Every other Service has HTTPRoutes.
    let mut stage = Stage::set(differences.len() * 2).await?;
    let mut round = vec![Vec::new(); differences.len() * 2];
    for (difference, rules) in differences.iter().zip(round.iter_mut().step_by(2)) {
        rules.push(difference.rule.clone());
    }
    stage.play(&round).await?;
    let questions: Vec<_> =
        differences.iter().enumerate().map(|(at, difference)| (at * 2, difference.asked.clone())).collect();
    for (difference, outcomes) in differences.iter().zip(stage.ask(&questions).await?) {
        assert_eq!(outcomes.each_ref().map(gist), difference.outcomes.map(Some), "{}", difference.why);
    }
    Ok(())
}

/// The target that the application got, or where a redirect leads.
fn gist(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Reached { seen, .. } => seen["target"].as_str(),
        Outcome::Answered { headers, .. } => {
            let (_, values) = headers.iter().find(|(name, _)| *name == "location")?;
            values.first().map(String::as_str)
        }
        Outcome::NoDestination => None,
    }
}
