//! Header changes, compiled: names and values that were checked once, and the operators in values (Envoy *Custom
//! request/response headers*).

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Version};
use waypoint_model::HeaderChange;

/// What the operators in a value stand for, for one request.
pub(crate) struct Facts {
    /// The caller's address.
    pub(crate) remote: SocketAddr,
    /// What the caller speaks.
    pub(crate) version: Version,
    /// When the request began.
    pub(crate) start: SystemTime,
}

/// One change, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Replaces all lines of that name.
    Set(Name, Value),
    /// Adds a line.
    Add(Name, Value),
    /// Removes all lines.
    Remove(Name),
}

/// A header, or the authority wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// `host` or `:authority`.
    Authority,
    /// Any other.
    Header(HeaderName),
}

/// The value of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// As it is.
    Plain(HeaderValue),
    /// Put together for each request.
    Format(Vec<Piece>),
}

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Literal.
    Text(String),
    /// `%DOWNSTREAM_REMOTE_ADDRESS%`: with its port.
    Remote,
    /// `%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%`.
    RemoteIp,
    /// `%PROTOCOL%`: `HTTP/1.1`.
    Protocol,
    /// `%REQ(NAME)%`, `%REQ(NAME?OTHER)%`, with `:LENGTH` for a bound.
    Request(Vec<HeaderName>, Option<usize>),
    /// `%HOSTNAME%`: of this host.
    Hostname,
    /// `%START_TIME(%s)%`: seconds since 1970.
    StartSeconds,
}

static HOSTNAME: LazyLock<String> = LazyLock::new(|| {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
});

/// Compiles changes.
///
/// # Errors
/// What is no header name or value, or an operator that is not known, by name.
pub(crate) fn compile<'a>(
    changes: impl IntoIterator<Item = &'a HeaderChange>,
) -> Result<Vec<Change>, String> {
    changes.into_iter().map(Change::compile).collect()
}

impl Change {
    fn compile(change: &HeaderChange) -> Result<Self, String> {
        let value = |value: &str| Value::compile(value).map_err(|why| format!("{change:?}: {why}"));
        Ok(match change {
            HeaderChange::Set(name, text) => Self::Set(Name::compile(name)?, value(text)?),
            HeaderChange::Add(name, text) => Self::Add(Name::compile(name)?, value(text)?),
            HeaderChange::Remove(name) => Self::Remove(Name::compile(name)?),
        })
    }

    /// The same change with a plain value, as the request is now; `None` where its value turned out empty, as in Envoy.
    ///
    /// # Errors
    /// When the outcome is no header value.
    pub(crate) fn settle(&self, facts: &Facts, request: &HeaderMap) -> Result<Option<Self>, http::Error> {
        let settled = |value: &Value| value.settle(facts, request);
        Ok(match self {
            Self::Set(name, value) => {
                settled(value)?.map(|value| Self::Set(name.clone(), Value::Plain(value)))
            }
            Self::Add(name, value) => {
                settled(value)?.map(|value| Self::Add(name.clone(), Value::Plain(value)))
            }
            Self::Remove(_) => Some(self.clone()),
        })
    }

    /// Whether nothing in it depends on a request.
    pub(crate) fn is_settled(&self) -> bool {
        !matches!(self, Self::Set(_, Value::Format(_)) | Self::Add(_, Value::Format(_)))
    }

    /// Carries out a settled change; the authority is no header of a response.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Set(Name::Header(name), Value::Plain(value)) => {
                headers.insert(name, value.clone());
            }
            Self::Add(Name::Header(name), Value::Plain(value)) => {
                headers.append(name, value.clone());
            }
            Self::Remove(Name::Header(name)) => {
                headers.remove(name);
            }
            Self::Set(..) | Self::Add(..) | Self::Remove(Name::Authority) => {}
        }
    }
}

impl Name {
    fn compile(name: &str) -> Result<Self, String> {
        if name.eq_ignore_ascii_case(HOST.as_str()) || name == ":authority" {
            return Ok(Self::Authority);
        }
        HeaderName::try_from(name).map(Self::Header).map_err(|_bad| format!("`{name}` is no header name"))
    }
}

impl Value {
    fn compile(text: &str) -> Result<Self, String> {
        let pieces = pieces(text)?;
        let plain = match pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text.as_str()),
            _several => None,
        };
        let literal = |piece: &Piece| match piece {
            Piece::Text(text) => HeaderValue::try_from(text).is_ok(),
            _operator => true,
        };
        if !pieces.iter().all(literal) {
            return Err("holds a character that no header value may hold".to_owned());
        }
        match plain.map(HeaderValue::try_from) {
            Some(Ok(value)) => Ok(Self::Plain(value)),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(Self::Format(pieces)),
        }
    }

    fn settle(&self, facts: &Facts, request: &HeaderMap) -> Result<Option<HeaderValue>, http::Error> {
        let pieces = match self {
            Self::Plain(value) => return Ok(Some(value.clone())),
            Self::Format(pieces) => pieces,
        };
        let mut bytes = Vec::new();
        for piece in pieces {
            piece.write(facts, request, &mut bytes);
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some(HeaderValue::from_bytes(&bytes)?))
    }
}

impl Piece {
    fn write(&self, facts: &Facts, request: &HeaderMap, to: &mut Vec<u8>) {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::Remote => facts.remote.to_string(),
            Self::RemoteIp => facts.remote.ip().to_canonical().to_string(),
            Self::Protocol => format!("{:?}", facts.version).replace("HTTP/2.0", "HTTP/2"),
            Self::Hostname => HOSTNAME.clone(),
            Self::StartSeconds => {
                facts.start.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().to_string()
            }
            Self::Request(names, length) => {
                let found = names.iter().find_map(|name| request.get(name));
                let bytes = found.map(HeaderValue::as_bytes).unwrap_or_default();
                to.extend_from_slice(bytes.get(..length.unwrap_or(usize::MAX)).unwrap_or(bytes));
                return;
            }
        };
        to.extend_from_slice(text.as_bytes());
    }
}

/// Reads a value: text, `%%`, and operators between percents.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut found: Vec<Piece> = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        push_text(&mut found, before);
        rest = match after.strip_prefix('%') {
            Some(after) => {
                push_text(&mut found, "%");
                after
            }
            None => {
                let (piece, after) = operator(after)?;
                found.push(piece);
                after
            }
        };
    }
    push_text(&mut found, rest);
    Ok(found)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(last)) => last.push_str(text),
        _other => pieces.push(Piece::Text(text.to_owned())),
    }
}

/// `NAME`, `NAME(argument)` or `NAME(argument):LENGTH`, up to its closing percent, and what follows.
fn operator(text: &str) -> Result<(Piece, &str), String> {
    let unclosed = || format!("`%{text}` is no operator: write %% for a percent");
    let end = text.find(['%', '(']).ok_or_else(unclosed)?;
    let (name, tail) = text.split_at_checked(end).ok_or_else(unclosed)?;
    let (argument, tail) = match tail.strip_prefix('(') {
        Some(inner) => {
            inner.split_once(')').map(|(argument, tail)| (Some(argument), tail)).ok_or_else(unclosed)?
        }
        None => (None, tail),
    };
    let (length, tail) = tail.split_once('%').ok_or_else(unclosed)?;
    let unknown = || {
        format!(
            "the operator %{}% is not known",
            text.strip_suffix(tail).unwrap_or(text).trim_end_matches('%')
        )
    };
    let length = match length.strip_prefix(':').map(str::parse::<usize>) {
        None if length.is_empty() => None,
        Some(Ok(length)) => Some(length),
        None | Some(Err(_)) => return Err(unknown()),
    };
    let piece = match (name, argument, length) {
        ("DOWNSTREAM_REMOTE_ADDRESS" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS", None, None) => Piece::Remote,
        (
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
            None,
            None,
        ) => Piece::RemoteIp,
        ("PROTOCOL", None, None) => Piece::Protocol,
        ("HOSTNAME", None, None) => Piece::Hostname,
        ("START_TIME", Some("%s"), None) => Piece::StartSeconds,
        ("REQ", Some(names), length) => {
            let header = |name| if name == ":authority" { Ok(HOST) } else { HeaderName::try_from(name) };
            let names: Result<Vec<HeaderName>, _> =
                names.to_ascii_lowercase().split('?').map(header).collect();
            Piece::Request(names.map_err(|_bad| unknown())?, length)
        }
        _other => return Err(unknown()),
    };
    Ok((piece, tail))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settled(value: &str) -> Result<Option<String>, String> {
        let facts = Facts {
            remote: "[::ffff:10.0.0.7]:4242".parse().unwrap(),
            version: Version::HTTP_11,
            start: UNIX_EPOCH + Duration::from_millis(1_700_000_000_999),
        };
        let mut request = HeaderMap::new();
        request.insert("x-user", HeaderValue::from_static("alice"));
        let value = Value::compile(value)?.settle(&facts, &request).map_err(|error| error.to_string())?;
        Ok(value.map(|value| value.to_str().unwrap().to_owned()))
    }

    #[test]
    fn operators_stand_for_what_envoys_do() {
        let rows = [
            ("plain", Some("plain")),
            ("100%%", Some("100%")),
            ("%%REQ(x-user)%%", Some("%REQ(x-user)%")),
            ("", Some("")),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", Some("10.0.0.7")),
            ("a-%REQ(X-User)%-b", Some("a-alice-b")),
            ("%REQ(x-none?x-user)%", Some("alice")),
            ("%REQ(x-user):2%", Some("al")),
            ("%REQ(x-none)%", None),
            ("[%REQ(x-none)%]", Some("[]")),
            ("%PROTOCOL%", Some("HTTP/1.1")),
            ("t=%START_TIME(%s)%.", Some("t=1700000000.")),
        ];
        for (value, want) in rows {
            assert_eq!(settled(value), Ok(want.map(str::to_owned)), "{value}");
        }
        assert!(!settled("%HOSTNAME%").unwrap().unwrap().is_empty());
    }

    #[test]
    fn an_unknown_operator_is_named() {
        let rows = [
            ("%UPSTREAM_HOST%", "%UPSTREAM_HOST%"),
            ("%START_TIME%", "%START_TIME%"),
            ("%REQ(a b)%", "%REQ(a b)%"),
            ("%REQ(a):x%", "%REQ(a):x%"),
            ("50%", "%%"),
            ("%PROTOCOL", "%PROTOCOL"),
            ("%REQ(a%", "%REQ(a%"),
        ];
        for (value, named) in rows {
            let error = settled(value).unwrap_err();
            assert!(error.contains(named), "{value}: {error}");
        }
        assert!(settled("a\r\nb: c").is_err() && settled("%PROTOCOL%\n").is_err());
    }
}
