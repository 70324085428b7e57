//! Server-sent events, read as they come.

use super::find;
use crate::wait;
use anyhow::Result;
use bytes::BytesMut;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// One server-sent event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its name; empty when it has none.
    pub name: String,
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its data, lines joined.
    pub data: String,
    /// Comment lines in it, without the colon.
    pub comments: Vec<String>,
}

/// Reads server-sent events from an answer as they come.
pub struct Events {
    body: Incoming,
    unread: BytesMut,
}

impl Events {
    /// Reads the body of `response`.
    #[must_use]
    pub fn of(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), unread: BytesMut::new() }
    }

    /// The next block between empty lines, or nothing at a clean end. An error when the stream broke.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        wait::within("an event", self.next_unbounded()).await?
    }

    async fn next_unbounded(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(end) = find(&self.unread, b"\n\n") {
                let block = self.unread.split_to(end + 2);
                return Ok(Some(event(&String::from_utf8_lossy(&block))));
            }
            match self.body.frame().await {
                Some(frame) => self.unread.extend_from_slice(&frame?.into_data().unwrap_or_default()),
                None => return Ok(None),
            }
        }
    }
}

/// The fixtures of the tests end their lines with LF or CRLF.
fn event(block: &str) -> Event {
    let mut event = Event::default();
    let mut data = Vec::new();
    for line in block.lines() {
        match line.split_once(':').map(|(field, value)| (field, value.strip_prefix(' ').unwrap_or(value))) {
            Some(("", comment)) => event.comments.push(comment.to_owned()),
            Some(("event", name)) => name.clone_into(&mut event.name),
            Some(("id", id)) => event.id = Some(id.to_owned()),
            Some(("data", line)) => data.push(line.to_owned()),
            _ => {}
        }
    }
    event.data = data.join("\n");
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_name_id_data_and_comments() {
        let read = event(": ka\nevent: message\nid: 7\ndata: a\ndata:b\n\n");
        let want = Event {
            name: "message".into(),
            id: Some("7".into()),
            data: "a\nb".into(),
            comments: vec!["ka".into()],
        };
        assert_eq!(read, want);
    }
}
