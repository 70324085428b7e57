//! Reads a leaf certificate as an X.509-SVID (SPIFFE X.509-SVID §2, §4, §5.2).

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use spiffe_id::SpiffeId;
use x509_parser::prelude::{ASN1Time, FromDer as _, GeneralName, X509Certificate};

/// Why a leaf certificate is no X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafError {
    /// Not one DER certificate, or an extension that we judge by cannot be read or is there twice.
    #[error("the certificate cannot be read")]
    Encoding,
    /// No URI SAN, so no identity.
    #[error("the certificate has no URI SAN")]
    NoUri,
    /// More than one URI SAN: which of them is meant is anybody's choice, so none is (SPIFFE X.509-SVID §2).
    #[error("the certificate has {0} URI SANs, where one is demanded")]
    SeveralUris(usize),
    /// The URI SAN is no SPIFFE ID.
    #[error("the URI SAN is no SPIFFE ID: {0}")]
    NotSpiffe(spiffe_id::ParseError),
    /// The SPIFFE ID is that of a trust domain; a leaf's has a path (SPIFFE X.509-SVID §5.2).
    #[error("the SPIFFE ID names a trust domain and no workload")]
    NoPath,
    /// `CA:TRUE`, or the right to sign certificates or revocation lists, in a leaf (SPIFFE X.509-SVID §5.2).
    #[error("the certificate may sign others, which a leaf may not")]
    Authority,
}

/// What a leaf certificate says of its bearer. Nothing of it is proven yet.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// Lower-case hexadecimal digits, leading zeroes kept.
    pub(crate) serial: String,
}

impl Leaf {
    /// Reads the DER of one certificate.
    pub(crate) fn read(der: &[u8]) -> Result<Self, LeafError> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| LeafError::Encoding)?;
        if !rest.is_empty() {
            return Err(LeafError::Encoding);
        }
        refuse_authority(&certificate)?;
        Ok(Self {
            id: read_id(&certificate)?,
            not_before: system_time(certificate.validity().not_before)?,
            not_after: system_time(certificate.validity().not_after)?,
            serial: hex(certificate.raw_serial()),
        })
    }
}

fn refuse_authority(certificate: &X509Certificate<'_>) -> Result<(), LeafError> {
    let constraints = certificate.basic_constraints().map_err(|_| LeafError::Encoding)?;
    let usage = certificate.key_usage().map_err(|_| LeafError::Encoding)?;
    let is_authority = constraints.is_some_and(|c| c.value.ca)
        || usage.is_some_and(|u| u.value.key_cert_sign() || u.value.crl_sign());
    if is_authority { Err(LeafError::Authority) } else { Ok(()) }
}

/// The one URI SAN. Other kinds of names may stand beside it and mean nothing to us.
fn read_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, LeafError> {
    let names = certificate.subject_alternative_name().map_err(|_| LeafError::Encoding)?;
    let mut uris = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            // It may be a URI that we cannot read and another verifier can.
            GeneralName::Invalid(..) => return Err(LeafError::Encoding),
            _ => {}
        }
    }
    let [uri] = uris.as_slice() else {
        return Err(if uris.is_empty() { LeafError::NoUri } else { LeafError::SeveralUris(uris.len()) });
    };
    let id = SpiffeId::parse(uri).map_err(LeafError::NotSpiffe)?;
    if id.path().is_empty() { Err(LeafError::NoPath) } else { Ok(id) }
}

/// Certificates may be dated before 1970; `SystemTime` may not be able to say so on every platform.
fn system_time(time: ASN1Time) -> Result<SystemTime, LeafError> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    moment.ok_or(LeafError::Encoding)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
