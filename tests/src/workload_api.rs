//! A SPIFFE Workload API agent on a Unix socket, as SPIRE's: `FetchX509SVID` streams the SVID and each later one.
//! The gRPC of it is written by hand over HTTP/2, so that it can also be wrong.

use crate::ca::Svid;
use anyhow::{Context, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderValue, Request, Response};
use prost::Message;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use std::path::Path;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// `X509SVIDResponse` (SPIFFE Workload API §5.2.1); what the tests do not use is left out.
#[derive(Clone, PartialEq, Message)]
struct SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<SvidMessage>,
}

/// `X509SVID` (SPIFFE Workload API §5.2.1): certificates as DER after DER, the key in PKCS #8.
#[derive(Clone, PartialEq, Message)]
struct SvidMessage {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "bytes", tag = "2")]
    x509_svid: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    x509_svid_key: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    bundle: Bytes,
}

/// A running agent. Dropping it closes its socket and every connection.
pub struct Agent {
    answer: watch::Sender<SvidResponse>,
    task: AbortHandle,
}

impl Agent {
    /// Listens at `socket` and answers with `svid` and `bundle` (PEM).
    pub fn start(socket: &Path, svid: &Svid, bundle: &str) -> Result<Self> {
        let listener = UnixListener::bind(socket).with_context(|| socket.display().to_string())?;
        let answer = watch::Sender::new(response(svid, bundle)?);
        let task = tokio::spawn(serve(listener, answer.subscribe())).abort_handle();
        Ok(Self { answer, task })
    }

    /// Sends a new SVID on every open call.
    pub fn rotate(&self, svid: &Svid, bundle: &str) -> Result<()> {
        self.answer.send_replace(response(svid, bundle)?);
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn response(svid: &Svid, bundle: &str) -> Result<SvidResponse> {
    let roots: Vec<_> = CertificateDer::pem_slice_iter(bundle.as_bytes()).collect::<Result<_, _>>()?;
    let joined =
        |certificates: &[CertificateDer<'_>]| certificates.iter().flat_map(|der| der.to_vec()).collect();
    let message = SvidMessage {
        spiffe_id: svid.id.clone(),
        x509_svid: joined(&svid.chain()),
        x509_svid_key: Bytes::copy_from_slice(svid.key().secret_der()),
        bundle: joined(&roots),
    };
    Ok(SvidResponse { svids: vec![message] })
}

/// Owns its connections: they end with it.
async fn serve(listener: UnixListener, answers: watch::Receiver<SvidResponse>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, answers.clone()));
    }
}

async fn connection(stream: UnixStream, answers: watch::Receiver<SvidResponse>) {
    let mut streams = JoinSet::new();
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        if is_proper(&request) {
            streams.spawn(stream_svids(respond, answers.clone()));
        } else {
            refuse(respond);
        }
    }
}

/// A call without the security header may come from a web page and is refused (SPIFFE Workload Endpoint §5).
fn is_proper<B>(request: &Request<B>) -> bool {
    let has = |name, value| request.headers().get(name).is_some_and(|found| found == value);
    request.uri().path() == "/SpiffeWorkloadAPI/FetchX509SVID"
        && has("workload.spiffe.io", "true")
        && has("content-type", "application/grpc")
}

fn head() -> Response<()> {
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    head
}

/// InvalidArgument, as SPIRE answers.
fn refuse(mut respond: SendResponse<Bytes>) {
    let mut head = head();
    head.headers_mut().insert("grpc-status", HeaderValue::from_static("3"));
    let _ = respond.send_response(head, true);
}

async fn stream_svids(mut respond: SendResponse<Bytes>, mut answers: watch::Receiver<SvidResponse>) {
    let Ok(mut body) = respond.send_response(head(), false) else { return };
    loop {
        let frame = framed(&answers.borrow_and_update());
        if body.send_data(frame, false).is_err() || answers.changed().await.is_err() {
            return;
        }
    }
}

/// A gRPC message: not compressed, length, bytes.
fn framed(message: &SvidResponse) -> Bytes {
    let encoded = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(encoded.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&encoded);
    frame.freeze()
}
