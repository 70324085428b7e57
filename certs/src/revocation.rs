//! Certificate revocation lists (RFC 5280 §5) from a file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, pem::PemObject as _,
};
use tokio::sync::watch;
use webpki::{Cert, VerifiedPath};

use crate::{
    bundle::Bundle,
    crl::{List, Standing},
    error::SvidError,
    files::read_file,
    watcher::{self, Look, Pace},
};

/// Certificate revocation lists, read again when their file changes.
///
/// A certificate that no list speaks of is accepted, as ztunnel does: most meshes revoke by expiry. A list past its
/// `nextUpdate` still counts. Where two lists are of the same issuer, the newer one does. An issuer is a name with a key:
/// the list of a root says nothing of another root with its name. A list that claims an issuer's key and is not signed by
/// it lets nobody of that issuer in. Cheap to clone; all clones see the same lists.
#[derive(Clone, Debug)]
pub struct Revocations(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lists: ArcSwap<Lists>,
    reloads: watch::Sender<u64>,
}

/// The lists of one reading of the file.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    /// To see whether a reading brought anything new.
    pem: Vec<u8>,
    /// The newest first.
    lists: Vec<List>,
}

impl Revocations {
    /// Nothing is revoked, ever.
    #[must_use]
    pub fn none() -> Self {
        Self::holding(Lists::default())
    }

    /// Reads a file of one or more lists in PEM now, blocking, and watches it from then on. If it is damaged later,
    /// the last good lists stay and a warning names the file.
    ///
    /// # Errors
    /// Names the file and what is wrong with it; a file without a list is an error too.
    pub fn open(path: PathBuf) -> Result<Self, SvidError> {
        let revocations = Self::holding(read(&path)?);
        let shared = Arc::downgrade(&revocations.0);
        let file = path.clone();
        let mut complaint = None;
        watcher::spawn("crl-file", &[&path], Pace::default(), move || look(&file, &shared, &mut complaint))
            .map_err(SvidError::Watch)?;
        Ok(revocations)
    }

    /// Changes after each reading that brought other lists; the value itself means nothing but order.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.reloads.subscribe()
    }

    fn holding(lists: Lists) -> Self {
        Self(Arc::new(Shared { lists: ArcSwap::from_pointee(lists), reloads: watch::Sender::new(0) }))
    }

    pub(crate) fn lists(&self) -> Arc<Lists> {
        self.0.lists.load_full()
    }
}

impl Lists {
    /// Judges a path that holds otherwise: is a certificate of it revoked by its issuer?
    pub(crate) fn check(
        &self,
        path: &VerifiedPath<'_>,
        bundle: &Bundle,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), webpki::Error> {
        if self.lists.is_empty() {
            return Ok(());
        }
        let mut certificate: &Cert<'_> = path.end_entity();
        for issuer in path.intermediate_certificates() {
            self.check_one(certificate, &issuer.der(), bundle, algorithms)?;
            certificate = issuer;
        }
        let root = bundle.root_of(path.anchor()).ok_or(webpki::Error::UnknownIssuer)?;
        self.check_one(certificate, root, bundle, algorithms)
    }

    fn check_one(
        &self,
        certificate: &Cert<'_>,
        issuer: &CertificateDer<'_>,
        bundle: &Bundle,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Result<(), webpki::Error> {
        for list in self.lists.iter().filter(|list| list.bears(certificate.issuer())) {
            match list.standing(issuer, bundle.roots(), algorithms) {
                Standing::Its if list.revokes(certificate.serial()) => {
                    return Err(webpki::Error::CertRevoked);
                }
                Standing::Its => return Ok(()),
                Standing::OfAnotherKey => {}
                Standing::Forged => return Err(webpki::Error::InvalidCrlSignatureForPublicKey),
            }
        }
        Ok(())
    }

    fn from_pem(pem: Vec<u8>) -> Result<Self, SvidError> {
        let mut lists = CertificateRevocationListDer::pem_slice_iter(&pem)
            .map(|section| List::read(&section.map_err(|e| SvidError::BadRevocationList(e.to_string()))?))
            .collect::<Result<Vec<_>, _>>()?;
        if lists.is_empty() {
            return Err(SvidError::BadRevocationList("it holds no `X509 CRL` section".to_owned()));
        }
        lists.sort_by_key(|list| std::cmp::Reverse(list.issued));
        Ok(Self { pem, lists })
    }
}

fn read(path: &Path) -> Result<Lists, SvidError> {
    Lists::from_pem(read_file(path)?)
        .map_err(|cause| SvidError::InFile { path: path.to_owned(), cause: Box::new(cause) })
}

/// `complaint` is what was logged last, so that it is not logged at every look.
fn look(path: &Path, shared: &Weak<Shared>, complaint: &mut Option<String>) -> Look {
    let Some(shared) = shared.upgrade() else { return Look::Unwanted };
    match read(path) {
        Ok(lists) => {
            *complaint = None;
            replace(&shared, lists);
            Look::Settled
        }
        Err(error) => {
            let fault = error.to_string();
            if complaint.as_ref() != Some(&fault) {
                tracing::warn!(fault, "revocation lists not renewed, keeping the last ones");
            }
            *complaint = Some(fault);
            Look::Failed
        }
    }
}

fn replace(shared: &Shared, lists: Lists) {
    if shared.lists.load().pem == lists.pem {
        return;
    }
    tracing::info!(lists = lists.lists.len(), "revocation lists renewed");
    shared.lists.store(Arc::new(lists));
    shared.reloads.send_modify(|reloads| *reloads += 1);
}
