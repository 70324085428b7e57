//! A certificate authority that issues what a test asks for, the wrong things included.

use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::X509Svid;

/// What a leaf shall say. The default is a good one without a name.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) uris: Vec<&'static str>,
    pub(crate) dns: Vec<&'static str>,
    pub(crate) usages: Vec<Eku>,
    pub(crate) key_usages: Vec<KeyUsagePurpose>,
    pub(crate) is_ca: IsCa,
    /// From and until when it is valid, in seconds from now.
    pub(crate) valid: (i64, i64),
}

impl Default for Leaf {
    fn default() -> Self {
        Self {
            uris: Vec::new(),
            dns: Vec::new(),
            usages: vec![Eku::ClientAuth, Eku::ServerAuth],
            key_usages: vec![KeyUsagePurpose::DigitalSignature],
            is_ca: IsCa::ExplicitNoCa,
            valid: (-60, 3600),
        }
    }
}

impl Leaf {
    pub(crate) fn of(id: &'static str) -> Self {
        Self { uris: vec![id], ..Self::default() }
    }
}

/// A chain and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) serial: SerialNumber,
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Certificates between a leaf of this authority and the root.
    above: String,
    root: String,
    serial: SerialNumber,
    key_id: Vec<u8>,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(name, (-3600, 86_400));
        let root = params.self_signed(&key).unwrap().pem();
        let (serial, key_id) = (params.serial_number.clone().unwrap(), params.key_identifier(&key));
        Self { issuer: Issuer::new(params, key), above: String::new(), root, serial, key_id }
    }

    pub(crate) fn intermediate(&self, name: &str, valid: (i64, i64)) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(name, valid);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let (serial, key_id) = (params.serial_number.clone().unwrap(), params.key_identifier(&key));
        let above = certificate + &self.above;
        Self { issuer: Issuer::new(params, key), above, root: self.root.clone(), serial, key_id }
    }

    /// The root, in PEM.
    pub(crate) fn bundle(&self) -> &str {
        &self.root
    }

    /// The serial number of this authority's own certificate.
    pub(crate) fn serial(&self) -> &SerialNumber {
        &self.serial
    }

    /// The identifier of its key.
    pub(crate) fn key_id(&self) -> KeyIdMethod {
        KeyIdMethod::PreSpecified(self.key_id.clone())
    }

    pub(crate) fn issue(&self, leaf: &Leaf) -> Issued {
        self.issue_for(leaf, &KeyPair::generate().unwrap())
    }

    pub(crate) fn issue_for(&self, leaf: &Leaf, key: &KeyPair) -> Issued {
        let mut params =
            CertificateParams::new(leaf.dns.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        let uris = leaf.uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages = leaf.usages.clone();
        params.key_usages = leaf.key_usages.clone();
        params.is_ca = leaf.is_ca;
        (params.not_before, params.not_after) = (from_now(leaf.valid.0), from_now(leaf.valid.1));
        let serial = unique_serial();
        params.serial_number = Some(serial.clone());
        let chain = params.signed_by(key, &self.issuer).unwrap().pem() + &self.above;
        Issued { chain, key: key.serialize_pem(), serial }
    }

    pub(crate) fn svid(&self, id: &'static str) -> X509Svid {
        self.svid_of(&Leaf::of(id))
    }

    pub(crate) fn svid_of(&self, leaf: &Leaf) -> X509Svid {
        self.issue(leaf).svid(self.bundle())
    }

    /// A revocation list, in PEM, issued so many seconds ago.
    pub(crate) fn revokes(&self, serials: &[&SerialNumber], seconds_ago: i64) -> String {
        self.revokes_as(serials, seconds_ago, KeyIdMethod::Sha256)
    }

    /// The same that says another thing of its key.
    pub(crate) fn revokes_as(&self, serials: &[&SerialNumber], seconds_ago: i64, key: KeyIdMethod) -> String {
        let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
            serial_number: (*serial).clone(),
            revocation_time: from_now(-60),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: from_now(-seconds_ago),
            next_update: from_now(3600),
            crl_number: unique_serial(),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: key,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

impl Issued {
    pub(crate) fn svid(&self, bundle: &str) -> X509Svid {
        X509Svid::from_pem(self.chain.as_bytes(), self.key.as_bytes(), bundle.as_bytes()).unwrap()
    }
}

fn authority_params(name: &str, valid: (i64, i64)) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (from_now(valid.0), from_now(valid.1));
    params.serial_number = Some(unique_serial());
    params
}

fn from_now(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from(SystemTime::now()) + Duration::seconds(seconds)
}

fn unique_serial() -> SerialNumber {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0x0100_0000_0000_0000);
    SerialNumber::from(NEXT.fetch_add(1, Ordering::Relaxed))
}
