//! How judges answer.

use anyhow::Result;
use portcullis_tests::http::Reply;
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{Refused, TunnelStream};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    /// The token was not good.
    Unauthenticated,
    /// Neither a verdict nor an answer of the application.
    Other(u16),
}

/// A verdict, and of a list that was asked for the names that stayed in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    pub(crate) shown: Vec<String>,
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, shown: Vec::new() }
    }
}

/// Answers to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answers {
    pub(crate) istiod: Answer,
    pub(crate) manifests: Answer,
    pub(crate) envoy: Answer,
}

impl Answers {
    pub(crate) fn agree(&self) -> bool {
        self.istiod == self.manifests && self.istiod == self.envoy
    }

    /// istiod's form, the manifests, Envoy.
    pub(crate) fn verdicts(&self) -> [Verdict; 3] {
        [self.istiod.verdict, self.manifests.verdict, self.envoy.verdict]
    }
}

/// What an answer to a request says.
pub(crate) fn of_reply(reply: &Reply) -> Answer {
    let body = reply.json().unwrap_or_default();
    let verdict = match reply.status.as_u16() {
        // The protocol words a refused call as an error in an answer.
        200 if body.get("error").is_some() => Verdict::Denied,
        200 => Verdict::Allowed,
        401 => Verdict::Unauthenticated,
        403 => Verdict::Denied,
        other => Verdict::Other(other),
    };
    Answer { verdict, shown: names(&body) }
}

/// The names of a list answer's entries.
fn names(body: &Value) -> Vec<String> {
    let lists = ["tools", "prompts"].iter().filter_map(|list| body.get("result")?.get(list)?.as_array());
    let names = lists.flatten().filter_map(|entry| entry.get("name")?.as_str());
    names.map(str::to_owned).collect()
}

/// What becomes of a stream that begins with `bytes`, before an application that sends back what it reads. A refusal is a
/// status, or a reset where the bytes had to be seen first.
pub(crate) async fn of_stream(opened: Result<TunnelStream>, bytes: &[u8]) -> Result<Answer> {
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(error) => {
            let refused = error.downcast::<Refused>()?;
            let denied = refused.status == http::StatusCode::UNAUTHORIZED;
            return Ok(if denied { Verdict::Denied } else { Verdict::Other(refused.status.as_u16()) }.into());
        }
    };
    let mut first = [0];
    let told = async {
        stream.write_all(bytes).await?;
        stream.read_exact(&mut first).await
    };
    Ok(match wait::within("the first byte of a stream", told).await? {
        Ok(_) => Verdict::Allowed,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Verdict::Denied,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Verdict::Denied,
        Err(error) => return Err(error.into()),
    }
    .into())
}
