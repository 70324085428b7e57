//! An SVID from the SPIFFE Workload API, as served by a SPIRE agent.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Bundle, X509Context, transport::Endpoint};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{self, error::Elapsed},
};

use crate::{
    bundle::{Bundle, Bundles},
    chance,
    error::SvidError,
    source::{Published, Publisher, SvidSource, publisher},
    svid::X509Svid,
};

/// How long an agent may take to answer the call and to send the first SVID.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// What is said of an agent that lets us wait longer.
const NO_ANSWER: &str = "no answer in time";
/// The first pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// SVIDs from the SPIFFE Workload API (`FetchX509SVID`): the agent streams a new one before the old one expires.
///
/// Uses the default, that is the first SVID (SPIFFE Workload API §5.2.1), its bundle, and the bundles of federated
/// trust domains. Revocation lists of the agent are not read. Lives as long as somebody holds it or a receiver of it.
#[derive(Debug)]
pub struct WorkloadApiSource(Published);

impl WorkloadApiSource {
    /// `unix:///run/spire/agent.sock`. Connects in the background, and again after a failure, with growing pauses.
    ///
    /// # Errors
    /// [`SvidError::BadEndpoint`], and [`SvidError::NoRuntime`] outside of a Tokio runtime. An agent that is not there
    /// is no error: it may come.
    pub fn connect(endpoint: &str) -> Result<Self, SvidError> {
        let endpoint = Endpoint::parse(endpoint)
            .map_err(|e| SvidError::BadEndpoint { endpoint: endpoint.to_owned(), reason: e.to_string() })?;
        let runtime = Handle::try_current().map_err(|_| SvidError::NoRuntime)?;
        let (publisher, published) = publisher(None);
        // Nobody needs to wait for this task: it ends with its last listener and holds nothing that must be closed.
        runtime.spawn(async move {
            tokio::select! {
                () = follow_for_ever(&endpoint, &publisher) => {}
                () = publisher.closed() => {}
            }
        });
        Ok(Self(published))
    }

    /// Changes with what `last_error` says.
    #[cfg(test)]
    pub(crate) fn error(&self) -> watch::Receiver<Option<String>> {
        self.0.error.clone()
    }
}

impl SvidSource for WorkloadApiSource {
    fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> {
        self.0.svid.clone()
    }

    fn last_error(&self) -> Option<String> {
        self.0.error.borrow().clone()
    }
}

async fn follow_for_ever(endpoint: &Endpoint, publisher: &Publisher) {
    let mut pause = FIRST_PAUSE;
    loop {
        let lost = follow(endpoint, publisher).await;
        publisher.failed(format!("Workload API: {}", lost.fault));
        if lost.delivered {
            pause = FIRST_PAUSE;
        }
        time::sleep(pause.mul_f64(chance::about(0.2))).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// How following the agent ended.
struct Lost {
    fault: String,
    /// Did it deliver an SVID before?
    delivered: bool,
}

/// Publishes what the agent sends until it is gone.
async fn follow(endpoint: &Endpoint, publisher: &Publisher) -> Lost {
    let mut delivered = false;
    let mut stream = match time::timeout(FIRST_ANSWER, open(endpoint)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Lost { fault: error.to_string(), delivered },
        Err(_) => return Lost { fault: NO_ANSWER.to_owned(), delivered },
    };
    let mut fault = "the agent ended the stream".to_owned();
    loop {
        let message = match next(&mut stream, delivered).await {
            Ok(Some(message)) => message,
            Ok(None) => return Lost { fault, delivered },
            Err(_) => return Lost { fault: NO_ANSWER.to_owned(), delivered },
        };
        match message.map_err(|e| e.to_string()).and_then(|context| read(&context).map_err(|e| e.to_string()))
        {
            Ok(svid) => {
                delivered = true;
                publisher.renewed(svid);
            }
            // An unusable message does not end the stream; a broken connection does, at the next turn.
            Err(unusable) => {
                publisher.failed(format!("Workload API: {unusable}"));
                fault = unusable;
            }
        }
    }
}

async fn open(
    endpoint: &Endpoint,
) -> Result<impl Stream<Item = Result<X509Context, WorkloadApiError>> + Unpin + use<>, WorkloadApiError> {
    Ok(Box::pin(WorkloadApiClient::connect(endpoint.clone()).await?.stream_x509_contexts().await?))
}

/// The first usable message is due soon; later ones come when it is time to renew.
async fn next<S: Stream + Unpin>(stream: &mut S, delivered: bool) -> Result<Option<S::Item>, Elapsed> {
    if delivered {
        return Ok(stream.next().await);
    }
    time::timeout(FIRST_ANSWER, stream.next()).await
}

fn read(context: &X509Context) -> Result<X509Svid, SvidError> {
    let svid = context.default_svid().ok_or(SvidError::NoCertificate)?;
    let own = svid.spiffe_id().trust_domain();
    let own_bundle = context.bundle_set().get_ref(own).ok_or(SvidError::EmptyBundle)?;
    let mut bundles = Bundles::own(read_bundle(own_bundle)?);
    for (domain, bundle) in context.bundle_set().iter().filter(|(domain, _)| *domain != own) {
        bundles = bundles.with_federated(domain.to_string(), read_bundle(bundle)?);
    }
    let chain = svid.cert_chain().iter().map(|c| CertificateDer::from(c.as_bytes().to_vec())).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()));
    X509Svid::from_der(chain, key, bundles)
}

fn read_bundle(bundle: &X509Bundle) -> Result<Bundle, SvidError> {
    Bundle::from_der(
        bundle.authorities().iter().map(|c| CertificateDer::from(c.as_bytes().to_vec())).collect(),
    )
}
