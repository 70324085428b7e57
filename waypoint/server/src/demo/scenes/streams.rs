//! A TCP service: who may connect is all that can be asked, and is asked before the server hears of it.

use anyhow::Result;
use hbone::OpenError;

use crate::demo::play::Play;
use crate::demo::stream::Entries;

pub(super) async fn play(play: &mut Play) -> Result<()> {
    let ledger = play.stage.ledger.clone();
    let auditor = &play.cast.auditor;
    let mut entries = Entries::open(auditor, &ledger).await?;
    let answer = entries.add("paid 3 invoices").await?;
    let rest = entries.finish().await?;
    let line = play.journal.stream(auditor.id.as_str()).await?;
    let held = answer == "#1 paid 3 invoices" && rest.is_empty() && line.rule() == "ledger rule 0";
    play.report.row(
        held,
        &["auditor", "ledger:7000, half-close", &answer, &line.decision, &line.rule()],
        "the entry with its number, allowed by ledger rule 0",
    );

    let intern = &play.cast.intern;
    let status = match intern.open(&ledger.target).await {
        Err(OpenError::Status(status)) => status.as_u16(),
        Err(error) => return Err(error.into()),
        Ok(_) => 200,
    };
    let line = play.journal.stream(intern.id.as_str()).await?;
    play.report.row(
        status == 401 && line.decision == "deny",
        &["intern", "ledger:7000", &format!("CONNECT answered {status}"), &line.decision, &line.rule()],
        "401, denied",
    );
    Ok(())
}
