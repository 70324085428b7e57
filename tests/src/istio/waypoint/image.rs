//! Root folders of containers: what an image holds, as far as its program needs it.

use crate::istio::command::run;
use crate::portcullis;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders that a container runtime puts things into.
const FOLDERS: [&str; 4] = ["dev", "etc", "proc", "tmp"];

/// An image that the lab can make: one program and the libraries that it is linked with.
#[derive(Clone, Debug)]
pub(super) struct Image {
    program: PathBuf,
    /// What the image starts.
    pub entry_point: Vec<String>,
}

impl Image {
    /// The image that a pod names.
    ///
    /// # Errors
    /// For any that is not ours: nothing is pulled.
    pub(super) fn find(name: &str, lab: &Path) -> Result<Self> {
        let repository = name.rsplit('/').next().and_then(|last| last.split([':', '@']).next());
        let path = |name: &str| format!("/usr/local/bin/{name}");
        match repository {
            // As deploy/image/Containerfile has it.
            Some("portcullis") => {
                Ok(Self { program: portcullis::binary()?, entry_point: vec![path("portcullis")] })
            }
            Some("lab-report") => {
                Ok(Self { program: lab.to_owned(), entry_point: vec![path("lab"), "report".to_owned()] })
            }
            _ => bail!("the lab has no image {name}"),
        }
    }

    /// Lays out `root` with the program, its libraries, the folders for `mounts`, and names of hosts.
    pub(super) fn lay_out(&self, root: &Path, mounts: &[&str], hosts: &str) -> Result<()> {
        for folder in FOLDERS.iter().chain(mounts) {
            fs::create_dir_all(below(root, folder))?;
        }
        for device in super::contain::DEVICES {
            fs::write(below(root, device), "")?;
        }
        fs::write(root.join("etc/hosts"), hosts)?;
        fs::write(root.join("etc/passwd"), "portcullis:x:1337:1337::/:/nonexistent\n")?;
        let place = self.entry_point.first().context("an image starts a program")?;
        copy(&self.program, &below(root, place))?;
        for library in self.libraries()? {
            copy(Path::new(&library), &below(root, &library))?;
        }
        Ok(())
    }

    /// The libraries that the program is linked with; none for a static one, of which `ldd` says so by failing.
    fn libraries(&self) -> Result<Vec<String>> {
        match run(Command::new("ldd").arg(&self.program), "") {
            Ok(told) => {
                let path = |line: &str| {
                    line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned)
                };
                Ok(told.lines().filter_map(path).collect())
            }
            Err(error) if error.to_string().contains("not a dynamic executable") => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// `path` of a container below `root`.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// A hard link where it can be: debug builds of programs are large.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
    let from = from.canonicalize().with_context(|| from.display().to_string())?;
    if fs::hard_link(&from, to).is_err() {
        fs::copy(&from, to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    }
    Ok(())
}
