//! After which outcomes a route sends a request again, and after which pause (Envoy `RetryPolicy`).

use std::time::Duration;

use http::Response;
use waypoint_model::{Retries, RetryOn};

use super::connect::ConnectError;
use super::lease::Fate;
use super::send::Failure;

/// First pause where the route names none.
const PAUSE: Duration = Duration::from_millis(25);

/// The longest pause, in first pauses.
const LONGEST: u32 = 10;

/// The pause before the next attempt, if an answer is one that the policy names. `before`: attempts again so far.
pub(super) fn after_answer<B>(policy: &Retries, before: usize, response: &Response<B>) -> Option<Duration> {
    let status = response.status().as_u16();
    let grpc = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()?.parse::<u32>().ok());
    let names = |on: &RetryOn| match on {
        RetryOn::ServerError => (500..600).contains(&status),
        RetryOn::GatewayError => (502..=504).contains(&status),
        RetryOn::Retriable4xx => status == 409,
        RetryOn::Statuses(statuses) => statuses.contains(&status),
        RetryOn::GrpcStatus(code) => grpc == Some(*code),
        RetryOn::ConnectFailure | RetryOn::RefusedStream | RetryOn::Reset | RetryOn::ResetBeforeRequest => {
            false
        }
    };
    policy.on.iter().any(names).then(|| pause(policy, before)).flatten()
}

/// The pause before the next attempt, if a failure is one that the policy names. An attempt that took too long counts as
/// reset, and one that could not connect as any reset, as in Envoy.
pub(super) fn after_failure(policy: &Retries, before: usize, failure: &Failure) -> Option<Duration> {
    let (connect, unsent, refused, reset) = match failure {
        // Ours: another attempt would meet the same.
        Failure::Connect(ConnectError::NoOwnIdentity | ConnectError::TooManyConnections) => return None,
        Failure::ClientSlow => return None,
        Failure::Connect(_) => (true, true, false, true),
        Failure::TimedOut => (false, false, false, true),
        Failure::Send(error) => match error.fate {
            Fate::Unsent => (false, true, false, true),
            Fate::Refused => (false, true, true, true),
            Fate::Garbled | Fate::Unknown => (false, false, false, true),
            Fate::Abandoned => return None,
        },
    };
    let names = |on: &RetryOn| match on {
        RetryOn::ConnectFailure => connect,
        RetryOn::RefusedStream => refused,
        RetryOn::ResetBeforeRequest => unsent,
        RetryOn::Reset | RetryOn::ServerError | RetryOn::GatewayError => reset,
        RetryOn::Retriable4xx | RetryOn::Statuses(_) | RetryOn::GrpcStatus(_) => false,
    };
    policy.on.iter().any(names).then(|| pause(policy, before)).flatten()
}

/// At random below a bound that doubles with each attempt (Envoy: below first × (2ⁿ − 1)); `None` when there are no more.
fn pause(policy: &Retries, before: usize) -> Option<Duration> {
    let before = u32::try_from(before).ok().filter(|before| *before < policy.attempts)?;
    let first = policy.backoff.unwrap_or(PAUSE);
    let times = 2_u32.checked_pow(before + 1).map_or(LONGEST, |power| (power - 1).min(LONGEST));
    let bound = u64::try_from(first.saturating_mul(times).as_micros()).unwrap_or(u64::MAX);
    Some(Duration::from_micros(fastrand::u64(..bound.max(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: RetryOn) -> Retries {
        Retries { attempts: 2, on: vec![on], per_try_timeout: None, backoff: None }
    }

    #[test]
    fn answers_are_tried_again_by_name() {
        let unavailable = || RetryOn::GrpcStatus(14);
        let rows = [
            (RetryOn::ServerError, 500, None, true),
            (RetryOn::ServerError, 404, None, false),
            (RetryOn::GatewayError, 503, None, true),
            (RetryOn::GatewayError, 500, None, false),
            (RetryOn::Retriable4xx, 409, None, true),
            (RetryOn::Retriable4xx, 404, None, false),
            (RetryOn::Statuses(vec![429, 503]), 429, None, true),
            (RetryOn::Statuses(vec![429, 503]), 500, None, false),
            (unavailable(), 200, Some("14"), true),
            (unavailable(), 200, Some("13"), false),
            (unavailable(), 200, None, false),
            (RetryOn::Reset, 503, None, false),
            (RetryOn::ConnectFailure, 503, None, false),
        ];
        for (on, status, grpc, want) in rows {
            let response = Response::builder().status(status);
            let response =
                grpc.into_iter().fold(response, |response, code| response.header("grpc-status", code));
            let got = after_answer(&policy(on.clone()), 0, &response.body(()).unwrap());
            assert_eq!(got.is_some(), want, "{on:?} {status} {grpc:?}");
        }
    }

    #[test]
    fn failures_are_tried_again_by_name() {
        let rows = [
            (RetryOn::Reset, Failure::TimedOut, true),
            (RetryOn::ServerError, Failure::TimedOut, true),
            (RetryOn::GatewayError, Failure::TimedOut, true),
            (RetryOn::ConnectFailure, Failure::TimedOut, false),
            (RetryOn::ResetBeforeRequest, Failure::TimedOut, false),
            (RetryOn::Statuses(vec![504]), Failure::TimedOut, false),
            (RetryOn::ConnectFailure, Failure::Connect(ConnectError::TimedOut), true),
            (RetryOn::Reset, Failure::Connect(ConnectError::TimedOut), true),
            (RetryOn::RefusedStream, Failure::Connect(ConnectError::TimedOut), false),
            (RetryOn::ConnectFailure, Failure::Connect(ConnectError::TooManyConnections), false),
        ];
        for (on, failure, want) in rows {
            assert_eq!(after_failure(&policy(on.clone()), 0, &failure).is_some(), want, "{on:?} {failure:?}");
        }
    }

    #[test]
    fn pauses_double_and_end() {
        let policy = Retries { attempts: 6, ..policy(RetryOn::Reset) };
        for (before, bound) in [(0, 25), (1, 75), (2, 175), (3, 250), (5, 250)] {
            for _ in 0..100 {
                assert!(pause(&policy, before).unwrap() < Duration::from_millis(bound), "{before}");
            }
        }
        assert_eq!(pause(&policy, 6), None);
    }
}
