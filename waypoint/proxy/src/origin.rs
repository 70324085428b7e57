//! Web origins whose pages may talk to MCP servers.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// An origin as browsers write it (RFC 6454 §6.2): scheme, host, and a port that is not the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebOrigin(String);

/// A text that no browser sends as an origin. `null` is none either: it is what any page without an origin sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no origin as browsers send it, such as https://app.example or http://localhost:6274")]
pub struct NoOrigin(String);

impl FromStr for WebOrigin {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        let uri: Option<Uri> = text.parse().ok();
        let written = uri.as_ref().and_then(as_written);
        if written.as_deref() == Some(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoOrigin(text.to_owned()))
        }
    }
}

/// The origin of a URI in the only form that is compared.
fn as_written(uri: &Uri) -> Option<String> {
    let (scheme, host) = (uri.scheme_str()?.to_ascii_lowercase(), uri.host()?.to_ascii_lowercase());
    let own = match scheme.as_str() {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let port = uri.port_u16().filter(|port| Some(*port) != own);
    if host.is_empty() || host.contains('*') {
        return None;
    }
    Some(port.map_or_else(|| format!("{scheme}://{host}"), |port| format!("{scheme}://{host}:{port}")))
}

impl WebOrigin {
    /// Whether a header `Origin` names this one: by byte.
    #[must_use]
    pub fn is(&self, header: &[u8]) -> bool {
        self.0.as_bytes() == header
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_browsers_send_is_an_origin() {
        for origin in [
            "https://app.example",
            "http://localhost:6274",
            "http://[::1]:80800",
            "vscode-webview://abc",
            "http://a:443",
        ] {
            let is = origin.parse::<WebOrigin>().is_ok_and(|parsed| parsed.is(origin.as_bytes()));
            assert_eq!(is, !origin.ends_with("80800"), "{origin}");
        }
        for text in [
            "null",
            "*",
            "",
            "https://*.example",
            "https://app.example/",
            "https://app.example/x",
            "https://app.example:443",
            "http://app.example:80",
            "HTTPS://app.example",
            "https://App.example",
            "https://user@app.example",
            "app.example",
            "https://",
        ] {
            assert!(text.parse::<WebOrigin>().is_err(), "{text}");
        }
    }
}
