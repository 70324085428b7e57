//! Certificates of a few seconds, from istiod: no request fails, new tunnels show new ones, old streams live on.

use crate::load::{
    self, Echoed, Fresh, FreshBytes, HTTP, Kept, Load, Site, TCP, Ticks, WAYPOINT, Way, manifest,
};
use anyhow::Result;
use portcullis_tests::istio::{PodSpec, Waypoint};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{Inbound, Outbound};
use std::collections::BTreeSet;

/// A life of eight seconds: a new certificate every four.
const SHORT: &str = "env: [{name: SECRET_TTL, value: 8s}]";

/// Certificates that must have come and gone; the first has ended long before the last comes.
const CERTIFICATES: usize = 6;

#[tokio::test]
async fn certificates_of_seconds_are_replaced_under_load_and_no_request_fails() -> Result<()> {
    let site = Site::new("rotation", &manifest(SHORT, "")).await?;
    let waypoint = site.namespace.waypoint(WAYPOINT).await?;
    let client = site.namespace.pod(&PodSpec::new("client")).await?;
    let ztunnel = client.ztunnel(waypoint.hbone(), &waypoint.id()).await?;
    let way = Way::pooled(&ztunnel, &site.at(HTTP));
    let server = &site.replicas[0].ztunnel;
    let bytes = Way::pooled(&ztunnel, &site.at(TCP));
    Site::is_known(&way).await?;
    let mut loads = vec![
        Load::start("kept connection", Kept::new(&way)),
        Load::start("new streams", Fresh(way.clone())),
        Load::start("new tunnels", Fresh(Way::anew(&ztunnel, &site.at(HTTP)))),
        Load::start("events", Ticks::open(&way).await?),
        Load::start("bytes", Echoed::open(&bytes).await?),
        Load::start("new bytes", FreshBytes(bytes)),
    ];
    let mut shown = BTreeSet::new();
    while shown.len() < CERTIFICATES {
        shown.insert(next_shown(&ztunnel, &shown).await?);
        // The server's ztunnel sends our connections away, so that the next one is made with what we hold now.
        server.goaway();
        load::all_go_on(&mut loads, 10).await?;
    }
    load::end_all(loads).await?;
    let upstream = serials(server);
    assert!(
        upstream.len() >= CERTIFICATES - 1,
        "connections to the server show new certificates too: {upstream:?}"
    );
    let held = held(&waypoint);
    assert!(shown.is_subset(&held) && upstream.is_subset(&held), "{shown:?}, {upstream:?} of {held:?}");
    assert_eq!(server.failed_handshakes(), Vec::<String>::new());
    Ok(())
}

/// Waits until a new tunnel shows a certificate that none has shown.
async fn next_shown(ztunnel: &Outbound, before: &BTreeSet<String>) -> Result<String> {
    wait::until_async("a new tunnel shows a new certificate", async || {
        let serial = ztunnel.dial().await?.serial.to_string();
        Ok((!before.contains(&serial)).then_some(serial))
    })
    .await
}

/// Of the certificates that it says it got.
fn held(waypoint: &Waypoint) -> BTreeSet<String> {
    let lines = waypoint.process.stderr.all();
    let renewed = lines.iter().filter(|line| line.contains("SVID renewed"));
    let serial = |line: &String| line.split("serial=\"").nth(1)?.split('"').next().map(str::to_owned);
    renewed.filter_map(serial).collect()
}

/// Of the certificates that the server's ztunnel has met.
fn serials(ztunnel: &Inbound) -> BTreeSet<String> {
    ztunnel.seen().into_iter().map(|connect| connect.serial).collect()
}
