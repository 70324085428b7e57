//! The container image: its root folder, laid out from the binary that the tests ran, and built and tried without a daemon.

use crate::paths::Paths;
use crate::setup::debian_package;
use crate::shell::Shell;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// What a node pulls: the layer, compressed, in bytes.
const MOST_PULLED: u64 = 30_000_000;
/// What it keeps: the layer, unpacked, in bytes.
const MOST_KEPT: u64 = 30_000_000;
/// Roots of public CAs, for key sets and services that are fetched over TLS.
const PUBLIC_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Names of the tests' own storage of images, so that nothing of the machine's is touched.
const TAG: &str = "portcullis:latest";

/// Lays out, builds and runs the image of the binary in `target/release`.
pub(crate) fn build(paths: &Paths) -> Result<()> {
    let context = paths.target.join("image");
    if context.exists() {
        fs::remove_dir_all(&context)?;
    }
    let root = lay_out(paths, &context)?;
    let layer = context.join("layer.tar.gz");
    Shell::new(&context, "tar", &["-czf"]).arg(&layer).arg("-C").arg(&root).arg(".").run()?;
    let rows =
        [("compressed", fs::metadata(&layer)?.len(), MOST_PULLED), ("unpacked", size_of(&root)?, MOST_KEPT)];
    for (what, size, most) in rows {
        println!("image, {what}: {:.1} MB", megabytes(size));
        ensure!(
            size <= most,
            "the image, {what}, has {:.1} MB: the bound is {:.0}",
            megabytes(size),
            megabytes(most)
        );
    }
    fs::copy(paths.root.join("deploy/image/Containerfile"), context.join("Containerfile"))?;
    let buildah = Buildah::new(&context)?;
    buildah.run(&["bud", "--isolation", "chroot", "--tag", TAG, "."])?;
    let container = buildah.read(&["from", TAG])?;
    let container = container.trim();
    for line in [&["--version"][..], &["proxy", "waypoint", "--help"]] {
        let program = ["run", "--isolation", "chroot", container, "--", "/usr/local/bin/portcullis"];
        buildah.run(&[&program, line].concat())?;
    }
    buildah.run(&["rm", container])?;
    println!("image: {TAG}, run as user 1337");
    Ok(())
}

/// The folder that becomes the image.
fn lay_out(paths: &Paths, context: &Path) -> Result<PathBuf> {
    let root = context.join("root");
    let binary = paths.binary();
    for folder in ["usr/local/bin", "etc/ssl/certs", "tmp"] {
        fs::create_dir_all(root.join(folder))?;
    }
    debian_package(&paths.root, "binutils", Shell::new(&paths.root, "strip", &["--version"]))?;
    let shipped = root.join("usr/local/bin/portcullis");
    Shell::new(&paths.root, "strip", &["--strip-all", "-o"]).arg(&shipped).arg(&binary).run()?;
    for library in libraries(&Shell::new(&paths.root, "ldd", &[]).arg(&binary).read()?) {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a library lies in a folder")?)?;
        fs::copy(library, &to).with_context(|| library.to_owned())?;
    }
    debian_package(&paths.root, "ca-certificates", Shell::new(&paths.root, "test", &["-f", PUBLIC_ROOTS]))?;
    fs::copy(PUBLIC_ROOTS, root.join(PUBLIC_ROOTS.trim_start_matches('/')))?;
    fs::write(root.join("etc/passwd"), "portcullis:x:1337:1337::/:/nonexistent\n")?;
    fs::write(root.join("etc/group"), "portcullis:x:1337:\n")?;
    Ok(root)
}

/// Paths of the shared libraries in what `ldd` says.
fn libraries(told: &str) -> Vec<&str> {
    told.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))).collect()
}

fn size_of(folder: &Path) -> Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let about = entry.metadata()?;
        size += if about.is_dir() { size_of(&entry.path())? } else { about.len() };
    }
    Ok(size)
}

fn megabytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let bytes = bytes as f64;
    bytes / 1e6
}

/// `buildah` with storage of its own below the context.
struct Buildah<'a> {
    context: &'a Path,
    storage: [String; 6],
}

impl<'a> Buildah<'a> {
    fn new(context: &'a Path) -> Result<Self> {
        debian_package(context, "buildah", Shell::new(context, "buildah", &["--version"]))?;
        let below = |name: &str| context.join(name).display().to_string();
        let storage = ["--storage-driver", "vfs", "--root", &below("storage"), "--runroot", &below("run")]
            .map(str::to_owned);
        Ok(Self { context, storage })
    }

    fn shell(&self, arguments: &[&str]) -> Shell {
        let storage: Vec<&str> = self.storage.iter().map(String::as_str).collect();
        Shell::new(self.context, "buildah", &[&storage, arguments].concat())
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        self.shell(arguments).run()
    }

    fn read(&self, arguments: &[&str]) -> Result<String> {
        self.shell(arguments).read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_off_what_ldd_says() {
        let told = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(libraries(told), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
