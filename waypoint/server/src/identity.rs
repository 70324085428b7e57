//! Who we are: opens the certificate source and says, in words of the command line, what is wrong with it.

use std::path::{Path, PathBuf};

use std::sync::Arc;

use certs::{FilePaths, FileSource, RenewingSource, Revocations, SvidError, SvidSource, WorkloadApiSource};

use istio_integration::bootstrap::Bootstrap;
use istio_integration::ca::IstiodCa;

use crate::cli::SourceArgs;

/// Where our certificate comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Three files in PEM.
    Files(FilePaths),
    /// The SPIFFE Workload API.
    WorkloadApi(String),
    /// istiod's certificate authority.
    Istiod(Box<Bootstrap>),
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// No flag says where the certificate comes from.
    #[error("no identity: {FLAGS}")]
    NotGiven,
    /// A file, or what is in it, is unusable.
    #[error("{flag} {source}\n  fix: {fix}")]
    File {
        /// The flag that named it.
        flag: &'static str,
        /// What is wrong; names the file.
        source: SvidError,
        /// What to do.
        fix: &'static str,
    },
    /// istiod's certificates cannot be followed.
    #[error("certificates from istiod: {0}")]
    Istiod(SvidError),
    /// The Workload API cannot be used.
    #[error("--workload-api {0}")]
    WorkloadApi(SvidError),
}

const FLAGS: &str =
    "give --cert-chain FILE, --key FILE and --trust-bundle FILE (PEM), or --workload-api unix:///path";

impl TryFrom<&SourceArgs> for Source {
    type Error = IdentityError;

    fn try_from(args: &SourceArgs) -> Result<Self, IdentityError> {
        match (&args.cert_chain, &args.key, &args.trust_bundle, &args.workload_api) {
            (None, None, None, Some(endpoint)) => Ok(Self::WorkloadApi(endpoint.clone())),
            (Some(chain), Some(key), Some(bundle), None) => {
                let (chain, key, bundle) = (chain.clone(), key.clone(), bundle.clone());
                Ok(Self::Files(FilePaths { chain, key, bundle }))
            }
            _ => Err(IdentityError::NotGiven),
        }
    }
}

/// Opens a source. Files are read now; an agent may come later. Needs a runtime for the Workload API and for istiod.
///
/// # Errors
/// [`IdentityError`], which names file, flag and fix.
pub fn open(source: &Source) -> Result<Arc<dyn SvidSource>, IdentityError> {
    match source {
        Source::Files(paths) => {
            let opened = FileSource::open(paths.clone()).map_err(|error| blame(paths, error))?;
            Ok(Arc::new(opened))
        }
        Source::WorkloadApi(endpoint) => {
            let opened = WorkloadApiSource::connect(endpoint).map_err(IdentityError::WorkloadApi)?;
            Ok(Arc::new(opened))
        }
        Source::Istiod(bootstrap) => {
            let started = RenewingSource::start(IstiodCa::new(bootstrap)).map_err(IdentityError::Istiod)?;
            Ok(Arc::new(started))
        }
    }
}

/// Opens the revocation lists, if any.
///
/// # Errors
/// [`IdentityError::File`].
pub fn revocations(path: Option<&Path>) -> Result<Revocations, IdentityError> {
    let Some(path) = path else { return Ok(Revocations::none()) };
    Revocations::open(path.to_owned()).map_err(|source| IdentityError::File {
        flag: "--crl",
        source,
        fix: "give one or more X.509 CRLs in PEM (BEGIN X509 CRL), or leave the flag out",
    })
}

fn blame(paths: &FilePaths, source: SvidError) -> IdentityError {
    let at: Option<&PathBuf> = match &source {
        SvidError::Unreadable { path, .. } | SvidError::InFile { path, .. } => Some(path),
        _ => None,
    };
    let (flag, fix) = match at {
        Some(path) if *path == paths.key => {
            ("--key", "give the unencrypted PEM key of the first certificate in --cert-chain")
        }
        Some(path) if *path == paths.bundle => {
            ("--trust-bundle", "give the PEM root certificates of the trust domain")
        }
        _ => (
            "--cert-chain",
            "give a PEM chain, leaf first, whose leaf is valid now and has one URI SAN spiffe://<trust domain>/…",
        ),
    };
    IdentityError::File { flag, source, fix }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

    use super::*;

    fn write_svid(folder: &Path, uri: &str) -> FilePaths {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let leaf_key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
        let paths = FilePaths {
            chain: folder.join("chain.pem"),
            key: folder.join("key.pem"),
            bundle: folder.join("roots.pem"),
        };
        fs::write(&paths.chain, leaf.pem()).unwrap();
        fs::write(&paths.key, leaf_key.serialize_pem()).unwrap();
        fs::write(&paths.bundle, root.pem()).unwrap();
        paths
    }

    fn refused(paths: &FilePaths) -> String {
        match open(&Source::Files(paths.clone())) {
            Ok(_) => panic!("accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn files_give_an_identity_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let paths = write_svid(folder.path(), "spiffe://cluster.local/ns/a/sa/b");
        let source = open(&Source::Files(paths)).unwrap();
        assert_eq!(
            source.watch().borrow().as_ref().unwrap().id().as_str(),
            "spiffe://cluster.local/ns/a/sa/b"
        );
    }

    #[test]
    fn each_bad_file_is_named_with_its_flag_and_a_fix() {
        let folder = tempfile::tempdir().unwrap();
        let good = write_svid(folder.path(), "spiffe://cluster.local/ns/a/sa/b");
        let rows: [(&str, FilePaths); 3] = [
            ("--cert-chain", FilePaths { chain: folder.path().join("gone"), ..good.clone() }),
            ("--key", FilePaths { key: folder.path().join("gone"), ..good.clone() }),
            ("--trust-bundle", FilePaths { bundle: folder.path().join("gone"), ..good.clone() }),
        ];
        for (flag, paths) in rows {
            let error = refused(&paths);
            assert!(error.starts_with(flag) && error.contains("gone") && error.contains("fix: "), "{error}");
        }
        fs::write(&good.key, "no key").unwrap();
        assert!(refused(&good).starts_with("--key"), "{}", refused(&good));
    }

    #[test]
    fn a_certificate_without_a_spiffe_id_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let paths = write_svid(folder.path(), "https://example.com/");
        let error = refused(&paths);
        assert!(error.starts_with("--cert-chain") && error.contains("one URI SAN"), "{error}");
    }

    #[test]
    fn flags_must_say_where_the_identity_comes_from() {
        let none = SourceArgs { cert_chain: None, key: None, trust_bundle: None, workload_api: None };
        let error = Source::try_from(&none).unwrap_err().to_string();
        assert!(error.contains("--cert-chain") && error.contains("--workload-api"), "{error}");
        let api = SourceArgs { workload_api: Some("unix:///x".to_owned()), ..none };
        assert_eq!(Source::try_from(&api).unwrap(), Source::WorkloadApi("unix:///x".to_owned()));
    }
}
