//! Cross-origin requests (Fetch, *CORS protocol*; Envoy's cors filter): preflights are answered here, other answers get the
//! headers that let a browser show them.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};

use crate::body::Body;
use crate::routing::matching::text_matches;
use crate::routing::policy::CrossOrigin;

/// What a rule's cross-origin policy makes of a request.
pub(crate) enum Crossing {
    /// A preflight, and its answer.
    Answer(Response<Body>),
    /// Goes on; these headers go on its answer, whatever that is.
    Pass(HeaderMap),
}

/// Judges a request by its `Origin`.
///
/// A preflight of an origin that is not allowed goes on to the service, or is answered without any of the headers, which
/// makes the browser refuse: as the policy says.
pub(crate) fn cross(policy: Option<&CrossOrigin>, parts: &Parts) -> Crossing {
    let origin = parts.headers.get(ORIGIN).filter(|origin| !origin.is_empty());
    let (Some(policy), Some(origin)) = (policy, origin) else { return Crossing::Pass(HeaderMap::new()) };
    let allowed = is_allowed(policy, origin);
    let method = parts.headers.get(ACCESS_CONTROL_REQUEST_METHOD);
    let preflight = parts.method == Method::OPTIONS && method.is_some_and(|method| !method.is_empty());
    match (preflight, allowed) {
        (true, false) if policy.cors.forward_unmatched_preflights => Crossing::Pass(HeaderMap::new()),
        (true, _) => Crossing::Answer(answer(allowed.then(|| preflight_headers(policy, origin)))),
        (false, true) => Crossing::Pass(answer_headers(policy, origin)),
        (false, false) => Crossing::Pass(HeaderMap::new()),
    }
}

/// Puts the headers on an answer, in place of what the service said of the same.
pub(crate) fn mark(headers: &mut HeaderMap, crossing: HeaderMap) {
    for (name, value) in crossing {
        if let Some(name) = name {
            headers.insert(name, value);
        }
    }
}

/// What takes `*` takes every origin (Envoy).
fn is_allowed(policy: &CrossOrigin, origin: &HeaderValue) -> bool {
    let origins = &policy.cors.allow_origins;
    origins.iter().any(|wanted| text_matches(wanted, b"*") || text_matches(wanted, origin.as_bytes()))
}

fn answer(headers: Option<HeaderMap>) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = headers.unwrap_or_default();
    response
}

fn common(policy: &CrossOrigin, origin: &HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if policy.cors.allow_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers
}

fn preflight_headers(policy: &CrossOrigin, origin: &HeaderValue) -> HeaderMap {
    let mut headers = common(policy, origin);
    let also = [
        (ACCESS_CONTROL_ALLOW_METHODS, &policy.allow_methods),
        (ACCESS_CONTROL_ALLOW_HEADERS, &policy.allow_headers),
        (ACCESS_CONTROL_MAX_AGE, &policy.max_age),
    ];
    for (name, value) in also {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
    headers
}

fn answer_headers(policy: &CrossOrigin, origin: &HeaderValue) -> HeaderMap {
    let mut headers = common(policy, origin);
    if let Some(expose) = &policy.expose_headers {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
    headers
}

#[cfg(test)]
mod tests {
    use waypoint_model::{Cors, Pattern, StringMatch};

    use super::*;

    fn policy(forward: bool) -> CrossOrigin {
        let cors = Cors {
            allow_origins: vec![
                StringMatch::Exact("https://a.example".into()),
                StringMatch::Regex(Pattern::parse(r"https://[a-z]+\.b\.example").unwrap()),
            ],
            allow_methods: "GET,POST".into(),
            expose_headers: "x-seen".into(),
            max_age: "60".into(),
            allow_credentials: true,
            forward_unmatched_preflights: forward,
            ..Cors::default()
        };
        CrossOrigin::compile(&cors).unwrap()
    }

    /// What became of a request: `answer` or `pass`, with the headers in the order of their names.
    fn crossed(policy: Option<&CrossOrigin>, method: Method, headers: &[(&str, &str)]) -> String {
        let request = http::Request::builder().method(method);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let (name, headers) = match cross(policy, &request.body(()).unwrap().into_parts().0) {
            Crossing::Answer(response) => ("answer", response.headers().clone()),
            Crossing::Pass(headers) => ("pass", headers),
        };
        let mut told: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{}={}", &name.as_str()[15..], value.to_str().unwrap()))
            .collect();
        told.sort();
        [vec![name.to_owned()], told].concat().join(" ")
    }

    #[test]
    fn requests_cross_as_in_envoy() {
        let (forwarding, answering) = (policy(true), policy(false));
        let ask = ("access-control-request-method", "PUT");
        let (ours, other) = (("origin", "https://a.example"), ("origin", "https://c.example"));
        let all =
            "answer allow-credentials=true allow-methods=GET,POST allow-origin=https://a.example max-age=60";
        let seen = "pass allow-credentials=true allow-origin=https://a.example expose-headers=x-seen";
        let rows = [
            (Some(&forwarding), Method::OPTIONS, vec![ours, ask], all),
            (Some(&forwarding), Method::OPTIONS, vec![other, ask], "pass"),
            (Some(&answering), Method::OPTIONS, vec![other, ask], "answer"),
            (Some(&forwarding), Method::OPTIONS, vec![ours], seen),
            (Some(&forwarding), Method::GET, vec![ours], seen),
            (Some(&forwarding), Method::GET, vec![other], "pass"),
            (Some(&forwarding), Method::GET, vec![("origin", "https://a.example.evil")], "pass"),
            (Some(&forwarding), Method::GET, vec![], "pass"),
            (None, Method::OPTIONS, vec![ours, ask], "pass"),
        ];
        for (policy, method, headers, want) in rows {
            assert_eq!(crossed(policy, method.clone(), &headers), want, "{method} {headers:?}");
        }
        let regex = crossed(Some(&forwarding), Method::GET, &[("origin", "https://x.b.example")]);
        assert!(regex.contains("allow-origin=https://x.b.example"), "{regex}");
    }

    #[test]
    fn the_policy_has_the_last_word_over_the_service() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        mark(&mut headers, answer_headers(&policy(true), &HeaderValue::from_static("https://a.example")));
        assert_eq!(
            headers.get_all(ACCESS_CONTROL_ALLOW_ORIGIN).iter().collect::<Vec<_>>(),
            ["https://a.example"]
        );
    }
}
