//! What judges are asked.

use super::messages::Message;
use super::policies::About;
use super::requests::{self, Asked};
use super::streams::{self, Opened};
use proptest::prelude::*;

/// A request, or a connection.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    Request(Asked),
    Stream(Opened),
}

/// A question to a Service.
pub(crate) fn question(about: About) -> BoxedStrategy<Question> {
    match about {
        About::Http => requests::plain().prop_map(Question::Request).boxed(),
        About::Mcp => requests::mcp().prop_map(Question::Request).boxed(),
        About::Opaque => streams::stream().prop_map(Question::Stream).boxed(),
    }
}

impl Question {
    /// The index of who asks, and the port.
    pub(crate) fn way(&self) -> (usize, u16) {
        match self {
            Self::Request(asked) => (asked.client, asked.port),
            Self::Stream(opened) => (opened.client, opened.port),
        }
    }

    /// The message of MCP in it.
    pub(crate) fn message(&self) -> Option<&Message> {
        match self {
            Self::Request(asked) => asked.message.as_ref(),
            Self::Stream(_) => None,
        }
    }
}
