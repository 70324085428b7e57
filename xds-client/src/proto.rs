//! The discovery messages, as much of them as delta ADS needs (`envoy/service/discovery/v3/discovery.proto`,
//! `envoy/config/core/v3/base.proto`, `google/rpc/status.proto`). Fields that are not named here are skipped.

use std::collections::HashMap;

/// Path of the call.
pub(crate) const METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Who asks (`envoy.config.core.v3.Node`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// Id of the node, in the form that the control plane demands.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Group of like nodes.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// What else the control plane wants to know.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<prost_types::Struct>,
    /// Name of the program.
    #[prost(string, tag = "6")]
    pub user_agent_name: String,
    /// Version of the program.
    #[prost(string, tag = "7")]
    pub user_agent_version: String,
}

/// Something that the client says: a subscription, an acceptance or a refusal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// Only in the first request of a stream.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// Which type this is about.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names wanted from now on; none in the first request of a type means all.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names no longer wanted.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// Only in the first request of a type: what the client knows of, by version.
    #[prost(map = "string, string", tag = "5")]
    pub initial_resource_versions: HashMap<String, String>,
    /// The response that this answers; empty if it answers none.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// What of that response was refused, and why.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// What the control plane says about one type.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// Version of the whole, for people.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// New and changed resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// Type of the resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// To be repeated in the answer.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that exist no more.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Who answers.
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
}

/// Which instance of the control plane answered.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlPlane {
    /// Free text; istiod writes JSON.
    #[prost(string, tag = "1")]
    pub identifier: String,
}

/// One resource in its envelope.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// Version of this resource.
    #[prost(string, tag = "1")]
    pub version: String,
    /// The resource itself.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// A message of any type (`google.protobuf.Any`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// Its type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    // Bytes of its own: a slice of the response would keep the whole response alive for as long as one resource lives.
    /// The encoded message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// An error (`google.rpc.Status`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// A code of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// What is wrong.
    #[prost(string, tag = "2")]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn fields_stand_where_the_protocol_has_them() {
        // Bytes written by hand from the .proto files: (field << 3 | 2), length, content.
        let rows: [(&str, Vec<u8>, Vec<u8>); 4] = [
            (
                "request",
                DeltaDiscoveryRequest {
                    node: Some(Node { id: "n".into(), ..Node::default() }),
                    type_url: "t".into(),
                    resource_names_subscribe: vec!["a".into()],
                    resource_names_unsubscribe: vec!["b".into()],
                    initial_resource_versions: HashMap::from([("k".into(), "v".into())]),
                    response_nonce: "x".into(),
                    error_detail: Some(Status { code: 3, message: "m".into() }),
                }
                .encode_to_vec(),
                b"\x0a\x03\x0a\x01n\x12\x01t\x1a\x01a\x22\x01b\x2a\x06\x0a\x01k\x12\x01v\x32\x01x\x3a\x05\x08\x03\x12\x01m".to_vec(),
            ),
            (
                "response",
                DeltaDiscoveryResponse {
                    system_version_info: "s".into(),
                    resources: vec![Resource::default()],
                    type_url: "t".into(),
                    nonce: "x".into(),
                    removed_resources: vec!["r".into()],
                    control_plane: Some(ControlPlane { identifier: "i".into() }),
                }
                .encode_to_vec(),
                b"\x0a\x01s\x12\x00\x22\x01t\x2a\x01x\x32\x01r\x3a\x03\x0a\x01i".to_vec(),
            ),
            (
                "resource",
                Resource {
                    version: "v".into(),
                    resource: Some(Any { type_url: "t".into(), value: b"b".to_vec() }),
                    name: "n".into(),
                }
                .encode_to_vec(),
                b"\x0a\x01v\x12\x06\x0a\x01t\x12\x01b\x1a\x01n".to_vec(),
            ),
            (
                "node",
                Node {
                    id: "i".into(),
                    cluster: "c".into(),
                    metadata: Some(prost_types::Struct::default()),
                    user_agent_name: "n".into(),
                    user_agent_version: "v".into(),
                }
                .encode_to_vec(),
                b"\x0a\x01i\x12\x01c\x1a\x00\x32\x01n\x3a\x01v".to_vec(),
            ),
        ];
        for (name, encoded, wire) in rows {
            assert_eq!(encoded, wire, "{name}");
        }
    }
}
