//! Readiness: green only with a certificate that is valid, a first configuration and bound listeners, and not while stopping.

use std::sync::Arc;
use std::time::SystemTime;

use certs::{SvidSource, X509Svid};
use istio_integration::feeds::istiod::Connection;
use tokio::sync::watch;
use waypoint_proxy::drain::{DrainWatch, Phase};

/// What readiness is made of. Cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    /// Where our certificate comes from; says why none does.
    pub source: Arc<dyn SvidSource>,
    /// Our certificate.
    pub svid: watch::Receiver<Option<Arc<X509Svid>>>,
    /// Generation of the configuration; 0 before the first.
    pub generation: watch::Receiver<u64>,
    /// The control plane that the configuration comes from, if one does.
    pub control_plane: Option<watch::Receiver<Connection>>,
    /// Whether all listeners are bound.
    pub bound: watch::Receiver<bool>,
    /// Where the process stands.
    pub drain: DrainWatch,
}

impl Readiness {
    /// What is missing; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let svid = self.svid.borrow();
        let mut missing = Vec::new();
        match svid.as_ref() {
            None => missing.push(because("no certificate yet", self.source.last_error())),
            Some(svid) if svid.not_after() <= SystemTime::now() => {
                missing.push(because("the certificate has expired", self.source.last_error()));
            }
            Some(_) => {}
        }
        if *self.generation.borrow() == 0 {
            missing.push(because("no configuration yet", self.why_no_configuration()));
        }
        if !*self.bound.borrow() {
            missing.push("listeners are not bound yet".to_owned());
        }
        if self.drain.phase() > Phase::Serving {
            missing.push("stopping".to_owned());
        }
        missing
    }

    fn why_no_configuration(&self) -> Option<String> {
        self.control_plane.as_ref().map(|connection| connection.borrow().why_not_ready())
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

/// In one line, whatever the cause holds.
fn because(what: &str, cause: Option<String>) -> String {
    cause.map_or_else(|| what.to_owned(), |cause| format!("{what}: {}", cause.replace('\n', " ")))
}

#[cfg(test)]
mod tests {
    use istio_integration::feeds::istiod::Kind;
    use waypoint_proxy::drain;

    use super::*;

    /// A source that brings nothing and says why.
    struct Broken(watch::Sender<Option<Arc<X509Svid>>>);

    impl SvidSource for Broken {
        fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> {
            self.0.subscribe()
        }

        fn last_error(&self) -> Option<String> {
            Some("istiod is gone".to_owned())
        }
    }

    #[test]
    fn each_missing_part_is_named_and_stopping_is_not_ready() {
        let source = Arc::new(Broken(watch::Sender::new(None)));
        let svid = source.watch();
        let (generations, generation) = watch::channel(0);
        let (bind, bound) = watch::channel(false);
        let (handle, drain) = drain::channel();
        let (connection, control_plane) = watch::channel(Connection {
            address: "istiod:15012".to_owned(),
            connected: false,
            last_answer: None,
            trouble: Some("it says\nno".to_owned()),
            awaited: Kind::ALL.into(),
        });
        let control_plane = Some(control_plane);
        let readiness = Readiness { source, svid, generation, control_plane, bound, drain };
        assert_eq!(
            readiness.missing(),
            [
                "no certificate yet: istiod is gone",
                "no configuration yet: it says no",
                "listeners are not bound yet"
            ]
        );
        connection.send_modify(|connection| connection.trouble = None);
        let silent = "no configuration yet: istiod at istiod:15012 has not answered yet";
        assert_eq!(readiness.missing()[1], silent);
        let without = Readiness { control_plane: None, ..readiness.clone() };
        assert_eq!(without.missing()[1], "no configuration yet");
        generations.send_replace(1);
        bind.send_replace(true);
        assert_eq!(readiness.missing(), ["no certificate yet: istiod is gone"]);
        handle.advance(Phase::Lingering);
        assert_eq!(readiness.missing(), ["no certificate yet: istiod is gone", "stopping"]);
    }
}
