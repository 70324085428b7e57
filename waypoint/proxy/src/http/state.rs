//! `requestState` (2026-07-28) comes back only from whom it was given to, and only with the same request: sealed on its way down,
//! opened on its way up, at any replica.

use agent_protocols::Malformed;
use agent_protocols::mcp::{self as protocol, Exchange, Message};
use bytes::Bytes;

use super::http_sse::Home;
use crate::sessions::{Holder, Purpose, Sessions};

/// Requests that a server may answer with a state (*Multi Round-Trip Requests*).
const STATEFUL: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// What a state is given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Called {
    method: String,
    name: String,
}

impl Called {
    /// `None`: no state is given for it.
    pub(crate) fn of(exchange: &Exchange<'_>) -> Option<Self> {
        let message = exchange.messages.first().filter(|_| exchange.is_modern())?;
        let method = message.method.as_deref().filter(|method| STATEFUL.contains(method))?;
        Some(Self { method: method.to_owned(), name: message.name().unwrap_or_default().to_owned() })
    }

    fn purpose(&self) -> Purpose<'_> {
        Purpose::State { method: &self.method, name: &self.name }
    }
}

/// The body with the server's own state in the place of the one that its client was given; `None` where it hands none back.
///
/// # Errors
/// [`Malformed`] for a state of somebody else's, of another request, forged or aged: as servers answer what they did not make.
pub(crate) fn open(
    sessions: &Sessions,
    holder: &Holder,
    exchange: &Exchange<'_>,
    body: &[u8],
) -> Result<Option<Bytes>, Malformed> {
    let message = exchange.messages.first().filter(|_| exchange.is_modern());
    let Some((message, state)) = message.and_then(|message| Some((message, message.state.as_ref()?))) else {
        return Ok(None);
    };
    let not_found = || protocol::state_not_found(Message::id(message));
    let called = Called::of(exchange).ok_or_else(not_found)?;
    let opened = sessions.unseal(called.purpose(), holder, &state.text).ok_or_else(not_found)?;
    Ok(Some(state.replaced(body, &opened.id)))
}

/// A server's state as its client is to see it.
pub(crate) fn seal(sessions: &Sessions, home: &Home, called: &Called, state: &str) -> Option<String> {
    sessions.seal(called.purpose(), &home.holder, state, &home.endpoint)
}
