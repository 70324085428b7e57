//! A certificate, its key, and the roots that came with them.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{
    InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use spiffe_id::SpiffeId;

use crate::{
    bundle::{Bundle, Bundles},
    error::SvidError,
    leaf::Leaf,
    provider,
};

/// A certificate chain with its key and the roots of the trust domains; checked to belong together
/// (SPIFFE X.509-SVID). `Debug` shows no key.
pub struct X509Svid {
    leaf: Leaf,
    certified: Arc<CertifiedKey>,
    bundles: Arc<Bundles>,
}

impl X509Svid {
    /// From PEM: the chain leaf first, one unencrypted private key (PKCS#8, SEC1 or PKCS#1), and the roots of the
    /// SVID's own trust domain, any number of them.
    ///
    /// # Errors
    /// Names what is wrong: no certificate, not exactly one URI SAN, no SPIFFE ID, not valid now, no key, a key that
    /// does not fit the leaf, an empty bundle.
    pub fn from_pem(chain: &[u8], key: &[u8], bundle: &[u8]) -> Result<Self, SvidError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| SvidError::BadChain(e.to_string()))?;
        // What the PEM reader says of a damaged key could quote it, so it is not passed on.
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| SvidError::NoKey)?;
        Self::from_der(chain, key, Bundles::own(Bundle::from_pem(bundle)?))
    }

    /// From DER, leaf first.
    pub(crate) fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        bundles: Bundles,
    ) -> Result<Self, SvidError> {
        let leaf = Leaf::read(chain.first().ok_or(SvidError::NoCertificate)?)?;
        check_validity(&leaf, SystemTime::now())?;
        let certified = Arc::new(certify(chain, key)?);
        Ok(Self { leaf, certified, bundles: Arc::new(bundles) })
    }

    /// Who this SVID says we are.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// From when the leaf is valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// Until when the leaf is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// The leaf's serial number, lower-case hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.leaf.serial
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    pub(crate) fn bundles(&self) -> &Arc<Bundles> {
        &self.bundles
    }

    /// The same certificates and roots? The key need not be compared: it fits the leaf in both.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.certified.cert == other.certified.cert && self.bundles == other.bundles
    }
}

fn check_validity(leaf: &Leaf, now: SystemTime) -> Result<(), SvidError> {
    if now < leaf.not_before {
        return Err(SvidError::NotYetValid { not_before: leaf.not_before });
    }
    if now > leaf.not_after {
        return Err(SvidError::Expired { not_after: leaf.not_after });
    }
    Ok(())
}

fn certify(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, SvidError> {
    let signing = provider::mesh().key_provider.load_private_key(key).map_err(|_| SvidError::BadKey)?;
    let certified = CertifiedKey::new(chain, signing);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(SvidError::KeyMismatch),
        Err(_) => Err(SvidError::BadKey),
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("id", self.id())
            .field("serial", &self.serial())
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}
