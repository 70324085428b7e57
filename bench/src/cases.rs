//! What is measured: each case is a load, and those who carry it in turn.

use crate::backend::App;
use crate::contestant::{Envoy, Kind, Rules, Waypoint};
use crate::load::{Ask, Load, Thing};
use crate::mcp::{self, Filling};
use anyhow::Result;

/// One KiB.
const KIB: usize = 1024;

/// Who carries a load, and what the report calls it.
#[derive(Clone, Debug)]
pub(crate) struct Contestant {
    /// Its name in tables and files.
    pub name: &'static str,
    /// Who it is.
    pub kind: Kind,
}

/// A load, and those who carry it in alternation.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Its name, for `--case` and for files.
    pub name: String,
    /// One line on what is carried.
    pub about: String,
    /// What is carried.
    pub load: Load,
    /// What those with rules must refuse before they are measured.
    pub forbidden: Option<Ask>,
    /// Who carries it.
    pub contestants: Vec<Contestant>,
}

impl Case {
    /// The same, where this must be refused.
    fn refusing(self, ask: Ask) -> Self {
        Self { forbidden: Some(ask), ..self }
    }
}

/// The direct connection.
pub(crate) const DIRECT: &str = "direct";
/// Our waypoint.
pub(crate) const PORTCULLIS: &str = "portcullis";
/// Our waypoint, built otherwise.
pub(crate) const BEFORE: &str = "before";
/// Our waypoint without rules on MCP, and without observation.
pub(crate) const UNREAD: &str = "portcullis-unread";
/// The same with observation.
pub(crate) const OBSERVED: &str = "portcullis-observed";
/// Envoy with the rules that ours has.
pub(crate) const ENVOY_RBAC: &str = "envoy-rbac";
/// Envoy without a policy.
pub(crate) const ENVOY: &str = "envoy";
/// Envoy with its MCP filter over the whole body.
pub(crate) const ENVOY_MCP: &str = "envoy-mcp";
/// Envoy with its MCP filter as it is by default.
pub(crate) const ENVOY_MCP_DEFAULT: &str = "envoy-mcp-8k";
/// nginx without TLS.
pub(crate) const NGINX: &str = "nginx";

/// All cases, in the order in which they are run.
pub(crate) fn all() -> Result<Vec<Case>> {
    let mut cases = http()?;
    cases.extend(calls()?);
    cases.extend(lists()?);
    cases.extend(bytes()?);
    cases.extend(fresh()?);
    cases.extend(policies()?);
    cases.extend(held());
    cases.extend(swaps()?);
    Ok(cases)
}

fn contestant(name: &'static str, kind: Kind) -> Contestant {
    Contestant { name, kind }
}

/// Direct, ours as `waypoint`, the same built otherwise.
fn ours(waypoint: Waypoint) -> Vec<Contestant> {
    vec![
        contestant(DIRECT, Kind::Direct),
        contestant(PORTCULLIS, Kind::Portcullis(waypoint)),
        contestant(BEFORE, Kind::Before(waypoint)),
    ]
}

fn case(name: &str, about: &str, load: Load, contestants: Vec<Contestant>) -> Case {
    Case { name: name.to_owned(), about: about.to_owned(), load, forbidden: None, contestants }
}

/// A GET that no header rule allows.
fn forbidden_get(app: App) -> Result<Ask> {
    Ask::get(app, "/r0/bytes/1", 1)?.header("x-team", "nobody")
}

/// A GET that the last of `rules` header rules allows.
fn get(app: App, rules: usize, size: usize) -> Result<Ask> {
    let last = rules - 1;
    Ask::get(app, &format!("/r{last}/bytes/{size}"), size)?.header("x-team", &format!("t{last}"))
}

fn with_rules(rules: usize, others: &[Contestant]) -> Vec<Contestant> {
    let mut contestants = ours(Waypoint::with(Rules::Headers(rules)));
    contestants.push(contestant(ENVOY_RBAC, Kind::Envoy(Envoy::Rbac(rules))));
    contestants.extend_from_slice(others);
    contestants
}

fn http() -> Result<Vec<Case>> {
    let plain = [contestant(ENVOY, Kind::Envoy(Envoy::Plain)), contestant(NGINX, Kind::Nginx)];
    let mut cases = Vec::new();
    for (size, label) in [(KIB, "1k"), (64 * KIB, "64k")] {
        let about = format!("GET over HTTP/1.1, answers of {label}, 10 rules, saturated");
        let load = Load::Closed(get(App::Http1, 10, size)?);
        let forbidden = forbidden_get(App::Http1)?;
        cases.push(case(&format!("get-{label}"), &about, load, with_rules(10, &plain)).refusing(forbidden));
        let about = format!("GET over h2c, answers of {label}, 10 rules, saturated");
        let load = Load::Closed(get(App::H2c, 10, size)?);
        let forbidden = forbidden_get(App::H2c)?;
        cases.push(case(&format!("h2c-{label}"), &about, load, with_rules(10, &plain)).refusing(forbidden));
        let about = format!("unary gRPC, {label} each way, 10 rules, saturated");
        cases.push(case(&format!("grpc-{label}"), &about, Load::Closed(grpc(size)?), with_rules(10, &plain)));
    }
    let about = "GET over HTTP/1.1 at 1,000 requests a second, open loop, 10 rules";
    let load = Load::Open(get(App::Http1, 10, KIB)?, 1000);
    let open = case("get-open-1000", about, load, with_rules(10, &plain));
    cases.push(open.refusing(forbidden_get(App::Http1)?));
    Ok(cases)
}

/// A unary call whose answer is its message.
fn grpc(size: usize) -> Result<Ask> {
    let length = u32::try_from(size)?.to_be_bytes();
    let mut message = vec![0];
    message.extend(length);
    message.resize(size + length.len() + 1, b'g');
    let whole = message.len();
    let ask = Ask::post(App::Grpc, "/r9/echo", message.into(), whole..=whole)?;
    ask.header("x-team", "t9")?.header("content-type", "application/grpc")?.header("te", "trailers")
}

/// A POST of an MCP message.
fn message(path: &str, body: bytes::Bytes, answer: std::ops::RangeInclusive<usize>) -> Result<Ask> {
    Ask::post(App::Http1, path, body, answer)?
        .header("content-type", "application/json")?
        .header("accept", "application/json, text/event-stream")?
        .header("mcp-protocol-version", "2025-06-18")
}

fn calls() -> Result<Vec<Case>> {
    let answer = mcp::answer(mcp::PATH).1.len();
    let rows = [
        ("call-1k-text", "one long string", Filling::Text, KIB),
        ("call-1k-escaped", "escaped text", Filling::Escaped, KIB),
        ("call-1k-nested", "nested objects", Filling::Nested, KIB),
        ("call-64k-text", "one long string", Filling::Text, 64 * KIB),
        ("call-64k-escaped", "escaped text", Filling::Escaped, 64 * KIB),
        ("call-64k-nested", "nested objects", Filling::Nested, 64 * KIB),
    ];
    let cases = rows.map(|(name, what, filling, size)| {
        let about =
            format!("tools/call of {} KiB ({what}), 10 rules on tool and argument, saturated", size / KIB);
        let load = Load::Closed(message(mcp::PATH, mcp::call(filling, size), answer..=answer)?);
        let forbidden = message(mcp::PATH, mcp::forbidden_call(), 0..=0)?;
        Ok(case(name, &about, load, judged(Rules::Calls, filling == Filling::Text)).refusing(forbidden))
    });
    cases.into_iter().collect()
}

/// Ours with rules on MCP and without them, and Envoy likewise.
fn judged(rules: Rules, all: bool) -> Vec<Contestant> {
    let mut contestants = ours(Waypoint::with(rules));
    let unread = Waypoint::with(Rules::None);
    contestants.push(contestant(UNREAD, Kind::Portcullis(unread)));
    if all {
        contestants.push(contestant(OBSERVED, Kind::Portcullis(Waypoint { observe: true, ..unread })));
    }
    contestants.push(contestant(ENVOY_MCP, Kind::Envoy(Envoy::Mcp)));
    contestants.push(contestant(ENVOY_MCP_DEFAULT, Kind::Envoy(Envoy::McpDefault)));
    contestants.push(contestant(ENVOY, Kind::Envoy(Envoy::Plain)));
    if all {
        contestants.push(contestant(NGINX, Kind::Nginx));
    }
    contestants
}

fn lists() -> Result<Vec<Case>> {
    let rows = [("list-json", "JSON", mcp::LIST), ("list-sse", "one event", mcp::LIST_SSE)];
    let cases = rows.map(|(name, form, path)| {
        let whole = mcp::answer(path).1.len();
        let about = format!("tools/list of 100 tools as {form}; ours leaves half of them out, Envoy can't");
        let load = Load::Closed(message(path, mcp::list_request(), whole / 3..=whole)?);
        let mut contestants = judged(Rules::Lists, false);
        contestants.retain(|contestant| contestant.name != ENVOY_MCP_DEFAULT);
        let forbidden = message(mcp::PATH, mcp::forbidden_call(), 0..=0)?;
        Ok(case(name, &about, load, contestants).refusing(forbidden))
    });
    cases.into_iter().collect()
}

fn bytes() -> Result<Vec<Case>> {
    let opaque = |tunnels: usize| {
        let mut contestants = ours(Waypoint::with(Rules::None));
        contestants.push(contestant(ENVOY, Kind::Envoy(Envoy::Opaque)));
        let about = format!("opaque bytes to the client on {tunnels} tunnels");
        case(&format!("opaque-{tunnels}"), &about, Load::Bytes(tunnels), contestants)
    };
    let mut contestants = ours(Waypoint::with(Rules::None));
    contestants.push(contestant(ENVOY, Kind::Envoy(Envoy::Plain)));
    contestants.push(contestant(NGINX, Kind::Nginx));
    let load = Load::Closed(Ask::get(App::Http1, "/bytes/1048576", KIB * KIB)?);
    Ok(vec![opaque(1), opaque(32), case("get-1m", "GET over HTTP/1.1, answers of 1 MiB", load, contestants)])
}

fn fresh() -> Result<Vec<Case>> {
    let ask = Ask::get(App::Http1, "/bytes/1024", KIB)?;
    let mut contestants = ours(Waypoint::with(Rules::None));
    contestants.push(contestant(ENVOY, Kind::Envoy(Envoy::Plain)));
    Ok(vec![
        case(
            "new-stream",
            "a new CONNECT stream and its first request",
            Load::Streams(ask.clone()),
            contestants.clone(),
        ),
        case(
            "new-connection",
            "a new mTLS connection, stream and request",
            Load::Connections(ask),
            contestants,
        ),
    ])
}

fn policies() -> Result<Vec<Case>> {
    let rows = [10, 1_000, 10_000].map(|rules| {
        let about = format!("GET over HTTP/1.1, {rules} rules of which the last allows it, saturated");
        let load = Load::Closed(get(App::Http1, rules, KIB)?);
        let case = case(&format!("rules-{rules}"), &about, load, with_rules(rules, &[]));
        Ok(case.refusing(forbidden_get(App::Http1)?))
    });
    rows.into_iter().collect()
}

fn held() -> Vec<Case> {
    let things = [
        ("idle-tunnel", "mTLS connections without a stream", Thing::Connection, Rules::None),
        ("idle-stream", "tunnel streams that carried a GET at the same time", Thing::Tunnel, Rules::None),
        ("idle-turn", "tunnel streams that carried a GET in turn", Thing::TunnelInTurn, Rules::None),
        ("sse-stream", "open event streams", Thing::Events, Rules::Calls),
    ];
    let counts = [(1_000, "1k"), (5_000, "5k")];
    let cases = counts.iter().flat_map(|(count, label)| {
        things.map(|(name, about, thing, rules)| {
            let about = format!("memory of {count} {about}");
            case(&format!("{name}-{label}"), &about, Load::Held(thing, *count), holding(thing, rules))
        })
    });
    cases.collect()
}

/// Those who have a process that could hold `thing`.
fn holding(thing: Thing, rules: Rules) -> Vec<Contestant> {
    let mut contestants = ours(Waypoint::with(rules));
    contestants.retain(|contestant| contestant.name != DIRECT);
    contestants.push(contestant(ENVOY, Kind::Envoy(Envoy::Plain)));
    if thing != Thing::Connection {
        contestants.push(contestant(NGINX, Kind::Nginx));
    }
    contestants
}

fn swaps() -> Result<Vec<Case>> {
    let rows = [10, 10_000].map(|others| {
        let waypoint = Waypoint { others, ..Waypoint::with(Rules::Headers(10)) };
        let about =
            format!("a policy changes every half second among {others} Services, under 1,000 GET a second");
        let mut contestants = ours(waypoint);
        contestants.retain(|contestant| contestant.name != DIRECT);
        Ok(case(&format!("swap-{others}"), &about, Load::Swap(get(App::Http1, 10, KIB)?, 1000), contestants))
    });
    rows.into_iter().collect()
}
