//! Watches files by their directories, on a thread of its own: files are read with blocking calls, and a source
//! must work before and outside of any runtime.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::Duration,
};

use notify::{
    EventKind, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};

/// How often files are read when no event calls for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// When all is well: events can be lost, and a directory that is itself replaced is not noticed at all.
    pub(crate) settled: Duration,
    /// After a failure.
    pub(crate) failed: Duration,
}

#[cfg(test)]
impl Pace {
    /// Slower than any test: what is noticed was told by an event.
    pub(crate) const EVENTS_ONLY: Self =
        Self { settled: Duration::from_secs(86_400), failed: Duration::from_secs(86_400) };
}

impl Default for Pace {
    fn default() -> Self {
        Self { settled: Duration::from_secs(5), failed: Duration::from_secs(1) }
    }
}

/// Changes come in bursts (key, then chain); wait for the end of one.
const SETTLE: Duration = Duration::from_millis(20);

/// What came of a look at the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// All well; look again after an event, or by the slow clock.
    Settled,
    /// Unusable now; look again soon.
    Failed,
    /// Nobody wants to know any more.
    Unwanted,
}

/// Calls `look` now, after every change in the files' directories and from time to time, until it answers `Unwanted`.
///
/// A directory that cannot be watched is logged; the slow clock still serves it.
pub(crate) fn spawn(
    name: &str,
    files: &[&Path],
    pace: Pace,
    mut look: impl FnMut() -> Look + Send + 'static,
) -> Result<(), io::Error> {
    let (wake, woken) = mpsc::sync_channel(1);
    let watcher = watch(&directories(files), wake.clone());
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Both live as long as the thread: a dropped watcher watches nothing, and without a sender `woken` would spin.
        let _alive = (watcher, wake);
        loop {
            let pause = match look() {
                Look::Settled => pace.settled,
                Look::Failed => pace.failed,
                Look::Unwanted => return,
            };
            wait(&woken, pause);
        }
    })?;
    Ok(())
}

fn wait(woken: &Receiver<()>, pause: Duration) {
    match woken.recv_timeout(pause) {
        Ok(()) => {
            thread::sleep(SETTLE);
            // What woke us meanwhile is covered by the look that follows.
            while woken.try_recv().is_ok() {}
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
    }
}

/// The directories, not the files: a mounted volume changes by swapping a symlink beside them.
fn directories(files: &[&Path]) -> BTreeSet<PathBuf> {
    files
        .iter()
        .filter_map(|file| file.parent())
        .map(|parent| if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
        .collect()
}

fn watch(directories: &BTreeSet<PathBuf>, wake: SyncSender<()>) -> Option<notify::RecommendedWatcher> {
    let handler = move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| is_change(event.kind)) {
            // Full means that a look is due anyway.
            let _ = wake.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(handler)
        .inspect_err(|error| tracing::warn!(%error, "no file events, reading every few seconds instead"))
        .ok()?;
    for directory in directories {
        if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
            tracing::warn!(directory = %directory.display(), %error, "no file events, reading every few seconds instead");
        }
    }
    Some(watcher)
}

/// Our own reading opens files; waking on that would never end.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, ModifyKind, RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn writing_wakes_and_reading_does_not() {
        for (kind, wakes) in [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), false),
            (EventKind::Access(AccessKind::Read), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), false),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), true),
            (EventKind::Modify(ModifyKind::Name(RenameMode::To)), true),
            (EventKind::Create(CreateKind::File), true),
            (EventKind::Remove(RemoveKind::File), true),
        ] {
            assert_eq!(is_change(kind), wakes, "{kind:?}");
        }
    }

    #[test]
    fn directories_are_watched_once_and_a_bare_name_lies_in_the_current_one() {
        let files = ["/a/chain.pem", "/a/key.pem", "root.pem", "b/root.pem"].map(Path::new);
        let expected = [".", "/a", "b"].map(PathBuf::from);
        assert_eq!(directories(&files), BTreeSet::from(expected));
    }
}
