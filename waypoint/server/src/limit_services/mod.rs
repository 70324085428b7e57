//! Rate limit services, asked over gRPC (`envoy.service.ratelimit.v3.RateLimitService`). Calls travel as requests do: over the
//! same endpoints, tunnels and identities.

mod dial;
mod message;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;
use waypoint_model::LimitService;
use waypoint_proxy::{Collectors, LimitAnswer, LimitAsked, LimitQuestion, LimitServices, LimitUnanswered};

use dial::Connector;
use message::{Code, RateLimitRequest, RateLimitResponse};

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// Connections that are kept: services come and go with the configuration, so beyond it all are made anew.
const KEPT: usize = 64;

/// How long connecting may take; a question waits for it no longer than for its answer.
const CONNECT: Duration = Duration::from_secs(10);

/// Which service, under which `:authority`.
type Key = (LimitService, Option<String>);

/// Asks services, over a connection to each that is made when it is first asked, and anew when it does not answer.
pub(crate) struct GrpcLimits {
    mesh: Collectors,
    channels: Arc<Channels>,
    /// Connections that are being made: they go on when the question that they are for waits no longer, so that the next finds one.
    connecting: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct Channels(Mutex<HashMap<Key, watch::Receiver<Option<Channel>>>>);

impl Channels {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Channel>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GrpcLimits {
    pub(crate) fn new(mesh: Collectors) -> Self {
        Self { mesh, channels: Arc::default(), connecting: Mutex::default() }
    }

    async fn should_rate_limit(&self, question: LimitQuestion) -> Result<LimitAnswer, LimitUnanswered> {
        let (key, timeout) = ((question.service.clone(), question.authority.clone()), question.timeout);
        let channel = self.channel(&key, &question)?;
        let asked = tokio::time::timeout(timeout, call(channel, question.into())).await;
        let answered = asked.unwrap_or(Err(LimitUnanswered::Timeout(timeout)));
        if answered.is_err()
            && self.channels.lock().get(&key).is_some_and(|channel| channel.borrow().is_some())
        {
            self.channels.lock().remove(&key);
        }
        answer(answered?)
    }

    /// The connection that there is, or one that is being made.
    fn channel(
        &self,
        key: &Key,
        question: &LimitQuestion,
    ) -> Result<watch::Receiver<Option<Channel>>, LimitUnanswered> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(key) {
            return Ok(channel.clone());
        }
        let uri = format!("http://{}", authority(question));
        let endpoint =
            Endpoint::from_shared(uri).map_err(|error| LimitUnanswered::Failed(error.to_string()))?;
        let connector = Connector::new(key.0.clone(), self.mesh.clone());
        let (made, channel) = watch::channel(None);
        let (known, key) = (Arc::clone(&self.channels), key.clone());
        if channels.len() >= KEPT {
            channels.clear();
        }
        channels.insert(key.clone(), channel.clone());
        drop(channels);
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        while connecting.try_join_next().is_some() {}
        connecting.spawn(async move {
            let connected = tokio::time::timeout(CONNECT, endpoint.connect_with_connector(connector)).await;
            match connected {
                Ok(Ok(connected)) => drop(made.send_replace(Some(connected))),
                Ok(Err(_)) | Err(_) => drop(known.lock().remove(&key)),
            }
        });
        Ok(channel)
    }
}

impl LimitServices for GrpcLimits {
    fn ask(&self, question: LimitQuestion) -> LimitAsked<'_> {
        Box::pin(self.should_rate_limit(question))
    }
}

/// What the configuration says, else the service's own name.
fn authority(question: &LimitQuestion) -> String {
    match (&question.authority, &question.service) {
        (Some(authority), _) => authority.clone(),
        (None, LimitService::Service(host, port)) => format!("{host}:{port}"),
        // `outbound|PORT|SUBSET|HOST`, of which only the host can stand in a URI.
        (None, LimitService::Cluster(key)) => key.0.rsplit('|').next().unwrap_or_default().to_owned(),
    }
}

async fn call(
    mut channel: watch::Receiver<Option<Channel>>,
    request: RateLimitRequest,
) -> Result<RateLimitResponse, LimitUnanswered> {
    let failed = |error: &dyn std::error::Error| LimitUnanswered::Failed(error.to_string());
    let channel = channel.wait_for(Option::is_some).await.map(|channel| channel.clone());
    let channel =
        channel.ok().flatten().ok_or_else(|| LimitUnanswered::Failed("no connection".to_owned()))?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| failed(&error))?;
    let codec: ProstCodec<RateLimitRequest, RateLimitResponse> = ProstCodec::default();
    let path = PathAndQuery::from_static(METHOD);
    let answered = grpc.unary(tonic::Request::new(request), path, codec).await;
    answered.map(tonic::Response::into_inner).map_err(|status| failed(&status))
}

fn answer(response: RateLimitResponse) -> Result<LimitAnswer, LimitUnanswered> {
    match Code::try_from(response.overall_code) {
        Ok(Code::Ok) => Ok(LimitAnswer::Within),
        Ok(Code::OverLimit) => Ok(LimitAnswer::Over(wait(&response))),
        Ok(Code::Unknown) | Err(_) => {
            Err(LimitUnanswered::Failed(format!("code {} tells nothing", response.overall_code)))
        }
    }
}

/// When the last of the limits that are reached begins anew.
fn wait(response: &RateLimitResponse) -> Option<Duration> {
    let over = response.statuses.iter().filter(|status| status.code == i32::from(Code::OverLimit));
    over.filter_map(|status| Duration::try_from(*status.duration_until_reset.as_ref()?).ok()).max()
}

#[cfg(test)]
mod tests {
    use super::message::DescriptorStatus;
    use super::*;

    fn status(code: Code, seconds: Option<i64>) -> DescriptorStatus {
        let reset = seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 });
        DescriptorStatus { code: code.into(), duration_until_reset: reset }
    }

    #[test]
    fn the_longest_of_the_limits_that_are_reached_counts() {
        let rows = [
            (Code::Ok, vec![status(Code::Ok, Some(9))], Some(LimitAnswer::Within)),
            (Code::OverLimit, vec![], Some(LimitAnswer::Over(None))),
            (
                Code::OverLimit,
                vec![
                    status(Code::OverLimit, Some(2)),
                    status(Code::OverLimit, Some(5)),
                    status(Code::Ok, Some(9)),
                ],
                Some(LimitAnswer::Over(Some(Duration::from_secs(5)))),
            ),
            (Code::Unknown, vec![], None),
        ];
        for (code, statuses, want) in rows {
            let response = RateLimitResponse { overall_code: code.into(), statuses };
            assert_eq!(answer(response).ok(), want, "{code:?}");
        }
        assert!(answer(RateLimitResponse { overall_code: 7, statuses: vec![] }).is_err());
    }
}
