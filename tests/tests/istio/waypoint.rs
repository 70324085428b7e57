//! The shipped binary as a waypoint, deployed by istiod from the manifest that we ship.

use crate::stage::manifest;
use anyhow::Result;
use portcullis_tests::istio::{Lab, Namespace, PodSpec, Waypoint, WaypointSettings};
use portcullis_tests::wait;
use tokio::net::TcpStream;

async fn deployed(lab: &Lab, settings: &WaypointSettings) -> Result<(Namespace, Waypoint)> {
    let namespace = lab.namespace("shipped").await?;
    namespace.apply(&manifest()?).await?;
    let waypoint = namespace.waypoint_unready("portcullis", settings).await?;
    Ok((namespace, waypoint))
}

#[tokio::test]
async fn it_shows_the_certificate_that_it_fetched_from_istiod() -> Result<()> {
    let lab = Lab::get()?;
    let (namespace, mut waypoint) = deployed(&lab, &WaypointSettings::default()).await?;
    let client = namespace.pod(&PodSpec::new("client")).await?;
    let ztunnel = client.ztunnel(waypoint.hbone(), &waypoint.id()).await?;
    wait::until_async("the waypoint shows its certificate", async || {
        waypoint.process.assert_running()?;
        Ok(ztunnel.dial().await.ok())
    })
    .await?;
    let other = client.ztunnel(waypoint.hbone(), &client.id()).await?;
    assert!(other.dial().await.is_err(), "the comparison with the expected identity is real");
    Ok(())
}

#[tokio::test]
async fn without_istiod_it_stays_unready_and_says_why() -> Result<()> {
    let lab = Lab::get()?;
    // A pod's address: somebody is there, and nobody listens on 15012.
    let nobody = lab.namespace("nobody").await?.pod(&PodSpec::new("nobody")).await?;
    let settings = WaypointSettings::default().istiod(nobody.address);
    let (_namespace, mut waypoint) = deployed(&lab, &settings).await?;
    let reason = |line: &String| {
        line.contains("cannot connect to istiod at istiod.istio-system.svc:15012").then_some(())
    };
    waypoint.process.stderr.clone().find("why it has no certificate", reason).await?;
    wait::until_async("its probe is answered", async || {
        Ok(TcpStream::connect(waypoint.pod.port(waypoint.container.probe.port)).await.ok())
    })
    .await?;
    assert!(!waypoint.is_ready().await);
    waypoint.process.assert_running()
}
