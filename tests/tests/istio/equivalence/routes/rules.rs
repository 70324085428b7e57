//! Random routes over a small vocabulary, so that requests of [`super::requests`] meet them often: of VirtualServices as
//! Istio has them, and of HTTPRoutes of the Gateway API.

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Services that routes lead to beside their own. The last is not there.
pub(crate) const BACKENDS: [&str; 4] = ["blue", "green", "red", "missing"];

/// Stands for the Service that a route is of.
pub(crate) const OWN: &str = "{own}";

/// Where routes lead.
const DESTINATIONS: [&str; 6] = [OWN, OWN, "blue", "green", "red", "missing"];

/// What routes are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    VirtualService,
    HttpRoute,
}

impl Kind {
    /// Rules of one object.
    pub(crate) fn rules(self) -> BoxedStrategy<Vec<Value>> {
        match self {
            Self::VirtualService => vec(http(), 1..=5).boxed(),
            Self::HttpRoute => vec(rule(), 1..=5).boxed(),
        }
    }
}

/// A JSON object of those of `fields` that are there.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let there = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    there.collect::<Map<_, _>>().into()
}

/// Paths and expressions that match some of the requests.
const EXACT: &[&str] = &["/a", "/a/b", "/A", "/", "/api/v1/x", "/a/"];
const PREFIXES: &[&str] = &["/", "/a", "/a/", "/a/b", "/api", "/API/"];
const EXPRESSIONS: &[&str] = &["/a.*", "/api/v[0-9]+/x", "/(a|b)", "/[ab]/?", ".*/b", "/.+", "/a\\?.*"];
const METHODS: &[&str] = &["GET", "POST", "PUT"];

/// Values of headers and query parameters.
const VALUES: &[&str] = &["1", "ab", "", "v w"];

/// Values that routes write: text, and what Envoy's formats make of a request.
const WRITTEN: &[&str] = &["v", "w", "%REQ(X-B)%", "%PROTOCOL%", "<%REQ(X-A?X-B)%>", "100%%"];

/// A `StringMatch` of Istio; `{}` asks only whether it is there.
fn text() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => select(VALUES).prop_map(|value| json!({"exact": value})),
        2 => select(&["1", "a"][..]).prop_map(|value| json!({"prefix": value})),
        2 => select(&["[0-9]+", "a?b?", ".*", "*", "v.w|1"][..]).prop_map(|value| json!({"regex": value})),
        1 => Just(json!({})),
    ]
}

fn uri() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => select(EXACT).prop_map(|path| json!({"exact": path})),
        3 => select(PREFIXES).prop_map(|path| json!({"prefix": path})),
        2 => select(EXPRESSIONS).prop_map(|path| json!({"regex": path})),
    ]
}

fn authority() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(&["app.example", "APP.example", "app.example:80"][..]).prop_map(|host| json!({"exact": host})),
        select(&["app", "x"][..]).prop_map(|host| json!({"prefix": host})),
        Just(json!({"regex": ".*\\.example"})),
    ]
}

fn method() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => select(METHODS).prop_map(|method| json!({"exact": method})),
        1 => Just(json!({"prefix": "P"})),
        1 => Just(json!({"regex": "GET|PUT"})),
    ]
}

fn named(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    btree_map(select(names), text(), 1..=2).prop_map(|matches| json!(matches))
}

/// An `HTTPMatchRequest`.
fn asked() -> impl Strategy<Value = Value> {
    let headers: &[&str] = &["x-a", "x-b"];
    (
        option::weighted(0.7, uri()),
        option::weighted(0.2, any::<bool>()),
        option::weighted(0.2, method()),
        option::weighted(0.2, authority()),
        option::weighted(0.3, named(headers)),
        option::weighted(0.2, named(headers)),
        option::weighted(0.3, named(&["q", "p"])),
        option::weighted(0.1, select(&["http", "https"][..]).prop_map(|scheme| json!({"exact": scheme}))),
        option::weighted(0.2, select(&[80u16, 8080][..])),
    )
        .prop_map(|(uri, ignore, method, authority, headers, without, query, scheme, port)| {
            object([
                ("uri", uri),
                ("ignoreUriCase", ignore.map(Value::from)),
                ("method", method),
                ("authority", authority),
                ("headers", headers),
                ("withoutHeaders", without),
                ("queryParams", query),
                ("scheme", scheme),
                ("port", port.map(Value::from)),
            ])
        })
}

/// Changes of headers: names with values.
fn written() -> impl Strategy<Value = BTreeMap<&'static str, &'static str>> {
    btree_map(select(&["x-a", "x-c", "X-D"][..]), select(WRITTEN), 1..=2)
}

fn removed() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(&["x-a", "x-b", "x-c"][..], 1..=2)
}

fn operations(names: [&'static str; 3]) -> impl Strategy<Value = Value> {
    (option::of(written()), option::of(written()), option::weighted(0.3, removed())).prop_map(
        move |(set, add, remove)| {
            let [set_name, add_name, remove_name] = names;
            object([
                (set_name, set.map(|set| json!(set))),
                (add_name, add.map(|add| json!(add))),
                (remove_name, remove.map(Value::from)),
            ])
        },
    )
}

fn headers() -> impl Strategy<Value = Value> {
    let operations = || option::of(operations(["set", "add", "remove"]));
    (operations(), operations())
        .prop_map(|(request, response)| object([("request", request), ("response", response)]))
}

/// One of the backends, or the second of two that have all of the weight.
fn destinations() -> impl Strategy<Value = Value> {
    let destination = || {
        (select(&DESTINATIONS[..]), option::weighted(0.2, headers())).prop_map(|(host, headers)| {
            object([
                ("destination", Some(json!({"host": host, "port": {"number": 80}}))),
                ("headers", headers),
            ])
        })
    };
    prop_oneof![
        3 => destination().prop_map(|one| json!([one])),
        1 => (destination(), destination()).prop_map(|(mut never, mut always)| {
            never["weight"] = 0.into();
            always["weight"] = 100.into();
            json!([never, always])
        }),
    ]
}

fn rewrite() -> impl Strategy<Value = Value> {
    let substitution = prop_oneof![
        Just(json!({"match": "^/a/(.*)$", "rewrite": "/z/\\1"})),
        Just(json!({"match": "/+", "rewrite": "/r/"})),
        Just(json!({"match": "[0-9]", "rewrite": "n"})),
    ];
    let path = prop_oneof![
        select(&["/", "/new", "/new/", "/n?x=y"][..]).prop_map(|uri| ("uri", json!(uri))),
        substitution.prop_map(|regex| ("uriRegexRewrite", regex)),
    ];
    let host = select(&["other.example", "other.example:81"][..]);
    (option::weighted(0.8, path), option::weighted(0.4, host)).prop_map(|(path, host)| {
        let mut rewrite = Map::new();
        rewrite.extend(path.map(|(name, value)| (name.to_owned(), value)));
        rewrite.extend(host.map(|host| ("authority".to_owned(), host.into())));
        if rewrite.is_empty() {
            rewrite.insert("uri".to_owned(), "/".into());
        }
        rewrite.into()
    })
}

fn redirect() -> impl Strategy<Value = Value> {
    (
        option::of(select(&["/to", "/to?x=y", "/"][..])),
        option::of(Just("other.example")),
        option::weighted(0.3, select(&[80u16, 443, 8443][..])),
        option::weighted(0.3, select(&["https", "http"][..])),
        option::of(select(&[301u16, 302, 303, 307, 308][..])),
    )
        .prop_map(|(uri, authority, port, scheme, code)| {
            let mut redirect = object([
                ("uri", uri.map(Value::from)),
                ("authority", authority.map(Value::from)),
                ("port", port.map(Value::from)),
                ("scheme", scheme.map(Value::from)),
                ("redirectCode", code.map(Value::from)),
            ]);
            if redirect.as_object().is_some_and(Map::is_empty) {
                redirect["uri"] = "/to".into();
            }
            redirect
        })
}

/// An `HTTPRoute` of a VirtualService.
fn http() -> impl Strategy<Value = Value> {
    let answer = (select(&[202u16, 418][..]), option::of(Just("told")));
    let answer = answer.prop_map(|(status, body)| {
        object([("status", Some(status.into())), ("body", body.map(|text| json!({"string": text})))])
    });
    let action = prop_oneof![
        5 => (destinations(), option::weighted(0.3, rewrite())).prop_map(|(to, rewrite)| vec![
            ("route", Some(to)), ("rewrite", rewrite),
        ]),
        1 => redirect().prop_map(|to| vec![("redirect", Some(to))]),
        1 => answer.prop_map(|answer| vec![("directResponse", Some(answer))]),
    ];
    (option::weighted(0.85, vec(asked(), 1..=2)), action, option::weighted(0.4, headers())).prop_map(
        |(asked, action, headers)| {
            let mut route = object([("match", asked.map(Value::from)), ("headers", headers)]);
            for (name, value) in action {
                if let Some(value) = value {
                    route[name] = value;
                }
            }
            route
        },
    )
}

/// A match of an HTTPRoute.
fn route_match() -> impl Strategy<Value = Value> {
    let path = prop_oneof![
        2 => select(EXACT).prop_map(|path| json!({"type": "Exact", "value": path})),
        3 => select(PREFIXES).prop_map(|path| json!({"type": "PathPrefix", "value": path})),
        1 => select(EXPRESSIONS).prop_map(|path| json!({"type": "RegularExpression", "value": path})),
    ];
    (
        option::weighted(0.8, path),
        option::weighted(0.2, select(METHODS)),
        option::weighted(0.3, pairs(&["x-a", "X-B"])),
        option::weighted(0.3, pairs(&["q", "p"])),
    )
        .prop_map(|(path, method, headers, query)| {
            object([
                ("path", path),
                ("method", method.map(Value::from)),
                ("headers", headers),
                ("queryParams", query),
            ])
        })
}

/// Matches of headers or query parameters by name, which may be there once.
fn pairs(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let value = prop_oneof![
        3 => select(&["1", "ab", "v w"][..]).prop_map(|value| ("Exact", value)),
        1 => select(&["[0-9]+", "a?b", "v.w|1"][..]).prop_map(|value| ("RegularExpression", value)),
    ];
    btree_map(select(names), value, 1..=2).prop_map(|pairs| {
        let pair = |(name, (kind, value))| json!({"name": name, "type": kind, "value": value});
        pairs.into_iter().map(pair).collect::<Vec<_>>().into()
    })
}

/// A filter that changes headers, of requests or of responses.
fn modifier(kind: &'static str, field: &'static str) -> impl Strategy<Value = Value> {
    let listed = |values: BTreeMap<&str, &str>| {
        let entry = |(name, value): (&str, &str)| json!({"name": name, "value": value});
        Value::from(values.into_iter().map(entry).collect::<Vec<_>>())
    };
    let literal = || btree_map(select(&["x-a", "x-c", "X-D"][..]), select(&["v", "w"][..]), 1..=2);
    (option::of(literal()), option::of(literal()), option::weighted(0.3, removed())).prop_map(
        move |(set, add, remove)| {
            let changes = object([
                ("set", set.map(listed)),
                ("add", add.map(listed)),
                ("remove", remove.map(Value::from)),
            ]);
            json!({"type": kind, field: changes})
        },
    )
}

/// What may stand in `path` of a rewrite and of a redirect; a prefix only where the match has one.
fn new_path(prefix: bool) -> BoxedStrategy<Value> {
    let full = select(&["/new", "/"][..])
        .prop_map(|path| json!({"type": "ReplaceFullPath", "replaceFullPath": path}));
    if !prefix {
        return full.boxed();
    }
    let replaced = select(&["/", "/new", "/new/"][..])
        .prop_map(|path| json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": path}));
    prop_oneof![1 => full, 3 => replaced].boxed()
}

fn url_rewrite(prefix: bool) -> impl Strategy<Value = Value> {
    (new_path(prefix), option::of(Just("other.example"))).prop_map(|(path, host)| {
        let rewrite = object([("path", Some(path)), ("hostname", host.map(Value::from))]);
        json!({"type": "URLRewrite", "urlRewrite": rewrite})
    })
}

fn request_redirect(prefix: bool) -> impl Strategy<Value = Value> {
    (
        option::of(new_path(prefix)),
        option::of(Just("other.example")),
        option::weighted(0.3, select(&["http", "https"][..])),
        option::weighted(0.3, select(&[80u16, 443, 8443][..])),
        option::of(select(&[301u16, 302][..])),
    )
        .prop_map(|(path, host, scheme, port, status)| {
            let redirect = object([
                ("path", path),
                ("hostname", host.map(Value::from)),
                ("scheme", scheme.map(Value::from)),
                ("port", port.map(Value::from)),
                ("statusCode", status.map(Value::from)),
            ]);
            json!({"type": "RequestRedirect", "requestRedirect": redirect})
        })
}

/// A rule of an HTTPRoute.
fn rule() -> impl Strategy<Value = Value> {
    option::weighted(0.85, vec(route_match(), 1..=2)).prop_flat_map(|matches| {
        let path = |asked: &Value| asked["path"]["type"].as_str().map(str::to_owned);
        let kinds = matches.iter().flatten().map(path);
        // A rule with a prefix to replace has one match, and that of a prefix.
        let prefix = matches.as_ref().is_some_and(|matches| matches.len() == 1)
            && kinds.flatten().eq(["PathPrefix".to_owned()]);
        (Just(matches), done(prefix)).prop_map(|(matches, mut rule)| {
            if let Some(matches) = matches {
                rule["matches"] = matches.into();
            }
            rule
        })
    })
}

/// What a rule does: its filters and backends.
fn done(prefix: bool) -> impl Strategy<Value = Value> {
    let request = || modifier("RequestHeaderModifier", "requestHeaderModifier");
    let response = || modifier("ResponseHeaderModifier", "responseHeaderModifier");
    let backend =
        (select(&DESTINATIONS[..]), option::weighted(0.2, request()), option::weighted(0.2, response()));
    let backend = backend.prop_map(|(name, request, response)| {
        let mut backend = json!({"name": name, "port": 80});
        let filters: Vec<_> = request.into_iter().chain(response).collect();
        if !filters.is_empty() {
            backend["filters"] = filters.into();
        }
        backend
    });
    let forwards = (
        backend,
        any::<bool>(),
        option::weighted(0.3, request()),
        option::weighted(0.3, response()),
        option::weighted(0.3, url_rewrite(prefix)),
    );
    let forwards = forwards.prop_map(|(backend, split, request, response, rewrite)| {
        let filters: Vec<_> = request.into_iter().chain(response).chain(rewrite).collect();
        let backends = if split {
            json!([{"name": "blue", "port": 80, "weight": 0}, backend])
        } else {
            json!([backend])
        };
        json!({"filters": filters, "backendRefs": backends})
    });
    let redirects = (option::weighted(0.3, response()), request_redirect(prefix));
    let redirects = redirects.prop_map(
        |(response, redirect)| json!({"filters": response.into_iter().chain([redirect]).collect::<Vec<_>>()}),
    );
    prop_oneof![5 => forwards, 1 => redirects]
}
