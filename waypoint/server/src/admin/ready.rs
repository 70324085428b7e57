//! Readiness: green only with a certificate that is valid, a first configuration and bound listeners, and not while stopping.

use std::sync::Arc;
use std::time::SystemTime;

use certs::X509Svid;
use tokio::sync::watch;
use waypoint_proxy::drain::{DrainWatch, Phase};

/// What readiness is made of. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    /// Our certificate.
    pub svid: watch::Receiver<Option<Arc<X509Svid>>>,
    /// Generation of the configuration; 0 before the first.
    pub generation: watch::Receiver<u64>,
    /// Whether all listeners are bound.
    pub bound: watch::Receiver<bool>,
    /// Where the process stands.
    pub drain: DrainWatch,
}

impl Readiness {
    /// What is missing; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let svid = self.svid.borrow();
        let mut missing = Vec::new();
        match svid.as_ref() {
            None => missing.push("no certificate yet"),
            Some(svid) if svid.not_after() <= SystemTime::now() => {
                missing.push("the certificate has expired")
            }
            Some(_) => {}
        }
        if *self.generation.borrow() == 0 {
            missing.push("no configuration yet");
        }
        if !*self.bound.borrow() {
            missing.push("listeners are not bound yet");
        }
        if self.drain.phase() > Phase::Serving {
            missing.push("stopping");
        }
        missing
    }

    /// Waits until it is ready for the first time, and returns the generation that serves. Pends for ever if one of the
    /// parts vanishes before. Cancel safe.
    pub async fn reached(&mut self) -> u64 {
        let there = self.svid.wait_for(Option::is_some).await.is_ok()
            && self.generation.wait_for(|generation| *generation > 0).await.is_ok()
            && self.bound.wait_for(|bound| *bound).await.is_ok();
        if !there {
            std::future::pending::<()>().await;
        }
        *self.generation.borrow()
    }
}

#[cfg(test)]
mod tests {
    use waypoint_proxy::drain;

    use super::*;

    #[test]
    fn each_missing_part_is_named_and_stopping_is_not_ready() {
        let (_svid, svid) = watch::channel(None);
        let (generations, generation) = watch::channel(0);
        let (bind, bound) = watch::channel(false);
        let (handle, drain) = drain::channel();
        let readiness = Readiness { svid, generation, bound, drain };
        assert_eq!(
            readiness.missing(),
            ["no certificate yet", "no configuration yet", "listeners are not bound yet"]
        );
        generations.send_replace(1);
        bind.send_replace(true);
        assert_eq!(readiness.missing(), ["no certificate yet"]);
        handle.advance(Phase::Lingering);
        assert_eq!(readiness.missing(), ["no certificate yet", "stopping"]);
    }
}
