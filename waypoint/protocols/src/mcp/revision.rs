//! Which revision a request is in (per POST), and the two eras that read differently.

use crate::reply::Malformed;

/// A revision of MCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// HTTP with two endpoints.
    V2024_11_05,
    /// Streamable HTTP; the only revision with batches. Assumed where nothing is declared.
    V2025_03_26,
    /// The version header appears.
    V2025_06_18,
    /// Tasks inside the protocol, resumable streams.
    V2025_11_25,
    /// No handshake: every request carries its version.
    V2026_07_28,
    /// Not known here. Forwarded after authorization; the server answers.
    Unknown,
}

impl Revision {
    /// The revision that a version names on the wire.
    pub fn parse(version: &str) -> Self {
        match version {
            "2024-11-05" => Self::V2024_11_05,
            "2025-03-26" => Self::V2025_03_26,
            "2025-06-18" => Self::V2025_06_18,
            "2025-11-25" => Self::V2025_11_25,
            "2026-07-28" => Self::V2026_07_28,
            _ => Self::Unknown,
        }
    }

    /// The version on the wire; `unknown` where it is not one of ours.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether requests lean on a handshake, or stand alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Era {
    /// Revisions up to 2025-11-25; routing headers mean nothing.
    Legacy,
    /// Revisions from 2026-07-28; routing headers must agree with the body.
    Modern,
}

/// What a message says about its version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declared<'a> {
    /// The `MCP-Protocol-Version` header.
    pub(crate) header: Option<&'a str>,
    /// `params._meta["io.modelcontextprotocol/protocolVersion"]`.
    pub(crate) body: Option<&'a str>,
    /// What `initialize` proposes; `None` for other methods.
    pub(crate) proposed: Option<&'a str>,
    /// A request: it has a method and an id.
    pub(crate) is_request: bool,
}

/// Tells revision and era of one message.
pub(crate) fn tell(declared: Declared<'_>) -> Result<(Revision, Era), Malformed> {
    match (declared.header, declared.body) {
        (header, Some(body)) if header != Some(body) => Err(Malformed::header("version_mismatch")),
        (Some(header), body) if is_modern(header) => {
            // Only a request must carry it twice: rules for notifications are not defined.
            if body.is_none() && declared.is_request {
                return Err(Malformed::params("version_missing"));
            }
            Ok((Revision::parse(header), Era::Modern))
        }
        (header, _) => {
            let version = declared.proposed.or(header);
            Ok((version.map_or(Revision::V2025_03_26, Revision::parse), Era::Legacy))
        }
    }
}

/// Whether a header declares the modern era.
pub(crate) fn is_modern(version: &str) -> bool {
    let is_date = version.len() == 10
        && version
            .bytes()
            .enumerate()
            .all(|(at, b)| if at == 4 || at == 7 { b == b'-' } else { b.is_ascii_digit() });
    is_date && version >= "2026-07-28"
}

#[cfg(test)]
mod tests {
    use super::*;
    use Era::{Legacy, Modern};

    #[test]
    fn header_and_body_tell_the_era_together() {
        let new = "2026-07-28";
        let old = "2025-11-25";
        let request = |header, body| Declared { header, body, proposed: None, is_request: true };
        for (row, declared, told) in [
            ("nothing declared", request(None, None), Ok((Revision::V2025_03_26, Legacy))),
            ("legacy header", request(Some(old), None), Ok((Revision::V2025_11_25, Legacy))),
            ("legacy twice", request(Some(old), Some(old)), Ok((Revision::V2025_11_25, Legacy))),
            ("modern twice", request(Some(new), Some(new)), Ok((Revision::V2026_07_28, Modern))),
            (
                "later than known",
                request(Some("2027-01-01"), Some("2027-01-01")),
                Ok((Revision::Unknown, Modern)),
            ),
            ("no date", request(Some("2026-07-28x"), None), Ok((Revision::Unknown, Legacy))),
            ("draft", request(Some("DRAFT-2026-v1"), None), Ok((Revision::Unknown, Legacy))),
            ("H-12 body alone", request(None, Some(new)), Err("version_mismatch")),
            ("H-12 downgraded header", request(Some(old), Some(new)), Err("version_mismatch")),
            ("legacy body alone", request(None, Some(old)), Err("version_mismatch")),
            ("upgraded header", request(Some(new), Some(old)), Err("version_mismatch")),
            ("modern header alone", request(Some(new), None), Err("version_missing")),
            (
                "modern notification",
                Declared { header: Some(new), body: None, proposed: None, is_request: false },
                Ok((Revision::V2026_07_28, Modern)),
            ),
            (
                "initialize proposes",
                Declared { header: None, body: None, proposed: Some("2025-06-18"), is_request: true },
                Ok((Revision::V2025_06_18, Legacy)),
            ),
        ] {
            assert_eq!(tell(declared).map_err(|m| m.name), told, "{row}");
        }
    }
}
