//! A SPIFFE Workload API server on a Unix socket: gRPC by hand over h2, so that it can also be wrong.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::authority::Issued;

/// `X509SVIDResponse` of the SPIFFE Workload API, §5.2.1.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SvidResponse {
    #[prost(message, repeated, tag = "1")]
    pub(crate) svids: Vec<SvidMessage>,
    #[prost(map = "string, bytes", tag = "3")]
    pub(crate) federated_bundles: HashMap<String, Bytes>,
}

/// `X509SVID` of the SPIFFE Workload API, §5.2.1.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SvidMessage {
    #[prost(string, tag = "1")]
    pub(crate) spiffe_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) x509_svid: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) x509_svid_key: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) bundle: Bytes,
}

impl SvidMessage {
    pub(crate) fn new(id: &str, issued: &Issued, bundle: &str) -> Self {
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        Self {
            spiffe_id: id.to_owned(),
            x509_svid: concatenated(&issued.chain),
            x509_svid_key: Bytes::copy_from_slice(key.secret_der()),
            bundle: concatenated(bundle),
        }
    }
}

/// PEM as the Workload API wants it: DER after DER.
pub(crate) fn concatenated(pem: &str) -> Bytes {
    CertificateDer::pem_slice_iter(pem.as_bytes()).flat_map(|c| c.unwrap().to_vec()).collect()
}

/// A running agent. Dropping it closes its socket and every connection.
pub(crate) struct Agent {
    answer: watch::Sender<SvidResponse>,
    calls: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Agent {
    /// Answers each call with `first`, and open ones with everything that is pushed later.
    pub(crate) fn start(socket: &Path, first: SvidResponse) -> Self {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let answer = watch::Sender::new(first);
        let (receiver, calls) = (answer.subscribe(), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn(serve(listener, receiver, Arc::clone(&calls)));
        Self { answer, calls, task }
    }

    pub(crate) fn push(&self, next: SvidResponse) {
        self.answer.send_replace(next);
    }

    /// How many calls with all they need came.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Owns its connections: they end with it.
async fn serve(listener: UnixListener, answers: watch::Receiver<SvidResponse>, calls: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, answers.clone(), Arc::clone(&calls)));
    }
}

async fn connection(stream: UnixStream, answers: watch::Receiver<SvidResponse>, calls: Arc<AtomicUsize>) {
    let mut streams = JoinSet::new();
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        if is_proper(&request) {
            calls.fetch_add(1, Ordering::Relaxed);
            streams.spawn(stream_svids(respond, answers.clone()));
        } else {
            refuse(respond);
        }
    }
}

/// The security header keeps web pages from reaching an agent (SPIFFE Workload Endpoint §5).
fn is_proper<B>(request: &Request<B>) -> bool {
    request.uri().path() == "/SpiffeWorkloadAPI/FetchX509SVID"
        && request.headers().get("workload.spiffe.io").is_some_and(|value| value == "true")
        && request.headers().get("content-type").is_some_and(|value| value == "application/grpc")
}

fn refuse(mut respond: SendResponse<Bytes>) {
    let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", "3");
    let _ = respond.send_response(response.body(()).unwrap(), true);
}

async fn stream_svids(mut respond: SendResponse<Bytes>, mut answers: watch::Receiver<SvidResponse>) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let Ok(mut body) = respond.send_response(head, false) else { return };
    loop {
        let message = answers.borrow_and_update().clone();
        // No SVID for this workload ends the call, as SPIRE does it.
        if message.svids.is_empty() {
            let _ = body.send_trailers(HeaderMap::from_iter([(
                "grpc-status".parse().unwrap(),
                HeaderValue::from(7),
            )]));
            return;
        }
        if body.send_data(framed(&message), false).is_err() || answers.changed().await.is_err() {
            return;
        }
    }
}

/// gRPC's frame: not compressed, length, message.
fn framed(message: &SvidResponse) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}
