//! A folder over time: what changed, and what stays in force when a document goes bad.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use waypoint_model::{Map, MeshConfig, PolicyKey, Workload, Workloads};

use super::document::{Document, Kind, Origin, ResourceKey};
use super::finding::{Finding, Severity};
use super::mesh;
use super::options::Options;
use super::read::{Read, SETTLE};
use super::resource::{self, Entry, Resources, Translated};
pub use super::scan::LoadError;
use super::scan::{self, File, Files};

/// A folder's state.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The mesh. Entries that did not change since the last state are the same `Arc`s.
    pub mesh: Arc<MeshConfig>,
    /// Everything there is to say about the folder as it now is, by file and document.
    pub findings: Vec<Finding>,
    /// Where each policy in force stands.
    pub origins: Map<PolicyKey, Origin>,
}

/// Reads a folder once: `*.yaml`, `*.yml` and `*.json`, in sub-folders too, several documents a file.
///
/// # Errors
/// A [`LoadError`] where the folder cannot be read. What is wrong with its documents is in [`Loaded::findings`].
pub fn load(dir: &Path, options: &Options) -> Result<Loaded, LoadError> {
    let mut folder = Folder::new(dir.to_owned(), options.clone());
    folder.look(Instant::now())?;
    Ok(folder.loaded())
}

/// A folder that is read again and again.
///
/// The last good version of each document, by kind, namespace and name, stays in force while the document is invalid,
/// and those of a file while it cannot be read or is empty. A document that is gone is out of force.
///
/// A file that changes in place may be half-written: what it said stays until it was the same for 200 ms. New documents,
/// the deletion of a file and the swap of a link count at once.
///
/// What never had a good version fails closed: a policy denies its targets, a route answers 500 at its parents, and
/// while a document that could not be read when the folder was first loaded stays unreadable, every service denies,
/// since it may be a policy. One that comes later is an error and changes nothing, as if it had not been applied.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    options: Options,
    /// `None`: never read.
    files: Option<Files>,
    /// How long a file must have been the same to be taken at its word.
    settle: Duration,
    contents: BTreeMap<Arc<Path>, Read>,
    /// Documents with a good version, and that version.
    good: Resources,
    /// Files that could not be read in full when the folder was first loaded, and not since.
    never_read: BTreeSet<Arc<Path>>,
    mesh: Arc<MeshConfig>,
    findings: Vec<Finding>,
    origins: Map<PolicyKey, Origin>,
}

impl Folder {
    /// A folder that was not read yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, options: Options) -> Self {
        Self {
            dir: dir.into(),
            options,
            files: None,
            settle: SETTLE,
            contents: BTreeMap::new(),
            good: Resources::new(),
            never_read: BTreeSet::new(),
            mesh: Arc::default(),
            findings: Vec::new(),
            origins: Map::new(),
        }
    }

    /// The folder's path.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the folder. `None` where nothing is new since the last time. Blocks on the file system.
    ///
    /// # Errors
    /// A [`LoadError`] where the folder cannot be read; the last state stays what it was.
    pub fn reload(&mut self) -> Result<Option<Loaded>, LoadError> {
        let new = self.look(Instant::now())?;
        Ok(new.then(|| self.loaded()))
    }

    /// When to look again if nothing is heard: soon while a file has to settle.
    pub(super) fn next_look(&self, otherwise: Duration) -> Duration {
        if self.contents.values().any(Read::is_settling) { self.settle.min(otherwise) } else { otherwise }
    }

    /// Reads the folder, and tells whether anything is new.
    fn look(&mut self, now: Instant) -> Result<bool, LoadError> {
        let files = scan::read(&self.dir, self.files.as_ref())?;
        let new = self.read_changed(&files, now) || self.files.is_none();
        if new {
            self.update();
        }
        self.files = Some(files);
        Ok(new)
    }

    fn loaded(&self) -> Loaded {
        let (mesh, findings, origins) = (self.mesh.clone(), self.findings.clone(), self.origins.clone());
        Loaded { mesh, findings, origins }
    }

    fn update(&mut self) {
        let mut merge = Merge::new(&self.good);
        for (file, read) in &self.contents {
            merge.file(file, read);
        }
        let Merge { in_force, good, mut findings, .. } = merge;
        self.good = good;
        let unreadable = self.note_unreadable();
        let (mesh, joined) = mesh::join(&in_force, &unreadable, &self.options);
        findings.extend(joined);
        findings.extend(self.about_gateway(&in_force));
        findings.sort_by(|a, b| (&a.file, a.document, a.severity).cmp(&(&b.file, b.document, b.severity)));
        self.mesh = Arc::new(reuse(mesh, &self.mesh));
        self.findings = findings;
        self.origins = in_force.values().filter_map(policy_origin).collect();
    }

    /// Translates the files whose text changed, and tells whether anything is new.
    fn read_changed(&mut self, files: &Files, now: Instant) -> bool {
        let before = self.contents.len();
        self.contents.retain(|file, _| files.contains_key(file));
        let mut new = self.contents.len() != before;
        for (path, file) in files {
            let last = self.files.as_ref().and_then(|files| files.get(path));
            if last.is_none_or(|last| last.text != file.text) {
                let in_place = last.is_some_and(|last| last.real == file.real);
                new |= self.read(path, file, in_place.then_some(now));
            }
            new |= self.contents.get_mut(path).is_some_and(|read| read.settle(now, self.settle));
        }
        new
    }

    /// Translates a file, and tells whether anything is new; nothing may be until it has settled.
    fn read(&mut self, path: &Arc<Path>, file: &File, settle: Option<Instant>) -> bool {
        let fresh = Read::new(path, &file.text, &self.options);
        let before = self.contents.remove(path);
        let was_adding = before.as_ref().is_some_and(Read::is_adding);
        let read = match before {
            Some(before) => before.replaced_by(fresh, path, settle),
            None => fresh,
        };
        let new = !read.is_settling() || read.is_adding() || was_adding;
        self.contents.insert(path.clone(), read);
        new
    }

    /// Keeps account of what never could be read, and names it.
    fn note_unreadable(&mut self) -> Vec<String> {
        let unreadable = |read: &Read| !read.unreadable.is_empty();
        if self.files.is_none() {
            let files = self.contents.iter().filter(|(_, read)| unreadable(read));
            self.never_read = files.map(|(file, _)| file.clone()).collect();
        }
        let Self { contents, never_read, dir, .. } = self;
        never_read.retain(|file| contents.get(file).is_some_and(unreadable));
        let mut names = Vec::new();
        for file in never_read.iter() {
            let documents = contents.get(file).map(|read| read.unreadable.as_slice()).unwrap_or_default();
            let short = file.strip_prefix(&*dir).unwrap_or(file).display();
            names.extend(documents.iter().map(|document| format!("{short}:{document}")));
        }
        names
    }

    /// Which Gateway we are is nobody's document where there is none.
    fn about_gateway(&self, in_force: &Resources) -> Option<Finding> {
        let gateway = |key: &ResourceKey| key.kind == Kind::Gateway;
        let (severity, message) = match &self.options.gateway {
            Some((namespace, name)) => {
                let named =
                    |key: &ResourceKey| gateway(key) && key.namespace == *namespace && key.name == *name;
                if in_force.keys().any(named) {
                    return None;
                }
                (
                    Severity::Warning,
                    format!(
                        "Gateway {namespace}/{name} is not in the folder: only labels that name it count"
                    ),
                )
            }
            None => {
                let ours = |entry: &Entry| matches!(entry.resource.as_ref(), resource::Resource::Gateway(doc) if doc.ours);
                if in_force.values().any(ours) {
                    return None;
                }
                (
                    Severity::Note,
                    "there is no Gateway of class istio-waypoint: every service is served".to_owned(),
                )
            }
        };
        let (file, kind) = (self.dir.clone(), String::new());
        Some(Finding { severity, file, document: 0, kind, name: String::new(), field: None, message })
    }
}

fn policy_origin(entry: &Entry) -> Option<(PolicyKey, Origin)> {
    let resource::Resource::Policy(doc) = entry.resource.as_ref() else { return None };
    Some((doc.policy.key.clone(), entry.origin.clone()))
}

/// One pass over all files: which version of which document is in force.
struct Merge<'a> {
    before: &'a Resources,
    in_force: Resources,
    good: Resources,
    findings: Vec<Finding>,
    seen: BTreeMap<&'a ResourceKey, &'a Document>,
}

impl<'a> Merge<'a> {
    fn new(before: &'a Resources) -> Self {
        Self {
            before,
            in_force: Resources::new(),
            good: Resources::new(),
            findings: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    fn file(&mut self, file: &Arc<Path>, read: &'a Read) {
        for (document, translated) in &read.documents {
            for remark in translated.remarks.iter() {
                let field = remark.field.as_deref().unwrap_or_default();
                let finding =
                    document.key.finding(&document.origin, remark.severity, field, remark.message.clone());
                self.findings.push(finding);
            }
            match self.seen.insert(&document.key, document) {
                None => self.document(document, translated),
                Some(first) => self.again(first, document),
            }
        }
        self.findings.extend(read.findings.iter().cloned());
        if !read.unreadable.is_empty() {
            self.keep_all_of(file);
        }
    }

    fn document(&mut self, document: &Document, translated: &Translated) {
        let (key, origin) = (&document.key, &document.origin);
        if translated.is_invalid() {
            let why = translated.remarks.first_error().unwrap_or_default();
            return self.invalid(document, &why);
        }
        if let Some(resource) = &translated.resource {
            let entry = Entry { origin: origin.clone(), resource: resource.clone() };
            self.good.insert(key.clone(), entry.clone());
            self.in_force.insert(key.clone(), entry);
        }
    }

    /// The last good version, or what stands for one.
    fn invalid(&mut self, document: &Document, why: &str) {
        let (key, origin) = (document.key.clone(), &document.origin);
        if let Some(last) = self.before.get(&key) {
            let message = "is invalid: its last good version stays in force";
            self.findings.push(key.finding(origin, Severity::Note, "", message));
            self.good.insert(key.clone(), last.clone());
            self.in_force.insert(key, last.clone());
        } else if let Some(resource) = resource::stand_in(document, why) {
            let entry = Entry { origin: origin.clone(), resource: Arc::new(resource) };
            self.in_force.insert(key, entry);
        }
    }

    /// A resource that is there twice: which is meant cannot be told, unless both say the same.
    fn again(&mut self, first: &Document, second: &Document) {
        let at = format!("{}:{}", first.origin.file.display(), first.origin.document);
        let (key, origin) = (&second.key, &second.origin);
        if (&first.meta, &first.body) == (&second.meta, &second.body) {
            let message = format!("is in {at} already, word for word: remove one of them");
            return self.findings.push(key.finding(origin, Severity::Warning, "", message));
        }
        let message = format!("is in {at} already, and says something else: remove one of them");
        self.findings.push(key.finding(origin, Severity::Error, "", message.clone()));
        self.in_force.remove(key);
        self.good.remove(key);
        self.invalid(second, &message);
    }

    /// A part of this file could not be read, so what it used to say stays.
    fn keep_all_of(&mut self, file: &Arc<Path>) {
        let before = self.before;
        for (key, entry) in before.iter().filter(|(_, entry)| entry.origin.file == *file) {
            if self.seen.contains_key(key) || self.in_force.contains_key(key) {
                continue;
            }
            let origin = Origin { file: file.clone(), document: 0 };
            let message = "is not readable there now: its last good version stays in force";
            self.findings.push(key.finding(&origin, Severity::Note, "", message));
            self.good.insert(key.clone(), entry.clone());
            self.in_force.insert(key.clone(), entry.clone());
        }
    }
}

/// The new mesh with the old `Arc`s where nothing changed, so that building on it costs what changed.
fn reuse(mut new: MeshConfig, old: &MeshConfig) -> MeshConfig {
    reuse_entries(&mut new.services, &old.services);
    new.workloads = reuse_workloads(new.workloads, &old.workloads);
    reuse_entries(&mut new.policies, &old.policies);
    reuse_entries(&mut new.routes, &old.routes);
    new
}

fn reuse_workloads(new: Workloads, old: &Workloads) -> Workloads {
    let same = |entry: &Arc<Workload>| old.get(&entry.uid).filter(|before| *before == entry).cloned();
    new.values().map(|entry| (entry.uid.clone(), same(entry).unwrap_or_else(|| Arc::clone(entry)))).collect()
}

fn reuse_entries<K: Ord, V: PartialEq>(new: &mut Map<K, Arc<V>>, old: &Map<K, Arc<V>>) {
    for (key, entry) in new.iter_mut() {
        if let Some(before) = old.get(key).filter(|before| *before == entry) {
            *entry = before.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use waypoint_model::Service;

    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        folder: Folder,
    }

    const SERVICE: &str =
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: a}\nspec: {clusterIP: 10.96.0.1}\n";
    const BROKEN: &str = "kind: [\n";

    fn policy(action: &str) -> String {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: a}}\n\
             spec: {{targetRefs: [{{kind: Service, name: web}}], action: {action}, rules: [{{}}]}}\n"
        )
    }

    impl Fixture {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let folder = Folder { settle: Duration::ZERO, ..Folder::new(dir.path(), Options::default()) };
            let fixture = Self { dir, folder };
            files.iter().for_each(|(name, text)| fixture.write(name, text));
            fixture
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.dir.path().join(name), text).unwrap();
        }

        fn reload(&mut self) -> Loaded {
            self.folder.reload().unwrap().expect("a change")
        }
    }

    /// A folder whose files take their time to settle, looked at whenever the test says.
    struct Settling {
        fixture: Fixture,
        start: Instant,
    }

    impl Settling {
        fn new(files: &[(&str, &str)]) -> Self {
            let mut fixture = Fixture::new(files);
            fixture.folder.settle = SETTLE;
            Self { fixture, start: Instant::now() }
        }

        /// How the folder stands at a time, in ms since the start.
        fn at(&mut self, ms: u64) -> Loaded {
            self.fixture.folder.look(self.start + Duration::from_millis(ms)).unwrap();
            self.fixture.folder.loaded()
        }

        fn write(&self, name: &str, text: &str) {
            self.fixture.write(name, text);
        }

        fn remove(&self, name: &str) {
            fs::remove_file(self.fixture.dir.path().join(name)).unwrap();
        }
    }

    fn web(loaded: &Loaded) -> &Service {
        loaded.mesh.services.values().find(|service| service.name == "web").unwrap()
    }

    /// How the policy stands: its action, or that it is unusable.
    fn in_force(loaded: &Loaded) -> Option<&'static str> {
        let policy = loaded.mesh.policies.get(&PolicyKey::new("a", "p"))?;
        Some(match (&policy.unusable, policy.action) {
            (Some(_), _) => "unusable",
            (None, waypoint_model::Action::Allow) => "ALLOW",
            (None, _) => "DENY",
        })
    }

    fn errors(loaded: &Loaded) -> Vec<String> {
        loaded.findings.iter().filter(|f| f.severity == Severity::Error).map(ToString::to_string).collect()
    }

    #[test]
    fn each_policy_in_force_says_where_it_stands() {
        let mut fixture = Fixture::new(&[("a.yaml", &format!("{SERVICE}---\n{}", policy("ALLOW")))]);
        let loaded = fixture.reload();
        let origin = loaded.origins.get(&PolicyKey::new("a", "p")).unwrap();
        assert!(origin.file.ends_with("a.yaml") && origin.document == 2, "{origin:?}");
        fixture.write("a.yaml", SERVICE);
        assert!(fixture.reload().origins.is_empty());
    }

    #[test]
    fn nothing_new_is_no_state() {
        let mut fixture = Fixture::new(&[("a.yaml", SERVICE)]);
        fixture.reload();
        assert!(fixture.folder.reload().unwrap().is_none());
        fixture.write("notes.txt", "not a manifest");
        assert!(fixture.folder.reload().unwrap().is_none());
    }

    #[test]
    fn a_folder_that_is_away_for_a_while_changes_nothing() {
        let mut fixture = Fixture::new(&[("a.yaml", SERVICE)]);
        fixture.reload();
        let (here, away) = (fixture.dir.path().to_owned(), fixture.dir.path().with_extension("away"));
        fs::rename(&here, &away).unwrap();
        assert!(matches!(fixture.folder.reload(), Err(LoadError::List(..))));
        fs::rename(&away, &here).unwrap();
        assert!(fixture.folder.reload().unwrap().is_none());
    }

    #[test]
    fn the_last_good_version_of_a_document_stays_until_it_is_gone() {
        let mut fixture = Fixture::new(&[("a.yaml", SERVICE), ("p.yaml", &policy("ALLOW"))]);
        assert_eq!(in_force(&fixture.reload()), Some("ALLOW"));
        fixture.write("p.yaml", &policy("CUSTOM"));
        let loaded = fixture.reload();
        assert_eq!(in_force(&loaded), Some("ALLOW"));
        assert!(
            errors(&loaded)[0].contains("p.yaml:1 AuthorizationPolicy a/p spec.action"),
            "{:?}",
            errors(&loaded)
        );
        // Twice in a row: the good version is not the one just before.
        fixture.write("p.yaml", &policy("custom"));
        assert_eq!(in_force(&fixture.reload()), Some("ALLOW"));
        fixture.write("p.yaml", &policy("DENY"));
        assert_eq!(in_force(&fixture.reload()), Some("DENY"));
        fs::remove_file(fixture.dir.path().join("p.yaml")).unwrap();
        let loaded = fixture.reload();
        assert_eq!((in_force(&loaded), errors(&loaded)), (None, vec![]));
    }

    #[test]
    fn a_policy_that_is_bad_from_the_start_denies_until_it_is_good() {
        let mut fixture = Fixture::new(&[("a.yaml", SERVICE), ("p.yaml", &policy("CUSTOM"))]);
        assert_eq!(in_force(&fixture.reload()), Some("unusable"));
        fixture.write("p.yaml", &policy("AUDITT"));
        assert_eq!(in_force(&fixture.reload()), Some("unusable"));
        fixture.write("p.yaml", &policy("ALLOW"));
        assert_eq!(in_force(&fixture.reload()), Some("ALLOW"));
    }

    #[test]
    fn a_broken_file_keeps_what_it_said() {
        let both = format!("{SERVICE}---\n{}", policy("ALLOW"));
        let mut fixture = Fixture::new(&[("a.yaml", &both)]);
        fixture.reload();
        fixture.write("a.yaml", BROKEN);
        let loaded = fixture.reload();
        assert_eq!((in_force(&loaded), web(&loaded).policies.len()), (Some("ALLOW"), 1));
        assert_eq!(errors(&loaded).len(), 1);
        // One part broken: the other is read as it now is.
        fixture.write("a.yaml", &format!("{BROKEN}---\n{}", policy("DENY")));
        let loaded = fixture.reload();
        assert_eq!((in_force(&loaded), loaded.mesh.services.len()), (Some("DENY"), 1));
        fixture.write("a.yaml", &policy("DENY"));
        assert_eq!(fixture.reload().mesh.services.len(), 0);
    }

    #[test]
    fn what_was_never_readable_may_be_a_policy() {
        let mut fixture = Fixture::new(&[("a.yaml", SERVICE), ("x.yaml", BROKEN)]);
        let loaded = fixture.reload();
        let key = PolicyKey::new("unreadable", "x.yaml:1");
        assert_eq!(web(&loaded).policies, std::slice::from_ref(&key));
        assert!(loaded.mesh.policies[&key].unusable.is_some());
        fixture.write("x.yaml", &policy("ALLOW"));
        let loaded = fixture.reload();
        assert_eq!(web(&loaded).policies, [PolicyKey::new("a", "p")]);
        // Later, a broken file is as one that was not applied.
        fixture.write("z.yaml", BROKEN);
        let loaded = fixture.reload();
        assert_eq!(web(&loaded).policies, [PolicyKey::new("a", "p")]);
        assert_eq!(errors(&loaded).len(), 1);
    }

    #[test]
    fn a_resource_that_is_there_twice_is_ambiguous() {
        let mut fixture = Fixture::new(&[("a.yaml", SERVICE), ("p.yaml", &policy("DENY"))]);
        fixture.reload();
        fixture.write("q.yaml", &policy("DENY"));
        let loaded = fixture.reload();
        assert_eq!((in_force(&loaded), errors(&loaded)), (Some("DENY"), vec![]));
        fixture.write("q.yaml", &policy("ALLOW"));
        let loaded = fixture.reload();
        assert_eq!((in_force(&loaded), errors(&loaded).len()), (Some("DENY"), 1));
        let fresh = load(fixture.dir.path(), &Options::default()).unwrap();
        assert_eq!((in_force(&fresh), errors(&fresh).len()), (Some("unusable"), 1));
    }

    #[test]
    fn a_resource_may_move_between_files_while_it_is_bad() {
        let mut fixture = Fixture::new(&[("a.yaml", SERVICE), ("p.yaml", &policy("DENY"))]);
        fixture.reload();
        fs::remove_file(fixture.dir.path().join("p.yaml")).unwrap();
        fixture.write("q.yaml", &policy("CUSTOM"));
        assert_eq!(in_force(&fixture.reload()), Some("DENY"));
    }

    #[test]
    fn entries_that_did_not_change_are_the_same() {
        let other = SERVICE.replace("web", "other").replace("10.96.0.1", "10.96.0.2");
        let mut fixture = Fixture::new(&[("a.yaml", SERVICE), ("b.yaml", &other)]);
        let before = fixture.reload();
        fixture.write("b.yaml", &other.replace("10.96.0.2", "10.96.0.3"));
        let after = fixture.reload();
        let same = |name: &str| {
            let of =
                |loaded: &Loaded| loaded.mesh.services.values().find(|s| s.name == name).cloned().unwrap();
            Arc::ptr_eq(&of(&before), &of(&after))
        };
        assert_eq!((same("web"), same("other")), (true, false));
    }

    #[test]
    fn a_file_that_is_emptied_and_written_again_says_what_it_said_throughout() {
        let mut folder = Settling::new(&[("a.yaml", SERVICE), ("p.yaml", &policy("ALLOW"))]);
        folder.at(0);
        folder.write("p.yaml", "");
        assert_eq!(in_force(&folder.at(10)), Some("ALLOW"));
        // Cut anywhere, also where what there is of it says something else.
        let next = policy("DENY");
        for (ms, end) in (20..).step_by(150).zip([next.len() - 25, next.len() - 14, next.len()]) {
            folder.write("p.yaml", &next[..end]);
            let loaded = folder.at(ms);
            assert_eq!((in_force(&loaded), errors(&loaded)), (Some("ALLOW"), vec![]), "{end}");
        }
        assert_eq!(in_force(&folder.at(519)), Some("ALLOW"));
        assert_eq!(in_force(&folder.at(520)), Some("DENY"));
        assert_eq!(folder.fixture.folder.next_look(Duration::MAX), Duration::MAX);
    }

    #[test]
    fn a_file_that_ends_at_a_marker_while_it_is_written_drops_nothing() {
        let both = format!("{SERVICE}---\n{}", policy("ALLOW"));
        let mut folder = Settling::new(&[("a.yaml", &both)]);
        folder.at(0);
        for (ms, text) in [(10, String::new()), (20, format!("{SERVICE}---\n")), (210, both)] {
            folder.write("a.yaml", &text);
            assert_eq!(in_force(&folder.at(ms)), Some("ALLOW"), "{ms}");
            assert_eq!(folder.fixture.folder.next_look(Duration::MAX), SETTLE);
        }
        assert_eq!(in_force(&folder.at(410)), Some("ALLOW"));
        folder.write("a.yaml", SERVICE);
        assert_eq!(in_force(&folder.at(420)), Some("ALLOW"));
        assert_eq!(in_force(&folder.at(620)), None, "it is really gone");
    }

    #[test]
    fn an_emptied_file_says_what_it_said_until_it_is_deleted() {
        for empty in ["", "# nothing\n---\n"] {
            let mut folder = Settling::new(&[("a.yaml", SERVICE), ("p.yaml", &policy("ALLOW"))]);
            folder.at(0);
            folder.write("p.yaml", empty);
            folder.at(10);
            let loaded = folder.at(210);
            assert_eq!(in_force(&loaded), Some("ALLOW"));
            let [error] = <[String; 1]>::try_from(errors(&loaded)).unwrap();
            assert!(error.contains("p.yaml:0: holds no document") && error.contains("delete"), "{error}");
            folder.write("p.yaml", "\n");
            folder.at(220);
            assert_eq!(errors(&folder.at(420)).len(), 1);
            folder.remove("p.yaml");
            let loaded = folder.at(421);
            assert_eq!((in_force(&loaded), errors(&loaded)), (None, vec![]));
        }
    }

    #[test]
    fn what_denied_for_want_of_a_good_version_denies_while_its_file_is_rewritten_or_empty() {
        for (text, key) in [
            (policy("CUSTOM"), PolicyKey::new("a", "p")),
            (BROKEN.to_owned(), PolicyKey::new("unreadable", "p.yaml:1")),
        ] {
            let mut folder = Settling::new(&[("a.yaml", SERVICE), ("p.yaml", &text)]);
            folder.at(0);
            folder.write("p.yaml", "");
            for ms in [10, 210, 500] {
                assert_eq!(web(&folder.at(ms)).policies, std::slice::from_ref(&key), "{ms}");
            }
        }
    }

    #[test]
    fn a_document_that_moves_to_another_file_is_always_in_force() {
        let mut folder = Settling::new(&[("a.yaml", SERVICE), ("p.yaml", &policy("ALLOW"))]);
        folder.at(0);
        folder.write("a.yaml", &format!("{SERVICE}---\n{}", policy("ALLOW")));
        folder.remove("p.yaml");
        for ms in [10, 210] {
            assert_eq!(in_force(&folder.at(ms)), Some("ALLOW"), "{ms}");
        }
    }

    #[test]
    fn nothing_is_new_until_a_file_has_settled() {
        let mut folder = Settling::new(&[("a.yaml", SERVICE)]);
        let look = |folder: &mut Settling, ms| {
            folder.fixture.folder.look(folder.start + Duration::from_millis(ms)).unwrap()
        };
        assert!(look(&mut folder, 0));
        folder.write("a.yaml", "");
        assert!(!look(&mut folder, 10));
        folder.write("a.yaml", &SERVICE.replace("0.1", "0.2"));
        assert_eq!([20, 219, 220, 221].map(|ms| look(&mut folder, ms)), [false, false, true, false]);
    }

    #[test]
    fn a_swapped_link_counts_at_once() {
        let mut folder = Settling::new(&[("a.yaml", SERVICE)]);
        let root = folder.fixture.dir.path().to_owned();
        for (version, text) in [("..v1", policy("ALLOW")), ("..v2", policy("DENY"))] {
            fs::create_dir(root.join(version)).unwrap();
            fs::write(root.join(version).join("p.yaml"), text).unwrap();
        }
        let point_to = |version: &str| {
            std::os::unix::fs::symlink(version, root.join("..tmp")).unwrap();
            fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
        };
        point_to("..v1");
        std::os::unix::fs::symlink("..data/p.yaml", root.join("p.yaml")).unwrap();
        assert_eq!(in_force(&folder.at(0)), Some("ALLOW"));
        point_to("..v2");
        assert_eq!(in_force(&folder.at(10)), Some("DENY"));
    }
}
