//! Roots that an authority no longer sends, and until when they count.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use crate::svid::X509Svid;

/// Roots of former SVIDs, each until the last SVID that came with it has ended.
#[derive(Debug, Default)]
pub(super) struct FormerRoots(Vec<Former>);

#[derive(Debug)]
struct Former {
    root: CertificateDer<'static>,
    until: SystemTime,
}

impl FormerRoots {
    /// `before` gave way to `after`: its roots are former ones, other than those that came again.
    pub(super) fn replaced(&mut self, before: &X509Svid, after: &X509Svid) {
        for root in before.bundles().for_own().roots() {
            match self.0.iter_mut().find(|former| former.root == *root) {
                Some(former) => former.until = former.until.max(before.not_after()),
                None => self.0.push(Former { root: root.clone(), until: before.not_after() }),
            }
        }
        let current = after.bundles().for_own().roots();
        self.0.retain(|former| !current.contains(&former.root));
    }

    /// Forgets those that have ended, and returns the others.
    pub(super) fn still_trusted(
        &mut self,
        now: SystemTime,
    ) -> impl Iterator<Item = &CertificateDer<'static>> {
        self.0.retain(|former| former.until > now);
        self.0.iter().map(|former| &former.root)
    }

    /// Has any ended that is not forgotten yet?
    pub(super) fn have_ended(&self, now: SystemTime) -> bool {
        self.0.iter().any(|former| former.until <= now)
    }

    /// When the next one ends.
    pub(super) fn next_end(&self) -> Option<SystemTime> {
        self.0.iter().map(|former| former.until).min()
    }
}
