//! Certificates of a few seconds, from istiod: no request fails, new tunnels show new ones, old streams live on, also while the
//! root of the mesh is replaced.

use crate::load::{
    self, Echoed, Fresh, FreshBytes, HTTP, Kept, Load, Site, TCP, Ticks, WAYPOINT, Way, manifest,
};
use anyhow::{Context as _, Result};
use portcullis_tests::ca::Ca;
use portcullis_tests::istio::{Authority, IstiodSettings, Lab, PodSpec, Waypoint, WaypointSettings};
use portcullis_tests::wait;
use portcullis_tests::ztunnel::{Inbound, Outbound};
use std::collections::BTreeSet;

/// A life of eight seconds: a new certificate every four.
const SHORT: &str = "env: [{name: SECRET_TTL, value: 8s}]";

/// The volume of the ConfigMap with the mesh's roots, by which the waypoint knows istiod.
const ROOTS: &str = "istiod-ca-cert";

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

/// As an operator does it with stock Istio: the new root beside the old one, then a CA below the new one, then the old root
/// goes. Who has a certificate of either is served until then.
#[tokio::test]
async fn the_root_of_the_mesh_is_replaced_under_load_and_no_request_fails() -> Result<()> {
    let lab = Lab::get()?;
    let (old, next) = (lab.authority().await?, Ca::new("cluster.local")?.intermediate()?);
    let both = format!("{}{}", old.roots, next.bundle_pem());
    let (certificate, key) = next.signing_pem();
    let new = Authority { certificate, key, roots: both.clone() };
    let settings = IstiodSettings::default().with("ISTIO_MULTIROOT_MESH", "true").authority(old.clone());
    let istiod = lab.istiod(settings).await?;
    // All other ztunnels have taken the new root already, and not yet certificates of it.
    let site = Site::trusting("roots", &manifest(SHORT, ""), next.bundle_pem()).await?;
    let settings = WaypointSettings::default().istiod(istiod.address());
    let waypoint = site.namespace.waypoint_with(WAYPOINT, &settings).await?;
    let pod = site.namespace.pod(&PodSpec::new("client")).await?;
    let of_old = pod.certificate().await?.svid;
    let of_new = next.svid(&pod.id())?;
    let client = |svid, roots: &str| pod.ztunnel_with(svid, roots, waypoint.hbone(), &waypoint.id());
    let (before, after) = (client(&of_old, &both)?, client(&of_new, &both)?);
    let way = Way::pooled(&before, &site.at(HTTP));
    Site::is_known(&way).await?;
    let mut loads = vec![
        Load::start("kept connection", Kept::new(&way)),
        Load::start("new tunnels", Fresh(Way::anew(&before, &site.at(HTTP)))),
        Load::start("events", Ticks::open(&way).await?),
        Load::start("new bytes", FreshBytes(Way::anew(&before, &site.at(TCP)))),
    ];
    load::all_go_on(&mut loads, 20).await?;
    let fresh = Way::anew(&after, &site.at(HTTP));
    assert!(load::ask(&fresh, "/").await.is_err(), "the new root is nobody's yet");

    istiod.set_authority(&Authority { roots: both.clone(), ..old })?;
    waypoint.write_volume(ROOTS, "root-cert.pem", &both)?;
    Site::is_known(&fresh).await.context("the new root beside the old one")?;
    let mut newcomers = vec![Load::start("of the new root", Fresh(fresh))];
    load::all_go_on(&mut loads, 50).await?;

    istiod.set_authority(&new)?;
    let sees_new = client(&of_old, next.bundle_pem())?;
    wait::until_async("the waypoint shows a certificate below the new root", async || {
        Ok(sees_new.dial().await.ok())
    })
    .await?;
    let server = &site.replicas[0];
    for renewed in [false, true] {
        if renewed {
            server.ztunnel.renew(&next.svid(&server.pod.id())?, &both)?;
        }
        server.ztunnel.goaway();
        load::all_go_on(&mut loads, 50).await?;
        load::all_go_on(&mut newcomers, 50).await?;
    }
    load::end_all(loads).await?;
    assert_eq!(server.ztunnel.failed_handshakes(), Vec::<String>::new());

    istiod.set_authority(&Authority { roots: next.bundle_pem().to_owned(), ..new })?;
    waypoint.write_volume(ROOTS, "root-cert.pem", next.bundle_pem())?;
    let late = Way::anew(&before, &site.at(HTTP));
    wait::until_async("the old root counts no more", async || {
        Ok(load::ask(&late, "/").await.is_err().then_some(()))
    })
    .await?;
    load::all_go_on(&mut newcomers, 100).await?;
    load::end_all(newcomers).await
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
