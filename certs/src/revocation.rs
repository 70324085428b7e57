//! Certificate revocation lists (RFC 5280 §5) from a file.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject as _};
use tokio::sync::watch;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use crate::{
    error::SvidError,
    files::read_file,
    watcher::{self, Look, Pace},
};

/// Certificate revocation lists, read again when their file changes.
///
/// A certificate that no list speaks of is accepted, as ztunnel does: most meshes revoke by expiry. A list past its
/// `nextUpdate` still counts. Where two lists are of the same issuer, the newer one does. Cheap to clone; all clones
/// see the same lists.
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
    lists: Vec<CertRevocationList<'static>>,
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
    pub(crate) fn all(&self) -> Vec<&CertRevocationList<'static>> {
        self.lists.iter().collect()
    }

    fn from_pem(pem: Vec<u8>) -> Result<Self, SvidError> {
        let mut dated = CertificateRevocationListDer::pem_slice_iter(&pem)
            .map(|section| read_list(&section.map_err(|e| SvidError::BadRevocationList(e.to_string()))?))
            .collect::<Result<Vec<_>, _>>()?;
        if dated.is_empty() {
            return Err(SvidError::BadRevocationList("it holds no `X509 CRL` section".to_owned()));
        }
        // The verifier asks the first list of an issuer only.
        dated.sort_by_key(|(this_update, _)| std::cmp::Reverse(*this_update));
        Ok(Self { pem, lists: dated.into_iter().map(|(_, list)| list).collect() })
    }
}

/// A list, and when it was issued, in seconds since 1970.
fn read_list(der: &[u8]) -> Result<(i64, CertRevocationList<'static>), SvidError> {
    let list =
        OwnedCertRevocationList::from_der(der).map_err(|e| SvidError::BadRevocationList(e.to_string()))?;
    let (_, parsed) =
        CertificateRevocationList::from_der(der).map_err(|e| SvidError::BadRevocationList(e.to_string()))?;
    Ok((parsed.last_update().timestamp(), list.into()))
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
