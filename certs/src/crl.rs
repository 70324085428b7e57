//! One certificate revocation list, and whose it is (RFC 5280 §5).

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm};
use webpki::{CertRevocationList, EndEntityCert, OwnedCertRevocationList};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, ParsedExtension, X509Certificate};

use crate::error::SvidError;

/// A list with what its signature is checked by.
#[derive(Debug)]
pub(crate) struct List {
    /// When it was issued, in seconds since 1970.
    pub(crate) issued: i64,
    content: CertRevocationList<'static>,
    /// What is signed: the whole `tbsCertList`.
    signed: Vec<u8>,
    /// Object identifier of the algorithm, in DER with its tag.
    algorithm: Vec<u8>,
    signature: Vec<u8>,
    /// Which of its issuer's keys it says that it is signed by (RFC 5280 §5.2.1); never empty.
    key_id: Option<Vec<u8>>,
}

/// What a list that bears an issuer's name is to the holder of one key of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Signed by this key.
    Its,
    /// Of another key: an authority that changes its key may keep its name, as Istio's do.
    OfAnotherKey,
    /// It claims to be of this key, or of none that we know.
    Forged,
}

impl List {
    /// Reads the DER of a list.
    pub(crate) fn read(der: &[u8]) -> Result<Self, SvidError> {
        let bad = |cause: String| SvidError::BadRevocationList(cause);
        let content = OwnedCertRevocationList::from_der(der).map_err(|e| bad(e.to_string()))?;
        let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|e| bad(e.to_string()))?;
        let list = &parsed.tbs_cert_list;
        let named_key = list.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(named) => named.key_identifier.as_ref(),
            _ => None,
        });
        Ok(Self {
            issued: parsed.last_update().timestamp(),
            signed: list.as_ref().to_vec(),
            algorithm: oid_der(parsed.signature_algorithm.algorithm.as_bytes()),
            signature: parsed.signature_value.data.to_vec(),
            key_id: named_key.map(|key| key.0.to_vec()).filter(|id| !id.is_empty()),
            content: content.into(),
        })
    }

    /// Whether it bears this name: the DER of a distinguished name, without its outer tag.
    pub(crate) fn bears(&self, name: &[u8]) -> bool {
        self.content.issuer() == name
    }

    /// Whether it names this serial number. One that cannot be read is named.
    pub(crate) fn revokes(&self, serial: &[u8]) -> bool {
        !matches!(self.content.find_serial(serial), Ok(None))
    }

    /// What it is to `issuer`, whose name it bears. `namesakes`: roots that may bear the same name.
    ///
    /// A list that its key signed is its own, whatever it says of keys. For the others the key's identifier tells; where one
    /// of the two has none, only another key that is known to have signed it clears the list of being forged.
    pub(crate) fn standing(
        &self,
        issuer: &CertificateDer<'_>,
        namesakes: &[CertificateDer<'_>],
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> Standing {
        if self.is_signed_by(issuer, algorithms) {
            return Standing::Its;
        }
        let is_of_another = match (&self.key_id, key_id(issuer)) {
            (Some(named), Some(held)) => *named != held,
            _ => namesakes.iter().any(|other| self.is_signed_by(other, algorithms)),
        };
        if is_of_another { Standing::OfAnotherKey } else { Standing::Forged }
    }

    fn is_signed_by(
        &self,
        issuer: &CertificateDer<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> bool {
        // Only its key is used here; webpki has no other way to one.
        let Ok(issuer) = EndEntityCert::try_from(issuer) else { return false };
        let fits = |known: &&&dyn SignatureVerificationAlgorithm| {
            known.signature_alg_id().as_ref().starts_with(&self.algorithm)
        };
        let mut known = algorithms.iter().filter(fits);
        known.any(|known| issuer.verify_signature(*known, &self.signed, &self.signature).is_ok())
    }
}

/// The identifier of a certificate's own key (RFC 5280 §4.2.1.2).
fn key_id(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let id = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
        _ => None,
    });
    id.filter(|id| !id.is_empty())
}

/// With tag and length; identifiers of algorithms are far shorter than 128 bytes, and one that is not fits none.
fn oid_der(content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    [&[0x06, length], content].concat()
}
