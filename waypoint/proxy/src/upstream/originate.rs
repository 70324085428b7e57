//! TLS to an endpoint, inside its tunnel or on its own (Istio `ClientTLSSettings`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use waypoint_model::UpstreamTls;

use super::Version;
use super::connect::{ConnectError, Transport};

/// Where systems keep their roots: Debian and Alpine, Fedora and RHEL, SUSE.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// How long files are taken to be unchanged.
const RECHECK: Duration = Duration::from_secs(1);

/// ALPN of HTTP/2, offered where it is spoken and the cluster says nothing of ALPN.
const H2: &[u8] = b"h2";

/// Originates TLS as one cluster says. Its files are read again when they changed.
pub(super) struct Origination {
    tls: UpstreamTls,
    loaded: ArcSwapOption<Loaded>,
}

/// What the files said.
struct Loaded {
    config: Arc<ClientConfig>,
    /// Offers `h2`.
    http2: Arc<ClientConfig>,
    stamps: Vec<Stamp>,
    looked: tokio::time::Instant,
}

impl Loaded {
    /// The same, looked at now.
    fn again(&self) -> Self {
        let (config, http2) = (Arc::clone(&self.config), Arc::clone(&self.http2));
        Self { config, http2, stamps: self.stamps.clone(), looked: tokio::time::Instant::now() }
    }
}

/// By what a change of a file is noticed: Kubernetes replaces mounted files as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("{0} cannot be read")]
    Read(String, #[source] io::Error),
    #[error("{0} is no PEM of what it should hold")]
    Pem(String, #[source] rustls::pki_types::pem::Error),
    #[error("{0} holds no certificate")]
    Empty(String),
    #[error("the system has no roots")]
    NoSystemRoots,
    #[error("TLS refuses them")]
    Refused(#[source] rustls::Error),
}

impl Origination {
    pub(super) fn new(tls: &UpstreamTls) -> Arc<Self> {
        Arc::new(Self { tls: tls.clone(), loaded: ArcSwapOption::empty() })
    }

    /// Whether each request's own host is the server name, so that connections of one must not serve another.
    pub(super) fn takes_host(&self) -> bool {
        self.tls.sni.is_none()
    }

    /// A handshake with the server named by the cluster, else with `host`. `version`: what will be spoken, if HTTP. The
    /// caller bounds the time. Cancel safe: dropped, the transport is closed.
    ///
    /// # Errors
    /// A [`ConnectError`] that names files, server name or what the handshake failed of.
    pub(super) async fn connect(
        &self,
        transport: Transport,
        host: &str,
        version: Option<Version>,
    ) -> Result<Box<TlsStream<Transport>>, ConnectError> {
        let loaded = self.loaded().await.map_err(ConnectError::TlsFiles)?;
        let server = self.tls.sni.as_deref().unwrap_or(host).trim_matches(['[', ']']);
        let name = ServerName::try_from(server.to_owned());
        let name = name.map_err(|_| ConnectError::ServerName(server.to_owned()))?;
        let offers_h2 = version == Some(Version::Http2) && self.tls.alpn.is_empty();
        let config = if offers_h2 { &loaded.http2 } else { &loaded.config };
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, transport);
        let stream = Box::pin(connecting).await.map_err(ConnectError::Origination)?;
        match (version, stream.get_ref().1.alpn_protocol()) {
            (Some(Version::Http1), Some(H2)) => Err(ConnectError::Alpn("h2")),
            (Some(Version::Http2), Some(other)) if other != H2 => Err(ConnectError::Alpn("no h2")),
            _ => Ok(Box::new(stream)),
        }
    }

    /// The files' newest content. One that cannot be read any more, or makes no sense, keeps what it said before.
    async fn loaded(&self) -> Result<Arc<Loaded>, FileError> {
        let before = self.loaded.load_full();
        if let Some(loaded) = before.as_ref().filter(|loaded| loaded.looked.elapsed() < RECHECK) {
            return Ok(Arc::clone(loaded));
        }
        let files = self.files()?;
        let stamps = stamps(&files).await;
        if let (Some(loaded), Ok(stamps)) = (&before, &stamps)
            && loaded.stamps == *stamps
        {
            return Ok(self.keep(loaded.again()));
        }
        let read = match stamps {
            Ok(stamps) => self.read(stamps).await,
            Err(error) => Err(error),
        };
        match (read, before) {
            (Ok(loaded), _) => Ok(self.keep(loaded)),
            (Err(error), Some(before)) => {
                tracing::warn!(%error, "TLS files of a cluster cannot be used; what they said before holds");
                Ok(self.keep(before.again()))
            }
            (Err(error), None) => Err(error),
        }
    }

    fn keep(&self, loaded: Loaded) -> Arc<Loaded> {
        let loaded = Arc::new(loaded);
        self.loaded.store(Some(Arc::clone(&loaded)));
        loaded
    }

    /// The files that are read: roots first.
    fn files(&self) -> Result<Vec<String>, FileError> {
        let mut files = Vec::new();
        if !self.tls.insecure {
            let system = || SYSTEM_ROOTS.iter().find(|path| std::path::Path::new(path).exists());
            match &self.tls.ca_file {
                Some(path) => files.push(path.clone()),
                None => files.push((*system().ok_or(FileError::NoSystemRoots)?).to_owned()),
            }
        }
        if let Some((chain, key)) = &self.tls.client_files {
            files.extend([chain.clone(), key.clone()]);
        }
        Ok(files)
    }

    async fn read(&self, stamps: Vec<Stamp>) -> Result<Loaded, FileError> {
        let verifier = Arc::new(self.verifier().await?);
        let builder = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
            .with_safe_default_protocol_versions()
            .map_err(FileError::Refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = self.with_client(builder).await?;
        config.alpn_protocols = self.tls.alpn.iter().map(|name| name.clone().into_bytes()).collect();
        let mut http2 = config.clone();
        http2.alpn_protocols = vec![H2.to_vec()];
        let looked = tokio::time::Instant::now();
        Ok(Loaded { config: Arc::new(config), http2: Arc::new(http2), stamps, looked })
    }

    async fn verifier(&self) -> Result<Verifier, FileError> {
        let mut roots = RootCertStore::empty();
        if let (false, Some(path)) = (self.tls.insecure, self.files()?.first()) {
            // Of a system's many roots some may be too odd to use; of a file that was named, all but those.
            let (used, _odd) = roots.add_parsable_certificates(certificates(path).await?);
            if used == 0 {
                return Err(FileError::Empty(path.clone()));
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let names = self.tls.subject_alt_names.clone();
        Ok(Verifier { roots, names, insecure: self.tls.insecure, algorithms, provider })
    }

    async fn with_client(
        &self,
        builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    ) -> Result<ClientConfig, FileError> {
        let Some((chain, key)) = &self.tls.client_files else { return Ok(builder.with_no_client_auth()) };
        let pem = read(key).await?;
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| FileError::Pem(key.clone(), error))?;
        builder.with_client_auth_cert(certificates(chain).await?, key).map_err(FileError::Refused)
    }
}

async fn read(path: &str) -> Result<Vec<u8>, FileError> {
    tokio::fs::read(path).await.map_err(|error| FileError::Read(path.to_owned(), error))
}

async fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let pem = read(path).await?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = parsed.map_err(|error| FileError::Pem(path.to_owned(), error))?;
    if certificates.is_empty() {
        return Err(FileError::Empty(path.to_owned()));
    }
    Ok(certificates)
}

async fn stamps(files: &[String]) -> Result<Vec<Stamp>, FileError> {
    let mut stamps = Vec::new();
    for path in files {
        let found = tokio::fs::metadata(path).await;
        let found = found.map_err(|error| FileError::Read(path.clone(), error))?;
        stamps.push(Stamp { modified: found.modified().ok(), length: found.len() });
    }
    Ok(stamps)
}

/// Checks a server's certificate: its chain, and the names that the cluster lists, or else the server name.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    names: Vec<String>,
    insecure: bool,
    algorithms: WebPkiSupportedAlgorithms,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn has_name(
        &self,
        end_entity: &CertificateDer<'_>,
        server: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if self.names.is_empty() {
            return verify_server_name(&parsed, server);
        }
        let uris = webpki::EndEntityCert::try_from(end_entity)
            .map_err(|_| rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding))?;
        let bears = |wanted: &String| {
            let by_name = |name: ServerName<'_>| verify_server_name(&parsed, &name).is_ok();
            uris.valid_uri_names().any(|uri| uri == wanted)
                || ServerName::try_from(wanted.as_str()).is_ok_and(by_name)
        };
        match self.names.iter().any(bears) {
            true => Ok(()),
            false => Err(rustls::CertificateError::NotValidForName.into()),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.insecure {
            let (parsed, all) = (ParsedCertificate::try_from(end_entity)?, self.algorithms.all);
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, all)?;
            self.has_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tls::{Authority, write};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn files_are_read_again_when_they_changed_and_the_last_good_content_holds() {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let (chain, key) = authority.issue(&["client.example"]);
        let origination = Origination::new(&UpstreamTls {
            ca_file: Some(authority.write(folder.path(), "ca.pem")),
            client_files: Some((
                write(folder.path(), "chain.pem", &chain),
                write(folder.path(), "key.pem", &key),
            )),
            ..UpstreamTls::default()
        });
        let config = async || Arc::clone(&origination.loaded().await.unwrap().config);
        let first = config().await;
        tokio::time::advance(RECHECK).await;
        assert!(Arc::ptr_eq(&first, &config().await), "unchanged");
        write(
            folder.path(),
            "ca.pem",
            &format!("{0}{0}", std::fs::read_to_string(folder.path().join("ca.pem")).unwrap()),
        );
        assert!(Arc::ptr_eq(&first, &config().await), "not looked at yet");
        tokio::time::advance(RECHECK).await;
        let second = config().await;
        assert!(!Arc::ptr_eq(&first, &second), "changed");
        for nonsense in ["", "nonsense that is longer"] {
            write(folder.path(), "key.pem", nonsense);
            tokio::time::advance(RECHECK).await;
            assert!(Arc::ptr_eq(&second, &config().await), "no PEM");
        }
        std::fs::remove_file(folder.path().join("chain.pem")).unwrap();
        tokio::time::advance(RECHECK).await;
        assert!(Arc::ptr_eq(&second, &config().await), "gone");
    }

    #[tokio::test]
    async fn files_that_never_were_good_fail_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("ca.pem").to_str().unwrap().to_owned();
        let (empty, junk) = (
            write(folder.path(), "empty.pem", ""),
            write(folder.path(), "junk.pem", "-----BEGIN CERTIFICATE-----"),
        );
        for (path, why) in [(missing, "cannot be read"), (empty, "holds no certificate"), (junk, "PEM")] {
            let tls = UpstreamTls { ca_file: Some(path.clone()), ..UpstreamTls::default() };
            let error = Origination::new(&tls).loaded().await.err().unwrap().to_string();
            assert!(error.contains(&path) && error.contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn the_systems_roots_are_used_where_none_are_named() {
        let loaded = Origination::new(&UpstreamTls::default()).loaded().await;
        let exists = SYSTEM_ROOTS.iter().any(|path| std::path::Path::new(path).exists());
        assert_eq!(loaded.is_ok(), exists);
    }
}
