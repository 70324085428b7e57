//! JSON Web Tokens that a service accepts (Istio `RequestAuthentication`).

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::ClusterKey;

/// One issuer whose tokens are accepted. A request without a token passes, and has no request principal; one whose token
/// is not valid is refused with 401.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JwtRule {
    /// Claim `iss`, exactly. Empty: any.
    pub issuer: String,
    /// Any of these must be in claim `aud`; empty: not looked at.
    pub audiences: Vec<String>,
    /// Keys.
    pub keys: Jwks,
    /// Where the token is looked for.
    pub locations: JwtLocations,
    /// Whether the token goes on to the service.
    pub forward: bool,
    /// Request header that gets the token's payload, base64url.
    pub payload_header: Option<String>,
    /// Claims (a dotted path is a path into objects) that go on as request headers, `(claim, header)`.
    pub claim_headers: Vec<(String, String)>,
    /// Claims whose text is a list with spaces between its entries.
    pub space_delimited: Vec<String>,
    /// How far clocks may differ.
    pub clock_skew: Duration,
}

/// Where keys come from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Jwks {
    /// A JWK Set (RFC 7517) as JSON text.
    Inline(Arc<str>),
    /// Fetched by HTTP GET from an endpoint of a cluster, and again after a time.
    Remote {
        /// `http://` or `https://` URI.
        uri: String,
        /// Through this cluster; `None`: the host of the URI.
        cluster: Option<ClusterKey>,
        /// One fetch.
        timeout: Duration,
        /// How long fetched keys are used.
        cache: Duration,
    },
}

/// Where a token may stand. All empty: header `authorization` after `Bearer `, and query parameter `access_token`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JwtLocations {
    /// Lower-case header name, and the text before the token.
    pub headers: Vec<(String, String)>,
    /// Query parameters.
    pub params: Vec<String>,
    /// Cookies.
    pub cookies: Vec<String>,
}
