//! A destination workload's ztunnel: terminates HBONE on `<pod ip>:15008` and hands the bytes to the pod.

use super::{HBONE_PORT, TunnelStream, WINDOWS};
use crate::ca::{Ca, Svid};
use crate::{tls, wait};
use anyhow::{Context, Result};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response, StatusCode};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// A CONNECT that reached the pod.
#[derive(Clone, Debug)]
pub struct SeenConnect {
    /// The client's SPIFFE id: the first URI SAN of its certificate.
    pub peer: String,
    /// The serial number of that certificate.
    pub serial: String,
    /// `:authority` as sent.
    pub authority: String,
    /// The other headers.
    pub headers: HeaderMap,
    /// Which connection it came on, counted from 0 in order of accept.
    pub connection: usize,
}

/// What the pod's ztunnel does with a CONNECT.
#[derive(Clone, Copy, Debug, Default)]
pub enum Answer {
    /// Dial the authority and carry the bytes.
    #[default]
    Carry,
    /// Answer with this status.
    Refuse(StatusCode),
    /// Reset the stream without an answer.
    Reset(Reason),
    /// Reset the first stream without an answer, and carry those after it.
    ResetFirst(Reason),
    /// Leave it unanswered.
    Ignore,
}

/// The ztunnel of one destination pod. The pod's application listens on the same address and another port, and is
/// dialled at the authority of the CONNECT, which must name this pod (else 400, as ztunnel answers).
pub struct Inbound {
    /// Where it listens: the pod's address and port 15008.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    /// What connections are accepted with from now on.
    acceptor: Mutex<TlsAcceptor>,
    /// Whether CONNECTs are kept to be told.
    forgets: AtomicBool,
    seen: Mutex<Vec<SeenConnect>>,
    failed_handshakes: Mutex<Vec<String>>,
    answer: Mutex<Answer>,
    /// Counts up when every connection shall say GOAWAY.
    goaway: watch::Sender<usize>,
}

impl Shared {
    fn new(acceptor: TlsAcceptor) -> Self {
        Self {
            acceptor: Mutex::new(acceptor),
            forgets: AtomicBool::new(false),
            seen: Mutex::default(),
            failed_handshakes: Mutex::default(),
            answer: Mutex::default(),
            goaway: watch::Sender::default(),
        }
    }

    fn saw(&self, connect: &SeenConnect) {
        if !self.forgets.load(Ordering::Relaxed) {
            lock(&self.seen).push(connect.clone());
        }
    }

    fn next_answer(&self) -> Answer {
        let mut answer = lock(&self.answer);
        let next = if matches!(*answer, Answer::ResetFirst(_)) { Answer::Carry } else { *answer };
        std::mem::replace(&mut *answer, next)
    }
}

impl Inbound {
    /// Starts the ztunnel of a pod at `pod` that holds `identity`.
    pub async fn start(ca: &Ca, identity: &Svid, pod: Ipv4Addr) -> Result<Self> {
        let address = SocketAddr::from((pod, HBONE_PORT));
        let listener = TcpListener::bind(address).await.with_context(|| address.to_string())?;
        Self::on(listener, identity, ca.bundle_pem())
    }

    /// The same on a listener of the pod, trusting `roots` (PEM).
    pub fn on(listener: TcpListener, identity: &Svid, roots: &str) -> Result<Self> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(acceptor(identity, roots)?));
        let task = tokio::spawn(accept_all(listener, shared.clone()));
        Ok(Self { address, shared, task })
    }

    /// Accepts with this identity from now on; what is open stays.
    pub fn renew(&self, identity: &Svid, roots: &str) -> Result<()> {
        *lock(&self.shared.acceptor) = acceptor(identity, roots)?;
        Ok(())
    }

    /// Keeps no CONNECTs from now on, for runs of hours.
    pub fn forget(&self) {
        self.shared.forgets.store(true, Ordering::Relaxed);
        lock(&self.shared.seen).clear();
    }

    /// Decides what happens to the CONNECTs from now on.
    pub fn answer(&self, answer: Answer) {
        *lock(&self.shared.answer) = answer;
    }

    /// Tells every open connection to take no more streams (GOAWAY) and to end when its streams have.
    pub fn goaway(&self) {
        self.shared.goaway.send_modify(|count| *count += 1);
    }

    /// Ends it as a killed process ends, with all its connections and without a word to anybody; its address is free then.
    pub async fn end(mut self) {
        self.task.abort();
        // It has been told to end, and that is how it ends.
        let _ = (&mut self.task).await;
    }

    /// The CONNECTs so far.
    #[must_use]
    pub fn seen(&self) -> Vec<SeenConnect> {
        lock(&self.shared.seen).clone()
    }

    /// Why TLS handshakes failed, in order.
    #[must_use]
    pub fn failed_handshakes(&self) -> Vec<String> {
        lock(&self.shared.failed_handshakes).clone()
    }

    /// Waits until `count` CONNECTs have come, and returns them all.
    pub async fn saw(&self, count: usize) -> Result<Vec<SeenConnect>> {
        wait::until(&format!("the pod saw {count} CONNECTs"), || {
            Some(self.seen()).filter(|seen| seen.len() >= count)
        })
        .await
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(identity: &Svid, roots: &str) -> Result<TlsAcceptor> {
    Ok(TlsAcceptor::from(Arc::new(tls::server_config(identity, roots)?)))
}

/// Owns all connections, so that dropping the ztunnel closes them.
async fn accept_all(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    for connection in 0.. {
        let Ok((tcp, _)) = listener.accept().await else { return };
        let (acceptor, shared) = (lock(&shared.acceptor).clone(), shared.clone());
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            if let Err(error) = serve(tcp, acceptor, connection, &shared).await {
                lock(&shared.failed_handshakes).push(format!("{error:#}"));
            }
        });
    }
}

/// Serves one connection to its end. Only failures before HTTP/2 are errors.
async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, connection: usize, shared: &Arc<Shared>) -> Result<()> {
    tcp.set_nodelay(true)?;
    let pod = tcp.local_addr()?.ip();
    let tls = acceptor.accept(tcp).await.context("TLS")?;
    let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.context("client without certificate")?;
    let peer = tls::uri_sans(shown).into_iter().next().context("client without URI SAN")?;
    let serial = tls::serial(shown);
    let mut http = h2::server::Builder::new()
        .initial_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_concurrent_streams(200)
        .handshake::<_, Bytes>(tls)
        .await?;
    let mut goaway = shared.goaway.subscribe();
    let mut streams = JoinSet::new();
    loop {
        // Both arms are cancel safe; `changed` fails only when `shared` is gone, which holds the sender.
        tokio::select! {
            accepted = http.accept() => {
                let Some(Ok((request, respond))) = accepted else { return Ok(()) };
                let seen = note(&request, &peer, &serial, connection);
                shared.saw(&seen);
                while streams.try_join_next().is_some() {}
                streams.spawn(handle(request, respond, seen, pod, shared.next_answer()));
            }
            Ok(()) = goaway.changed() => http.graceful_shutdown(),
        }
    }
}

fn note(request: &Request<RecvStream>, peer: &str, serial: &str, connection: usize) -> SeenConnect {
    SeenConnect {
        peer: peer.to_owned(),
        serial: serial.to_owned(),
        authority: request.uri().authority().map(ToString::to_string).unwrap_or_default(),
        headers: request.headers().clone(),
        connection,
    }
}

async fn handle(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    seen: SeenConnect,
    pod: IpAddr,
    answer: Answer,
) {
    match answer {
        Answer::Carry => {
            let _ = carry(request, respond, &seen.authority, pod).await;
        }
        Answer::Refuse(code) => {
            let _ = respond.send_response(status(code), true);
        }
        Answer::Reset(reason) | Answer::ResetFirst(reason) => respond.send_reset(reason),
        Answer::Ignore => {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
    }
}

/// Dials the application first: the 200 says that it is reached.
async fn carry(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    authority: &str,
    pod: IpAddr,
) -> Result<()> {
    let Some(target) = authority.parse::<SocketAddr>().ok().filter(|target| target.ip() == pod) else {
        respond.send_response(status(StatusCode::BAD_REQUEST), true)?;
        return Ok(());
    };
    let Ok(mut application) = TcpStream::connect(target).await else {
        respond.send_response(status(StatusCode::SERVICE_UNAVAILABLE), true)?;
        return Ok(());
    };
    application.set_nodelay(true)?;
    let send = respond.send_response(status(StatusCode::OK), false)?;
    let mut tunnel = TunnelStream::new(send, request.into_body());
    if tokio::io::copy_bidirectional(&mut application, &mut tunnel).await.is_err() {
        tunnel.reset(Reason::CANCEL);
        application.set_zero_linger()?;
    }
    Ok(())
}

fn status(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
