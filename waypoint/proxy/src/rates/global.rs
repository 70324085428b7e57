//! Limits over all replicas: what a rate limit service is asked, and what comes of it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use waypoint_model::{GlobalLimit, LimitService};
use waypoint_policy::Attributes;

use super::describe::{Described, told};
use super::{Counted, Limited, PortLimits, Rates, drawn};
use crate::telemetry::Telemetry;

/// When to come again where the service does not say.
const WAIT: Duration = Duration::from_secs(1);

/// Whoever asks rate limit services; the data plane knows no protobuf.
pub trait LimitServices: Send + Sync {
    /// Asks one, and waits as long as the question says. Dropped, it is not asked any longer.
    fn ask(&self, question: LimitQuestion) -> LimitAsked<'_>;
}

/// An answer to come.
pub type LimitAsked<'a> = Pin<Box<dyn Future<Output = Result<LimitAnswer, LimitUnanswered>> + Send + 'a>>;

/// What a service is asked (`envoy.service.ratelimit.v3.RateLimitRequest`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitQuestion {
    /// Where it is.
    pub service: LimitService,
    /// `:authority`; `None`: its own name.
    pub authority: Option<String>,
    /// Which set of limits.
    pub domain: Arc<str>,
    /// Descriptions, as keys and values.
    pub descriptions: Vec<Vec<(String, String)>>,
    /// How long an answer is waited for.
    pub timeout: Duration,
}

/// What it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitAnswer {
    /// Go on.
    Within,
    /// A limit is reached; when it begins anew, if the service tells.
    Over(Option<Duration>),
}

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LimitUnanswered {
    /// None in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// It is not there, or did not understand.
    #[error("{0}")]
    Failed(String),
}

/// What is to be asked for one request.
pub(crate) struct Asking {
    limit: Arc<GlobalLimit>,
    enforced: bool,
    /// By message.
    descriptions: Vec<(usize, Described)>,
}

impl Rates {
    /// What services have to be asked; nothing in most cases. Pure: asking waits, and facts do not outlive a wait.
    pub(crate) fn to_ask(
        &self,
        limits: &PortLimits,
        attributes: &Attributes<'_>,
        counted: &[Counted<'_>],
    ) -> Vec<Asking> {
        let asking = limits.global.iter().filter_map(|global| {
            let enforced = drawn(global.limit.share)?;
            let described = counted.iter().flat_map(|(message, facts)| {
                let described = global.describers.iter().filter_map(|one| one.describe(attributes, *facts));
                described.map(|described| (*message, described))
            });
            let descriptions: Vec<_> = described.collect();
            (!descriptions.is_empty()).then(|| Asking {
                limit: Arc::clone(&global.limit),
                enforced,
                descriptions,
            })
        });
        asking.collect()
    }

    /// Asks, one after the other; a refusal ends it. Messages of a batch are asked for apart, so that it is known which was
    /// refused. Cancel safe: what a service counted stays counted.
    ///
    /// # Errors
    /// [`Limited`].
    pub(crate) async fn ask(&self, asking: Vec<Asking>, telemetry: &Telemetry) -> Result<(), Limited> {
        for one in asking {
            for (message, descriptions) in by_message(&one.descriptions) {
                if let Err(wait) = self.ask_one(&one, descriptions, telemetry).await {
                    return Err(Limited {
                        limit: Arc::clone(&one.limit.name),
                        wait,
                        refusal: one.limit.refusal.clone(),
                        global: true,
                        message,
                    });
                }
            }
        }
        Ok(())
    }

    async fn ask_one(
        &self,
        one: &Asking,
        descriptions: Vec<Described>,
        telemetry: &Telemetry,
    ) -> Result<(), Duration> {
        let limit = &*one.limit;
        let question = LimitQuestion {
            service: limit.service.clone(),
            authority: limit.authority.clone(),
            domain: Arc::clone(&limit.domain),
            descriptions,
            timeout: limit.timeout,
        };
        let answer = match &self.services {
            Some(services) => services.ask(question).await,
            None => Err(LimitUnanswered::Failed("no way to it".to_owned())),
        };
        let refused = match answer {
            Ok(LimitAnswer::Within) => return Ok(()),
            Ok(LimitAnswer::Over(wait)) => wait.unwrap_or(WAIT),
            Err(why) => {
                telemetry.limited(&limit.name, "unanswered");
                tracing::debug!(limit = %limit.name, error = %why, "a rate limit service did not answer");
                if !limit.deny_on_failure {
                    return Ok(());
                }
                WAIT
            }
        };
        telemetry.limited(&limit.name, if one.enforced { "limited" } else { "would_limit" });
        if one.enforced { Err(refused) } else { Ok(()) }
    }
}

/// Descriptions of each message, as they are told.
fn by_message(descriptions: &[(usize, Described)]) -> BTreeMap<usize, Vec<Described>> {
    let mut messages: BTreeMap<usize, Vec<Described>> = BTreeMap::new();
    for (message, described) in descriptions {
        let described = described.iter().map(|(key, value)| (key.clone(), told(value).to_owned())).collect();
        messages.entry(*message).or_default().push(described);
    }
    messages
}
