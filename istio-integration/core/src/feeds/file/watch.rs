//! Watching a folder: change notices gathered, and a slow look around for those that got lost.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tokio::time::{Instant, timeout, timeout_at};

use super::folder::{Folder, LoadError, Loaded};

/// A burst of changes is over when nothing was heard for this long.
const QUIET: Duration = Duration::from_millis(10);

/// A burst is cut off after this long.
const LONGEST_BURST: Duration = Duration::from_millis(100);

/// The folder is read this often even if nothing was heard: notices get lost when a queue overflows, and none comes
/// when a link points out of the folder.
const RESCAN: Duration = Duration::from_secs(5);

/// Watches a folder and sends each new state, the first one too unless [`Folder::reload`] gave it out before.
///
/// Runs until the receivers are gone. A folder that cannot be read, or not watched, is logged and tried again; the
/// last state stays. Dropping the future stops the watch between two states. A panic while reading is passed on: a watch
/// that ended quietly would leave the last state serving for ever.
pub async fn watch(folder: Folder, out: watch::Sender<Option<Loaded>>) {
    watch_every(folder, out, RESCAN).await;
}

async fn watch_every(mut folder: Folder, out: watch::Sender<Option<Loaded>>, rescan: Duration) {
    let changed = Arc::new(Notify::new());
    let mut watcher = watcher(folder.dir(), changed.clone());
    let (mut failing, mut deaf) = (false, false);
    loop {
        // Before reading, so that a change during the read is heard; each time, since links may lead elsewhere now.
        deaf = listen(watcher.as_mut(), folder.dir(), deaf);
        let Some((back, result)) = reload(folder).await else { return };
        folder = back;
        failing = report(&result, failing);
        if let Ok(Some(loaded)) = result {
            out.send_replace(Some(loaded));
        }
        tokio::select! {
            // Both only wait: dropping either loses nothing, since a notice that came stays with `changed`.
            () = out.closed() => return,
            () = next_burst(&changed, folder.next_look(rescan)) => {}
        }
    }
}

/// Reads the folder off the runtime's threads. `None` when the runtime is shutting down.
async fn reload(mut folder: Folder) -> Option<(Folder, Result<Option<Loaded>, LoadError>)> {
    let read = tokio::task::spawn_blocking(move || {
        let result = folder.reload();
        (folder, result)
    });
    finished(read.await)
}

/// What a task made; `None` when the runtime cancelled it. Its panic goes on here.
fn finished<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(made) => Some(made),
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_cancelled)) => None,
    }
}

/// Logs the first failure of a row, and its end.
fn report(result: &Result<Option<Loaded>, LoadError>, failing: bool) -> bool {
    match result {
        Err(error) if !failing => {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(%error, cause, "manifests cannot be read; the last state stays");
        }
        Ok(_) if failing => tracing::info!("manifests can be read again"),
        Ok(_) | Err(_) => {}
    }
    result.is_err()
}

/// A watcher that notes whatever changes in the folder. `None`: only the slow look around finds changes.
fn watcher(dir: &Path, changed: Arc<Notify>) -> Option<RecommendedWatcher> {
    let dir = dir.to_owned();
    let made = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error may mean lost notices.
        if event.map_or(true, |event| concerns(&event, &dir)) {
            changed.notify_one();
        }
    });
    made.inspect_err(
        |error| tracing::warn!(%error, "manifests cannot be watched; looked at every few seconds"),
    )
    .ok()
}

/// Reading the folder makes access notices itself; to heed those would be to read for ever.
fn concerns(event: &Event, dir: &Path) -> bool {
    let read_only =
        matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    !read_only && (event.paths.is_empty() || event.paths.iter().any(|path| path.starts_with(dir)))
}

/// Listens to the folder, and to its parent, where the folder itself may be a link that is swapped. Tells, and logs the
/// first time of a row, whether only the slow look around is left.
fn listen(watcher: Option<&mut RecommendedWatcher>, dir: &Path, deaf: bool) -> bool {
    let Some(watcher) = watcher else { return true };
    let parent =
        dir.parent().filter(|_| dir.is_symlink()).map(|parent| (parent, RecursiveMode::NonRecursive));
    let paths = [(dir, RecursiveMode::Recursive)].into_iter().chain(parent);
    let failed = paths.filter_map(|(path, mode)| watcher.watch(path, mode).err()).last();
    if let (Some(error), false) = (&failed, deaf) {
        tracing::warn!(%error, "manifests cannot be watched; looked at every few seconds");
    }
    failed.is_some()
}

/// Waits for a change and then for the end of its burst, or until the next slow look around.
async fn next_burst(changed: &Notify, rescan: Duration) {
    if timeout(rescan, changed.notified()).await.is_err() {
        return;
    }
    let cut = Instant::now() + LONGEST_BURST;
    while Instant::now() < cut {
        let quiet = cut.min(Instant::now() + QUIET);
        if timeout_at(quiet, changed.notified()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::feeds::file::Options;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn namespace_service(name: &str) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.1}}\n")
    }

    /// Waits until the only service there is has this name.
    async fn wait_for(state: &mut watch::Receiver<Option<Loaded>>, name: &str) {
        let there = |loaded: &Option<Loaded>| {
            loaded.as_ref().is_some_and(|loaded| {
                let names: Vec<_> =
                    loaded.mesh.services.values().map(|service| service.name.as_str()).collect();
                names == [name]
            })
        };
        timeout(DEADLINE, state.wait_for(there)).await.expect("in time").expect("still watched");
    }

    /// Runs the watch without its slow look around: only notices can bring a new state.
    fn start(dir: &Path) -> (tokio::task::JoinHandle<()>, watch::Receiver<Option<Loaded>>) {
        let (out, state) = watch::channel(None);
        let folder = Folder::new(dir, Options::default());
        (tokio::spawn(watch_every(folder, out, Duration::from_secs(3600))), state)
    }

    #[tokio::test]
    async fn a_swapped_link_is_picked_up_as_in_a_mounted_config_map() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (version, name) in [("..v1", "one"), ("..v2", "two")] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("a.yaml"), namespace_service(name)).unwrap();
        }
        symlink("..v1", root.join("..data")).unwrap();
        symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
        let (task, mut state) = start(root);
        wait_for(&mut state, "one").await;
        symlink("..v2", root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
        wait_for(&mut state, "two").await;
        drop(state);
        timeout(DEADLINE, task).await.expect("ends with its receiver").unwrap();
    }

    #[tokio::test]
    async fn a_swapped_folder_an_edit_and_a_deletion_are_picked_up() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (version, name) in [("v1", "one"), ("v2", "two")] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("a.yaml"), namespace_service(name)).unwrap();
        }
        symlink("v1", root.join("current")).unwrap();
        let (task, mut state) = start(&root.join("current"));
        wait_for(&mut state, "one").await;
        symlink("v2", root.join("next")).unwrap();
        fs::rename(root.join("next"), root.join("current")).unwrap();
        wait_for(&mut state, "two").await;
        fs::write(root.join("v2/b.yaml"), namespace_service("three")).unwrap();
        fs::remove_file(root.join("v2/a.yaml")).unwrap();
        wait_for(&mut state, "three").await;
        task.abort();
    }

    #[tokio::test]
    async fn the_slow_look_around_finds_what_no_notice_told() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let real = outside.path().join("a.yaml");
        fs::write(&real, namespace_service("one")).unwrap();
        symlink(&real, dir.path().join("a.yaml")).unwrap();
        let (out, mut state) = watch::channel(None);
        let folder = Folder::new(dir.path(), Options::default());
        let task = tokio::spawn(watch_every(folder, out, Duration::from_millis(20)));
        wait_for(&mut state, "one").await;
        fs::write(&real, namespace_service("two")).unwrap();
        wait_for(&mut state, "two").await;
        task.abort();
    }

    #[tokio::test]
    async fn a_panic_while_reading_is_passed_on_and_a_cancelled_read_is_not_one() {
        let panics = tokio::spawn(async { finished(tokio::task::spawn_blocking(|| panic!("read")).await) });
        assert!(panics.await.is_err_and(|error| error.is_panic()));
        let cancelled = tokio::spawn(std::future::pending::<()>());
        cancelled.abort();
        assert_eq!(finished(cancelled.await), None);
    }

    #[tokio::test]
    async fn a_document_that_is_taken_out_of_its_file_goes_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        fs::write(&file, format!("{}---\n{}", namespace_service("one"), namespace_service("two"))).unwrap();
        let (task, mut state) = start(dir.path());
        timeout(DEADLINE, state.wait_for(Option::is_some)).await.expect("in time").expect("still watched");
        let written = Instant::now();
        fs::write(&file, namespace_service("two")).unwrap();
        wait_for(&mut state, "two").await;
        assert!(written.elapsed() < Duration::from_secs(1), "{:?}", written.elapsed());
        task.abort();
    }

    #[test]
    fn our_own_reading_is_not_a_change() {
        let dir = Path::new("/a/b");
        let event = |kind, path: &str| Event::new(kind).add_path(path.into());
        let rows = [
            (EventKind::Access(AccessKind::Open(AccessMode::Any)), "/a/b/c.yaml", false),
            (EventKind::Access(AccessKind::Close(AccessMode::Read)), "/a/b/c.yaml", false),
            (EventKind::Access(AccessKind::Close(AccessMode::Write)), "/a/b/c.yaml", true),
            (EventKind::Any, "/a/b", true),
            (EventKind::Any, "/a/other", false),
        ];
        for (kind, path, want) in rows {
            assert_eq!(concerns(&event(kind, path), dir), want, "{kind:?} {path}");
        }
    }
}
