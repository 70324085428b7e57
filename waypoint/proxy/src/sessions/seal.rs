//! Texts that only the waypoint can make and read, for one holder: nothing is stored, and any replica opens them.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Holder;

/// Longest text that is looked at, in bytes. Only a server's state may be as long.
const MAX_SEALED: usize = 1 << 20;

/// What a sealed text is for. One sort never opens as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    /// The id of a session: `Mcp-Session-Id`, or in the query of the transport of 2024-11-05.
    Session,
    /// A refusal on its way through a server to the stream of its session.
    Refusal,
    /// `requestState` (2026-07-28) of a request of this method, about this name.
    State {
        /// `tools/call` and its like.
        method: &'a str,
        /// The tool, the prompt or the resource.
        name: &'a str,
    },
}

impl Purpose<'_> {
    /// Additional data: what is sealed opens only for the same purpose, service, identity and user. No name holds a NUL, so
    /// the parts cannot be
    /// shifted; what a client chooses stands last.
    fn bound_to(self, holder: &Holder) -> Vec<u8> {
        let word = match self {
            Self::Session => "session",
            Self::Refusal => "refusal",
            Self::State { .. } => "state",
        };
        let principal = holder.principal.as_ref().map_or("", spiffe_id::SpiffeId::as_str);
        let mut bound = format!("portcullis {word}\0{}\0{principal}", holder.service);
        if let Some(user) = &holder.user {
            bound.push_str(&format!("\0{}\0{}", user.issuer.len(), user.issuer));
            bound.push_str(&format!("\0{}\0{}", user.subject.len(), user.subject));
        }
        if let Self::State { method, name } = self {
            bound.push_str(&format!("\0\0{}\0{method}\0{name}", method.len()));
        }
        bound.into_bytes()
    }
}

/// Seals with the first key, opens with any.
pub(crate) struct Sealer(Vec<RandomizedNonceKey>);

impl Sealer {
    /// With these keys; with one of this process where there is none, so that what it sealed ends with it.
    pub(super) fn new(keys: &[[u8; 32]]) -> Self {
        let mut own = [0; 32];
        // Without randomness there is no key, and then nothing is sealed or opened.
        let own = rand::fill(&mut own).ok().map(|()| own);
        let keys = if keys.is_empty() { own.as_slice() } else { keys };
        Self(keys.iter().filter_map(key).collect())
    }

    /// Each time another text.
    pub(super) fn seal(&self, purpose: Purpose<'_>, holder: &Holder, plain: &[u8]) -> Option<String> {
        let (bound, mut sealed) = (purpose.bound_to(holder), plain.to_vec());
        let nonce = self.0.first()?.seal_in_place_append_tag(Aad::from(bound), &mut sealed).ok()?;
        Some(text(nonce.as_ref(), &sealed))
    }

    /// What [`Sealer::seal`] sealed for the same purpose and holder.
    pub(super) fn open(&self, purpose: Purpose<'_>, holder: &Holder, sealed: &[u8]) -> Option<Vec<u8>> {
        if sealed.len() > MAX_SEALED {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let bound = purpose.bound_to(holder);
        self.0.iter().find_map(|key| {
            let (nonce, mut buffer) = (Nonce::try_assume_unique_for_key(nonce).ok()?, sealed.to_vec());
            key.open_in_place(nonce, Aad::from(&bound), &mut buffer).ok().map(|plain| plain.to_vec())
        })
    }
}

fn key(secret: &[u8; 32]) -> Option<RandomizedNonceKey> {
    RandomizedNonceKey::new(&AES_256_GCM, secret).ok()
}

fn text(nonce: &[u8], sealed: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([nonce, sealed].concat())
}
