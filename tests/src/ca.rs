//! A throw-away certificate authority for SPIFFE identities, and certificates that are wrong on purpose.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use time::{Duration, OffsetDateTime};

/// A certificate authority of one trust domain.
pub struct Ca {
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// What stands between an issued certificate and the root, leaf side first; empty for a root.
    intermediates: Vec<CertificateDer<'static>>,
    root: String,
    serials: AtomicU64,
}

/// What a certificate shall say. [`Request::workload`] is right; every field may be bent to make a wrong one.
#[derive(Clone, Debug)]
pub struct Request {
    /// URI SANs. SPIFFE demands exactly one.
    pub uris: Vec<String>,
    /// DNS SANs; SVIDs of workloads have none.
    pub dns_names: Vec<String>,
    /// Start of validity, from now. The default lies a minute back.
    pub not_before: Duration,
    /// End of validity, from now. The default is one hour ahead.
    pub not_after: Duration,
    /// Extended key usages; both sides of TLS by default.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// Whether the certificate claims to be a CA, which a leaf must not.
    pub is_ca: bool,
}

impl Request {
    /// A certificate as a workload gets it: this one URI SAN, valid for an hour, for both sides of TLS.
    #[must_use]
    pub fn workload(id: &str) -> Self {
        Self {
            uris: vec![id.to_owned()],
            dns_names: Vec::new(),
            not_before: Duration::minutes(-1),
            not_after: Duration::hours(1),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            is_ca: false,
        }
    }

    /// The same, ending `lifetime` from now; a negative one makes an expired certificate.
    #[must_use]
    pub fn ending_in(mut self, lifetime: Duration) -> Self {
        self.not_before = self.not_before.min(lifetime - Duration::minutes(1));
        self.not_after = lifetime;
        self
    }
}

impl Ca {
    /// A fresh root for `trust_domain`.
    pub fn new(trust_domain: &str) -> Result<Self> {
        let (params, key) = (ca_params(trust_domain, "root"), KeyPair::generate()?);
        let certificate = params.self_signed(&key)?;
        let root = certificate.pem();
        Ok(Self::with(trust_domain, Issuer::new(params, key), &certificate, Vec::new(), root))
    }

    /// The CA of somebody else (its certificate and key in PEM), to sign by it what that one would not.
    pub fn of(trust_domain: &str, certificate: &str, key: &str) -> Result<Self> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            issuer,
            certificate: CertificateDer::from_pem_slice(certificate.as_bytes()).context("its certificate")?,
            intermediates: Vec::new(),
            root: certificate.to_owned(),
            serials: AtomicU64::new(1 << 32),
        })
    }

    /// A CA below this one: what it issues carries it in the chain, and the bundle stays this root.
    pub fn intermediate(&self) -> Result<Self> {
        let (params, key) = (ca_params(&self.trust_domain, "intermediate"), KeyPair::generate()?);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut intermediates = vec![certificate.der().clone()];
        intermediates.extend(self.intermediates.iter().cloned());
        let issuer = Issuer::new(params, key);
        Ok(Self::with(&self.trust_domain, issuer, &certificate, intermediates, self.root.clone()))
    }

    fn with(
        trust_domain: &str,
        issuer: Issuer<'static, KeyPair>,
        certificate: &Certificate,
        intermediates: Vec<CertificateDer<'static>>,
        root: String,
    ) -> Self {
        Self {
            trust_domain: trust_domain.to_owned(),
            issuer,
            certificate: certificate.der().clone(),
            intermediates,
            root,
            serials: AtomicU64::new(1),
        }
    }

    /// The trust domain that this CA speaks for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The SPIFFE id of a service account in this trust domain, in Istio's form.
    #[must_use]
    pub fn id(&self, namespace: &str, service_account: &str) -> String {
        format!("spiffe://{}/ns/{namespace}/sa/{service_account}", self.trust_domain)
    }

    /// The trust bundle: the root, in PEM.
    #[must_use]
    pub fn bundle_pem(&self) -> &str {
        &self.root
    }

    /// Its own certificate and key, in PEM, for another program that signs by them.
    #[must_use]
    pub fn signing_pem(&self) -> (String, String) {
        (pem("CERTIFICATE", &self.certificate), self.issuer.key().serialize_pem())
    }

    /// An SVID for `id`, as a workload gets it.
    pub fn svid(&self, id: &str) -> Result<Svid> {
        self.issue(&Request::workload(id))
    }

    /// Whatever `request` says, signed.
    pub fn issue(&self, request: &Request) -> Result<Svid> {
        let serial = SerialNumber::from(self.serials.fetch_add(1, Ordering::Relaxed) + 1000);
        let key = KeyPair::generate()?;
        let leaf = leaf_params(request, serial.clone())?.signed_by(&key, &self.issuer)?;
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(Svid { id: request.uris.first().cloned().unwrap_or_default(), chain, key, serial })
    }

    /// A revocation list that names `revoked`, in PEM, valid for a day.
    pub fn crl_pem(&self, revoked: &[&Svid]) -> Result<String> {
        let now = OffsetDateTime::now_utc();
        let revoked_certs = revoked
            .iter()
            .map(|svid| RevokedCertParams {
                serial_number: svid.serial.clone(),
                revocation_time: now - Duration::minutes(1),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let list = CertificateRevocationListParams {
            this_update: now - Duration::minutes(1),
            next_update: now + Duration::days(1),
            crl_number: SerialNumber::from(self.serials.fetch_add(1, Ordering::Relaxed)),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

fn ca_params(trust_domain: &str, name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(30);
    params
}

fn leaf_params(request: &Request, serial: SerialNumber) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(request.dns_names.clone())?;
    params.distinguished_name = DistinguishedName::new();
    for uri in &request.uris {
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into()?));
    }
    let now = OffsetDateTime::now_utc();
    params.not_before = now + request.not_before;
    params.not_after = now + request.not_after;
    params.serial_number = Some(serial);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = request.usages.clone();
    params.is_ca = match request.is_ca {
        true => IsCa::Ca(BasicConstraints::Unconstrained),
        // SPIRE's and istiod's CAs say it, and the Workload API's clients ask for it.
        false => IsCa::ExplicitNoCa,
    };
    Ok(params)
}

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Svid {
    /// The first URI SAN.
    pub id: String,
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
    serial: SerialNumber,
}

impl Svid {
    /// What another CA than [`Ca`] has signed for `key`, leaf first.
    pub fn from_pem(chain: &str, key: KeyPair) -> Result<Self> {
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().context("chain")?;
        let leaf = chain.first().context("an empty chain")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).context("leaf")?;
        let serial = SerialNumber::from_slice(parsed.raw_serial());
        let id = crate::tls::uri_sans(leaf).into_iter().next().unwrap_or_default();
        Ok(Self { id, chain, key, serial })
    }

    /// The chain, leaf first, without the root.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    /// The private key in PKCS #8.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The chain in PEM, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
    }

    /// The private key in PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Writes chain, key and `bundle` where the binary's flags can name them.
    pub fn write_to(&self, folder: &Path, bundle: &str) -> Result<SvidFiles> {
        std::fs::create_dir_all(folder)?;
        let files = SvidFiles {
            cert_chain: folder.join("cert-chain.pem"),
            key: folder.join("key.pem"),
            trust_bundle: folder.join("trust-bundle.pem"),
        };
        let write =
            |path: &Path, text: &str| std::fs::write(path, text).with_context(|| path.display().to_string());
        write(&files.key, &self.key_pem())?;
        write(&files.cert_chain, &self.chain_pem())?;
        write(&files.trust_bundle, bundle)?;
        Ok(files)
    }
}

/// Where an SVID lies on disk.
#[derive(Clone, Debug)]
pub struct SvidFiles {
    /// For `--cert-chain`.
    pub cert_chain: PathBuf,
    /// For `--key`.
    pub key: PathBuf,
    /// For `--trust-bundle`.
    pub trust_bundle: PathBuf,
}

/// RFC 7468: 64 characters a line.
fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_as_the_same_chain() {
        let ca = Ca::new("cluster.local").unwrap();
        let svid = ca.intermediate().unwrap().svid(&ca.id("agents", "bot")).unwrap();
        let read: Vec<_> =
            CertificateDer::pem_slice_iter(svid.chain_pem().as_bytes()).map(Result::unwrap).collect();
        assert_eq!(read, svid.chain());
        assert_eq!(read.len(), 2, "leaf and intermediate");
    }
}
