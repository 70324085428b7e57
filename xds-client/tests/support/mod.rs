//! A control plane by hand, frame by frame: says what a test makes it say, be it half a message.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail loudly, like tests")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::server::{self, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use xds_client::{
    Any, Client, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Event, Failure, Names, Node, Security,
    Session, Settings, Update, WireResource,
};

pub(crate) const CDS: &str = "type.test/Cluster";
pub(crate) const EDS: &str = "type.test/Endpoint";

/// Nothing here takes as long; what does is a failure.
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// A control plane on a free port.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl ControlPlane {
    pub(crate) async fn plain() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { address: listener.local_addr().unwrap(), listener, tls: None }
    }

    pub(crate) async fn tls(authority: &Authority, name: &str) -> Self {
        Self { tls: Some(authority.acceptor(name)), ..Self::plain().await }
    }

    /// The next call of a client; it waits for an answer.
    pub(crate) async fn call(&self) -> Call {
        let (socket, _) = self.listener.accept().await.unwrap();
        match &self.tls {
            Some(tls) => Call::read(tls.accept(socket).await.unwrap()).await,
            None => Call::read(socket).await,
        }
    }

    /// A connection whose handshake fails.
    pub(crate) async fn handshake_fails(&self) {
        let (socket, _) = self.listener.accept().await.unwrap();
        assert!(self.tls.as_ref().unwrap().accept(socket).await.is_err(), "the handshake went through");
    }

    /// A connection that is taken and never answered.
    pub(crate) async fn take_silently(&self) -> tokio::net::TcpStream {
        self.listener.accept().await.unwrap().0
    }
}

/// A call that was not answered.
pub(crate) struct Call {
    pub(crate) headers: HeaderMap,
    requests: Requests,
    answer: SendResponse<Bytes>,
    connection: Connection,
}

impl Call {
    async fn read<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: IO) -> Self {
        let connection = server::handshake(io).await.unwrap();
        let (calls, mut call) = mpsc::channel(1);
        let connection = Connection::drive(connection, calls);
        let (request, answer) = call.recv().await.expect("a call");
        let (head, body) = request.into_parts();
        let requests = Requests { body, read: BytesMut::new() };
        Self { headers: head.headers, requests, answer, connection }
    }

    /// What the client says although nothing was answered.
    pub(crate) async fn hear(&mut self) -> DeltaDiscoveryRequest {
        self.requests.next().await
    }

    pub(crate) fn accept(mut self) -> Stream {
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let responses = self.answer.send_response(head, false).unwrap();
        Stream { requests: self.requests, responses, connection: self.connection }
    }

    /// Refuses the call with a status of gRPC.
    pub(crate) fn refuse(mut self, code: i32, message: &str) {
        let head = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", code)
            .header("grpc-message", message);
        self.answer.send_response(head.body(()).unwrap(), true).unwrap();
        self.connection.linger();
    }
}

/// An open stream.
pub(crate) struct Stream {
    requests: Requests,
    responses: SendStream<Bytes>,
    connection: Connection,
}

impl Stream {
    pub(crate) async fn hear(&mut self) -> DeltaDiscoveryRequest {
        self.requests.next().await
    }

    pub(crate) fn say(&mut self, response: &DeltaDiscoveryResponse) {
        self.say_bytes(framed(response));
    }

    pub(crate) fn say_bytes(&mut self, bytes: Bytes) {
        self.responses.send_data(bytes, false).unwrap();
    }

    /// Ends the call with a status of gRPC.
    pub(crate) fn end(mut self, code: i32, message: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", code.into());
        trailers.insert("grpc-message", message.parse().unwrap());
        self.responses.send_trailers(trailers).unwrap();
        self.connection.linger();
    }

    /// Cuts the connection.
    pub(crate) fn cut(self) {
        self.connection.cut();
    }

    /// Falls silent: the socket stays open, and nobody answers on it, not even to pings.
    pub(crate) fn freeze(&self) {
        self.connection.orders.send_replace(Order::Freeze);
    }
}

/// A response as it stands on the wire.
pub(crate) fn framed(response: &DeltaDiscoveryResponse) -> Bytes {
    let body = response.encode_to_vec();
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(body.len()).unwrap());
    frame.put_slice(&body);
    frame.freeze()
}

struct Requests {
    body: RecvStream,
    read: BytesMut,
}

impl Requests {
    async fn next(&mut self) -> DeltaDiscoveryRequest {
        loop {
            if let Some(request) = self.whole() {
                return request;
            }
            let data = self.body.data().await.expect("the client ended its half").unwrap();
            self.body.flow_control().release_capacity(data.len()).unwrap();
            self.read.extend_from_slice(&data);
        }
    }

    fn whole(&mut self) -> Option<DeltaDiscoveryRequest> {
        let mut head = self.read.get(..5)?;
        assert_eq!(head.get_u8(), 0, "not compressed");
        let length = usize::try_from(head.get_u32()).unwrap();
        if self.read.len() < 5 + length {
            return None;
        }
        self.read.advance(5);
        Some(DeltaDiscoveryRequest::decode(self.read.split_to(length)).unwrap())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Drive,
    Freeze,
}

/// A connection that a task drives until it is told otherwise.
struct Connection {
    orders: watch::Sender<Order>,
    task: tokio::task::JoinHandle<()>,
}

impl Connection {
    fn drive<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        mut connection: server::Connection<IO, Bytes>,
        calls: mpsc::Sender<(Request<RecvStream>, SendResponse<Bytes>)>,
    ) -> Self {
        let (orders, mut order) = watch::channel(Order::Drive);
        let task = tokio::spawn(async move {
            let frozen = async move {
                // Whoever gives orders is gone: no more orders.
                if order.wait_for(|order| *order == Order::Freeze).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::pin!(frozen);
            loop {
                tokio::select! {
                    () = &mut frozen => std::future::pending::<()>().await,
                    call = connection.accept() => match call {
                        Some(Ok(call)) => calls.send(call).await.unwrap(),
                        _ => return,
                    },
                }
            }
        });
        Self { orders, task }
    }

    fn cut(self) {
        self.task.abort();
    }

    /// Lets the task go on until the client hangs up.
    fn linger(self) {
        drop(self.task);
    }
}

/// A certificate authority of a test.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) root: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test CA");
        let root = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), root }
    }

    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Settings for a control plane on loopback, with waits that suit a test.
pub(crate) fn settings(control_plane: &ControlPlane, security: Security) -> Settings {
    Settings {
        backoff_longest: Duration::from_millis(20),
        ..Settings::new(control_plane.address.to_string(), security)
    }
}

/// A client of all clusters and of two endpoints.
pub(crate) fn client(settings: Settings) -> Client {
    let node = Node { id: "waypoint~test".into(), ..Node::default() };
    let types = [(CDS.to_owned(), Names::All), (EDS.to_owned(), Names::listed(["e1", "e2"]))];
    Client::new(settings, Session::new(node, types)).unwrap()
}

/// The next event of a client.
pub(crate) async fn event(client: &mut Client) -> Event {
    soon("an event", client.next()).await
}

pub(crate) async fn connected(client: &mut Client) {
    match event(client).await {
        Event::Connected => {}
        other => panic!("instead of a connection: {other:?}"),
    }
}

pub(crate) async fn update(client: &mut Client) -> Update {
    match event(client).await {
        Event::Update(update) => update,
        other => panic!("instead of an update: {other:?}"),
    }
}

pub(crate) async fn failure(client: &mut Client) -> (Failure, Duration) {
    match event(client).await {
        Event::Disconnected { why, retry_in } => (why, retry_in),
        other => panic!("instead of a failure: {other:?}"),
    }
}

/// Does `work` while the client works; the client has nothing to tell meanwhile.
pub(crate) async fn meanwhile<T>(client: &mut Client, work: impl Future<Output = T>) -> T {
    soon("the control plane", async {
        tokio::select! {
            done = work => done,
            event = client.next() => panic!("meanwhile: {event:?}"),
        }
    })
    .await
}

pub(crate) fn response(type_url: &str, nonce: &str, names: &[(&str, &str)]) -> DeltaDiscoveryResponse {
    let resource = |(name, version): &(&str, &str)| WireResource {
        name: (*name).into(),
        version: (*version).into(),
        resource: Some(Any { type_url: type_url.into(), value: format!("{name}@{version}").into_bytes() }),
    };
    DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources: names.iter().map(resource).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

pub(crate) fn versions(request: &DeltaDiscoveryRequest) -> HashMap<&str, &str> {
    request
        .initial_resource_versions
        .iter()
        .map(|(name, version)| (name.as_str(), version.as_str()))
        .collect()
}
