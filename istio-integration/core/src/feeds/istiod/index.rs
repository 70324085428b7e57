//! Who is who: the workload API (`istio.workload.Address`) kept small.
//!
//! A mesh has tens of thousands of workloads, and a waypoint is told of all of them, since any may be a source. Texts that
//! many share (namespaces, names of Deployments, identities, clusters) are held once.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use istio_protos::istio::workload::{Address, address};
use spiffe_id::SpiffeId;
use waypoint_model::{ServiceKey, Workload, WorkloadUid, Workloads};

use super::service::{self, MeshService};
use super::workload::{self, Own};

/// Texts are swept when there are so many, and then whenever their number has doubled.
const FIRST_SWEEP: usize = 4_096;

/// All workloads and services of the mesh, by the names that istiod gives them.
#[derive(Default)]
pub struct Index {
    own: Own,
    texts: Texts,
    workloads: Workloads,
    services: HashMap<Arc<str>, Arc<MeshService>>,
    by_hostname: HashMap<Arc<str>, Vec<Arc<str>>>,
}

/// Why an address is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither a workload nor a service.
    #[error("the address is neither a workload nor a service")]
    Empty,
    /// Four or sixteen bytes make an address.
    #[error("{field}: {length} bytes are no IP address")]
    Ip {
        /// Which field.
        field: &'static str,
        /// How many bytes it has.
        length: usize,
    },
    /// Trust domain, namespace and ServiceAccount make no SPIFFE ID.
    #[error("service_account: {0}")]
    Identity(#[from] spiffe_id::ParseError),
    /// The name that it came under is not its own.
    #[error("the resource is called {given:?} and says that it is {own:?}")]
    Name {
        /// The resource's name.
        given: String,
        /// What it says.
        own: String,
    },
}

impl Index {
    /// An index as seen from this network and trust domain.
    #[must_use]
    pub fn new(own: Own) -> Self {
        Self { own, ..Self::default() }
    }

    /// Takes up a workload or a service under its resource name, in place of what had the name.
    ///
    /// # Errors
    /// [`AddressError`]; what had the name stays.
    pub fn upsert(&mut self, name: &str, address: Address) -> Result<(), AddressError> {
        match address.r#type.ok_or(AddressError::Empty)? {
            address::Type::Workload(workload) => {
                named(name, &workload.uid)?;
                let workload = workload::translate(workload, &self.own, &mut self.texts)?;
                self.workloads.insert(workload.uid.clone(), Arc::new(workload));
            }
            address::Type::Service(service) => {
                named(name, &format!("{}/{}", service.namespace, service.hostname))?;
                let service = service::translate(&service, &self.own)?;
                self.remove_service(name);
                self.add_service(name, Arc::new(service));
            }
        }
        self.texts.sweep_if_many();
        Ok(())
    }

    /// Takes out what has this name.
    pub fn remove(&mut self, name: &str) {
        if self.workloads.remove(&WorkloadUid(name.into())).is_none() {
            self.remove_service(name);
        }
    }

    /// Every workload; a clone costs nothing.
    #[must_use]
    pub fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// The workload at an address.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.at(address)
    }

    /// The service of this host name that has one of these addresses; without addresses, or where none has one (an address
    /// that only a ztunnel knows), the only one, or the first by namespace.
    #[must_use]
    pub fn service(&self, hostname: &str, vips: &[IpAddr]) -> Option<&Arc<MeshService>> {
        let candidates = || self.by_hostname.get(hostname).into_iter().flatten();
        let services = || candidates().filter_map(|name| self.services.get(name));
        let addressed = services().find(|service| service.vips.iter().any(|vip| vips.contains(vip)));
        addressed.or_else(|| services().min_by(|a, b| a.key.cmp(&b.key)))
    }

    /// The service with this key.
    #[must_use]
    pub fn by_key(&self, key: &ServiceKey) -> Option<&Arc<MeshService>> {
        self.services.get(key.to_string().as_str())
    }

    fn add_service(&mut self, name: &str, service: Arc<MeshService>) {
        let name: Arc<str> = name.into();
        self.by_hostname.entry(Arc::clone(&service.key.hostname)).or_default().push(Arc::clone(&name));
        self.services.insert(name, service);
    }

    fn remove_service(&mut self, name: &str) {
        let Some(gone) = self.services.remove(name) else { return };
        if let Some(names) = self.by_hostname.get_mut(&gone.key.hostname) {
            names.retain(|held| held.as_ref() != name);
            if names.is_empty() {
                self.by_hostname.remove(&gone.key.hostname);
            }
        }
    }
}

/// A resource must be what it is called: removals name it by that.
fn named(given: &str, own: &str) -> Result<(), AddressError> {
    if given == own {
        return Ok(());
    }
    Err(AddressError::Name { given: given.to_owned(), own: own.to_owned() })
}

/// Texts and identities, each held once.
pub(super) struct Texts {
    held: HashSet<Arc<str>>,
    identities: HashSet<SpiffeId>,
    sweep_at: usize,
}

impl Default for Texts {
    fn default() -> Self {
        Self { held: HashSet::new(), identities: HashSet::new(), sweep_at: FIRST_SWEEP }
    }
}

impl Texts {
    /// The one copy of this text.
    pub(super) fn one(&mut self, text: &str) -> Arc<str> {
        if let Some(held) = self.held.get(text) {
            return Arc::clone(held);
        }
        let text: Arc<str> = text.into();
        self.held.insert(Arc::clone(&text));
        text
    }

    /// The one copy of this identity.
    pub(super) fn identity(&mut self, identity: SpiffeId) -> SpiffeId {
        if let Some(held) = self.identities.get(&identity) {
            return held.clone();
        }
        self.identities.insert(identity.clone());
        identity
    }

    /// Lets go of what nobody else holds. Identities are few and held by many: they are made anew where one is needed.
    fn sweep_if_many(&mut self) {
        if self.held.len() + self.identities.len() < self.sweep_at {
            return;
        }
        self.held.retain(|text| Arc::strong_count(text) > 1);
        self.identities.clear();
        self.sweep_at = FIRST_SWEEP.max(2 * self.held.len());
    }
}

#[cfg(test)]
mod tests {
    use istio_protos::istio::workload::{NetworkAddress, Service, TunnelProtocol, Workload as Wire};

    use super::*;

    fn pod(name: &str, ip: [u8; 4]) -> Address {
        let workload = Wire {
            uid: format!("Kubernetes//Pod/ns/{name}"),
            name: name.to_owned(),
            namespace: "ns".to_owned(),
            addresses: vec![ip.to_vec().into()],
            service_account: "sa".to_owned(),
            tunnel_protocol: TunnelProtocol::Hbone.into(),
            ..Wire::default()
        };
        Address { r#type: Some(address::Type::Workload(workload)) }
    }

    fn service(namespace: &str, vip: [u8; 4]) -> Address {
        let service = Service {
            name: "web".to_owned(),
            namespace: namespace.to_owned(),
            hostname: "web.example".to_owned(),
            addresses: vec![NetworkAddress {
                network: String::new(),
                address: vip.to_vec().into(),
                length: None,
            }],
            ..Service::default()
        };
        Address { r#type: Some(address::Type::Service(service)) }
    }

    #[test]
    fn an_address_that_moves_to_another_pod_names_the_new_one() {
        let mut index = Index::default();
        index.upsert("Kubernetes//Pod/ns/a", pod("a", [10, 0, 0, 1])).unwrap();
        index.upsert("Kubernetes//Pod/ns/b", pod("b", [10, 0, 0, 1])).unwrap();
        index.remove("Kubernetes//Pod/ns/a");
        let ip = "10.0.0.1".parse().unwrap();
        assert_eq!(index.at(ip).map(|found| found.name.to_string()), Some("b".to_owned()));
        index.remove("Kubernetes//Pod/ns/b");
        assert!(index.at(ip).is_none() && index.workloads().is_empty());
    }

    #[test]
    fn of_services_with_one_host_name_the_address_decides() {
        let mut index = Index::default();
        index.upsert("b/web.example", service("b", [10, 0, 0, 2])).unwrap();
        index.upsert("a/web.example", service("a", [10, 0, 0, 1])).unwrap();
        let namespace = |index: &Index, vips: &[IpAddr]| {
            index.service("web.example", vips).map(|service| service.key.namespace.to_string())
        };
        assert_eq!(namespace(&index, &["10.0.0.2".parse().unwrap()]), Some("b".to_owned()));
        assert_eq!(namespace(&index, &[]), Some("a".to_owned()));
        index.remove("a/web.example");
        assert_eq!(namespace(&index, &[]), Some("b".to_owned()));
        index.remove("b/web.example");
        assert_eq!(namespace(&index, &[]), None);
    }

    #[test]
    fn what_is_refused_leaves_what_was_there() {
        let mut index = Index::default();
        index.upsert("Kubernetes//Pod/ns/a", pod("a", [10, 0, 0, 1])).unwrap();
        let mut broken = pod("a", [10, 0, 0, 2]);
        if let Some(address::Type::Workload(workload)) = &mut broken.r#type {
            workload.addresses.push(vec![1, 2, 3].into());
        }
        let refused = index.upsert("Kubernetes//Pod/ns/a", broken);
        assert_eq!(refused, Err(AddressError::Ip { field: "addresses", length: 3 }));
        assert!(index.at("10.0.0.1".parse().unwrap()).is_some());
        let misnamed = index.upsert("Kubernetes//Pod/ns/x", pod("a", [10, 0, 0, 3]));
        assert!(matches!(misnamed, Err(AddressError::Name { .. })), "{misnamed:?}");
        assert_eq!(index.upsert("x", Address::default()), Err(AddressError::Empty));
    }

    #[test]
    fn texts_that_nobody_holds_are_swept() {
        let mut texts = Texts::default();
        let kept = texts.one("kept");
        for n in 0..FIRST_SWEEP {
            texts.one(&n.to_string());
        }
        texts.sweep_if_many();
        assert_eq!(texts.held.len(), 1);
        assert!(Arc::ptr_eq(&kept, &texts.one("kept")));
    }
}
