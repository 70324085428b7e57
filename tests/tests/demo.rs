//! The first thing that anybody runs.

use anyhow::Result;
use portcullis_tests::portcullis::binary;
use std::process::Stdio;
use tokio::process::Command;

const REQUESTS: &str = "40";

async fn demo() -> Result<(bool, String)> {
    let mut command = Command::new(binary()?);
    command.args(["demo", "--requests", REQUESTS]).stdin(Stdio::null()).kill_on_drop(true);
    let ended = command.output().await?;
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    Ok((ended.status.success(), String::from_utf8(ended.stdout)?))
}

#[tokio::test]
async fn two_demos_at_once_keep_all_their_promises_on_a_screen() {
    let (one, other) = tokio::join!(demo(), demo());
    for (success, printed) in [one.unwrap(), other.unwrap()] {
        assert!(success, "{printed}");
        let last = printed.lines().next_back().unwrap();
        assert!(last.starts_with("demo: ") && last.ends_with(" passed, 0 failed"), "{last}");
        let held = printed.lines().filter(|line| line.starts_with("ok ")).count();
        assert_eq!(last, format!("demo: {held} passed, 0 failed"));
        assert!(!printed.contains('\x1b'), "colour in a pipe");
        assert!(printed.lines().count() <= 90, "{} lines", printed.lines().count());
    }
}
