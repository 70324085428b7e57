//! How many connections each identity has open, and how many event streams to each service, so that no one takes the place of all
//! others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spiffe_id::SpiffeId;

type Counts<K> = Arc<Mutex<HashMap<K, usize>>>;

/// Counts by who holds them. Locked when one comes and when it goes, never across an await.
pub(crate) struct Peers<K = SpiffeId>(Counts<K>);

impl<K> Default for Peers<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Peers<K> {
    /// A place for one more of this holder; `None` where it has `most`.
    pub(crate) fn take(&self, holder: &K, most: usize) -> Option<Place<K>> {
        let mut open = lock(&self.0);
        let count = open.entry(holder.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { peers: Arc::clone(&self.0), holder: holder.clone() })
    }
}

/// One of a holder's; counted until it is dropped.
pub(crate) struct Place<K: Eq + Hash = SpiffeId> {
    peers: Counts<K>,
    holder: K,
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut open = lock(&self.peers);
        if let Some(count) = open.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.holder);
            }
        }
    }
}

fn lock<K>(mutex: &Mutex<HashMap<K, usize>>) -> MutexGuard<'_, HashMap<K, usize>> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_has_places_of_its_own_and_they_come_back() {
        let peers = Peers::default();
        let [a, b] = ["a", "b"].map(|name| SpiffeId::parse(&format!("spiffe://td/ns/x/sa/{name}")).unwrap());
        let held = [peers.take(&a, 2), peers.take(&a, 2)];
        assert!(held.iter().all(Option::is_some) && peers.take(&a, 2).is_none());
        assert!(peers.take(&b, 2).is_some());
        drop(held);
        assert!(peers.take(&a, 2).is_some());
        assert!(lock(&peers.0).is_empty(), "nobody is remembered who has nothing open");
    }
}
