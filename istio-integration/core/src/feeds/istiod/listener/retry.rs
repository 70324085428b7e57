//! When a request is sent again.

use istio_protos::envoy::config::route::v3::RetryPolicy;
use waypoint_model::{Retries, RetryOn};

use super::duration::{limit, optional};
use super::translated::{At, Refused};

/// Left out of regard: we never send again to an endpoint that just failed while there is another.
const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

/// Envoy's retry policy. A word that is not known is refused by name.
pub(super) fn retries(policy: &RetryPolicy) -> Result<Retries, Refused> {
    if let Some(other) = policy.retry_host_predicate.iter().find(|predicate| predicate.name != PREVIOUS_HOSTS)
    {
        return Err(Refused::new(format!("{:?} is not supported", other.name)).at("retry_host_predicate"));
    }
    let words = policy.retry_on.split(',').map(str::trim).filter(|word| !word.is_empty());
    let on: Result<Vec<RetryOn>, Refused> = words.map(|word| outcome(word, policy)).collect();
    let base = policy.retry_back_off.as_ref().and_then(|back_off| back_off.base_interval.as_ref());
    Ok(Retries {
        attempts: policy.num_retries.unwrap_or(1),
        on: on
            .at("retry_on")?
            .into_iter()
            .filter(|on| !matches!(on, RetryOn::Statuses(none) if none.is_empty()))
            .collect(),
        per_try_timeout: limit(policy.per_try_timeout.as_ref()).at("per_try_timeout")?,
        backoff: optional(base).at("retry_back_off")?,
    })
}

fn outcome(word: &str, policy: &RetryPolicy) -> Result<RetryOn, Refused> {
    Ok(match word {
        "connect-failure" => RetryOn::ConnectFailure,
        "refused-stream" => RetryOn::RefusedStream,
        "reset" => RetryOn::Reset,
        "reset-before-request" => RetryOn::ResetBeforeRequest,
        "5xx" => RetryOn::ServerError,
        "gateway-error" => RetryOn::GatewayError,
        "retriable-4xx" => RetryOn::Retriable4xx,
        "retriable-status-codes" => {
            let codes = policy.retriable_status_codes.iter().map(|code| u16::try_from(*code));
            let codes: Result<Vec<u16>, _> = codes.collect();
            RetryOn::Statuses(codes.map_err(|_| Refused::new("a status above 65535"))?)
        }
        "cancelled" => RetryOn::GrpcStatus(1),
        "deadline-exceeded" => RetryOn::GrpcStatus(4),
        "resource-exhausted" => RetryOn::GrpcStatus(8),
        "internal" => RetryOn::GrpcStatus(13),
        "unavailable" => RetryOn::GrpcStatus(14),
        unknown => return Err(Refused::new(format!("the outcome `{unknown}` is not known"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use istio_protos::envoy::config::route::v3::retry_policy::RetryHostPredicate;

    fn policy(retry_on: &str) -> RetryPolicy {
        RetryPolicy { retry_on: retry_on.to_owned(), ..RetryPolicy::default() }
    }

    #[test]
    fn each_word_is_an_outcome() {
        let mut istiod =
            policy("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes");
        istiod.num_retries = Some(2);
        let have = retries(&istiod).unwrap();
        let want = [
            RetryOn::ConnectFailure,
            RetryOn::RefusedStream,
            RetryOn::GrpcStatus(14),
            RetryOn::GrpcStatus(1),
        ];
        assert_eq!((have.attempts, have.on), (2, want.to_vec()), "no status, so none is retried");
        istiod.retriable_status_codes = vec![503, 429];
        assert!(retries(&istiod).unwrap().on.contains(&RetryOn::Statuses(vec![503, 429])));
        let words = "reset, reset-before-request,5xx,gateway-error,retriable-4xx,deadline-exceeded,resource-exhausted,internal";
        assert_eq!(retries(&policy(words)).unwrap().on.len(), 8);
    }

    #[test]
    fn an_unknown_word_is_refused_by_name() {
        for (policy, named) in [
            (policy("5xx,retriable-headers"), "retriable-headers"),
            (policy("often"), "often"),
            (
                RetryPolicy {
                    retry_host_predicate: vec![RetryHostPredicate {
                        name: "omit_canary".to_owned(),
                        config_type: None,
                    }],
                    ..policy("5xx")
                },
                "omit_canary",
            ),
        ] {
            let refused = retries(&policy).unwrap_err();
            assert!(refused.why.contains(named), "{refused}");
        }
    }
}
