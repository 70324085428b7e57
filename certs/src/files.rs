//! An SVID from three files, read again when they change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    error::SvidError,
    source::{Published, Publisher, SvidSource, publisher},
    svid::X509Svid,
    watcher::{self, Look, Pace},
};

/// How often files that do not fit each other are read before that counts as an error: somebody may be writing them.
const TRIES: u32 = 3;
/// How long a writer is given between two of these.
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Where an SVID lies, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePaths {
    /// The certificate chain, leaf first.
    pub chain: PathBuf,
    /// The private key of the leaf, unencrypted.
    pub key: PathBuf,
    /// The roots of the trust domain.
    pub bundle: PathBuf,
}

/// An SVID from files: written by cert-manager, an Istio agent, a mounted Secret or hand.
///
/// Their directories are watched (a mounted volume swaps a symlink), and read every few seconds besides. Chain and
/// key are taken only when they fit each other; as long as they don't, the last SVID stays and a warning names the
/// file. Works without a runtime; its thread ends when nobody holds the source or a receiver of it.
#[derive(Debug)]
pub struct FileSource(Published);

impl FileSource {
    /// Reads the files now, blocking, and watches them from then on.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn open(paths: FilePaths) -> Result<Self, SvidError> {
        Self::open_at(Pace::default(), paths)
    }

    pub(crate) fn open_at(pace: Pace, paths: FilePaths) -> Result<Self, SvidError> {
        let (publisher, published) = publisher(Some(read_settled(&paths)?));
        let files = paths.clone();
        watcher::spawn("svid-files", &[&paths.chain, &paths.key, &paths.bundle], pace, move || {
            look(&files, &publisher)
        })
        .map_err(SvidError::Watch)?;
        Ok(Self(published))
    }
}

impl SvidSource for FileSource {
    fn watch(&self) -> watch::Receiver<Option<Arc<X509Svid>>> {
        self.0.svid.clone()
    }

    fn last_error(&self) -> Option<String> {
        self.0.error.borrow().clone()
    }
}

fn look(paths: &FilePaths, publisher: &Publisher) -> Look {
    if publisher.is_closed() {
        return Look::Unwanted;
    }
    match read_settled(paths) {
        Ok(svid) => {
            publisher.renewed(svid);
            Look::Settled
        }
        Err(error) => {
            publisher.failed(error.to_string());
            Look::Failed
        }
    }
}

/// Reads until chain and key fit each other, a few times at most.
fn read_settled(paths: &FilePaths) -> Result<X509Svid, SvidError> {
    let mut tries = 1;
    loop {
        match read(paths) {
            Err(SvidError::InFile { cause, .. })
                if matches!(*cause, SvidError::KeyMismatch) && tries < TRIES =>
            {
                tries += 1;
                thread::sleep(BETWEEN_TRIES);
            }
            settled => return settled,
        }
    }
}

fn read(paths: &FilePaths) -> Result<X509Svid, SvidError> {
    let chain = read_file(&paths.chain)?;
    let key = read_file(&paths.key)?;
    let bundle = read_file(&paths.bundle)?;
    X509Svid::from_pem(&chain, &key, &bundle).map_err(|cause| blame(paths, cause))
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, SvidError> {
    fs::read(path).map_err(|cause| SvidError::Unreadable { path: path.to_owned(), cause })
}

/// The file that a fault lies in.
fn blame(paths: &FilePaths, cause: SvidError) -> SvidError {
    let path = match &cause {
        SvidError::NoKey | SvidError::BadKey | SvidError::KeyMismatch => &paths.key,
        SvidError::EmptyBundle | SvidError::BadBundle(_) => &paths.bundle,
        _ => &paths.chain,
    };
    SvidError::InFile { path: path.clone(), cause: Box::new(cause) }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::tests::{
        authority::{Authority, Issued, Leaf},
        soon,
    };

    const ID: &str = "spiffe://td.example/ns/a/sa/b";

    /// Plain files, written one after the other.
    struct Files {
        directory: TempDir,
    }

    impl Files {
        fn holding(issued: &Issued, bundle: &str) -> Self {
            let files = Self { directory: TempDir::new().unwrap() };
            fs::write(files.paths().chain, &issued.chain).unwrap();
            fs::write(files.paths().key, &issued.key).unwrap();
            fs::write(files.paths().bundle, bundle).unwrap();
            files
        }

        fn paths(&self) -> FilePaths {
            let at = |name| self.directory.path().join(name);
            FilePaths { chain: at("chain.pem"), key: at("key.pem"), bundle: at("bundle.pem") }
        }
    }

    #[tokio::test]
    async fn key_and_chain_written_one_after_the_other_are_never_taken_apart() {
        let authority = Authority::root("root");
        let files = Files::holding(&authority.issue(&Leaf::of(ID)), authority.bundle());
        let source = FileSource::open_at(Pace::EVENTS_ONLY, files.paths()).unwrap();
        let (mut svid, mut error) = (source.watch(), source.0.error.clone());
        let first = svid.borrow_and_update().clone().unwrap();
        let next = authority.issue(&Leaf::of(ID));

        fs::write(files.paths().key, &next.key).unwrap();
        // A write is not atomic, so the empty file may be seen first.
        let said =
            format!("{}: the private key does not fit the leaf certificate", files.paths().key.display());
        soon(error.wait_for(|error| error.as_ref() == Some(&said))).await.unwrap();
        assert!(!svid.has_changed().unwrap());

        fs::write(files.paths().chain, &next.chain).unwrap();
        soon(svid.changed()).await.unwrap();
        let second = svid.borrow().clone().unwrap();
        assert_ne!(first.serial(), second.serial());
        second.certified().keys_match().unwrap();
        assert_eq!(source.last_error(), None);
    }

    #[tokio::test]
    async fn every_unusable_renewal_keeps_the_last_svid_and_names_the_file() {
        let authority = Authority::root("root");
        let good = authority.issue(&Leaf::of(ID));
        let files = Files::holding(&good, authority.bundle());
        let source = FileSource::open_at(Pace::EVENTS_ONLY, files.paths()).unwrap();
        let (svid, mut error) = (source.watch(), source.0.error.clone());
        let first = svid.borrow().clone().unwrap();
        let expired = authority.issue(&Leaf { valid: (-120, -60), ..Leaf::of(ID) });
        let FilePaths { chain, key, bundle } = files.paths();
        for (path, broken, good) in [
            (&chain, expired.chain.as_str(), &good.chain),
            (&chain, "", &good.chain),
            (&key, "", &good.key),
            (&bundle, "", &authority.bundle().to_owned()),
        ] {
            fs::write(path, broken).unwrap();
            let said = soon(error.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
            assert!(said.starts_with(&format!("{}: ", path.display())), "{said}");
            assert!(Arc::ptr_eq(&first, svid.borrow().as_ref().unwrap()));
            fs::write(path, good).unwrap();
            soon(error.wait_for(Option::is_none)).await.unwrap();
        }
        fs::remove_file(&bundle).unwrap();
        let said = soon(error.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
        assert!(said.starts_with(&format!("cannot read {}: ", bundle.display())), "{said}");
        // The same certificate again was never announced as a new one.
        assert!(Arc::ptr_eq(&first, svid.borrow().as_ref().unwrap()));
    }

    #[tokio::test]
    async fn what_no_event_tells_is_found_by_the_slow_clock() {
        let authority = Authority::root("root");
        let outer = TempDir::new().unwrap();
        let at = |name| outer.path().join("svid").join(name);
        let paths = FilePaths { chain: at("chain.pem"), key: at("key.pem"), bundle: at("bundle.pem") };
        let write = |issued: Issued, directory: &str| {
            let at = outer.path().join(directory);
            fs::create_dir(&at).unwrap();
            fs::write(at.join("chain.pem"), issued.chain).unwrap();
            fs::write(at.join("key.pem"), issued.key).unwrap();
            fs::write(at.join("bundle.pem"), authority.bundle()).unwrap();
        };
        write(authority.issue(&Leaf::of(ID)), "svid");
        let pace = Pace { settled: Duration::from_millis(20), failed: Duration::from_millis(20) };
        let source = FileSource::open_at(pace, paths).unwrap();
        let mut svid = source.watch();
        let first = svid.borrow_and_update().clone().unwrap();

        // The watch stays with the directory that was there.
        write(authority.issue(&Leaf::of(ID)), "next");
        fs::rename(outer.path().join("svid"), outer.path().join("old")).unwrap();
        fs::rename(outer.path().join("next"), outer.path().join("svid")).unwrap();
        soon(svid.changed()).await.unwrap();
        assert_ne!(first.serial(), svid.borrow().as_ref().unwrap().serial());
    }

    #[test]
    fn opening_names_file_and_reason() {
        let authority = Authority::root("root");
        let (good, other) = (authority.issue(&Leaf::of(ID)), authority.issue(&Leaf::of(ID)));
        let files = Files::holding(&good, authority.bundle());
        fs::write(files.paths().key, other.key).unwrap();
        let error = FileSource::open(files.paths()).unwrap_err().to_string();
        let key = files.paths().key;
        assert_eq!(error, format!("{}: the private key does not fit the leaf certificate", key.display()));
        fs::remove_file(&key).unwrap();
        let error = FileSource::open(files.paths()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot read {}: ", key.display())), "{error}");
    }
}
