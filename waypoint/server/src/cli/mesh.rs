//! Flags that say what the mesh looks like: shared by `run`, `check` and `matrix`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use waypoint_model::PathNormalization;

/// Where the manifests are, and what Istio keeps in its mesh configuration.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Mesh")]
pub struct MeshArgs {
    /// Folder of Kubernetes and Istio manifests (*.yaml, *.yml, *.json, subfolders too), as you would `kubectl apply` them.
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,

    /// The Gateway that this waypoint is. Default: the only one of class istio-waypoint in the folder; if there is none,
    /// every service is fronted.
    #[arg(long, value_name = "NS/NAME", value_parser = gateway)]
    pub gateway: Option<(String, String)>,

    /// Trust domain of the workloads in the folder (Istio's MeshConfig.trustDomain).
    #[arg(long, value_name = "TD", default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: String,

    /// Another name of that trust domain (MeshConfig.trustDomainAliases); may be repeated.
    #[arg(long = "trust-domain-alias", value_name = "TD", value_parser = trust_domain)]
    pub trust_domain_aliases: Vec<String>,

    /// DNS domain of Kubernetes services.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub domain: String,

    /// Cluster id that telemetry shows.
    #[arg(long, value_name = "ID", default_value = "Kubernetes")]
    pub cluster: String,

    /// How request paths are made comparable before they are judged and sent on (MeshConfig.pathNormalization).
    #[arg(long, value_enum, default_value_t)]
    pub path_normalization: PathNormalizationArg,
}

/// Istio's path normalizations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PathNormalizationArg {
    /// Paths as received.
    None,
    /// Dot segments resolved, `\` read as `/`.
    #[default]
    Base,
    /// Base, and runs of `/` merged.
    MergeSlashes,
    /// %2F and %5C decoded first, then as merge-slashes.
    DecodeAndMergeSlashes,
}

impl From<PathNormalizationArg> for PathNormalization {
    fn from(arg: PathNormalizationArg) -> Self {
        match arg {
            PathNormalizationArg::None => Self::None,
            PathNormalizationArg::Base => Self::Base,
            PathNormalizationArg::MergeSlashes => Self::MergeSlashes,
            PathNormalizationArg::DecodeAndMergeSlashes => Self::DecodeAndMergeSlashes,
        }
    }
}

fn gateway(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("a Gateway is written as namespace/name".to_owned()),
    }
}

fn trust_domain(text: &str) -> Result<String, spiffe_id::ParseError> {
    spiffe_id::check_trust_domain(text).map(|()| text.to_owned())
}
