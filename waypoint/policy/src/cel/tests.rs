//! What conditions answer, and which are refused.

mod answers;
mod faults;
mod properties;

use agent_protocols::json::{Bounds, Document};
use agent_protocols::{FactKey, Facts, Given, Kind, Truth};
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use spiffe_id::SpiffeId;

use super::{Answer, Condition};
use crate::attributes::{Attributes, Destination, Head, HttpAttributes, Source};

/// A call of which more or less is known.
struct Call<'d> {
    tool: Option<&'d str>,
    arguments: Option<&'d Document<'d>>,
}

impl Facts for Call<'_> {
    fn kind(&self) -> Kind {
        Kind::Call
    }

    fn ask(&self, key: &FactKey, test: &mut dyn FnMut(&str) -> bool) -> Truth {
        match (key, self.tool) {
            (FactKey::Tool, Some(tool)) => crate::truth::of(test(tool)),
            (FactKey::Method, Some(_)) => crate::truth::of(test("tools/call")),
            _ => Truth::NotYet,
        }
    }

    fn arguments(&self) -> Given<'_> {
        self.arguments.map_or(Given::NotYet, |document| Given::Object(document.root()))
    }
}

fn document(text: &str) -> Document<'_> {
    Document::read(text.as_bytes(), &Bounds { depth: 64, members: 1_000_000, key: 1_000 }).unwrap()
}

/// Asks for a request of `agents/bot` with a token and a few headers.
fn ask(text: &str, facts: &dyn Facts) -> Answer {
    let condition = Condition::compile(text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
    let id = SpiffeId::parse("spiffe://td/ns/agents/sa/bot").unwrap();
    let ip = "10.0.0.1".parse().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-team", HeaderValue::from_static("red"));
    headers.append("x-twice", HeaderValue::from_static("a"));
    headers.append("x-twice", HeaderValue::from_static("b"));
    headers.insert("x-latin", HeaderValue::from_bytes(b"\xe9").unwrap());
    let claims = json!({"sub": "ann", "level": 3, "ratio": 1.0, "groups": ["ops", "dev"], "org": {"id": 7}});
    let attributes = Attributes {
        source: Source { identity: Some(&id), ip, remote_ip: ip },
        destination: Destination { ip: None, port: 80, sni: None },
        http: Some(HttpAttributes {
            method: "POST",
            path: "/mcp",
            authority: "tools",
            headers: &headers,
            claims: Some(&claims),
        }),
    };
    condition.ask(&Head::new(&attributes), facts)
}
