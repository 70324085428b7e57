//! WebSocket: after the 101 a request is an opaque stream, judged again when the policies change.

use std::sync::Arc;

use http::Response;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::asked::Asked;
use super::request::Refused;
use crate::body::Body;
use crate::context::StreamContext;
use crate::drain::Phase;
use crate::refusal::Refusal;
use crate::upstream::Chosen;

/// Joins the two ends once both have switched. The stream's task owns the copy.
///
/// # Errors
/// [`Refusal::BadRequest`] for an upstream that switches without having been asked to.
pub(crate) fn carry(
    cx: &Arc<StreamContext>,
    client: Option<OnUpgrade>,
    mut response: Response<Body>,
    asked: Option<Asked>,
    counted: Option<Chosen>,
) -> Result<Response<Body>, Refused> {
    let upstream = response.extensions_mut().remove::<OnUpgrade>();
    let (Some(client), Some(upstream)) = (client, upstream) else {
        return Err(Refusal::Unscreenable("unasked_upgrade").into());
    };
    let mut drain = cx.drain.clone();
    let denied = async move {
        match asked {
            Some(asked) => asked.no_longer_allowed().await,
            None => std::future::pending().await,
        }
    };
    cx.upgrades.spawn(async move {
        let _counted = counted; // For as long as the copy runs.
        tokio::select! {
            () = join(client, upstream) => {}
            () = denied => {}
            () = drain.reached(Phase::Aborting) => {}
        }
    });
    Ok(response)
}

async fn join(client: OnUpgrade, upstream: OnUpgrade) {
    let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    if let Err(error) = copy_bidirectional(&mut client, &mut upstream).await {
        tracing::debug!(%error, "upgraded stream broke off");
    }
}
