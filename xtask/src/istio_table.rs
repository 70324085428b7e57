//! The table in `docs/istio.md` is what the comments in `istio-integration/protos/proto` say.

use crate::cargo::cargo;
use crate::paths::Paths;
use anyhow::Result;

/// Compares the two, or writes the table anew. The test that compares them is the one that can write.
pub(crate) fn check(paths: &Paths, write: bool) -> Result<()> {
    let test =
        cargo(paths, &["test", "--release", "--locked", "--package", "istio-protos", "--test", "docs"]);
    let test = if write { test.env("WRITE_ISTIO_TABLE", "1") } else { test };
    test.run()
}
