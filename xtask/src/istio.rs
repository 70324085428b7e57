//! A real control plane for the tests of `tests/istio`: its programs are built from published Go modules, once, and
//! `tests/src/bin/lab.rs` starts them in network namespaces of its own.

use crate::cargo::cargo;
use crate::paths::Paths;
use crate::shell::Shell;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Programs of the control plane, and the packages that they are built from. `tests/istio/controlplane` pins them.
const PROGRAMS: [(&str, &str); 9] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("pilot-discovery", "istio.io/istio/pilot/cmd/pilot-discovery"),
    ("istioctl", "istio.io/istio/istioctl/cmd/istioctl"),
    ("helm", "helm.sh/helm/v4/cmd/helm"),
    ("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl"),
    ("echo-client", "istio.io/istio/pkg/test/echo/cmd/client"),
    ("echo-server", "istio.io/istio/pkg/test/echo/cmd/server"),
];

/// Custom resource definitions that istiod watches: a module, and a file or folder in it.
const DEFINITIONS: [(&str, &str); 3] = [
    (ISTIO, "manifests/charts/base/files/crd-all.gen.yaml"),
    (GATEWAY_API, "config/crd/standard"),
    (INFERENCE, "config/crd/bases/inference.networking.k8s.io_inferencepools.yaml"),
];

const ISTIO: &str = "istio.io/istio";
const GATEWAY_API: &str = "sigs.k8s.io/gateway-api";
const INFERENCE: &str = "sigs.k8s.io/gateway-api-inference-extension";
const KUBERNETES: &str = "k8s.io/kubernetes";

/// What to do without Go.
const ADVICE: &str = "install Go (https://go.dev/dl), or leave these tests out with `--without istio`";

/// How many tests run at a time. They share one control plane, and wait most of the time.
const THREADS: &str = "--test-threads=4";

/// Builds every program that is missing or was built from something else.
pub(crate) fn build(paths: &Paths) -> Result<()> {
    let go = Go::find(paths)?;
    let versions = go.versions()?;
    let flags = versions.linker_flags()?;
    let made_from = go.pins()? + &flags;
    let folder = paths.istio().join("bin");
    std::fs::create_dir_all(&folder)?;
    for (index, (name, package)) in PROGRAMS.iter().enumerate() {
        let place = format!("{name} ({} of {})", index + 1, PROGRAMS.len());
        once(&folder.join(format!("{name}.made-from")), &made_from, &place, || {
            go.build(package, &flags, &folder.join(name))
        })?;
    }
    let definitions = paths.istio().join("definitions");
    once(&paths.istio().join("definitions.made-from"), &made_from, "definitions", || {
        copy_definitions(&versions, &definitions)
    })
}

/// Runs the tests inside a lab, and shows what the test runner says.
pub(crate) fn test(paths: &Paths) -> Result<()> {
    crate::cargo::build(paths)?;
    let tests = built_tests(paths)?;
    let state = paths.istio().join("state");
    let lab = Shell::new(&paths.root, paths.target.join("release/lab"), &["run", "--state"]).arg(state);
    lab.arg("--").arg(tests).arg(THREADS).run()
}

/// Builds the tests and the programs beside them, and tells where the tests are.
fn built_tests(paths: &Paths) -> Result<PathBuf> {
    let build =
        ["test", "--release", "--locked", "--package", "portcullis-tests", "--test", "istio", "--no-run"];
    let told = cargo(paths, &build).arg("--message-format=json-render-diagnostics").read()?;
    let messages = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = |message: Value| {
        let named = message.pointer("/target/name").and_then(Value::as_str) == Some("istio");
        message.get("executable").filter(|_| named)?.as_str().map(PathBuf::from)
    };
    messages.filter_map(program).next_back().context("cargo built no test called istio")
}

/// Does `make` unless it was done from the same before, which `mark` remembers.
fn once(mark: &Path, made_from: &str, what: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    if std::fs::read_to_string(mark).is_ok_and(|before| before == made_from) {
        println!("{what}: there");
        return Ok(());
    }
    println!("{what}: making it …");
    let started = Instant::now();
    make()?;
    println!("{what}: made in {:.1} s", started.elapsed().as_secs_f64());
    std::fs::write(mark, made_from).with_context(|| mark.display().to_string())
}

fn copy_definitions(versions: &Versions, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for (module, path) in DEFINITIONS {
        let from = versions.of(module)?.folder.join(path);
        let files = match from.is_dir() {
            true => std::fs::read_dir(&from)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?,
            false => vec![from],
        };
        for file in files.iter().filter(|file| file.extension().is_some_and(|ending| ending == "yaml")) {
            let name = file.file_name().context("a file has a name")?;
            // Files of the module cache can't be written to; the copy is a new file.
            std::fs::write(to.join(name), std::fs::read(file)?)?;
        }
    }
    Ok(())
}

/// The Go toolchain, at work in the folder that pins the modules.
struct Go {
    module: PathBuf,
}

impl Go {
    /// Finds a Go that is new enough for the modules.
    fn find(paths: &Paths) -> Result<Self> {
        let module = paths.root.join("tests/istio/controlplane");
        let go = Self { module };
        let wanted = go.wanted()?;
        let Ok(found) = go.run(&["env", "GOVERSION"]).read() else {
            bail!("the control plane of the tests needs Go {wanted} or newer, and there is none: {ADVICE}");
        };
        let found = found.trim().trim_start_matches("go").to_owned();
        ensure!(
            version(&found) >= version(&wanted),
            "the control plane of the tests needs Go {wanted} or newer, and this is {found}: {ADVICE}"
        );
        Ok(go)
    }

    /// The version that go.mod asks for.
    fn wanted(&self) -> Result<String> {
        let text = self.read("go.mod")?;
        let line =
            text.lines().find_map(|line| line.strip_prefix("go ")).context("go.mod names a version")?;
        Ok(line.trim().to_owned())
    }

    /// What the programs are built from, word for word.
    fn pins(&self) -> Result<String> {
        Ok(self.read("go.mod")? + &self.read("go.sum")?)
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.module.join(file);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// A call that uses this Go and no other that go.mod might make it fetch.
    fn run(&self, args: &[&str]) -> Shell {
        Shell::new(&self.module, "go", args).env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0")
    }

    fn versions(&self) -> Result<Versions> {
        let named = [KUBERNETES, ISTIO, GATEWAY_API, INFERENCE];
        named.iter().fold(self.run(&["mod", "download"]), Shell::arg).run()?;
        let list = self.run(&["list", "-m", "-f", "{{.Path}} {{.Version}} {{.Dir}}"]);
        let told = named.iter().fold(list, Shell::arg).read()?;
        Ok(Versions(told.lines().filter_map(Module::parse).collect()))
    }

    fn build(&self, package: &str, flags: &str, to: &Path) -> Result<()> {
        let build = self.run(&["build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o"]);
        build.arg(to).arg(package).run()
    }
}

/// Where and what a Go module is.
struct Module {
    path: String,
    version: String,
    folder: PathBuf,
}

impl Module {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        Some(Self { path: words.next()?, version: words.next()?, folder: words.next()?.into() })
    }
}

/// The modules whose versions the programs tell.
struct Versions(Vec<Module>);

impl Versions {
    fn of(&self, path: &str) -> Result<&Module> {
        self.0.iter().find(|module| module.path == path).with_context(|| format!("no Go module {path}"))
    }

    /// Versions are linked in: without them the API server calls itself by a name that kubectl can't read.
    fn linker_flags(&self) -> Result<String> {
        let kubernetes = &self.of(KUBERNETES)?.version;
        let (major, minor) = minor_version(kubernetes).with_context(|| kubernetes.clone())?;
        let mut flags = format!("-s -w -X istio.io/istio/pkg/version.buildVersion={}", self.istio()?);
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            flags += &format!(
                " -X {package}.gitVersion={kubernetes} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
            );
        }
        Ok(flags)
    }

    /// The release line that a snapshot of Istio says it belongs to, and its commit.
    fn istio(&self) -> Result<String> {
        let module = self.of(ISTIO)?;
        let line = std::fs::read_to_string(module.folder.join("VERSION")).context("VERSION of Istio")?;
        let commit = module.version.rsplit('-').next().unwrap_or_default();
        Ok(format!("{}-{commit}", line.trim()))
    }
}

/// `1` and `36` of `v1.36.1`.
fn minor_version(version: &str) -> Option<(&str, &str)> {
    let (major, rest) = version.strip_prefix('v')?.split_once('.')?;
    Some((major, rest.split_once('.')?.0))
}

/// `1.26.8` as numbers; what is no number counts as zero.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn versions_are_compared_by_number() {
        for (older, newer) in [("1.9.0", "1.26.0"), ("1.25.9", "1.26.0"), ("1.26.0", "1.26.8"), ("", "1.0")] {
            assert!(version(older) < version(newer), "{older} {newer}");
        }
    }

    #[test]
    fn the_programs_tell_the_versions_that_they_were_built_from() {
        let folder = scratch("versions");
        std::fs::write(folder.join("VERSION"), "1.31\n").unwrap();
        let istio = format!("istio.io/istio v0.0.0-2026-abc {}", folder.display());
        let module = |line: &str| Module::parse(line).unwrap();
        let versions = Versions(vec![module("k8s.io/kubernetes v1.36.1 /x y"), module(&istio)]);
        let flags = versions.linker_flags().unwrap();
        assert!(flags.contains("k8s.io/client-go/pkg/version.gitVersion=v1.36.1 "), "{flags}");
        assert!(flags.contains("component-base/version.gitMinor=36"), "{flags}");
        assert!(flags.contains("buildVersion=1.31-abc"), "{flags}");
        assert_eq!(versions.of("k8s.io/kubernetes").unwrap().folder, Path::new("/x y"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_was_made_is_made_again_only_from_something_else() {
        let folder = scratch("once");
        let mark = folder.join("mark");
        let mut made = 0;
        for from in ["a", "a", "b"] {
            once(&mark, from, "it", || {
                made += 1;
                Ok(())
            })
            .unwrap();
        }
        assert!(once(&mark, "c", "it", || bail!("no")).is_err());
        assert_eq!(std::fs::read_to_string(&mark).unwrap(), "b", "a failure leaves no mark");
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(made, 2);
    }
}
