//! Flags of `run` that turn traces on. Under istiod Istio's `Telemetry` says all this.

use clap::{Args, ValueEnum};
use http::Uri;

/// Where spans go, and of which requests.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Telling")]
pub struct TraceArgs {
    /// Collector that takes spans by OTLP, as http://HOST:PORT. Default: nothing is traced.
    #[arg(long, value_name = "URI", env = "PORTCULLIS_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<Uri>,

    /// What it speaks: gRPC (port 4317), or protobuf over HTTP/1.1 (port 4318, path /v1/traces).
    #[arg(long, value_enum, default_value_t, env = "PORTCULLIS_OTLP_PROTOCOL")]
    pub otlp_protocol: OtlpProtocol,

    /// `service.name` of our spans.
    #[arg(long, value_name = "NAME", default_value = "portcullis", env = "OTEL_SERVICE_NAME")]
    pub otlp_service_name: String,

    /// Share of traces that are recorded of those that begin here, in percent. Requests that come with a trace's context
    /// are recorded where their caller is.
    #[arg(long, value_name = "PERCENT", default_value = "100", value_parser = share, env = "PORTCULLIS_TRACE_SAMPLING")]
    pub trace_sampling: Share,

    /// Forms in which endpoints are told of a trace, beside W3C's and those that the caller used.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "tracecontext",
        value_name = "FORMS",
        env = "PORTCULLIS_TRACE_PROPAGATION"
    )]
    pub trace_propagation: Vec<Propagator>,
}

/// A share in hundredths of a percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub u32);

/// What a collector speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OtlpProtocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1.
    Http,
}

/// Forms of a trace's context, named as in `OTEL_PROPAGATORS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Propagator {
    /// W3C's traceparent and tracestate: always.
    Tracecontext,
    /// One header, b3.
    B3,
    /// x-b3-traceid and its like.
    B3multi,
}

fn share(text: &str) -> Result<Share, String> {
    let percent: f64 = text.parse().map_err(|_not_one| "is a number".to_owned())?;
    if !(0.0..=100.0).contains(&percent) {
        return Err("is from 0 to 100".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10,000")]
    let hundredths = (percent * 100.0).round() as u32;
    Ok(Share(hundredths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_percentage_with_two_digits() {
        for (text, want) in [("0", Some(0)), ("0.01", Some(1)), ("12.5", Some(1_250)), ("100", Some(10_000))]
        {
            assert_eq!(share(text).ok(), want.map(Share), "{text}");
        }
        for bad in ["-1", "100.1", "NaN", "inf", "half", ""] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
