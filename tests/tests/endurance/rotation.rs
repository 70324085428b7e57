//! Certificates of seconds for the waypoint, a source and its destinations, under load: nobody notices.

use anyhow::Result;
use portcullis_tests::load::site::{GRPC, HTTP, MCP, STEADY, STEADY_TCP, Site, TCP};
use portcullis_tests::load::{
    self, Both, Calls, Echoed, Fresh, FreshBytes, Grpc, Kept, Lists, Load, Posted, Ticks, Way, initialize,
};
use portcullis_tests::mesh::NAMESPACE;
use portcullis_tests::portcullis::Portcullis;
use portcullis_tests::ztunnel::Outbound;
use std::collections::BTreeSet;
use time::Duration;

/// A fifth of it is the time to leave a connection, far more than an answer needs.
const LIFE: Duration = Duration::seconds(8);

/// Lives of the certificates of the start.
const LIVES: u32 = 5;

/// `cargo xtask soak --minutes 5` does the same for longer, with certificates of five seconds.
#[tokio::test]
async fn certificates_of_seconds_at_every_end_and_no_request_fails() -> Result<()> {
    let site = Site::new().await?;
    let portcullis = Portcullis::start(&site.run("")?).await?;
    let ca = &site.setup.ca;
    let (hbone, waypoint) = (portcullis.address("hbone")?, ca.id(NAMESPACE, "waypoint"));
    let renewed = Outbound::new(ca, &ca.svid(&ca.id("agents", "bot"))?, hbone, &waypoint)?;
    let lasting = Outbound::new(ca, &ca.svid(&ca.id("agents", "bot"))?, hbone, &waypoint)?;
    site.renew(&renewed, LIFE)?;
    let way = |port| Way::pooled(&renewed, &site.at(port));
    let held = |port| Way::pooled(&lasting, &site.at(port));
    let session = initialize(&way(MCP)).await?;
    let mut loads = vec![
        Load::start("kept connection", Kept::new(&way(HTTP))),
        Load::start("new streams", Fresh(way(HTTP))),
        Load::start("new tunnels", Fresh(Way::anew(&renewed, &site.at(HTTP)))),
        Load::start("posts", Posted::new(&way(HTTP), 100_000)),
        Load::start("gRPC", Grpc::new(&way(GRPC))),
        Load::start("gRPC both ways", Both::new(&way(GRPC), 3)),
        Load::start("MCP calls", Calls::new(&way(MCP), &session)),
        Load::start("MCP lists", Lists::new(&way(MCP), &session)),
        Load::start("new bytes", FreshBytes(way(TCP))),
        Load::start("events of certificates that last", Ticks::open(&held(STEADY)).await?),
        Load::start("bytes of certificates that last", Echoed::open(&held(STEADY_TCP)).await?),
    ];
    let mut shown = BTreeSet::new();
    let mut pace = tokio::time::interval(LIFE.unsigned_abs() / 8);
    for _ in 0..8 * LIVES {
        pace.tick().await;
        site.renew(&renewed, LIFE)?;
        shown.insert(lasting.dial().await?.serial);
    }
    load::all_go_on(&mut loads, 3).await?;
    load::end_all(loads).await?;
    assert!(shown.len() > 4 * 4, "new tunnels show new certificates: {shown:?}");
    for replica in &site.pods {
        let inbound = replica.pod.ztunnel.as_ref().expect("a pod of the mesh");
        assert_eq!(inbound.failed_handshakes(), Vec::<String>::new(), "{}", replica.pod.name);
    }
    Ok(())
}
