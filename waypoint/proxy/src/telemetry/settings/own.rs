//! The process' own format, for ports whose settings have none.

use super::facts::Facts;
use super::format::Format;
use super::wants::Wants;

/// Istio's text format (`EnvoyTextLogFormat` of istiod).
pub(in super::super) const ISTIO: &str = concat!(
    r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% "#,
    r#"%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" "#,
    r#"%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "#,
    r#""%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% "#,
    r#"%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% "#,
    r#"%ROUTE_NAME%"#
);

/// Istio's text, compiled; our own JSON has no format and asks for nothing.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Own(Option<Format>);

impl Own {
    /// Istio's text format.
    pub(in super::super) fn istio() -> Self {
        // Each of its operators is known; a test holds that.
        Self(Some(Format::text(ISTIO, &mut |_unknown| ())))
    }

    /// What it asks of a request.
    pub(in super::super) fn wants(&self) -> Wants {
        let mut wants = Wants::default();
        self.0.iter().for_each(|format| format.headers(&mut |side, name| wants.header(side, name)));
        wants
    }

    /// The line, with its end; `None`: in our JSON.
    pub(in super::super) fn line(&self, facts: &Facts<'_>) -> Option<Vec<u8>> {
        self.0.as_ref().map(|format| format.write(facts))
    }
}
