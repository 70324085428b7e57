//! A short load, once directly and once through the waypoint, so that the price can be seen.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::demo::mcp::{Ask, Client};
use crate::demo::play::Play;

/// Connections that send one request after the other.
const CONNECTIONS: usize = 4;

/// Calls of each connection before the clock starts, so that neither way pays for what is done once.
const WARM_UP: usize = 8;

/// What a load measured.
struct Measured {
    latencies: Histogram<u64>,
    took: Duration,
}

pub(super) async fn play(play: &mut Play, requests: usize) -> Result<()> {
    let mut direct = Vec::new();
    let mut carried = Vec::new();
    for _ in 0..CONNECTIONS {
        direct.push(play.direct().await?);
        carried.push(play.client(|cast| &cast.researcher).await?);
    }
    let direct = run(direct, requests).await?;
    let carried = run(carried, requests).await?;

    play.report.note(&format!(
        "{requests} × call search_issues on {CONNECTIONS} connections; in the mesh: 2 × mTLS, policy and argument check"
    ));
    play.report.plain(&table(&direct, &carried));
    let answered = usize::try_from(direct.latencies.len().min(carried.latencies.len()))?;
    play.report
        .expect(answered == requests, &format!("all {requests} calls answered with a result, both ways"));
    Ok(())
}

/// Sends `requests` in all, and fails at the first answer that is no result.
async fn run(mut clients: Vec<Client>, requests: usize) -> Result<Measured> {
    for client in &mut clients {
        for _ in 0..WARM_UP {
            call(client).await?;
        }
    }
    let start = Instant::now();
    let count = clients.len();
    let mut running = JoinSet::new();
    for (place, client) in clients.into_iter().enumerate() {
        // The remainder goes to the first ones.
        let share = requests / count + usize::from(place < requests % count);
        running.spawn(send(client, share));
    }
    let mut latencies = Histogram::new(3)?;
    while let Some(part) = running.join_next().await {
        latencies.add(part??)?;
    }
    Ok(Measured { latencies, took: start.elapsed() })
}

async fn send(mut client: Client, requests: usize) -> Result<Histogram<u64>> {
    let mut latencies = Histogram::new(3)?;
    for _ in 0..requests {
        let start = Instant::now();
        call(&mut client).await?;
        latencies.record(u64::try_from(start.elapsed().as_micros()).context("years")?)?;
    }
    Ok(latencies)
}

async fn call(client: &mut Client) -> Result<()> {
    let answer = client.ask(&Ask::call("search_issues", json!({"query": "login"}))).await?;
    ensure!(answer.is_result(), "answered {}: {}", answer.status, answer.text);
    Ok(())
}

fn table(direct: &Measured, carried: &Measured) -> String {
    let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
    let heads: String = quantiles.iter().map(|(name, _)| format!("{name:>10}")).collect();
    let row = |name: &str, cells: String, rate: String| format!("     {name:<22}{cells}{rate:>14}");
    let millis = |measured: &Measured| -> String {
        let at = |quantile| {
            Duration::from_micros(measured.latencies.value_at_quantile(quantile)).as_secs_f64() * 1e3
        };
        quantiles.iter().map(|(_, quantile)| format!("{:>7.2} ms", at(*quantile))).collect()
    };
    let ratio = |quantile: f64| {
        let of = |measured: &Measured| Duration::from_micros(measured.latencies.value_at_quantile(quantile));
        format!("{:>9.2}×", of(carried).as_secs_f64() / of(direct).as_secs_f64())
    };
    let ratios: String = quantiles.iter().map(|(_, quantile)| ratio(*quantile)).collect();
    let rate = |measured: &Measured| measured.latencies.len() as f64 / measured.took.as_secs_f64();
    [
        row("", heads, "calls/s".to_owned()),
        row("direct, plain TCP", millis(direct), format!("{:.0}", rate(direct))),
        row("through the waypoint", millis(carried), format!("{:.0}", rate(carried))),
        row("ratio", ratios, format!("{:.2}×", rate(carried) / rate(direct))),
    ]
    .join("\n")
}
