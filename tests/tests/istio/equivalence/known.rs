//! Where the judges differ on purpose. What is not here has to be equal.

use super::policies::Policy;
use super::requests::Asked;
use super::stage::{Round, Stage, Verdict, Verdicts};
use Verdict::{Allowed, Denied};
use anyhow::Result;
use serde_json::{Value, json};

/// A policy, a request, and who says what.
struct Difference {
    why: &'static str,
    action: &'static str,
    rule: Value,
    asked: Asked,
    /// istiod's form, the manifests, Envoy.
    verdicts: [Verdict; 3],
}

fn differences() -> Vec<Difference> {
    vec![
        Difference {
            why: "Envoy believes the last x-forwarded-for, since istiod lets no address of its own count; we believe the tunnel",
            action: "ALLOW",
            rule: json!({"from": [{"source": {"remoteIpBlocks": ["203.0.113.0/24"]}}]}),
            asked: Asked::get("/a", &[("x-forwarded-for", "203.0.113.9")]),
            verdicts: [Denied, Denied, Allowed],
        },
        Difference {
            why: "a principal with spiffe:// matches nobody in Istio; of manifests we refuse it, and the policy denies",
            action: "DENY",
            rule: json!({"from": [{"source": {"principals": ["spiffe://cluster.local/ns/{a}/sa/bot"]}}]}),
            asked: Asked::get("/a", &[]),
            verdicts: [Allowed, Denied, Allowed],
        },
        Difference {
            why: "lines of one header are for us also their value joined by commas (RFC 9110 §5.3); Envoy compares each alone",
            action: "ALLOW",
            rule: json!({"when": [{"key": "request.headers[x-a]", "values": ["a,b"]}]}),
            asked: Asked::get("/a", &[("x-a", "a"), ("x-a", "b")]),
            verdicts: [Allowed, Allowed, Denied],
        },
        Difference {
            why: "messages of MCP are judged by what they say: a request that is none is refused where policies ask about calls",
            action: "DENY",
            rule: json!({"when": [{"key": "experimental.envoy.filters.http.mcp[tool]", "values": ["drop"]}]}),
            asked: Asked { method: "POST", ..Asked::get("/mcp", &[]) },
            verdicts: [Verdict::Other(415), Verdict::Other(415), Allowed],
        },
    ]
}

#[tokio::test]
async fn judges_differ_only_where_that_is_meant() -> Result<()> {
    let differences = differences();
    let mut stage = Stage::set(differences.len()).await?;
    let policy = |difference: &Difference| {
        vec![Policy { dry_run: false, action: difference.action, rules: vec![difference.rule.clone()] }]
    };
    let round = Round { gateway: Vec::new(), services: differences.iter().map(policy).collect() };
    stage.play(&round).await?;
    let questions: Vec<_> =
        differences.iter().enumerate().map(|(slot, difference)| (slot, difference.asked.clone())).collect();
    let verdicts = stage.ask(&questions).await?;
    for (difference, Verdicts { istiod, manifests, envoy }) in differences.iter().zip(verdicts) {
        assert_eq!([istiod, manifests, envoy], difference.verdicts, "{}", difference.why);
    }
    Ok(())
}
