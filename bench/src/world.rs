//! What all contestants of a run share: a CA, loopback addresses, the backend, and where programs are.

use crate::backend::Backend;
use crate::machine::Cores;
use anyhow::{Context as _, Result};
use portcullis_tests::addresses::Addresses;
use portcullis_tests::ca::{Ca, SvidFiles};
use portcullis_tests::tls;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ServerConfig};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// Namespace of the waypoint and of the backend.
pub(crate) const NAMESPACE: &str = "tools";

/// Port of HBONE.
pub(crate) const HBONE: u16 = 15008;

/// Where the measured programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Our binary.
    pub portcullis: PathBuf,
    /// Another build of it, to be measured in alternation.
    pub before: Option<PathBuf>,
    /// Envoy, if it is to be measured and is there.
    pub envoy: Option<PathBuf>,
    /// nginx, if it is to be measured and is there.
    pub nginx: Option<PathBuf>,
}

/// The world around the contestants.
pub(crate) struct World {
    /// Which core does what.
    pub cores: Cores,
    /// Where the measured programs are.
    pub programs: Programs,
    /// Addresses of this run.
    pub addresses: Addresses,
    /// The pod of the backend.
    pub pod: Ipv4Addr,
    /// The waypoint's certificate.
    pub svid: SvidFiles,
    /// For files of a contestant.
    pub folder: TempDir,
    ca: Ca,
    _backend: Backend,
}

impl World {
    /// Makes certificates and starts the backend in this process.
    pub(crate) async fn new(cores: Cores, programs: Programs) -> Result<Self> {
        let ca = Ca::new("cluster.local")?;
        let folder = tempfile::Builder::new().prefix("portcullis-bench").tempdir()?;
        let svid = ca.svid(&ca.id(NAMESPACE, "waypoint"))?;
        let svid = svid.write_to(&folder.path().join("svid"), ca.bundle_pem())?;
        let addresses = Addresses::lease()?;
        let pod = addresses.next();
        let identity = ca.svid(&ca.id(NAMESPACE, "app"))?;
        let tls: ServerConfig = tls::server_config_by(one_suite(), &identity, ca.bundle_pem())?;
        let backend = Backend::start(pod, tls).await.context("the backend")?;
        Ok(Self { cores, programs, addresses, pod, svid, folder, ca, _backend: backend })
    }

    /// TLS of a source pod's ztunnel that expects the ServiceAccount `expected` at the other end. Sessions are not resumed, as
    /// ztunnel does not resume them.
    pub(crate) fn client_tls(&self, expected: &str) -> Result<ClientConfig> {
        let identity = self.ca.svid(&self.ca.id("agents", "bot"))?;
        let expected = self.ca.id(NAMESPACE, expected);
        let mut config = tls::client_config_by(one_suite(), &identity, self.ca.bundle_pem(), &expected)?;
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// A fresh folder for files of one contestant.
    pub(crate) fn scratch(&self) -> Result<PathBuf> {
        Ok(tempfile::Builder::new().tempdir_in(self.folder.path())?.keep())
    }
}

/// One cipher suite and one group, so that all contestants encrypt alike whatever they would choose: the suite that ztunnel
/// prefers, and the group that every peer knows.
fn one_suite() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384];
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}
