//! Where the judges differ on purpose. What is not here has to be equal.

use super::policies::{About, Policy};
use super::questions::Question;
use super::requests::Asked;
use super::stage::{Round, Stage};
use super::streams::{First, Opened};
use super::verdict::Verdict::{self, Allowed, Denied};
use anyhow::Result;
use serde_json::{Value, json};

/// A ClientHello without `signature_algorithms`: TLS 1.2 has such ones, and ours reads none of it.
const ODD: &[u8] = b"\x16\x03\x01\0\x2f\x01\0\0\x2b\x03\x03\
    abcdefghijklmnopqrstuvwxyzabcdef\
    \0\0\x04\0\x2f\0\x35\x01\0";

/// A policy, a question, and who says what.
struct Difference {
    why: &'static str,
    action: &'static str,
    rule: Value,
    asked: Question,
    /// istiod's form, the manifests, Envoy.
    verdicts: [Verdict; 3],
}

fn differences() -> Vec<Difference> {
    vec![
        Difference {
            why: "Envoy believes the last x-forwarded-for, since istiod lets no address of its own count; we believe the tunnel",
            action: "ALLOW",
            rule: json!({"from": [{"source": {"remoteIpBlocks": ["203.0.113.0/24"]}}]}),
            asked: Question::Request(Asked::get("/a", &[("x-forwarded-for", "203.0.113.9")])),
            verdicts: [Denied, Denied, Allowed],
        },
        Difference {
            why: "a principal with spiffe:// matches nobody in Istio; of manifests we refuse it, and the policy denies",
            action: "DENY",
            rule: json!({"from": [{"source": {"principals": ["spiffe://cluster.local/ns/{a}/sa/bot"]}}]}),
            asked: Question::Request(Asked::get("/a", &[])),
            verdicts: [Allowed, Denied, Allowed],
        },
        Difference {
            why: "lines of one header are for us also their value joined by commas (RFC 9110 §5.3); Envoy compares each alone",
            action: "ALLOW",
            rule: json!({"when": [{"key": "request.headers[x-a]", "values": ["a,b"]}]}),
            asked: Question::Request(Asked::get("/a", &[("x-a", "a"), ("x-a", "b")])),
            verdicts: [Allowed, Allowed, Denied],
        },
        Difference {
            why: "messages of MCP are judged by what they say: a request that is none is refused where policies ask about calls",
            action: "DENY",
            rule: json!({"when": [{"key": "experimental.envoy.filters.http.mcp[tool]", "values": ["drop"]}]}),
            asked: Question::Request(Asked { method: "POST", ..Asked::get("/mcp", &[]) }),
            verdicts: [Verdict::Other(415), Verdict::Other(415), Allowed],
        },
        Difference {
            why: "Istio's expression for a namespace that begins with a star runs over slashes, as far as `sa`; of manifests we \
                  compare the namespace",
            action: "ALLOW",
            rule: json!({"from": [{"source": {"namespaces": ["*a"]}}]}),
            asked: Question::Request(Asked::get("/a", &[])),
            verdicts: [Allowed, Denied, Allowed],
        },
        Difference {
            why: "of opaque bytes no fact of MCP can be told, so that a DENY rule that asks for one holds; in Envoy it never does",
            action: "DENY",
            rule: json!({"when": [{"key": "experimental.envoy.filters.http.mcp[tool]", "values": ["drop"]}]}),
            asked: Question::Stream(Opened { client: 0, port: 80, first: First::Bytes(b"SSH-2.0-x\r\n") }),
            verdicts: [Denied, Denied, Allowed],
        },
        Difference {
            why: "what begins as TLS and is no ClientHello that we read has no server name that could be told, and is refused \
                  where a rule asks for one; Envoy takes it for a stream without one",
            action: "DENY",
            rule: json!({"when": [{"key": "connection.sni", "values": ["app.example"]}]}),
            asked: Question::Stream(Opened { client: 0, port: 80, first: First::Bytes(ODD) }),
            verdicts: [Denied, Denied, Allowed],
        },
    ]
}

#[tokio::test]
async fn judges_differ_only_where_that_is_meant() -> Result<()> {
    let differences = differences();
    let about = |difference: &Difference| match difference.asked {
        Question::Request(_) => About::Http,
        Question::Stream(_) => About::Opaque,
    };
    let mut stage = Stage::set(&differences.iter().map(about).collect::<Vec<_>>()).await?;
    let policy = |difference: &Difference| {
        vec![Policy { dry_run: false, action: difference.action, rules: vec![difference.rule.clone()] }]
    };
    let round = Round { gateway: Vec::new(), services: differences.iter().map(policy).collect() };
    stage.play(&round).await?;
    let questions: Vec<_> =
        differences.iter().enumerate().map(|(slot, difference)| (slot, difference.asked.clone())).collect();
    let answers = stage.ask(&questions).await?;
    for (difference, answers) in differences.iter().zip(answers) {
        assert_eq!(answers.verdicts(), difference.verdicts, "{}", difference.why);
    }
    Ok(())
}
