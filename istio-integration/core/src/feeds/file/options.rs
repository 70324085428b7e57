//! What the manifests themselves do not say.

use waypoint_model::PathNormalization;

/// Tells whether a filter (`http.mcp`, without `envoy.filters.`) has a fact of that name (`tool`, `args.owner`); the
/// error says what is wrong. The feed knows no protocol, so whoever reads protocols passes this in.
pub type FactCheck = fn(&str, &str) -> Result<(), String>;

/// Settings of the mesh that Istio keeps in its `MeshConfig`, and who we are.
#[derive(Clone, Debug)]
pub struct Options {
    /// Trust domain of every workload in the folder (`MeshConfig.trustDomain`). Default `cluster.local`.
    pub trust_domain: String,
    /// Other names of that trust domain (`MeshConfig.trustDomainAliases`). Default none.
    pub trust_domain_aliases: Vec<String>,
    /// DNS domain of Kubernetes services. Default `cluster.local`.
    pub domain: String,
    /// Id of the cluster, as telemetry shows it. Default `Kubernetes`, Istio's own default.
    pub cluster: String,
    /// Namespace and name of the Gateway that we are. Default: the only Gateway of class `istio-waypoint` in the
    /// folder, or, if there is none, we stand before every service.
    pub gateway: Option<(String, String)>,
    /// How paths are made comparable (`MeshConfig.pathNormalization`).
    pub path_normalization: PathNormalization,
    /// Checks the `experimental.envoy.filters.…[…]` keys of policies. Default none: `http.mcp` and `http.a2a` pass.
    pub fact_check: Option<FactCheck>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            trust_domain_aliases: Vec::new(),
            domain: "cluster.local".to_owned(),
            cluster: "Kubernetes".to_owned(),
            gateway: None,
            path_normalization: PathNormalization::default(),
            fact_check: None,
        }
    }
}

impl Options {
    /// The trust domain and its aliases, each once.
    pub(super) fn trust_domains(&self) -> Vec<&str> {
        let mut all = vec![self.trust_domain.as_str()];
        for alias in &self.trust_domain_aliases {
            if !all.contains(&alias.as_str()) {
                all.push(alias);
            }
        }
        all
    }
}
