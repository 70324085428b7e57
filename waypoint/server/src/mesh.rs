//! Where the mesh is described, and how it is read: the same for `run`, `check` and `matrix`.

use std::path::PathBuf;

use istio_integration::bootstrap::Bootstrap;
use istio_integration::feeds::file::Options;

use crate::cli::MeshArgs;

/// What tells us what the mesh looks like.
#[derive(Clone, Debug)]
pub enum Mesh {
    /// A folder of manifests.
    Manifests(MeshSource),
    /// Istio's control plane, and all that its Deployment told us.
    Istiod(Box<Bootstrap>),
}

impl Mesh {
    /// Other names of our trust domain that are known from the start. istiod's are part of its configuration.
    #[must_use]
    pub fn trust_domain_aliases(&self) -> &[String] {
        match self {
            Self::Manifests(source) => &source.options.trust_domain_aliases,
            Self::Istiod(_) => &[],
        }
    }
}

/// A folder of manifests and what they don't say themselves.
#[derive(Clone, Debug)]
pub struct MeshSource {
    /// The folder.
    pub folder: PathBuf,
    /// Mesh-wide settings.
    pub options: Options,
}

impl From<&MeshArgs> for MeshSource {
    fn from(args: &MeshArgs) -> Self {
        Self {
            folder: args.manifests.clone(),
            options: Options {
                trust_domain: args.trust_domain.clone(),
                trust_domain_aliases: args.trust_domain_aliases.clone(),
                domain: args.domain.clone(),
                cluster: args.cluster.clone(),
                gateway: args.gateway.clone(),
                path_normalization: args.path_normalization.into(),
                // The feed knows no protocol: whether a fact or a condition can be asked is for policy to say.
                fact_check: Some(waypoint_policy::check_fact),
            },
        }
    }
}
