//! The certificate signing request (PKCS#10, RFC 2986).

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use spiffe_id::SpiffeId;

use super::CaError;

/// A new P-256 key and a request for a certificate on it, in PEM both; the request first. istiod takes the key out of it and
/// the identity from our token; the name is for authorities that look at it.
pub(super) fn make(identity: &SpiffeId) -> Result<(String, String), CaError> {
    let failed = |error: rcgen::Error| CaError::Request(error.to_string());
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(failed)?)];
    let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
    Ok((request, key.serialize_pem()))
}
