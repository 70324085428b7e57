//! Certificates from istiod: `istio.v1.auth.IstioCertificateService` (`security/v1alpha1/ca.proto` of istio.io/api).
//!
//! # What is trusted
//! The reply carries the roots of the mesh as its last element, and these become the roots that we trust of peers. What
//! vouches for them is the connection: istiod proved by the mounted root and by its name that it is the authority, and
//! whoever can do that could sign any certificate of the mesh. So they need not chain to the mounted root: with an
//! intermediate or an outside authority they need not be the same, and while a root is changed the new one comes here before
//! the kubelet has changed the file. The mounted root in turn vouches for istiod alone and never for a workload.
//! Our own chain must lead to one of the roots that came with it: with any other, every peer would refuse us.

mod csr;
mod error;
mod reply;
#[cfg(test)]
mod tests;
mod token;
mod transport;

use std::time::Duration;

use certs::{Fetch, X509Svid};
use spiffe_id::SpiffeId;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::bootstrap::{Bootstrap, Endpoint};

pub use error::CaError;

const METHOD: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// How long istiod may take to answer, once connected. It signs in milliseconds.
const ANSWER: Duration = Duration::from_secs(10);

/// Asks istiod for a certificate for us: a fresh key each time, which never leaves the process.
#[derive(Clone, Debug)]
pub struct IstiodCa {
    endpoint: Endpoint,
    token: std::path::PathBuf,
    cluster: String,
    identity: SpiffeId,
    ttl: Duration,
    answer: Duration,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CertificateRequest {
    #[prost(string, tag = "1")]
    csr: String,
    /// Seconds. istiod refuses more than its `MAX_WORKLOAD_CERT_TTL`; there is no least.
    #[prost(int64, tag = "3")]
    validity_duration: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CertificateResponse {
    /// Leaf, intermediates, and at the end all roots in one element; each in PEM.
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

impl IstiodCa {
    /// What the environment says of the authority and of us.
    #[must_use]
    pub fn new(bootstrap: &Bootstrap) -> Self {
        Self {
            endpoint: bootstrap.ca.clone(),
            token: bootstrap.token.clone(),
            cluster: bootstrap.cluster.clone(),
            identity: bootstrap.identity.clone(),
            ttl: bootstrap.ttl,
            answer: ANSWER,
        }
    }

    async fn certificate(&self) -> Result<X509Svid, CaError> {
        // Files first: what is wrong with them is known without istiod.
        let headers = self.headers().await?;
        let channel = transport::connect(&self.endpoint).await?;
        let (csr, key) = csr::make(&self.identity)?;
        let validity_duration = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let request = CertificateRequest { csr, validity_duration };
        let reply = self.call(channel, headers, request).await?;
        reply::read(&reply.cert_chain, &key, &self.identity)
    }

    async fn headers(&self) -> Result<MetadataMap, CaError> {
        let mut headers = MetadataMap::new();
        headers.insert("authorization", token::bearer(&self.token).await?);
        let cluster = MetadataValue::try_from(&self.cluster)
            .map_err(|_| CaError::BadClusterId { cluster: self.cluster.clone() })?;
        headers.insert("clusterid", cluster);
        Ok(headers)
    }

    async fn call(
        &self,
        channel: tonic::transport::Channel,
        headers: MetadataMap,
        message: CertificateRequest,
    ) -> Result<CertificateResponse, CaError> {
        let address = self.endpoint.authority();
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = headers;
        let answered = async {
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.map_err(|error| CaError::unreachable(&self.endpoint, &error))?;
            let codec = tonic_prost::ProstCodec::default();
            let reply = client.unary(request, PathAndQuery::from_static(METHOD), codec).await;
            reply.map_err(|status| CaError::refused(&address, &status))
        };
        match tokio::time::timeout(self.answer, answered).await {
            Ok(reply) => Ok(reply?.into_inner()),
            Err(_) => Err(CaError::Silent { address: self.endpoint.authority(), within: self.answer }),
        }
    }
}

impl Fetch for IstiodCa {
    type Error = CaError;

    fn authority(&self) -> String {
        format!("istiod at {}", self.endpoint.authority())
    }

    async fn fetch(&mut self) -> Result<X509Svid, CaError> {
        self.certificate().await
    }
}
