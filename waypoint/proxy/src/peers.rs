//! How many connections each identity has open, so that no one takes the place of all others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use spiffe_id::SpiffeId;

/// Counts by identity. Locked when a connection comes and when it goes, never across an await.
#[derive(Default)]
pub(crate) struct Peers(Arc<Mutex<HashMap<SpiffeId, usize>>>);

impl Peers {
    /// A place for one more connection of this identity; `None` where it has `most`.
    pub(crate) fn take(&self, peer: &SpiffeId, most: usize) -> Option<Place> {
        let mut open = lock(&self.0);
        let count = open.entry(peer.clone()).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { peers: Arc::clone(&self.0), peer: peer.clone() })
    }
}

/// One connection of an identity; counted until it is dropped.
pub(crate) struct Place {
    peers: Arc<Mutex<HashMap<SpiffeId, usize>>>,
    peer: SpiffeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = lock(&self.peers).entry(self.peer.clone()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
