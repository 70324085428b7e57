//! MCP sessions belong to the identity that opened them and stick to the endpoint that keeps them.
//!
//! With sealing keys a client never sees the server's own id: it sees an AEAD-sealed one that any replica can open, so
//! nothing is stored. Without keys a bounded table of this process remembers who opened what. Other handles (sessions in a query, states of requests, refusals under way) are always sealed, without keys under one of this process.

mod seal;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use spiffe_id::SpiffeId;
use waypoint_model::{ServiceKey, WorkloadUid};

use crate::limits::Limits;
use crate::telemetry::Hits;
pub(crate) use seal::Purpose;
use seal::Sealer;

/// First byte of what is sealed; another layout is another version.
const VERSION: u8 = 1;

/// Longest session id that is remembered or sealed, in bytes. Real ones are UUIDs.
const MAX_ID: usize = 1024;

/// Whose session it may be: the same id on another service, or from another identity or user, is another session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    pub(crate) service: ServiceKey,
    pub(crate) principal: Option<SpiffeId>,
    /// `None`: the request bears no verified token.
    pub(crate) user: Option<User>,
}

/// The user that a verified token names (`iss` and `sub`, RFC 7519 §4.1). Never the token itself, which is renewed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub(crate) issuer: String,
    pub(crate) subject: String,
}

/// A session that is remembered.
#[derive(PartialEq, Eq, Hash)]
struct Known {
    holder: Holder,
    id: Box<[u8]>,
}

impl Known {
    fn new(holder: Holder, id: &HeaderValue) -> Self {
        Self { holder, id: id.as_bytes().into() }
    }
}

/// An opened session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    /// The id that the server knows.
    pub(crate) upstream_id: HeaderValue,
    /// The endpoint that keeps it.
    pub(crate) endpoint: WorkloadUid,
}

/// A handle that was opened: what the server knows it by, and where that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) id: String,
    pub(crate) endpoint: WorkloadUid,
}

/// Binds and opens session ids, and other handles of servers.
pub(crate) struct Sessions {
    /// Remembered by this process; `None`: sealed under keys that all replicas share.
    table: Option<Cache<Known, WorkloadUid>>,
    sealer: Sealer,
    max_age: Duration,
    hits: Hits,
}

impl Sessions {
    /// Sealed where there are keys, else a table of `limits.sessions` entries.
    pub(crate) fn new(keys: &[[u8; 32]], limits: &Limits, hits: Hits) -> Self {
        let table = keys.is_empty().then(|| table(limits, hits.clone()));
        Self { table, sealer: Sealer::new(keys), max_age: limits.session_age, hits }
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
        match &self.table {
            Some(table) => {
                table.insert(Known::new(holder, id), endpoint.clone());
                Some(id.clone())
            }
            None => {
                let sealed = self.seal(Purpose::Session, &holder, id.to_str().ok()?, endpoint)?;
                HeaderValue::try_from(sealed).ok()
            }
        }
    }

    /// The session behind an id that `holder` presents; `None` as if it did not exist: foreign, forged, forgotten.
    pub(crate) fn open(&self, holder: Holder, id: &HeaderValue) -> Option<Session> {
        match &self.table {
            Some(table) => {
                let endpoint = table.get(&Known::new(holder, id))?;
                Some(Session { upstream_id: id.clone(), endpoint })
            }
            None => {
                let opened = self.unseal(Purpose::Session, &holder, id.to_str().ok()?)?;
                let upstream_id = HeaderValue::try_from(opened.id).ok()?;
                Some(Session { upstream_id, endpoint: opened.endpoint })
            }
        }
    }

    /// The server said that the session ended.
    pub(crate) fn forget(&self, holder: Holder, id: &HeaderValue) {
        if let Some(table) = &self.table {
            table.invalidate(&Known::new(holder, id));
        }
    }

    /// Sessions remembered.
    pub(crate) fn count(&self) -> usize {
        let count = self.table.as_ref().map_or(0, Cache::entry_count);
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// A handle of the server's at `endpoint` as its client is to see it, with the time of now in it. `None`: it is too long.
    pub(crate) fn seal(
        &self,
        purpose: Purpose<'_>,
        holder: &Holder,
        id: &str,
        endpoint: &WorkloadUid,
    ) -> Option<String> {
        self.sealer.seal(purpose, holder, &dated(id, endpoint, now())?)
    }

    /// The handle behind what `holder` presents; `None` as if it did not exist: foreign, forged, or older than `session_age`.
    pub(crate) fn unseal(&self, purpose: Purpose<'_>, holder: &Holder, sealed: &str) -> Option<Opened> {
        let plain = self.sealer.open(purpose, holder, sealed.as_bytes())?;
        let (at, opened) = parse(&plain)?;
        let fresh = now().checked_sub(at).unwrap_or_default() <= self.max_age;
        if !fresh {
            self.hits.reached("session_age");
        }
        fresh.then_some(opened)
    }
}

fn table(limits: &Limits, hits: Hits) -> Cache<Known, WorkloadUid> {
    Cache::builder()
        .max_capacity(limits.sessions as u64)
        .time_to_idle(limits.session_idle)
        .eviction_policy(EvictionPolicy::lru())
        .eviction_listener(move |_, _, cause| match cause {
            RemovalCause::Size => hits.reached("sessions"),
            RemovalCause::Expired => hits.reached("session_idle"),
            RemovalCause::Explicit | RemovalCause::Replaced => {}
        })
        .build()
}

/// Version, time in seconds, length of the endpoint's name, endpoint, id.
fn dated(id: &str, endpoint: &WorkloadUid, at: Duration) -> Option<Vec<u8>> {
    let endpoint = endpoint.0.as_bytes();
    let mut plain = vec![VERSION];
    plain.extend_from_slice(&at.as_secs().to_be_bytes());
    plain.extend_from_slice(&u16::try_from(endpoint.len()).ok()?.to_be_bytes());
    plain.extend_from_slice(endpoint);
    plain.extend_from_slice(id.as_bytes());
    Some(plain)
}

fn parse(plain: &[u8]) -> Option<(Duration, Opened)> {
    let rest = plain.strip_prefix(&[VERSION])?;
    let (at, rest) = rest.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (endpoint, id) = rest.split_at_checked(u16::from_be_bytes(*len).into())?;
    let endpoint = WorkloadUid(std::str::from_utf8(endpoint).ok()?.into());
    let id = std::str::from_utf8(id).ok()?.to_owned();
    Some((Duration::from_secs(u64::from_be_bytes(*at)), Opened { id, endpoint }))
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(service: &str, principal: &str) -> Holder {
        let principal = Some(SpiffeId::parse(principal).unwrap());
        Holder { service: ServiceKey::new("tools", service), principal, user: None }
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

    /// Somebody who may use what another must not.
    fn strangers(holder: &Holder) -> [Holder; 5] {
        let user = |issuer: &str, subject: &str| {
            Some(User { issuer: issuer.to_owned(), subject: subject.to_owned() })
        };
        [
            Holder { service: ServiceKey::new("tools", "y"), ..holder.clone() },
            Holder { principal: None, ..holder.clone() },
            Holder { user: None, ..holder.clone() },
            Holder { user: user("i", "other"), ..holder.clone() },
            Holder { user: user("i\0", "s"), ..holder.clone() },
        ]
    }

    #[test]
    fn a_handle_opens_only_for_its_holder_and_purpose() {
        let user = Some(User { issuer: "i".to_owned(), subject: "s".to_owned() });
        let owner = Holder { user, ..holder("x", "spiffe://td/ns/a/sa/a") };
        let endpoint = WorkloadUid("e".into());
        let state = |method, name| Purpose::State { method, name };
        for sessions in kinds() {
            for (purpose, other) in [
                (Purpose::Session, Purpose::Refusal),
                (Purpose::Refusal, Purpose::Session),
                (state("tools/call", "a"), state("tools/call", "b")),
                (state("tools/call", "a"), state("prompts/get", "a")),
            ] {
                let seen = sessions.seal(purpose, &owner, "id", &endpoint).unwrap();
                let opened = Opened { id: "id".to_owned(), endpoint: endpoint.clone() };
                assert_eq!(sessions.unseal(purpose, &owner, &seen), Some(opened));
                assert_eq!(sessions.unseal(other, &owner, &seen), None, "{purpose:?}");
                for stranger in strangers(&owner) {
                    assert_eq!(sessions.unseal(purpose, &stranger, &seen), None, "{stranger:?}");
                }
            }
        }
    }

    #[test]
    fn an_old_sealed_id_is_as_if_it_did_not_exist() {
        let sessions = Sessions::new(&[[3; 32]], &Limits::default(), Hits::default());
        let owner = holder("x", "spiffe://td/ns/a/sa/a");
        let aged = |age: Duration| {
            let plain = dated("s", &WorkloadUid("e".into()), now() - age).unwrap();
            sessions.sealer.seal(Purpose::Session, &owner, &plain).unwrap()
        };
        let max = Limits::default().session_age;
        let opened = |age| sessions.unseal(Purpose::Session, &owner, &aged(age));
        assert!(opened(max - Duration::from_secs(60)).is_some());
        assert!(opened(max + Duration::from_secs(60)).is_none());
    }
}
