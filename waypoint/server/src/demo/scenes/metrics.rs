//! What the waypoint counted meanwhile, held against what the agents counted themselves.

use anyhow::Result;

use crate::demo::play::Play;
use crate::demo::running::{Scrape, Series};

const REQUESTS: &str = "istio_requests_total";
const DECISIONS: &str = "portcullis_policy_decisions_total";

/// Series without labels that matter here.
const TOTALS: [&str; 5] = [
    "portcullis_mcp_list_entries_hidden_total",
    "portcullis_refusals_total",
    "istio_tcp_connections_opened_total",
    "portcullis_tunnels",
    "portcullis_config_generation",
];

pub(super) async fn play(play: &mut Play) -> Result<()> {
    let sent: Vec<(String, usize)> =
        play.cast.all().iter().map(|agent| (agent.id.as_str().to_owned(), agent.requests())).collect();
    // A request is counted when its last byte is sent, a moment after the agent has it.
    let scrape =
        play.running.until(|scrape| sent.iter().all(|(id, sent)| counted(scrape, id) == *sent)).await?;

    print(play, &scrape, REQUESTS, &["source_workload", "response_code"]);
    print(play, &scrape, DECISIONS, &["decision", "policy", "rule"]);
    let totals: Vec<String> = TOTALS.iter().map(|name| format!("{name} {}", scrape.sum(name, &[]))).collect();
    for pair in totals.chunks(3) {
        play.report.note(&pair.join("   "));
    }
    let all: usize = sent.iter().map(|(_, sent)| sent).sum();
    let held = sent.iter().all(|(id, sent)| counted(&scrape, id) == *sent);
    play.report.expect(
        held,
        &format!("{REQUESTS} counts exactly the {all} requests that the agents sent, by identity"),
    );
    Ok(())
}

fn counted(scrape: &Scrape, id: &str) -> usize {
    // Istio writes principals with their scheme; counts are whole numbers far below 2^53.
    scrape.sum(REQUESTS, &[("source_principal", id)]) as usize
}

/// Series summed by some of their labels, largest first.
fn print(play: &Play, scrape: &Scrape, name: &str, labels: &[&str]) {
    let told = |series: &Series<'_>| -> String {
        let values = labels.iter().map(|label| format!("{label}={:<18}", series.label(label).unwrap_or("-")));
        values.collect()
    };
    let mut sums: Vec<(String, f64)> = Vec::new();
    for series in scrape.series(name) {
        let key = told(&series);
        match sums.iter_mut().find(|(known, _)| *known == key) {
            Some((_, sum)) => *sum += series.value,
            None => sums.push((key, series.value)),
        }
    }
    sums.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    play.report.note(&format!("{name} by {}", labels.join(", ")));
    for (key, sum) in sums {
        play.report.note(&format!("  {sum:>6}  {key}"));
    }
}
