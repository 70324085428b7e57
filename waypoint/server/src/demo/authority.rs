//! The demo's own certificate authority. It lives in memory and dies with the process.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use certs::{MeshTls, Revocations, StaticSource, TrustDomains, X509Svid};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use spiffe_id::SpiffeId;
use time::{Duration, OffsetDateTime};

/// Trust domain of the demo's mesh: Istio's default.
pub(super) const TRUST_DOMAIN: &str = "cluster.local";

/// How long certificates live; longer than anybody keeps a demo open.
const LIFETIME: Duration = Duration::days(1);

/// A root that signs the SVIDs of workloads.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// The PEM texts of one workload's certificate.
pub(super) struct Issued {
    chain: String,
    key: String,
    bundle: String,
}

impl Authority {
    /// A fresh root.
    pub(super) fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Portcullis demo, throw-away root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid_from_now(&mut params);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// An SVID: one URI SAN, both sides of TLS (SPIFFE X.509-SVID §2, §4).
    pub(super) fn issue(&self, id: &SpiffeId) -> Result<Issued> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        valid_from_now(&mut params);
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.0)?;
        Ok(Issued { chain: leaf.pem(), key: key.serialize_pem(), bundle: self.0.pem() })
    }

    /// TLS of the workload `id`, from memory.
    pub(super) fn tls(&self, id: &SpiffeId) -> Result<WorkloadTls> {
        let Issued { chain, key, bundle } = self.issue(id)?;
        let svid = X509Svid::from_pem(chain.as_bytes(), key.as_bytes(), bundle.as_bytes())?;
        let source = StaticSource::new(svid);
        let tls = MeshTls::new(&source, TrustDomains::default(), Revocations::none());
        Ok(WorkloadTls { tls, _source: source })
    }
}

/// A workload's TLS with the source that it is fed from.
pub(super) struct WorkloadTls {
    /// Both sides of mutual TLS.
    pub(super) tls: MeshTls,
    _source: StaticSource,
}

/// The SPIFFE id of `namespace/service-account`, in Istio's form.
pub(super) fn id(account: &str) -> Result<SpiffeId> {
    let (namespace, name) = account.split_once('/').context("an account is written namespace/name")?;
    Ok(SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{name}"))?)
}

/// Where an SVID lies on disk, for the flags of `run` and `tunnel`.
#[derive(Clone, Debug)]
pub(super) struct SvidFiles {
    /// For `--cert-chain`.
    pub(super) chain: PathBuf,
    /// For `--key`.
    pub(super) key: PathBuf,
    /// For `--trust-bundle`.
    pub(super) bundle: PathBuf,
}

impl Issued {
    /// Writes chain, key and bundle into `folder`.
    pub(super) fn write(&self, folder: &Path) -> Result<SvidFiles> {
        fs::create_dir_all(folder)?;
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| path.display().to_string())?;
            Ok(path)
        };
        Ok(SvidFiles {
            chain: file("chain.pem", &self.chain)?,
            key: file("key.pem", &self.key)?,
            bundle: file("bundle.pem", &self.bundle)?,
        })
    }
}

fn valid_from_now(params: &mut CertificateParams) {
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(1);
    params.not_after = OffsetDateTime::now_utc() + LIFETIME;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_bears_its_service_accounts_id() {
        let bot = id("agents/bot").unwrap();
        assert_eq!(bot.as_str(), "spiffe://cluster.local/ns/agents/sa/bot");
        assert_eq!(Authority::new().unwrap().tls(&bot).unwrap().tls.local_id(), Some(bot));
        assert!(id("bot").is_err());
    }
}
