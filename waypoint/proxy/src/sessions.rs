//! MCP sessions belong to the identity that opened them and stick to the endpoint that keeps them.
//!
//! With sealing keys a client never sees the server's own id: it sees an AEAD-sealed one that any replica can open, so
//! nothing is stored. Without keys a bounded table of this process remembers who opened what.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use spiffe_id::SpiffeId;
use waypoint_model::{ServiceKey, WorkloadUid};

use crate::limits::Limits;
use crate::telemetry::Hits;

/// First byte of a sealed id's plaintext; another layout is another version.
const VERSION: u8 = 1;

/// Longest session id that is remembered or sealed, in bytes. Real ones are UUIDs.
const MAX_ID: usize = 1024;

/// Whose session it may be: the same id on another service, or from another identity, is another session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    pub(crate) service: ServiceKey,
    pub(crate) principal: Option<SpiffeId>,
}

/// An opened session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// The id that the server knows.
    pub(crate) upstream_id: HeaderValue,
    /// The endpoint that keeps it.
    pub(crate) endpoint: WorkloadUid,
}

/// Binds and opens session ids.
pub(crate) enum Sessions {
    /// Remembered by this process.
    Table(Cache<(Holder, Box<[u8]>), WorkloadUid>),
    /// Sealed under keys that all replicas share.
    Sealed(Sealer),
}

impl Sessions {
    /// Sealed where there are keys, else a table of `limits.sessions` entries.
    pub(crate) fn new(keys: &[[u8; 32]], limits: &Limits, hits: Hits) -> Self {
        if keys.is_empty() {
            let table = Cache::builder()
                .max_capacity(limits.sessions as u64)
                .time_to_idle(limits.session_idle)
                .eviction_policy(EvictionPolicy::lru())
                .eviction_listener(move |_, _, cause| match cause {
                    RemovalCause::Size => hits.reached("sessions"),
                    RemovalCause::Expired => hits.reached("session_idle"),
                    RemovalCause::Explicit | RemovalCause::Replaced => {}
                });
            Self::Table(table.build())
        } else {
            let keys = keys.iter().filter_map(aead).collect();
            Self::Sealed(Sealer { keys, max_age: limits.session_age, hits })
        }
    }

    /// Records that `holder` opened the session `id` at `endpoint`; answers the id that the client is to see.
    /// `None`: an id that cannot be kept (too long), so its client must not get it.
    pub(crate) fn bind(
        &self,
        holder: Holder,
        id: &HeaderValue,
        endpoint: &WorkloadUid,
    ) -> Option<HeaderValue> {
        if id.len() > MAX_ID {
            return None;
        }
        match self {
            Self::Table(table) => {
                table.insert((holder, id.as_bytes().into()), endpoint.clone());
                Some(id.clone())
            }
            Self::Sealed(sealer) => sealer.seal(&holder, id, endpoint, now()),
        }
    }

    /// The session behind an id that `holder` presents; `None` as if it did not exist: foreign, forged, forgotten.
    pub(crate) fn open(&self, holder: Holder, id: &HeaderValue) -> Option<Session> {
        match self {
            Self::Table(table) => {
                let endpoint = table.get(&(holder, Box::from(id.as_bytes())))?;
                Some(Session { upstream_id: id.clone(), endpoint })
            }
            Self::Sealed(sealer) => sealer.open(&holder, id, now()),
        }
    }

    /// The server said that the session ended.
    pub(crate) fn forget(&self, holder: Holder, id: &HeaderValue) {
        if let Self::Table(table) = self {
            table.invalidate(&(holder, Box::from(id.as_bytes())));
        }
    }

    /// Sessions remembered.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Table(table) => usize::try_from(table.entry_count()).unwrap_or(usize::MAX),
            Self::Sealed(_) => 0,
        }
    }
}

/// Seals with the first key, opens with any.
pub(crate) struct Sealer {
    keys: Vec<Arc<RandomizedNonceKey>>,
    max_age: Duration,
    hits: Hits,
}

impl Sealer {
    fn seal(
        &self,
        holder: &Holder,
        id: &HeaderValue,
        endpoint: &WorkloadUid,
        now: Duration,
    ) -> Option<HeaderValue> {
        let endpoint = endpoint.0.as_bytes();
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&now.as_secs().to_be_bytes());
        sealed.extend_from_slice(&u16::try_from(endpoint.len()).ok()?.to_be_bytes());
        sealed.extend_from_slice(endpoint);
        sealed.extend_from_slice(id.as_bytes());
        let nonce =
            self.keys.first()?.seal_in_place_append_tag(Aad::from(bound_to(holder)), &mut sealed).ok()?;
        let mut out = nonce.as_ref().to_vec();
        out.append(&mut sealed);
        HeaderValue::try_from(URL_SAFE_NO_PAD.encode(out)).ok()
    }

    fn open(&self, holder: &Holder, id: &HeaderValue, now: Duration) -> Option<Session> {
        if id.len() > 4 * MAX_ID {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(id.as_bytes()).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let bound = bound_to(holder);
        let plain = self.keys.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut buffer = sealed.to_vec();
            key.open_in_place(nonce, Aad::from(&bound), &mut buffer).ok().map(|plain| plain.to_vec())
        })?;
        self.parse(&plain, now)
    }

    fn parse(&self, plain: &[u8], now: Duration) -> Option<Session> {
        let rest = plain.strip_prefix(&[VERSION])?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (endpoint, id) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
        let age = now.checked_sub(Duration::from_secs(u64::from_be_bytes(*at))).unwrap_or_default();
        let endpoint = WorkloadUid(std::str::from_utf8(endpoint).ok()?.into());
        let fresh = age <= self.max_age;
        if !fresh {
            self.hits.reached("session_age");
        }
        fresh.then_some(Session { upstream_id: HeaderValue::from_bytes(id).ok()?, endpoint })
    }
}

fn aead(key: &[u8; 32]) -> Option<Arc<RandomizedNonceKey>> {
    RandomizedNonceKey::new(&AES_256_GCM, key).ok().map(Arc::new)
}

/// Additional data: a sealed id opens only for the same service and identity. No name holds a NUL, so the parts cannot be shifted.
fn bound_to(holder: &Holder) -> Vec<u8> {
    let principal = holder.principal.as_ref().map_or("", SpiffeId::as_str);
    format!("portcullis session\0{}\0{principal}", holder.service).into_bytes()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(service: &str, principal: &str) -> Holder {
        let principal = Some(SpiffeId::parse(principal).unwrap());
        Holder { service: ServiceKey::new("tools", service), principal }
    }

    fn kinds() -> [Sessions; 2] {
        [
            Sessions::new(&[], &Limits::default(), Hits::default()),
            Sessions::new(&[[7; 32]], &Limits::default(), Hits::default()),
        ]
    }

    #[test]
    fn a_session_opens_only_for_its_identity_and_service() {
        let (a, b) = (holder("x", "spiffe://td/ns/a/sa/a"), holder("x", "spiffe://td/ns/a/sa/b"));
        let elsewhere = holder("y", "spiffe://td/ns/a/sa/a");
        let endpoint = WorkloadUid("c//Pod/tools/x-1".into());
        for sessions in kinds() {
            let seen = sessions.bind(a.clone(), &HeaderValue::from_static("id-1"), &endpoint).unwrap();
            let opened = sessions.open(a.clone(), &seen).unwrap();
            assert_eq!(
                opened,
                Session { upstream_id: HeaderValue::from_static("id-1"), endpoint: endpoint.clone() }
            );
            assert_eq!(sessions.open(b.clone(), &seen), None);
            assert_eq!(sessions.open(elsewhere.clone(), &seen), None);
            assert_eq!(sessions.open(a.clone(), &HeaderValue::from_static("guess")), None);
        }
    }

    #[test]
    fn a_sealed_id_hides_the_servers_and_survives_a_key_rotation() {
        let (old, new) = ([1; 32], [2; 32]);
        let (a, id) = (holder("x", "spiffe://td/ns/a/sa/a"), HeaderValue::from_static("server-id"));
        let endpoint = WorkloadUid("e".into());
        let seen = Sessions::new(&[old], &Limits::default(), Hits::default())
            .bind(a.clone(), &id, &endpoint)
            .unwrap();
        assert!(!seen.to_str().unwrap().contains("server-id"));
        assert!(
            Sessions::new(&[new, old], &Limits::default(), Hits::default()).open(a.clone(), &seen).is_some()
        );
        assert!(Sessions::new(&[new], &Limits::default(), Hits::default()).open(a.clone(), &seen).is_none());
        let mut forged = seen.as_bytes().to_vec();
        let last = forged.last_mut().unwrap();
        *last = if *last == b'A' { b'B' } else { b'A' };
        let forged = HeaderValue::from_bytes(&forged).unwrap();
        assert!(Sessions::new(&[old], &Limits::default(), Hits::default()).open(a, &forged).is_none());
    }

    #[test]
    fn an_old_sealed_id_is_as_if_it_did_not_exist() {
        let sealer = Sealer {
            keys: vec![aead(&[3; 32]).unwrap()],
            max_age: Duration::from_secs(60),
            hits: Hits::default(),
        };
        let (a, id) = (holder("x", "spiffe://td/ns/a/sa/a"), HeaderValue::from_static("s"));
        let seen = sealer.seal(&a, &id, &WorkloadUid("e".into()), Duration::from_secs(1000)).unwrap();
        assert!(sealer.open(&a, &seen, Duration::from_secs(1060)).is_some());
        assert!(sealer.open(&a, &seen, Duration::from_secs(1061)).is_none());
    }
}
