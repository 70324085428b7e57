//! How the bytes of a request come makes no difference: in pieces, or several requests at once.

use crate::stage::{Stage, call};
use crate::table::Sent;
use anyhow::Result;
use portcullis_tests::http::raw;
use portcullis_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Cuts lie this far apart; with an odd step they fall into names, values, line ends and the body alike.
const STEP: usize = 7;

#[tokio::test]
async fn a_denied_call_is_denied_wherever_it_is_cut() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    let mut tunnel = peer.stream().await?;
    for sent in [Sent::post(call("1", "beta")), Sent::post(call("1", "beta")).halved()] {
        let bytes = sent.bytes("cut");
        for cut in (1..bytes.len()).step_by(STEP) {
            let (one, other) = bytes.split_at(cut);
            let reply = raw(&mut tunnel, &[one, other]).await?;
            assert!(reply.text().contains("Unknown tool: beta"), "cut at {cut}: {reply:?}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert!(raw(&mut tunnel, &single).await?.text().contains("Unknown tool: beta"), "byte by byte");
    }
    stage.upstream.saw_nothing();
    let whole = raw(&mut tunnel, &[&Sent::post(call("2", "alpha")).bytes("whole")]).await?;
    assert_eq!(whole.status(), 200);
    Ok(())
}

/// Each request of a pipeline is judged by itself, and answered in its turn.
#[tokio::test]
async fn a_denied_call_between_two_allowed_ones_is_denied() -> Result<()> {
    let stage = Stage::start().await?;
    let peer = stage.peer("bot")?;
    let mut tunnel = peer.stream().await?;
    let tools = ["alpha", "beta", "alpha", "beta", "get_x"];
    let pipeline = tools.map(|tool| Sent::post(call("1", tool)).bytes(tool)).concat();
    tunnel.write_all(&pipeline).await?;
    tunnel.write_all(b"GET /end HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").await?;
    let mut answers = String::new();
    wait::within("all answers", tunnel.read_to_string(&mut answers)).await??;
    let denied = answers.matches("Unknown tool: beta").count();
    let ran = answers.matches(r#""ran":"tools/call""#).count();
    assert_eq!((ran, denied), (3, 2), "{answers}");
    let seen: Vec<_> = stage.upstream.seen().iter().map(|seen| seen.headers["x-row"].clone()).collect();
    assert_eq!(seen, ["alpha", "alpha", "get_x"]);
    Ok(())
}
