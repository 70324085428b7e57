//! Agent cards go through byte for byte, and where they lead elsewhere that is told.

use anyhow::Result;
use serde_json::json;

use crate::agent::CARD;
use crate::stage::{Ask, Stage};

#[tokio::test]
async fn a_card_is_never_changed_and_its_url_elsewhere_is_told() -> Result<()> {
    let stage = Stage::open().await?;
    let bot = stage.peer("bot").await?;
    let reply = bot.send(&Ask::rest("GET", "/.well-known/agent-card.json")).await?;
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (200, CARD));
    let line = stage.mesh.portcullis.logged("the card", |line| line["a2a_method"] == "GetAgentCard").await?;
    assert_eq!(line["a2a_card_elsewhere"], json!(["http://elsewhere.example/a2a"]), "{line}");
    stage
        .mesh
        .portcullis
        .metric_reaches("portcullis_refusals_total", &[("reason", "card_elsewhere")], 1.0)
        .await?;
    Ok(())
}
