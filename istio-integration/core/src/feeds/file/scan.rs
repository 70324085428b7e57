//! The files of a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bounds of a folder. What is beyond them is refused by name, not cut off.
const MAX_FILES: usize = 10_000;
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;
const MAX_DEPTH: usize = 16;

/// Times a folder is read anew when it changes while it is read.
const ATTEMPTS: usize = 5;

/// The files of a folder, by the path they were found at.
pub(super) type Files = BTreeMap<Arc<Path>, File>;

/// A file at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Its text, or why it could not be read.
    pub(super) text: Result<Arc<str>, String>,
    /// Where it is once links are followed. Another place means that a link was swapped, and the file came whole.
    pub(super) real: Option<PathBuf>,
}

/// Why a folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder itself, or one under it.
    #[error("cannot list {}", .0.display())]
    List(PathBuf, #[source] io::Error),
    /// More files than any mesh has; it is probably the wrong folder.
    #[error("{} holds more than {MAX_FILES} manifests", .0.display())]
    TooMany(PathBuf),
    /// Folders in folders, or links in a circle.
    #[error("{} lies more than {MAX_DEPTH} folders deep", .0.display())]
    TooDeep(PathBuf),
}

/// Reads every manifest of a folder. If a link or a file is swapped meanwhile, the folder is read again, so that what
/// is returned was there at one time (a mounted ConfigMap is swapped as a whole). What is `known` already was.
pub(super) fn read(dir: &Path, known: Option<&Files>) -> Result<Files, LoadError> {
    let mut files = read_once(dir)?;
    if known == Some(&files) {
        return Ok(files);
    }
    for _ in 1..ATTEMPTS {
        let again = read_once(dir)?;
        if again == files {
            break;
        }
        files = again;
    }
    Ok(files)
}

fn read_once(dir: &Path) -> Result<Files, LoadError> {
    let mut paths = BTreeSet::new();
    list(dir, dir, 0, &mut paths)?;
    Ok(paths.into_iter().filter_map(|path| Some((Arc::from(path.as_path()), file(&path)?))).collect())
}

/// `None` where the file is gone. A link that is swapped between the two steps is seen when the folder is read again.
fn file(path: &Path) -> Option<File> {
    let text = text(path)?;
    Some(File { text, real: std::fs::canonicalize(path).ok() })
}

fn list(root: &Path, dir: &Path, depth: usize, paths: &mut BTreeSet<PathBuf>) -> Result<(), LoadError> {
    if depth > MAX_DEPTH {
        return Err(LoadError::TooDeep(dir.to_owned()));
    }
    let listed = std::fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = match listed {
        Ok(entries) => entries,
        // Deleted between being listed and being read.
        Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LoadError::List(dir.to_owned(), error)),
    };
    for entry in entries {
        let path = entry.path();
        if is_hidden(&path) {
            continue;
        }
        // Follows links: in a mounted ConfigMap every manifest is one.
        let Ok(metadata) = std::fs::metadata(&path) else {
            if is_manifest(&path) {
                paths.insert(path);
            }
            continue;
        };
        if metadata.is_dir() {
            list(root, &path, depth + 1, paths)?;
        } else if is_manifest(&path) {
            paths.insert(path);
        }
        if paths.len() > MAX_FILES {
            return Err(LoadError::TooMany(root.to_owned()));
        }
    }
    Ok(())
}

/// Hidden files: an editor's own, `..data` and the folders of a mounted ConfigMap.
fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(['.', '#']) || name.ends_with('~')
}

fn is_manifest(path: &Path) -> bool {
    matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml" | "json"))
}

/// `None` where the file is gone.
fn text(path: &Path) -> Option<Result<Arc<str>, String>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(format!("cannot be read: {error}"))),
    };
    if !metadata.is_file() {
        return Some(Err("is no file".to_owned()));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Some(Err(format!("is larger than {MAX_FILE_BYTES} bytes")));
    }
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned());
            Some(text.map(Arc::from))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(format!("cannot be read: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let files = read(dir, None).unwrap();
        files.keys().map(|path| path.strip_prefix(dir).unwrap().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn manifests_are_found_in_folders_and_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("sub/deep")).unwrap();
        fs::create_dir_all(root.join("..2026_01")).unwrap();
        for name in ["a.yaml", "b.yml", "sub/deep/c.json", "..2026_01/d.yaml"] {
            fs::write(root.join(name), "x").unwrap();
        }
        for name in ["README.md", ".hidden.yaml", ".a.yaml.swp", "a.yaml~", "#a.yaml#", "4913"] {
            fs::write(root.join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("..2026_01", root.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/d.yaml", root.join("d.yaml")).unwrap();
        assert_eq!(names(root), ["a.yaml", "b.yml", "d.yaml", "sub/deep/c.json"]);
    }

    #[test]
    fn a_circle_of_links_ends() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).unwrap();
        assert!(matches!(read(dir.path(), None), Err(LoadError::TooDeep(_))));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(read(&dir.path().join("none"), None), Err(LoadError::List(..))));
        fs::write(dir.path().join("a.yaml"), [0xff, 0xfe]).unwrap();
        let big = fs::File::create(dir.path().join("b.yaml")).unwrap();
        big.set_len(MAX_FILE_BYTES + 1).unwrap();
        let files = read(dir.path(), None).unwrap();
        let errors: Vec<_> = files.values().map(|file| file.text.clone().unwrap_err()).collect();
        assert_eq!(errors, ["is not UTF-8 text", "is larger than 8388608 bytes"]);
    }
}
