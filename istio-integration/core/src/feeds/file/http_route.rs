//! HTTPRoute with a Service or ServiceEntry as parent (Gateway API for service mesh).
//!
//! A match or a filter that is not supported makes the whole document invalid: leaving it out would send requests
//! where the route did not mean them to go.

use std::time::Duration;

use serde::Deserialize;
use waypoint_model::{Cors, HeaderChange, PathMatch, Redirect, Retries, Rewrite, RouteMatch};

use super::decode::{Unread, decode};
use super::document::{Document, Kind, ResourceKey};
use super::duration;
use super::finding::{Remarks, Severity};
use super::http_route_filter::{self, WrittenFilter};
use super::http_route_match::{self, WrittenMatch};
use super::http_route_policy::{self, MirrorDoc, WrittenRetry};

/// A route with references not yet resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RouteDoc {
    pub(super) parents: Vec<Parent>,
    pub(super) hostnames: Vec<String>,
    pub(super) rules: Vec<RuleDoc>,
    /// Older routes go first; one that has none was written by hand and goes last.
    pub(super) created: Option<String>,
}

/// What it attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) service: ResourceKey,
    pub(super) port: Option<u16>,
    /// Name of a port.
    pub(super) section: Option<String>,
    /// Where the reference stands.
    pub(super) field: String,
}

/// A rule with backends not yet resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RuleDoc {
    pub(super) name: String,
    pub(super) matches: Vec<RouteMatch>,
    pub(super) request_headers: Vec<HeaderChange>,
    pub(super) response_headers: Vec<HeaderChange>,
    pub(super) action: ActionDoc,
    pub(super) timeout: Option<Duration>,
    pub(super) backend_timeout: Option<Duration>,
    pub(super) retries: Option<Retries>,
    pub(super) mirrors: Vec<MirrorDoc>,
    pub(super) cors: Option<Cors>,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ActionDoc {
    Forward {
        backends: Vec<BackendDoc>,
        rewrite: Rewrite,
    },
    Redirect(Redirect),
    /// The route is invalid and never was valid: no request may pass by its rules as if it were not there.
    Refuse(String),
}

/// A backend by reference.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BackendDoc {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: Option<u16>,
    pub(super) weight: u32,
    pub(super) request_headers: Vec<HeaderChange>,
    pub(super) response_headers: Vec<HeaderChange>,
    /// Where the reference stands.
    pub(super) field: String,
}

#[derive(Deserialize)]
struct Body {
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    #[serde(default)]
    hostnames: Vec<String>,
    #[serde(default)]
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ParentRef {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    section_name: Option<String>,
    port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenRule {
    name: Option<String>,
    #[serde(default)]
    matches: Vec<WrittenMatch>,
    #[serde(default)]
    filters: Vec<WrittenFilter>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
    timeouts: Option<Timeouts>,
    retry: Option<WrittenRetry>,
}

#[derive(Deserialize)]
pub(super) struct BackendRef {
    #[serde(default)]
    group: String,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<u16>,
    weight: Option<u32>,
    #[serde(default)]
    filters: Vec<WrittenFilter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Timeouts {
    request: Option<String>,
    backend_request: Option<String>,
}

const UNREAD: Unread = Unread { harmless: &["status"], severity: Severity::Error };

/// Translates an HTTPRoute.
pub(super) fn translate(document: &Document, remarks: &mut Remarks) -> Option<RouteDoc> {
    let spec = decode::<Body>(&document.body, UNREAD, remarks)?.spec;
    let namespace = &document.key.namespace;
    let parents = parents(&spec.parent_refs, namespace, remarks);
    for (index, host) in spec.hostnames.iter().enumerate() {
        if host.trim_start_matches("*.").contains('*') || host.is_empty() {
            remarks.error(format!("spec.hostnames[{index}]"), format!("`{host}` is no host name"));
        }
    }
    let rules = spec.rules.iter().enumerate().map(|(index, written)| {
        let name =
            written.name.clone().unwrap_or_else(|| format!("{namespace}.{}.{index}", document.meta.name));
        rule(written, name, namespace, &format!("spec.rules[{index}]"), remarks)
    });
    let rules: Vec<RuleDoc> = rules.collect();
    if rules.is_empty() {
        remarks.error("spec.rules", "is empty: write at least one rule");
    }
    let hostnames = spec.hostnames.iter().map(|host| host.to_ascii_lowercase()).collect();
    Some(RouteDoc { parents, hostnames, rules, created: document.meta.creation_timestamp.clone() })
}

#[derive(Deserialize)]
struct ParentBody {
    spec: ParentSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ParentSpec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
}

/// What stands for a route that never was valid: at its parents, whatever no other route takes is answered with 500.
pub(super) fn refusing(document: &Document, why: String) -> RouteDoc {
    let mut remarks = Remarks::default();
    let unread = Unread { harmless: &[], severity: Severity::Note };
    let body = decode::<ParentBody>(&document.body, unread, &mut remarks);
    let parent_refs = body.map(|body| body.spec.parent_refs).unwrap_or_default();
    let rule = RuleDoc {
        name: format!("{}.{}.invalid", document.key.namespace, document.meta.name),
        matches: Vec::new(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        action: ActionDoc::Refuse(why),
        timeout: None,
        backend_timeout: None,
        retries: None,
        mirrors: Vec::new(),
        cors: None,
    };
    RouteDoc {
        parents: parents(&parent_refs, &document.key.namespace, &mut remarks),
        hostnames: Vec::new(),
        rules: vec![rule],
        created: document.meta.creation_timestamp.clone(),
    }
}

fn parents(written: &[ParentRef], namespace: &str, remarks: &mut Remarks) -> Vec<Parent> {
    let mut parents = Vec::new();
    for (index, parent) in written.iter().enumerate() {
        let field = format!("spec.parentRefs[{index}]");
        let group = parent.group.as_deref().unwrap_or("gateway.networking.k8s.io");
        let kind = match (group, parent.kind.as_deref().unwrap_or("Gateway")) {
            ("" | "core", "Service") => Kind::Service,
            ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
            (_, other) => {
                let message = format!(
                    "`{group}` {other} is no parent that a waypoint serves (Service or ServiceEntry)"
                );
                remarks.note(field, message);
                continue;
            }
        };
        let namespace = parent.namespace.clone().unwrap_or_else(|| namespace.to_owned());
        let service = ResourceKey { kind, namespace, name: parent.name.clone() };
        parents.push(Parent { service, port: parent.port, section: parent.section_name.clone(), field });
    }
    if written.is_empty() {
        remarks.warning("spec.parentRefs", "is empty: the route attaches to nothing");
    }
    parents
}

fn rule(written: &WrittenRule, name: String, namespace: &str, path: &str, remarks: &mut Remarks) -> RuleDoc {
    let matches = written.matches.iter().enumerate();
    let matches = matches
        .map(|(index, one)| http_route_match::translate(one, &format!("{path}.matches[{index}]"), remarks));
    let matches: Vec<RouteMatch> = matches.collect();
    let filters =
        http_route_filter::translate(&written.filters, namespace, &format!("{path}.filters"), remarks);
    if filters.replaces_prefix() && !matches.iter().all(has_prefix) {
        let message = "ReplacePrefixMatch needs matches that are all of type PathPrefix";
        remarks.error(format!("{path}.filters"), message);
    }
    if filters.redirect.is_some() && !written.backend_refs.is_empty() {
        remarks
            .error(format!("{path}.backendRefs"), "cannot stand beside RequestRedirect: remove one of them");
    }
    let backends = written.backend_refs.iter().enumerate();
    let backends = backends
        .map(|(index, one)| backend(one, namespace, format!("{path}.backendRefs[{index}]"), remarks))
        .collect();
    let (timeout, backend_timeout) =
        timeouts(written.timeouts.as_ref(), &format!("{path}.timeouts"), remarks);
    RuleDoc {
        name,
        matches,
        request_headers: filters.request_headers,
        response_headers: filters.response_headers,
        action: match filters.redirect {
            Some(redirect) => ActionDoc::Redirect(redirect),
            None => ActionDoc::Forward { backends, rewrite: filters.rewrite.unwrap_or_default() },
        },
        timeout,
        backend_timeout,
        retries: written
            .retry
            .as_ref()
            .map(|retry| http_route_policy::retry(retry, &format!("{path}.retry"), remarks)),
        mirrors: filters.mirrors,
        cors: filters.cors,
    }
}

/// A match without a path is the prefix `/`.
fn has_prefix(one: &RouteMatch) -> bool {
    matches!(one.path, None | Some(PathMatch::Prefix(_)))
}

pub(super) fn backend(
    written: &BackendRef,
    namespace: &str,
    field: String,
    remarks: &mut Remarks,
) -> BackendDoc {
    let kind = written.kind.as_deref().unwrap_or("Service");
    if !matches!((written.group.as_str(), kind), ("" | "core", "Service")) {
        let message = format!("`{}` {kind} is not supported: write a Service", written.group);
        remarks.error(format!("{field}.kind"), message);
    }
    let filters =
        http_route_filter::translate(&written.filters, namespace, &format!("{field}.filters"), remarks);
    if !filters.are_of_headers() {
        let message = "only RequestHeaderModifier and ResponseHeaderModifier are supported on a backend: move the filter to the rule";
        remarks.error(format!("{field}.filters"), message);
    }
    BackendDoc {
        namespace: written.namespace.clone().unwrap_or_else(|| namespace.to_owned()),
        name: written.name.clone(),
        port: written.port,
        weight: written.weight.unwrap_or(1),
        request_headers: filters.request_headers,
        response_headers: filters.response_headers,
        field,
    }
}

fn timeouts(
    written: Option<&Timeouts>,
    path: &str,
    remarks: &mut Remarks,
) -> (Option<Duration>, Option<Duration>) {
    let Some(written) = written else { return (None, None) };
    let mut one = |text: &Option<String>, name: &str| {
        let text = text.as_deref()?;
        let parsed = duration::parse(text);
        if parsed.is_none() {
            remarks
                .error(format!("{path}.{name}"), format!("`{text}` is no duration: write e.g. 10s or 1m30s"));
        }
        // Zero switches the limit off (Gateway API).
        parsed.filter(|duration| !duration.is_zero())
    };
    let (request, backend) =
        (one(&written.request, "request"), one(&written.backend_request, "backendRequest"));
    if let (Some(request), Some(backend)) = (request, backend)
        && backend > request
    {
        remarks.error(format!("{path}.backendRequest"), "is longer than request");
    }
    (request, backend)
}

#[cfg(test)]
mod tests {
    use waypoint_model::{HeaderMatch, PathRewrite, QueryMatch};

    use super::*;
    use crate::feeds::file::testing::{document, fields};

    const PARENT: &str = "parentRefs: [{group: '', kind: Service, name: s, port: 80}]";

    fn source(spec: &str) -> Document {
        document(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: a}}\nspec: {{{spec}}}\n"
        ))
    }

    fn read(rule: &str) -> (Option<RouteDoc>, Remarks) {
        let mut remarks = Remarks::default();
        (translate(&source(&format!("{PARENT}, rules: [{rule}]")), &mut remarks), remarks)
    }

    #[test]
    fn a_rule_matches_changes_and_forwards() {
        let (got, remarks) = read(
            "{matches: [{path: {type: Exact, value: /a}, method: GET, headers: [{name: X-A, value: b}], \
               queryParams: [{name: q, value: v}]}, {path: {value: /p}}], \
              filters: [{type: RequestHeaderModifier, requestHeaderModifier: \
                {set: [{name: X-S, value: '1%'}], add: [{name: x-a, value: '2'}], remove: [x-r]}}], \
              backendRefs: [{name: v1, port: 80, weight: 9}, {name: v2, port: 80, namespace: b}], \
              timeouts: {request: 10s, backendRequest: 500ms}}",
        );
        assert_eq!(remarks, Remarks::default());
        let rule = got.unwrap().rules.remove(0);
        assert_eq!(rule.name, "a.r.0");
        let first = RouteMatch {
            path: Some(PathMatch::Exact("/a".to_owned())),
            ignore_path_case: false,
            method: Some("GET".to_owned()),
            headers: vec![HeaderMatch {
                name: "x-a".to_owned(),
                value: waypoint_model::StringMatch::Exact("b".to_owned()),
                inverted: false,
            }],
            query: vec![QueryMatch {
                name: "q".to_owned(),
                value: waypoint_model::StringMatch::Exact("v".to_owned()),
            }],
        };
        let second = RouteMatch { path: Some(PathMatch::Prefix("/p".to_owned())), ..RouteMatch::default() };
        assert_eq!(rule.matches, [first, second]);
        let changes = [
            HeaderChange::Set("x-s".to_owned(), "1%%".to_owned()),
            HeaderChange::Add("x-a".to_owned(), "2".to_owned()),
            HeaderChange::Remove("x-r".to_owned()),
        ];
        assert_eq!(rule.request_headers, changes);
        let ActionDoc::Forward { backends, .. } = rule.action else { panic!("forward") };
        let got: Vec<_> =
            backends.iter().map(|b| (b.namespace.as_str(), b.name.as_str(), b.weight)).collect();
        assert_eq!(got, [("a", "v1", 9), ("b", "v2", 1)]);
        assert_eq!(rule.timeout, Some(Duration::from_secs(10)));
        assert_eq!(rule.backend_timeout, Some(Duration::from_millis(500)));
    }

    #[test]
    fn redirects_and_rewrites() {
        let (got, remarks) = read(
            "{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, statusCode: 301, \
             path: {type: ReplaceFullPath, replaceFullPath: /x}}}]}",
        );
        assert_eq!(remarks, Remarks::default());
        let want = Redirect {
            scheme: Some("https".to_owned()),
            hostname: None,
            port: Some(8443),
            path: Some(PathRewrite::Full("/x".to_owned())),
            status: 301,
        };
        assert_eq!(got.unwrap().rules[0].action, ActionDoc::Redirect(want));
        let (got, remarks) = read(
            "{matches: [{path: {value: /a}}], backendRefs: [{name: v1, port: 80}], filters: [{type: URLRewrite, \
             urlRewrite: {hostname: h, path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}",
        );
        assert_eq!(remarks, Remarks::default());
        let ActionDoc::Forward { rewrite, .. } = got.unwrap().rules.remove(0).action else {
            panic!("forward")
        };
        let path = Some(PathRewrite::Prefix("/b".to_owned()));
        assert_eq!(rewrite, Rewrite { hostname: Some("h".to_owned()), path });
    }

    #[test]
    fn what_is_not_supported_is_an_error_by_name() {
        let rows = [
            (
                "{matches: [{path: {type: RegularExpression, value: '('}}]}",
                "spec.rules[0].matches[0].path.value",
            ),
            ("{matches: [{path: {value: a}}]}", "spec.rules[0].matches[0].path.value"),
            ("{matches: [{method: get}]}", "spec.rules[0].matches[0].method"),
            (
                "{matches: [{headers: [{type: RegularExpression, name: a, value: '('}]}]}",
                "spec.rules[0].matches[0].headers[0].value",
            ),
            (
                "{matches: [{queryParams: [{type: Other, name: a, value: b}]}]}",
                "spec.rules[0].matches[0].queryParams[0].type",
            ),
            ("{matches: [{cookies: []}]}", "spec.rules[0].matches[0].cookies"),
            ("{filters: [{type: RequestMirror}]}", "spec.rules[0].filters[0]"),
            (
                "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 80}, percent: 101}}]}",
                "spec.rules[0].filters[0].requestMirror",
            ),
            (
                "{filters: [{type: CORS, cors: {allowOrigins: ['*'], allowMethods: ['*'], allowCredentials: true}}]}",
                "spec.rules[0].filters[0].cors.allowMethods",
            ),
            (
                "{backendRefs: [{name: a, port: 80, filters: [{type: CORS, cors: {}}]}]}",
                "spec.rules[0].backendRefs[0].filters",
            ),
            ("{retry: {codes: [200]}}", "spec.rules[0].retry.codes"),
            ("{retry: {backoff: '1'}}", "spec.rules[0].retry.backoff"),
            ("{filters: [{type: ExtensionRef}]}", "spec.rules[0].filters[0].type"),
            ("{filters: [{type: URLRewrite}]}", "spec.rules[0].filters[0]"),
            (
                "{filters: [{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}]}",
                "spec.rules[0].filters[1].type",
            ),
            (
                "{filters: [{type: URLRewrite, urlRewrite: {}}, {type: RequestRedirect, requestRedirect: {}}]}",
                "spec.rules[0].filters",
            ),
            (
                "{filters: [{type: RequestRedirect, requestRedirect: {statusCode: 200}}]}",
                "spec.rules[0].filters[0].requestRedirect.statusCode",
            ),
            (
                "{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: v1, port: 80}]}",
                "spec.rules[0].backendRefs",
            ),
            (
                "{matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}]}",
                "spec.rules[0].filters",
            ),
            (
                "{filters: [{type: URLRewrite, urlRewrite: {path: {type: Other}}}]}",
                "spec.rules[0].filters[0].urlRewrite.path",
            ),
            (
                "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a}]}}]}",
                "spec.rules[0].filters[0].requestHeaderModifier.set[0].name",
            ),
            (
                "{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: ['a b']}}]}",
                "spec.rules[0].filters[0].requestHeaderModifier.remove[0]",
            ),
            (
                "{backendRefs: [{kind: Hostname, group: networking.istio.io, name: a, port: 80}]}",
                "spec.rules[0].backendRefs[0].kind",
            ),
            (
                "{backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {}}]}]}",
                "spec.rules[0].backendRefs[0].filters",
            ),
            ("{timeouts: {request: 10}}", "spec.rules[0].timeouts.request"),
            ("{timeouts: {request: '10'}}", "spec.rules[0].timeouts.request"),
            ("{timeouts: {request: 1s, backendRequest: 2s}}", "spec.rules[0].timeouts.backendRequest"),
            ("{sessionPersistence: {}}", "spec.rules[0].sessionPersistence"),
        ];
        for (rule, field) in rows {
            let got = fields(&read(rule).1);
            assert!(got.contains(&(Severity::Error, field.to_owned())), "{rule}: {got:?}");
        }
    }

    #[test]
    fn patterns_mirrors_origins_and_retries() {
        let (got, remarks) = read(
            "{matches: [{path: {type: RegularExpression, value: '/v[0-9]+/.*'}, \
               headers: [{type: RegularExpression, name: X-A, value: 'b.'}], \
               queryParams: [{type: RegularExpression, name: q, value: 'c?'}]}], \
              backendRefs: [{name: v1, port: 80, filters: [{type: ResponseHeaderModifier, \
                responseHeaderModifier: {set: [{name: x-b, value: '1'}]}}]}], \
              filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 81}, \
                fraction: {numerator: 1, denominator: 8}}}, \
               {type: RequestMirror, requestMirror: {backendRef: {name: other, port: 82}}}, \
               {type: CORS, cors: {allowOrigins: ['https://a.example'], allowMethods: [GET, PUT], maxAge: 60}}], \
              retry: {codes: [503], backoff: 100ms}}",
        );
        assert_eq!(remarks, Remarks::default());
        let rule = got.unwrap().rules.remove(0);
        let pattern = |text| waypoint_model::Pattern::parse(text).unwrap();
        let wanted = &rule.matches[0];
        assert_eq!(wanted.path, Some(PathMatch::Regex(pattern("/v[0-9]+/.*"))));
        assert_eq!(wanted.headers[0].value, waypoint_model::StringMatch::Regex(pattern("b.")));
        assert_eq!(wanted.query[0].value, waypoint_model::StringMatch::Regex(pattern("c?")));
        let mirrors: Vec<_> = rule.mirrors.iter().map(|to| (to.backend.name.as_str(), to.fraction)).collect();
        assert_eq!(mirrors, [("m", 125_000), ("other", 1_000_000)]);
        let cors = rule.cors.unwrap();
        assert_eq!((cors.allow_methods.as_str(), cors.max_age.as_str()), ("GET,PUT", "60"));
        assert!(!cors.forward_unmatched_preflights);
        let retries = rule.retries.unwrap();
        assert_eq!((retries.attempts, retries.backoff), (2, Some(Duration::from_millis(100))));
        assert!(retries.on.contains(&waypoint_model::RetryOn::Statuses(vec![503])));
        let ActionDoc::Forward { backends, .. } = rule.action else { panic!("forward") };
        assert_eq!(backends[0].response_headers, [HeaderChange::Set("x-b".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn parents_are_services_and_entries() {
        let mut remarks = Remarks::default();
        let got = translate(
            &source(
                "parentRefs: [{group: '', kind: Service, name: s, sectionName: http}, {group: networking.istio.io, kind: ServiceEntry, name: e}, {name: gw}], rules: [{}]",
            ),
            &mut remarks,
        );
        let parents = got.unwrap().parents;
        let names: Vec<_> = parents.iter().map(|p| (p.service.kind, p.service.full_name())).collect();
        assert_eq!(names, [(Kind::Service, "a/s".to_owned()), (Kind::ServiceEntry, "a/e".to_owned())]);
        assert_eq!(fields(&remarks), [(Severity::Note, "spec.parentRefs[2]".to_owned())]);
    }

    #[test]
    fn an_invalid_route_still_has_parents_to_refuse_at() {
        let document = source(&format!("{PARENT}, rules: [{{filters: [{{type: ExtensionRef}}]}}]"));
        let stand_in = refusing(&document, "why".to_owned());
        assert_eq!(stand_in.parents.len(), 1);
        assert_eq!(stand_in.rules[0].action, ActionDoc::Refuse("why".to_owned()));
    }
}
