//! Keys and certificates of the API server.

use super::state::HUB;
use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use std::path::Path;
use time::{Duration, OffsetDateTime};

/// Names by which the API server is called.
const NAMES: [&str; 3] = ["kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];

/// Writes `ca.crt`, `apiserver.crt`, `apiserver.key` and the key pair of ServiceAccount tokens (`sa.key`, `sa.pub`)
/// into `folder`, and returns the CA in PEM.
pub(super) fn write(folder: &Path) -> Result<String> {
    std::fs::create_dir_all(folder)?;
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text);
    let mut params = valid_for_a_day(CertificateParams::default());
    params.distinguished_name.push(rcgen::DnType::CommonName, "lab");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    write("ca.crt", &authority.pem())?;

    let mut params = valid_for_a_day(CertificateParams::new(NAMES.map(str::to_owned))?);
    params.subject_alt_names.push(SanType::IpAddress(HUB.into()));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    write("apiserver.crt", &params.signed_by(&key, &authority)?.pem())?;
    write("apiserver.key", &key.serialize_pem())?;

    let tokens = KeyPair::generate()?;
    write("sa.key", &tokens.serialize_pem())?;
    write("sa.pub", &tokens.public_key_pem())?;
    Ok(authority.pem())
}

fn valid_for_a_day(mut params: CertificateParams) -> CertificateParams {
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(1);
    params
}
