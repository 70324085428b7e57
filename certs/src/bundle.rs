//! The roots of trust, by trust domain.

use std::{collections::BTreeMap, sync::Arc};

use rustls::pki_types::{CertificateDer, TrustAnchor, pem::PemObject as _};

use crate::error::SvidError;

/// The roots of one trust domain. Several are a union: any of them may vouch for a peer.
#[derive(Debug)]
pub(crate) struct Bundle {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Bundle {
    /// From the PEM of one or more certificates.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, SvidError> {
        let roots = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| SvidError::BadBundle(e.to_string()))?;
        Self::from_der(roots)
    }

    /// From the DER of one or more certificates.
    pub(crate) fn from_der(roots: Vec<CertificateDer<'static>>) -> Result<Self, SvidError> {
        if roots.is_empty() {
            return Err(SvidError::EmptyBundle);
        }
        let anchors = roots
            .iter()
            .enumerate()
            .map(|(at, root)| read_anchor(at, root))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { roots, anchors })
    }

    /// As they came.
    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The root that an anchor of ours was made of.
    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&CertificateDer<'static>> {
        let at = self.anchors.iter().position(|held| held == anchor)?;
        self.roots.get(at)
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

/// Two bundles are the same when they hold the same certificates in the same order.
impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

fn read_anchor(at: usize, root: &CertificateDer<'_>) -> Result<TrustAnchor<'static>, SvidError> {
    match webpki::anchor_from_trusted_cert(root) {
        Ok(anchor) => Ok(anchor.to_owned()),
        Err(e) => Err(SvidError::BadBundle(format!("certificate {} of it: {e}", at + 1))),
    }
}

/// Is this the PEM of one or more certificates that can be roots?
///
/// # Errors
/// [`SvidError::EmptyBundle`] and [`SvidError::BadBundle`].
pub fn check_roots(pem: &[u8]) -> Result<(), SvidError> {
    Bundle::from_pem(pem).map(|_| ())
}

/// The bundles that came with an SVID: that of its own trust domain, and those of federated ones.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bundles {
    own: Arc<Bundle>,
    federated: BTreeMap<String, Arc<Bundle>>,
}

impl Bundles {
    /// One bundle, for the SVID's own trust domain (and its aliases).
    pub(crate) fn own(bundle: Bundle) -> Self {
        Self { own: Arc::new(bundle), federated: BTreeMap::new() }
    }

    /// With the bundle of another trust domain beside it.
    pub(crate) fn with_federated(mut self, trust_domain: String, bundle: Bundle) -> Self {
        self.federated.insert(trust_domain, Arc::new(bundle));
        self
    }

    /// With these roots beside those of the SVID's own trust domain.
    pub(crate) fn with_own_also<'a>(
        mut self,
        roots: impl Iterator<Item = &'a CertificateDer<'static>>,
    ) -> Result<Self, SvidError> {
        let mut all = self.own.roots.clone();
        all.extend(roots.cloned());
        if all.len() > self.own.roots.len() {
            self.own = Arc::new(Bundle::from_der(all)?);
        }
        Ok(self)
    }

    /// The bundle of the SVID's own trust domain.
    pub(crate) fn for_own(&self) -> &Arc<Bundle> {
        &self.own
    }

    /// The bundle of a federated trust domain.
    pub(crate) fn for_federated(&self, trust_domain: &str) -> Option<&Arc<Bundle>> {
        self.federated.get(trust_domain)
    }
}
