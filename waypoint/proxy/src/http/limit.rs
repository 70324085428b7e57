//! Rate and concurrency limits of a request that policies permit.

use agent_protocols::mcp::Exchange;
use agent_protocols::{Facts, Reply};
use waypoint_policy::Attributes;

use super::asked::Asked;
use super::exchange::ExchangeLog;
use super::request::Refused;
use crate::context::StreamContext;
use crate::rates::{Asking, Counted, Limited, Place};
use crate::refusal::Refusal;
use crate::snapshot::Destination;

/// Everything that an exchange asks for, each with the place of its message.
pub(crate) fn messages<'a>(exchange: &'a Exchange<'_>) -> Vec<Counted<'a>> {
    let messages = exchange.messages.iter().enumerate();
    messages
        .flat_map(|(at, message)| message.subjects.iter().map(move |subject| (at, subject as &dyn Facts)))
        .collect()
}

/// Counts a request at the limits of its port, for as long as it runs; notes what services are still to be asked.
///
/// # Errors
/// [`Limited`]; then nothing is counted.
pub(crate) fn take(
    cx: &StreamContext,
    destination: &Destination,
    attributes: &Attributes<'_>,
    counted: &[Counted<'_>],
    log: &mut ExchangeLog,
) -> Result<(), Limited> {
    let limits = &*destination.limits;
    if limits.is_empty() {
        return Ok(());
    }
    let place = Place { service: &destination.service.key, port: destination.port, limits };
    let (rates, telemetry) = (&cx.shared.rates, &cx.shared.telemetry);
    let held =
        rates.take(&place, attributes, counted, telemetry).inspect_err(|limited| log.limited(limited))?;
    log.holds(held, rates.to_ask(limits, attributes, counted));
    Ok(())
}

/// Asks the services that count a request for all replicas, if there are any.
///
/// # Errors
/// A refusal, worded by the request's protocol.
pub(crate) async fn ask(
    cx: &StreamContext,
    asked: Option<&Asked>,
    log: &mut ExchangeLog,
) -> Result<(), Refused> {
    let asking: Vec<Asking> = log.take_asking();
    if asking.is_empty() {
        return Ok(());
    }
    let answered = cx.shared.rates.ask(asking, &cx.shared.telemetry).await;
    answered.map_err(|limited| {
        log.limited(&limited);
        let reply = asked.and_then(|asked| asked.limited(limited.message, limited.wait));
        refused(limited, reply)
    })
}

/// The refusal, worded by `reply` if the protocol has words for it.
pub(crate) fn refused(limited: Limited, reply: Option<Reply>) -> Refused {
    let refusal = Refusal::Limited(Box::new(limited));
    match reply {
        Some(reply) => Refused::worded(refusal, reply),
        None => refusal.into(),
    }
}
