//! One document into one resource: which translator reads which kind, and what stands for a document that never was
//! valid.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::authorization_policy::{self, PolicyDoc};
use super::document::{Document, Kind, Origin, ResourceKey};
use super::endpoint_slice::{self, SliceDoc};
use super::envoy_filter::{self, LimitsDoc};
use super::finding::Remarks;
use super::gateway::{self, GatewayDoc};
use super::http_route::{self, RouteDoc};
use super::namespace::{self, NamespaceDoc};
use super::node::{self, NodeDoc};
use super::options::Options;
use super::pod;
use super::reference_grant::{self, GrantDoc};
use super::request_authentication::{self, TokensDoc};
use super::service::{self, ServiceDoc};
use super::service_entry;
use super::workload::WorkloadDoc;
use super::workload_entry;

/// What a document says on its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Resource {
    Gateway(GatewayDoc),
    Grant(GrantDoc),
    Limits(LimitsDoc),
    Namespace(NamespaceDoc),
    Node(NodeDoc),
    Policy(PolicyDoc),
    Route(RouteDoc),
    Service(ServiceDoc),
    Slice(SliceDoc),
    Tokens(TokensDoc),
    Workload(WorkloadDoc),
}

/// A resource in force, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) resource: Arc<Resource>,
}

/// All resources in force.
pub(super) type Resources = BTreeMap<ResourceKey, Entry>;

/// What reading a document came to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Translated {
    /// None: nothing to be had of it, e.g. a Pod without address; or it is invalid.
    pub(super) resource: Option<Arc<Resource>>,
    pub(super) remarks: Remarks,
}

impl Translated {
    /// Whether an earlier version should stay in force.
    pub(super) fn is_invalid(&self) -> bool {
        self.resource.is_none() && self.remarks.has_errors()
    }
}

/// Translates a document.
pub(super) fn translate(document: &Document, options: &Options) -> Translated {
    let mut remarks = document.remarks.clone();
    let resource = resource(document, options, &mut remarks);
    Translated { resource: resource.filter(|_| !remarks.has_errors()).map(Arc::new), remarks }
}

fn resource(document: &Document, options: &Options, remarks: &mut Remarks) -> Option<Resource> {
    let resource = match document.key.kind {
        Kind::AuthorizationPolicy => {
            Resource::Policy(authorization_policy::translate(document, options, remarks)?)
        }
        Kind::EndpointSlice => Resource::Slice(endpoint_slice::translate(document, remarks)?),
        Kind::EnvoyFilter => Resource::Limits(envoy_filter::translate(document, remarks)?),
        Kind::Gateway => Resource::Gateway(gateway::translate(document, remarks)?),
        Kind::HttpRoute => Resource::Route(http_route::translate(document, remarks)?),
        Kind::Namespace => Resource::Namespace(namespace::translate(document)),
        Kind::Node => Resource::Node(node::translate(document)),
        Kind::Pod => Resource::Workload(pod::translate(document, options, remarks)?),
        Kind::ReferenceGrant => Resource::Grant(reference_grant::translate(document, remarks)?),
        Kind::RequestAuthentication => {
            Resource::Tokens(request_authentication::translate(document, remarks)?)
        }
        Kind::Service => Resource::Service(service::translate(document, options, remarks)?),
        Kind::ServiceEntry => Resource::Service(service_entry::translate(document, options, remarks)?),
        Kind::WorkloadEntry => Resource::Workload(workload_entry::translate(document, options, remarks)?),
    };
    Some(resource)
}

/// What stands for a document that is invalid and has no earlier version: a policy that denies, a route that refuses,
/// and nothing for any other kind.
pub(super) fn stand_in(document: &Document, why: &str) -> Option<Resource> {
    let why = format!("{} {}: {why}", document.key.kind, document.key.full_name());
    match document.key.kind {
        Kind::AuthorizationPolicy => Some(Resource::Policy(authorization_policy::unusable(document, why))),
        Kind::EnvoyFilter => envoy_filter::unusable(document, why).map(Resource::Policy),
        Kind::HttpRoute => Some(Resource::Route(http_route::refusing(document, why))),
        Kind::RequestAuthentication => {
            Some(Resource::Policy(request_authentication::unusable(document, why)))
        }
        Kind::EndpointSlice
        | Kind::Gateway
        | Kind::Namespace
        | Kind::Node
        | Kind::Pod
        | Kind::ReferenceGrant
        | Kind::Service
        | Kind::ServiceEntry
        | Kind::WorkloadEntry => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::feeds::file::document::Contents;

    /// Words that lead deep into some translator, and some that lead nowhere.
    const WORDS: [&str; 40] = [
        "*",
        "/mcp",
        "10.0.0.1",
        "10.0.0.0/8",
        "80",
        "ALLOW",
        "DENY",
        "Exact",
        "PathPrefix",
        "Service",
        "URLRewrite",
        "STATIC",
        "action",
        "addresses",
        "backendRefs",
        "filters",
        "from",
        "hosts",
        "key",
        "kind",
        "labels",
        "matches",
        "name",
        "namespaces",
        "notPaths",
        "operation",
        "parentRefs",
        "path",
        "paths",
        "port",
        "ports",
        "principals",
        "rules",
        "source",
        "spec",
        "status",
        "targetRefs",
        "to",
        "type",
        "values",
    ];

    fn word() -> impl Strategy<Value = String> {
        prop::sample::select(&WORDS[..]).prop_map(str::to_owned)
    }

    fn value() -> impl Strategy<Value = Value> {
        let number = (-1_i64..70_000).prop_map(Value::from);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            number,
            word().prop_map(Value::from)
        ];
        leaf.prop_recursive(6, 64, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(word(), inner, 0..6)
                    .prop_map(|fields| fields.into_iter().collect::<Value>()),
            ]
        })
    }

    fn kind() -> impl Strategy<Value = (&'static str, &'static str)> {
        prop::sample::select(vec![
            ("v1", "Pod"),
            ("v1", "Service"),
            ("discovery.k8s.io/v1", "EndpointSlice"),
            ("gateway.networking.k8s.io/v1", "Gateway"),
            ("gateway.networking.k8s.io/v1", "HTTPRoute"),
            ("gateway.networking.k8s.io/v1", "ReferenceGrant"),
            ("networking.istio.io/v1", "ServiceEntry"),
            ("networking.istio.io/v1", "WorkloadEntry"),
            ("security.istio.io/v1", "AuthorizationPolicy"),
            ("security.istio.io/v1", "RequestAuthentication"),
        ])
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

        #[test]
        fn whatever_a_document_says_it_is_translated_or_refused_by_name((version, kind) in kind(), spec in value()) {
            let text = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}).to_string();
            let contents = Contents::read(&Arc::from(std::path::Path::new("a.json")), &text);
            prop_assert_eq!(contents.documents.len(), 1, "{}", text);
            for document in &contents.documents {
                let translated = translate(document, &Options::default());
                let silent = translated.resource.is_none() && translated.remarks.iter().next().is_none();
                prop_assert!(!silent, "{text}");
                let policy = matches!(
                    document.key.kind,
                    Kind::AuthorizationPolicy | Kind::HttpRoute | Kind::RequestAuthentication
                );
                prop_assert!(!policy || translated.resource.is_some() || stand_in(document, "why").is_some(), "{text}");
            }
        }
    }
}
