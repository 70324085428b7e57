//! A lab leaves nothing behind, however it ends.

use anyhow::Result;
use portcullis_tests::istio::Lab;
use portcullis_tests::process::Process;
use portcullis_tests::wait;
use std::path::Path;
use tokio::process::Command;

/// Processes whose command line names `folder`.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(&folder))
        .collect()
}

#[tokio::test]
async fn a_lab_that_is_stopped_or_killed_takes_all_its_processes_along() -> Result<()> {
    let state = Lab::get()?.state;
    for signal in ["TERM", "INT", "KILL"] {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(&state.lab);
        command.env("PORTCULLIS_ISTIO", state.programs.join(".."));
        command.args(["run", "--state"]).arg(folder.path()).args(["--", "true"]);
        let mut lab = Process::start("a lab in the lab", command)?;
        wait::until_async("its etcd runs", async || {
            lab.assert_running()?;
            Ok(processes_of(folder.path()).iter().any(|line| line.contains("/etcd ")).then_some(()))
        })
        .await?;
        lab.signal(signal).await?;
        assert!(!lab.ended().await?.success());
        wait::until(&format!("nothing runs after SIG{signal}"), || {
            processes_of(folder.path()).is_empty().then_some(())
        })
        .await?;
    }
    Ok(())
}
