//! Delays and errors on purpose (Envoy's fault filter): the delay first, then the error in the answer's place.

use std::time::Duration;

use http::{Response, StatusCode};
use waypoint_model::Fault;

use super::answer;
use super::exchange::ExchangeLog;
use crate::body::Body;

/// Envoy's text.
const TEXT: &str = "fault filter abort";

/// What of a fault one request meets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Drawn {
    delay: Option<Duration>,
    abort: Option<Abort>,
}

#[derive(Debug, PartialEq, Eq)]
enum Abort {
    Http(u16),
    Grpc(u32),
}

/// Draws for each part on its own. `number` is random, in millionths.
pub(crate) fn draw(fault: &Fault, mut number: impl FnMut() -> u32) -> Drawn {
    let mut hits = |share: u32| share > 0 && number() < share;
    let delay = fault.delay.filter(|(_, share)| hits(*share)).map(|(delay, _)| delay);
    let http = fault.abort.filter(|(_, share)| hits(*share)).map(|(status, _)| Abort::Http(status));
    let grpc = fault.grpc_abort.filter(|(_, share)| hits(*share)).map(|(code, _)| Abort::Grpc(code));
    Drawn { delay, abort: http.or(grpc) }
}

/// Waits, and says what is answered in the service's place, if anything. A client that does not wait drops this future.
pub(crate) async fn meet(fault: &Fault, log: &mut ExchangeLog) -> Option<Response<Body>> {
    let drawn = draw(fault, || fastrand::u32(..1_000_000));
    if let Some(delay) = drawn.delay {
        log.delayed(delay);
        tokio::time::sleep(delay).await;
    }
    let answer = abort(&drawn.abort?, log.is_grpc());
    log.aborted();
    Some(answer)
}

fn abort(abort: &Abort, grpc: bool) -> Response<Body> {
    match abort {
        Abort::Http(status) => answer::own(
            StatusCode::from_u16(*status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            TEXT.into(),
            grpc,
        ),
        Abort::Grpc(code) if grpc => answer::grpc_answer(u16::try_from(*code).unwrap_or(2), TEXT.as_bytes()),
        Abort::Grpc(code) => answer::own(answer::http_status(*code), TEXT.into(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_drawn_for_its_share() {
        let fault = Fault {
            delay: Some((Duration::from_secs(1), 500_000)),
            abort: Some((503, 250_000)),
            grpc_abort: None,
        };
        let rows = [
            ([499_999, 249_999], Some(Duration::from_secs(1)), Some(Abort::Http(503))),
            ([500_000, 249_999], None, Some(Abort::Http(503))),
            ([0, 250_000], Some(Duration::from_secs(1)), None),
        ];
        for (numbers, delay, abort) in rows {
            let mut numbers = numbers.into_iter();
            assert_eq!(draw(&fault, || numbers.next().unwrap()), Drawn { delay, abort });
        }
        let never = Fault { abort: Some((503, 0)), ..Fault::default() };
        assert_eq!(draw(&never, || 0), Drawn::default());
        let always = Fault { grpc_abort: Some((14, 1_000_000)), ..Fault::default() };
        assert_eq!(draw(&always, || 999_999).abort, Some(Abort::Grpc(14)));
    }

    #[test]
    fn an_abort_speaks_the_clients_protocol() {
        let grpc = abort(&Abort::Grpc(14), true);
        assert_eq!((grpc.status(), &grpc.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
        let mapped = abort(&Abort::Http(503), true);
        assert_eq!(mapped.headers()["grpc-status"], "14");
        assert_eq!(abort(&Abort::Grpc(14), false).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(abort(&Abort::Http(418), false).status(), StatusCode::IM_A_TEAPOT);
    }
}
