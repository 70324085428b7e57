//! All workloads, by id and by address.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::{Workload, WorkloadUid};

/// Workloads by id and by address. A clone costs nothing and shares everything; a change of one costs the path to it
/// (persistent hash tries), whatever their number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workloads {
    by_uid: imbl::HashMap<WorkloadUid, Arc<Workload>>,
    by_address: imbl::HashMap<IpAddr, Arc<Workload>>,
}

impl Workloads {
    /// The workload with this id.
    #[must_use]
    pub fn get(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.by_uid.get(uid)
    }

    /// The workload at this address; of several (pods on the host's network) the one that came last.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address.get(&address.to_canonical())
    }

    /// Adds one, in place of the one with its id.
    pub fn insert(&mut self, uid: WorkloadUid, workload: Arc<Workload>) {
        self.remove(&uid);
        for address in &workload.addresses {
            self.by_address.insert(address.to_canonical(), Arc::clone(&workload));
        }
        self.by_uid.insert(uid, workload);
    }

    /// Takes one out.
    pub fn remove(&mut self, uid: &WorkloadUid) -> Option<Arc<Workload>> {
        let gone = self.by_uid.remove(uid)?;
        for address in gone.addresses.iter().map(IpAddr::to_canonical) {
            if self.by_address.get(&address).is_some_and(|held| held.uid == gone.uid) {
                self.by_address.remove(&address);
            }
        }
        Some(gone)
    }

    /// All, in no order.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.by_uid.values()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_uid.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_uid.is_empty()
    }
}

impl FromIterator<(WorkloadUid, Arc<Workload>)> for Workloads {
    fn from_iter<I: IntoIterator<Item = (WorkloadUid, Arc<Workload>)>>(entries: I) -> Self {
        let mut workloads = Self::default();
        for (uid, workload) in entries {
            workloads.insert(uid, workload);
        }
        workloads
    }
}

/// By id, in order, so that dumps are stable.
impl Serialize for Workloads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ordered: std::collections::BTreeMap<_, _> = self.by_uid.iter().collect();
        ordered.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Locality, TunnelKind};

    fn workload(uid: &str, addresses: &[&str]) -> (WorkloadUid, Arc<Workload>) {
        let uid = WorkloadUid(uid.into());
        let workload = Workload {
            uid: uid.clone(),
            name: "x".into(),
            namespace: "ns".into(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            identity: None,
            tunnel: TunnelKind::Plain,
            locality: Locality::default(),
            workload_name: "x".into(),
            canonical_name: "x".into(),
            canonical_revision: "latest".into(),
            app: None,
            version: None,
            cluster: "Kubernetes".into(),
        };
        (uid, Arc::new(workload))
    }

    #[test]
    fn an_address_that_moved_on_is_not_taken_from_its_new_owner() {
        let ip: IpAddr = "10.0.0.1".parse().unwrap();
        let (first, second) = (workload("a", &["10.0.0.1"]), workload("b", &["::ffff:10.0.0.1"]));
        let mut all: Workloads = [first.clone()].into_iter().collect();
        let before = all.clone();
        all.insert(second.0.clone(), second.1);
        assert!(all.remove(&first.0).is_some());
        assert_eq!(all.at(ip).map(|found| found.uid.clone()), Some(second.0.clone()));
        assert_eq!(before.at(ip).map(|found| found.uid.clone()), Some(first.0), "a clone does not change");
        all.remove(&second.0);
        assert!(all.is_empty() && all.at(ip).is_none());
    }

    #[test]
    fn one_that_got_another_address_left_the_old_one() {
        let mut all = Workloads::default();
        for address in ["10.0.0.1", "10.0.0.2"] {
            let (uid, workload) = workload("a", &[address]);
            all.insert(uid, workload);
        }
        assert!(all.at("10.0.0.1".parse().unwrap()).is_none());
        assert_eq!((all.len(), all.at("10.0.0.2".parse().unwrap()).is_some()), (1, true));
    }
}
