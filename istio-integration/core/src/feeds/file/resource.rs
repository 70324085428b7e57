//! One document into one resource: which translator reads which kind, and what stands for a document that never was
//! valid.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::authorization_policy::{self, PolicyDoc};
use super::document::{Document, Kind, Origin, ResourceKey};
use super::endpoint_slice::{self, SliceDoc};
use super::finding::Remarks;
use super::gateway::{self, GatewayDoc};
use super::http_route::{self, RouteDoc};
use super::namespace::{self, NamespaceDoc};
use super::node::{self, NodeDoc};
use super::options::Options;
use super::pod;
use super::reference_grant::{self, GrantDoc};
use super::request_authentication;
use super::service::{self, ServiceDoc};
use super::service_entry;
use super::workload::WorkloadDoc;
use super::workload_entry;

/// What a document says on its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Resource {
    Gateway(GatewayDoc),
    Grant(GrantDoc),
    Namespace(NamespaceDoc),
    Node(NodeDoc),
    Policy(PolicyDoc),
    Route(RouteDoc),
    Service(ServiceDoc),
    Slice(SliceDoc),
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
    // A RequestAuthentication is an error by being there, and what it stands for is to stay in force.
    let counts = !remarks.has_errors() || document.key.kind == Kind::RequestAuthentication;
    Translated { resource: resource.filter(|_| counts).map(Arc::new), remarks }
}

fn resource(document: &Document, options: &Options, remarks: &mut Remarks) -> Option<Resource> {
    let resource = match document.key.kind {
        Kind::AuthorizationPolicy => {
            Resource::Policy(authorization_policy::translate(document, options, remarks)?)
        }
        Kind::EndpointSlice => Resource::Slice(endpoint_slice::translate(document, remarks)?),
        Kind::Gateway => Resource::Gateway(gateway::translate(document, remarks)?),
        Kind::HttpRoute => Resource::Route(http_route::translate(document, remarks)?),
        Kind::Namespace => Resource::Namespace(namespace::translate(document)),
        Kind::Node => Resource::Node(node::translate(document)),
        Kind::Pod => Resource::Workload(pod::translate(document, options, remarks)?),
        Kind::ReferenceGrant => Resource::Grant(reference_grant::translate(document, remarks)?),
        Kind::RequestAuthentication => {
            request_authentication::remark(document, remarks);
            Resource::Policy(request_authentication::translate(document))
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
        Kind::HttpRoute => Some(Resource::Route(http_route::refusing(document, why))),
        Kind::RequestAuthentication => Some(Resource::Policy(request_authentication::translate(document))),
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
