//! Why a token is refused, in Envoy's words: clients and Istio's tests read them.

use http::StatusCode;

/// Why a request with a token is refused. `Display` is the body of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Not three parts of base64url.
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    /// Longer than any real token (Envoy has no such bound).
    #[error("Jwt is too large")]
    TooLarge,
    /// Several tokens that differ, where one is expected; Istio leaves open which of them would count.
    #[error("Found multiple Jwt tokens")]
    Several,
    /// The first part is no base64url.
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderEncoding,
    /// The first part is no JSON object, or has a member twice.
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    /// No algorithm.
    #[error("Jwt header [alg] field is required and must be a string")]
    NoAlgorithm,
    /// An algorithm that is not verified here, `none` among them.
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    /// `kid` is no text.
    #[error("Jwt header [kid] field is not a string")]
    KeyId,
    /// Extensions that the signer holds for critical (RFC 7515 §4.1.11); none is understood here. Envoy passes them over.
    #[error("Jwt header [crit] is not supported")]
    Critical,
    /// The second part is no base64url.
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadEncoding,
    /// The second part is no JSON object, or has a member twice.
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    /// `iss` is no text.
    #[error("Jwt payload [iss] field is not a string")]
    IssuerType,
    /// `sub` is no text.
    #[error("Jwt payload [sub] field is not a string")]
    SubjectType,
    /// `exp` is no number.
    #[error("Jwt payload [exp] field is not an integer")]
    ExpiryType,
    /// `nbf` is no number.
    #[error("Jwt payload [nbf] field is not an integer")]
    NotBeforeType,
    /// `iat` is no number.
    #[error("Jwt payload [iat] field is not an integer")]
    IssuedType,
    /// `jti` is no text.
    #[error("Jwt payload [jti] field is not a string")]
    IdType,
    /// `aud` is neither a text nor a list of texts.
    #[error("Jwt payload [aud] field is not a string or string list")]
    AudienceType,
    /// The third part is no base64url.
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureEncoding,
    /// No rule for the issuer, or none that looks where the token stood.
    #[error("Jwt issuer is not configured")]
    Issuer,
    /// `nbf` lies ahead.
    #[error("Jwt not yet valid")]
    NotYet,
    /// `exp` has passed.
    #[error("Jwt is expired")]
    Expired,
    /// None of the audiences is ours.
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    /// The rule has no usable key.
    #[error("Jwks doesn't have any valid public key")]
    NoKeys,
    /// No key fits the token's `kid` and `alg`.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoSuchKey,
    /// No key that fits made the signature.
    #[error("Jwt verification fails")]
    Signature,
    /// The keys could not be fetched.
    #[error("Jwks remote fetch is failed")]
    Fetch,
}

impl Rejection {
    /// 401; 403 for a good token that was made for somebody else (Envoy).
    #[must_use]
    pub fn status(self) -> StatusCode {
        if self == Self::Audience { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED }
    }

    /// Bounded name for `portcullis_refusals_total{reason}`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Several => "jwt_several",
            Self::Issuer => "jwt_issuer",
            Self::NotYet => "jwt_not_yet_valid",
            Self::Expired => "jwt_expired",
            Self::Audience => "jwt_audience",
            Self::NoKeys | Self::NoSuchKey => "jwt_no_key",
            Self::Signature => "jwt_signature",
            Self::Fetch => "jwt_keys_not_fetched",
            Self::Form
            | Self::TooLarge
            | Self::HeaderEncoding
            | Self::HeaderJson
            | Self::NoAlgorithm
            | Self::Algorithm
            | Self::KeyId
            | Self::Critical
            | Self::PayloadEncoding
            | Self::PayloadJson
            | Self::IssuerType
            | Self::SubjectType
            | Self::ExpiryType
            | Self::NotBeforeType
            | Self::IssuedType
            | Self::IdType
            | Self::AudienceType
            | Self::SignatureEncoding => "jwt_malformed",
        }
    }

    /// Response code details as Envoy writes them: no blanks, which would split a log line.
    #[must_use]
    pub fn detail(self) -> String {
        format!("jwt_authn_access_denied{{{}}}", self.to_string().replace(' ', "_"))
    }

    /// Of several failures the one to tell: a token that is bad matters more than a rule that is not its own.
    pub(super) fn or_worse(self, other: Self) -> Self {
        if other == Self::Issuer { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_as_envoy_tells_it() {
        let rows = [
            (Rejection::Expired, 401, "Jwt is expired", "jwt_authn_access_denied{Jwt_is_expired}"),
            (
                Rejection::Audience,
                403,
                "Audiences in Jwt are not allowed",
                "jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}",
            ),
            (
                Rejection::Issuer,
                401,
                "Jwt issuer is not configured",
                "jwt_authn_access_denied{Jwt_issuer_is_not_configured}",
            ),
            (
                Rejection::Fetch,
                401,
                "Jwks remote fetch is failed",
                "jwt_authn_access_denied{Jwks_remote_fetch_is_failed}",
            ),
        ];
        for (rejection, status, text, detail) in rows {
            assert_eq!(rejection.status(), status);
            assert_eq!(rejection.to_string(), text);
            assert_eq!(rejection.detail(), detail);
        }
    }

    #[test]
    fn a_bad_token_is_told_rather_than_a_rule_that_is_not_its_own() {
        assert_eq!(Rejection::Expired.or_worse(Rejection::Issuer), Rejection::Expired);
        assert_eq!(Rejection::Issuer.or_worse(Rejection::Expired), Rejection::Expired);
        assert_eq!(Rejection::Signature.or_worse(Rejection::Audience), Rejection::Audience);
    }
}
