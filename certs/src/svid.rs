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
    error::{PeerRefusal, SvidError},
    leaf::Leaf,
    provider, verifier,
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

    /// Our chain, leaf first, in DER.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The roots of our own trust domain, in DER.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        self.bundles.for_own().roots()
    }

    /// Would a peer that trusts our own roots accept our chain, as client and as server?
    ///
    /// # Errors
    /// What such a peer would say.
    pub fn check_chain(&self) -> Result<(), PeerRefusal> {
        verifier::check_own(&self.certified.cert, self.bundles.for_own(), SystemTime::now())
    }

    /// The same SVID, which trusts these roots besides its own.
    pub(crate) fn trusting_also<'a>(
        &self,
        roots: impl Iterator<Item = &'a CertificateDer<'static>>,
    ) -> Result<Self, SvidError> {
        let bundles = Arc::new(Bundles::clone(&self.bundles).with_own_also(roots)?);
        Ok(Self { leaf: self.leaf.clone(), certified: Arc::clone(&self.certified), bundles })
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

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
        PKCS_RSA_SHA256,
    };
    use std::time::Duration;

    use super::*;
    use crate::tests::authority::{Authority, Issued, Leaf};

    const ID: &str = "spiffe://td.example/ns/a/sa/b";

    fn parse(issued: &Issued, bundle: &str) -> Result<X509Svid, SvidError> {
        X509Svid::from_pem(issued.chain.as_bytes(), issued.key.as_bytes(), bundle.as_bytes())
    }

    #[test]
    fn a_good_one_says_who_and_how_long_and_hides_its_key() {
        let authority = Authority::root("root");
        let issued = authority.issue(&Leaf { valid: (-60, 600), ..Leaf::of(ID) });
        let svid = parse(&issued, authority.bundle()).unwrap();
        let now = SystemTime::now();
        assert_eq!(svid.id().as_str(), ID);
        assert_eq!(svid.serial(), hex(&issued.serial.to_bytes()));
        let about = |a: Duration, b: u64| a.abs_diff(Duration::from_secs(b)) < Duration::from_secs(30);
        assert!(about(now.duration_since(svid.not_before()).unwrap(), 60));
        assert!(about(svid.not_after().duration_since(now).unwrap(), 600));

        let shown = format!("{svid:?}");
        assert!(shown.starts_with("X509Svid { id: "), "{shown}");
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let secret =
            key.secret_der().iter().skip(40).take(4).map(u8::to_string).collect::<Vec<_>>().join(", ");
        assert!(!shown.contains(&secret) && !shown.contains("key"), "{shown}");
    }

    #[test]
    fn every_fault_is_named() {
        let authority = Authority::root("root");
        let (good, other) = (authority.issue(&Leaf::of(ID)), authority.issue(&Leaf::of(ID)));
        let of = |uris: &[&'static str]| authority.issue(&Leaf { uris: uris.to_vec(), ..Leaf::default() });
        let of_time = |valid| authority.issue(&Leaf { valid, ..Leaf::of(ID) });
        // Without key usage, so that only the basic constraint tells.
        let unconstrained = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = authority.issue(&Leaf { is_ca: unconstrained, key_usages: Vec::new(), ..Leaf::of(ID) });
        let chain = |chain: &str| Issued { chain: chain.to_owned(), ..good.clone() };
        let key = |key: &str| Issued { key: key.to_owned(), ..good.clone() };
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let root = authority.bundle();
        let table = [
            (chain(""), root, "the certificate chain holds no certificate"),
            (chain(&good.key), root, "the certificate chain holds no certificate"),
            (chain("-----BEGIN CERTIFICATE-----\nAAAA\n"), root, "the certificate chain cannot be read: "),
            (chain(damaged), root, "the certificate cannot be read"),
            (of(&[]), root, "the certificate has no URI SAN"),
            (of(&[ID, ID]), root, "the certificate has 2 URI SANs"),
            (of(&["https://td.example/a"]), root, "the URI SAN is no SPIFFE ID: "),
            (of(&["spiffe://td.example"]), root, "the SPIFFE ID names a trust domain"),
            (chain(root), root, "the certificate may sign others"),
            (ca, root, "the certificate may sign others"),
            (of_time((60, 600)), root, "the certificate is valid from "),
            (of_time((-600, -60)), root, "the certificate expired at "),
            (key(""), root, "no private key in PEM"),
            (key(&good.chain), root, "no private key in PEM"),
            (key("not PEM at all"), root, "no private key in PEM"),
            (key(no_key), root, "the private key is of no kind"),
            (key(&other.key), root, "the private key does not fit the leaf"),
            (good.clone(), "", "the trust bundle holds no certificate"),
            (good.clone(), &good.key, "the trust bundle holds no certificate"),
            (good.clone(), damaged, "the trust bundle cannot be read: certificate 1 of it: "),
        ];
        for (issued, bundle, expected) in table {
            let error = parse(&issued, bundle).expect_err(expected).to_string();
            assert!(error.starts_with(expected), "{error:?} is not {expected:?}");
        }
        parse(&good, root).unwrap();
    }

    #[test]
    fn keys_of_every_kind_and_form_are_read() {
        let authority = Authority::root("root");
        let table = [
            (&PKCS_ECDSA_P256_SHA256, Some("EC PRIVATE KEY")),
            (&PKCS_ECDSA_P384_SHA384, Some("EC PRIVATE KEY")),
            (&PKCS_RSA_SHA256, Some("RSA PRIVATE KEY")),
            (&PKCS_ED25519, None),
        ];
        for (algorithm, older_form) in table {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let mut issued = authority.issue_for(&Leaf::of(ID), &key);
            parse(&issued, authority.bundle()).unwrap();
            let Some(older_form) = older_form else { continue };
            issued.key = pem(older_form, inner_key(&key.serialize_der()));
            parse(&issued, authority.bundle()).unwrap();
        }
    }

    /// What PKCS#8 wraps: SEQUENCE { version, algorithm, OCTET STRING { the key in its older form }, … }.
    fn inner_key(pkcs8: &[u8]) -> &[u8] {
        let (fields, _) = element(pkcs8);
        let (_version, rest) = element(fields);
        let (_algorithm, rest) = element(rest);
        element(rest).0
    }

    /// Content of the first DER element, and what follows it.
    fn element(der: &[u8]) -> (&[u8], &[u8]) {
        let (header, length) = match der[1] {
            short @ 0..=127 => (2, usize::from(short)),
            long => {
                let octets = usize::from(long - 128);
                (2 + octets, der[2..2 + octets].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
            }
        };
        der[header..].split_at(length)
    }

    fn pem(label: &str, der: &[u8]) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
