//! A mesh of one service: an authority, identities, endpoints, and a client with its defaults.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use certs::{MeshTls, Revocations, StaticSource, TrustDomains, X509Svid};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use spiffe_id::SpiffeId;
use waypoint_model::{
    ClusterEndpoint, ClusterKey, Endpoint, EndpointAddress, Locality, Map, Service, ServiceKey,
    TrafficPolicy, TunnelKind, Workload, WorkloadUid,
};
use waypoint_policy::{Attributes, Destination, Permit, PolicySet, Source};

use super::super::{Chosen, Cluster, Pick, Transport, UpstreamError, Upstreams, Version};
use super::soon;
use crate::body::{Body, BodyError};
use crate::limits::Limits;

pub(super) const WAYPOINT: &str = "spiffe://td/ns/w/sa/waypoint";
pub(super) const SERVER: &str = "spiffe://td/ns/s/sa/server";
pub(super) const OTHER: &str = "spiffe://td/ns/s/sa/other";

/// Issues SVIDs of the trust domain `td`.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    bundle: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let bundle = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), bundle }
    }

    pub(super) fn svid(&self, id: &str) -> X509Svid {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        X509Svid::from_pem(chain.as_bytes(), key.serialize_pem().as_bytes(), self.bundle.as_bytes()).unwrap()
    }

    pub(super) fn tls(&self, id: &str) -> (MeshTls, StaticSource) {
        let source = StaticSource::new(self.svid(id));
        (MeshTls::new(&source, TrustDomains::default(), Revocations::none()), source)
    }
}

/// An endpoint of the service under test.
#[derive(Clone)]
pub(super) struct At {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    pub(super) tunnel: TunnelKind,
    pub(super) identity: Option<&'static str>,
}

pub(super) fn plain(name: &'static str, address: SocketAddr) -> At {
    At { name, address, tunnel: TunnelKind::Plain, identity: None }
}

pub(super) fn tunnelled(name: &'static str, address: SocketAddr, identity: &'static str) -> At {
    At { name, address, tunnel: TunnelKind::Hbone, identity: Some(identity) }
}

fn workload(at: &At) -> Arc<Workload> {
    Arc::new(Workload {
        uid: WorkloadUid(at.name.into()),
        name: at.name.into(),
        namespace: "s".into(),
        addresses: vec![at.address.ip()],
        identity: at.identity.map(|id| SpiffeId::parse(id).unwrap()),
        tunnel: at.tunnel,
        locality: Locality::default(),
        workload_name: at.name.into(),
        canonical_name: at.name.into(),
        canonical_revision: "latest".into(),
        app: None,
        version: None,
        cluster: "c".into(),
    })
}

/// The endpoint as a cluster of a control plane has it.
pub(super) fn told(at: &At) -> ClusterEndpoint {
    ClusterEndpoint {
        workload: Some(WorkloadUid(at.name.into())),
        address: EndpointAddress::Socket(at.address),
        tunnel: at.tunnel,
        weight: 1,
        priority: 0,
        locality: Locality::default(),
        locality_weight: None,
        ready: true,
    }
}

pub(super) fn permit() -> Permit {
    let destination = Destination { ip: None, port: 80, sni: None };
    let any = [127, 0, 0, 1].into();
    let source = Source { identity: None, ip: any, remote_ip: any };
    let attributes = Attributes { source, destination, http: None };
    PolicySet::compile(&[], &[], false, 1).decide_stream(&attributes).unwrap()
}

/// The waypoint's side.
pub(super) struct Client {
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) cluster: Arc<Cluster>,
    /// Replaces our own SVID.
    pub(super) source: StaticSource,
    pub(super) pick: Pick,
    pub(super) timeout: Option<Duration>,
    pub(super) version: Version,
    /// What a cluster finds.
    pub(super) known: Vec<At>,
}

impl Client {
    pub(super) fn new(authority: &Authority, limits: &Limits, endpoints: &[At]) -> Self {
        let (tls, source) = authority.tls(WAYPOINT);
        let upstreams = Upstreams::new(tls, limits, Locality::default(), crate::telemetry::Hits::default());
        let cluster = cluster(&upstreams, endpoints);
        let (pick, known) = (Pick::default(), endpoints.to_vec());
        Self { upstreams, cluster, source, pick, timeout: None, version: Version::Http1, known }
    }

    /// Other workloads are known from now on.
    pub(super) fn knows(self, workloads: &[At]) -> Self {
        Self { known: workloads.to_vec(), ..self }
    }

    /// Another snapshot, in which everything goes to a cluster of a control plane.
    pub(super) fn with_cluster(self, endpoints: Vec<ClusterEndpoint>, traffic: TrafficPolicy) -> Self {
        let told = waypoint_model::Cluster {
            key: ClusterKey("outbound|80||server.s.svc.cluster.local".into()),
            service: ServiceKey::new("s", "server.s.svc.cluster.local"),
            port: 80,
            subset: None,
            endpoints,
            traffic,
            unusable: None,
        };
        let find = |uid: &WorkloadUid| self.known.iter().find(|at| *at.name == *uid.0).map(workload);
        let cluster = self.upstreams.named_cluster(&told, None, &find);
        self.upstreams.retain(std::slice::from_ref(&cluster));
        Self { cluster, ..self }
    }

    /// Without HBONE.
    pub(super) fn to(endpoints: &[At]) -> Self {
        Self::bounded(&Limits::default(), endpoints)
    }

    pub(super) fn bounded(limits: &Limits, endpoints: &[At]) -> Self {
        Self::new(&Authority::new(), limits, endpoints)
    }

    pub(super) fn http2(self) -> Self {
        Self { version: Version::Http2, ..self }
    }

    /// Another snapshot.
    pub(super) fn apply(&mut self, endpoints: &[At]) {
        self.cluster = cluster(&self.upstreams, endpoints);
        self.upstreams.retain(std::slice::from_ref(&self.cluster));
    }

    pub(super) async fn send(
        &self,
        request: Request<Body>,
        chosen: &mut Option<Chosen>,
    ) -> Result<Response<Body>, UpstreamError> {
        let (upstreams, cluster, permit) = (&self.upstreams, &self.cluster, permit());
        let sent = upstreams.send(&permit, cluster, &self.pick, self.version, self.timeout, request, chosen);
        soon(sent).await
    }

    /// Sends a request and reads the whole response.
    pub(super) async fn fetch(&self, request: Request<Body>) -> Result<(u16, Bytes), UpstreamError> {
        let response = self.send(request, &mut None).await?;
        let status = response.status().as_u16();
        Ok((status, soon(response.into_body().collect()).await.unwrap().to_bytes()))
    }

    pub(super) async fn get(&self) -> Result<(u16, Bytes), UpstreamError> {
        self.fetch(get()).await
    }

    pub(super) async fn open(&self) -> Result<(Transport, Chosen), UpstreamError> {
        soon(self.upstreams.open_stream(&permit(), &self.cluster, HeaderMap::new())).await
    }

    /// Whether any endpoint is ejected.
    pub(super) fn has_ejected(&self) -> bool {
        let now = self.upstreams.clock.now();
        self.cluster.endpoints().any(|endpoint| endpoint.state.health.is_ejected(now))
    }

    /// Requests and opaque streams in flight, over all endpoints.
    pub(super) fn active(&self) -> usize {
        self.cluster.endpoints().map(|endpoint| endpoint.state.health.active()).sum()
    }
}

fn cluster(upstreams: &Arc<Upstreams>, endpoints: &[At]) -> Arc<Cluster> {
    let key = ServiceKey::new("s", "server.s.svc.cluster.local");
    let mut service = (**Cluster::without_endpoints(&key, 80).service()).clone();
    let backend = |at: &At| Endpoint {
        workload: WorkloadUid(at.name.into()),
        ports: Map::from([(80, at.address.port())]),
        ready: true,
    };
    service.endpoints = endpoints.iter().map(backend).collect();
    let workloads: HashMap<WorkloadUid, Arc<Workload>> =
        endpoints.iter().map(|at| (WorkloadUid(at.name.into()), workload(at))).collect();
    let service: Arc<Service> = Arc::new(service);
    upstreams.cluster(&service, 80, &|uid| workloads.get(uid).cloned())
}

pub(super) fn get() -> Request<Body> {
    Request::get("http://server/path").body(Body::Empty).unwrap()
}

pub(super) fn post(body: &'static str) -> Request<Body> {
    Request::post("http://server/path").body(Body::full(body)).unwrap()
}

/// A body that never ends by itself: `first`, and then nothing.
pub(super) fn endless(first: &'static str) -> Body {
    let first = async move { Ok::<_, BodyError>(Frame::data(Bytes::from(first))) };
    let frames = stream::once(first).chain(stream::pending());
    Body::Stream(Box::pin(StreamBody::new(frames)))
}
