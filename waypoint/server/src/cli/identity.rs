//! Flags that say who we are.

use std::path::PathBuf;

use clap::Args;

/// Where our certificate comes from: three files, or the SPIFFE Workload API.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Identity")]
pub struct SourceArgs {
    /// Our certificate chain in PEM, leaf first; its one URI SAN is our SPIFFE ID. Read again when it changes.
    #[arg(long, value_name = "FILE", requires_all = ["key", "trust_bundle"])]
    pub cert_chain: Option<PathBuf>,

    /// Private key of the leaf in PEM, unencrypted. Read again together with the chain.
    #[arg(long, value_name = "FILE", requires = "cert_chain")]
    pub key: Option<PathBuf>,

    /// Roots of the trust domain in PEM. Read again when they change.
    #[arg(long, value_name = "FILE", requires = "cert_chain")]
    pub trust_bundle: Option<PathBuf>,

    /// SPIFFE Workload API socket (SPIRE agent), as unix:///path; instead of the three files.
    #[arg(long, value_name = "URI", conflicts_with_all = ["cert_chain", "key", "trust_bundle"])]
    pub workload_api: Option<String>,
}

/// A certificate source and what else decides whom we trust.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Identity")]
pub struct IdentityArgs {
    /// Where our certificate comes from.
    #[command(flatten)]
    pub source: SourceArgs,

    /// Certificate revocation lists in PEM; open connections are checked again when it changes. Default: none.
    #[arg(long, value_name = "FILE")]
    pub crl: Option<PathBuf>,
}
