//! istiod may go, stay away and come back: traffic goes on by what it said last.

use crate::load::{self, Echoed, Fresh, HTTP, Kept, Load, Site, TCP, Ticks, WAYPOINT, Way, ask};
use anyhow::Result;
use http::Method;
use portcullis_tests::istio::{IstiodSettings, Lab, PodSpec, Waypoint, WaypointSettings};
use portcullis_tests::wait;

const CONNECTED: &str = "portcullis_xds_connected";

const NOT_THE_VAULT: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-the-vault}
spec:
  targetRefs: [{group: \"\", kind: Service, name: app}]
  action: DENY
  rules: [{to: [{operation: {paths: [/vault], ports: [\"80\"]}}]}]
";

async fn connected(waypoint: &Waypoint, wanted: f64) -> Result<()> {
    wait::until_async(&format!("{CONNECTED} is {wanted}"), async || {
        let scrape = waypoint.metrics().await?;
        let there = scrape.0.lines().any(|line| line.starts_with(CONNECTED));
        Ok((there && (scrape.sum(CONNECTED, &[]) - wanted).abs() < f64::EPSILON).then_some(()))
    })
    .await
}

async fn says(waypoint: &Waypoint, text: &str) -> Result<String> {
    let found = |line: &String| line.contains(text).then(|| line.clone());
    waypoint.process.stderr.find(text, found).await
}

/// Requests and streams that went wrong, but for those that a policy refused: an endpoint or a Service that was gone for a
/// moment would show.
async fn gone_wrong(waypoint: &Waypoint) -> Result<f64> {
    let scrape = waypoint.metrics().await?;
    let refused = |labels| scrape.sum("portcullis_refusals_total", labels);
    let answered = |labels| scrape.sum("istio_requests_total", labels);
    let answered_otherwise =
        answered(&[]) - answered(&[("response_code", "200")]) - answered(&[("response_code", "403")]);
    Ok(refused(&[]) - refused(&[("reason", "denied")]) + answered_otherwise)
}

#[tokio::test]
async fn istiod_is_killed_stays_away_and_comes_back_and_no_request_fails() -> Result<()> {
    let lab = Lab::get()?;
    let mut istiod = lab.istiod(IstiodSettings::default()).await?;
    let mut site = Site::new("outage", &load::manifest("", "")).await?;
    let settings = WaypointSettings::default().istiod(istiod.address());
    let waypoint = site.namespace.waypoint_with(WAYPOINT, &settings).await?;
    let client = site.namespace.pod(&PodSpec::new("client")).await?;
    let ztunnel = client.ztunnel(waypoint.hbone(), &waypoint.id()).await?;
    let way = Way::pooled(&ztunnel, &site.at(HTTP));
    Site::is_known(&way).await?;
    connected(&waypoint, 1.0).await?;
    let gone_wrong_before = gone_wrong(&waypoint).await?;
    let mut loads = vec![
        Load::start("kept connection", Kept::new(&way)),
        Load::start("new streams", Fresh(way.clone())),
        Load::start("new tunnels", Fresh(Way::anew(&ztunnel, &site.at(HTTP)))),
        Load::start("events", Ticks::open(&way).await?),
        Load::start("bytes", Echoed::open(&Way::pooled(&ztunnel, &site.at(TCP))).await?),
    ];
    load::all_go_on(&mut loads, 20).await?;

    istiod.kill().await?;
    connected(&waypoint, 0.0).await?;
    says(&waypoint, "istiod is away: traffic goes on by what it said last").await?;
    assert!(waypoint.is_ready().await, "what it serves is as good as before");
    site.namespace.apply(NOT_THE_VAULT).await?;
    site.grow().await?;
    load::all_go_on(&mut loads, 100).await?;
    assert_eq!(ask(&way, "/vault").await?.status, 200, "nobody could have told");
    assert!(site.replicas[1].ztunnel.seen().is_empty());

    istiod.restart().await?;
    connected(&waypoint, 1.0).await?;
    says(&waypoint, "istiod is back").await?;
    site.replicas[1].ztunnel.saw(1).await?;
    wait::until_async("the change of the outage has arrived", async || {
        Ok((ask(&way, "/vault").await?.status == 403).then_some(()))
    })
    .await?;
    load::all_go_on(&mut loads, 50).await?;
    load::end_all(loads).await?;
    let more = gone_wrong(&waypoint).await? - gone_wrong_before;
    assert!(more.abs() < f64::EPSILON, "{more} went wrong");
    let carried = waypoint.metrics().await?.sum("istio_requests_total", &[("response_code", "200")]);
    assert!(carried > 500.0, "the metric counts: {carried}");
    Ok(())
}

#[tokio::test]
async fn a_waypoint_that_starts_without_istiod_says_why_and_is_ready_once_it_is_back() -> Result<()> {
    let lab = Lab::get()?;
    let mut istiod = lab.istiod(IstiodSettings::default()).await?;
    istiod.kill().await?;
    let site = Site::new("early", &load::manifest("", "")).await?;
    let settings = WaypointSettings::default().istiod(istiod.address());
    let mut waypoint = site.namespace.waypoint_unready(WAYPOINT, &settings).await?;
    says(&waypoint, "istiod cannot be reached: nothing is served until it answers").await?;
    connected(&waypoint, 0.0).await?;
    let pages = [waypoint.probe().await?, waypoint.admin(Method::GET, "/healthz/ready").await?];
    for page in pages {
        assert_eq!(page.status, 503);
        for reason in
            ["no certificate yet: ", "no configuration yet: ", "istiod.istio-system.svc:15012", "fix: "]
        {
            assert!(page.text().contains(reason), "{reason}: {}", page.text());
        }
    }
    istiod.restart().await?;
    waypoint.ready().await?;
    connected(&waypoint, 1.0).await?;
    let client = site.namespace.pod(&PodSpec::new("client")).await?;
    let ztunnel = client.ztunnel(waypoint.hbone(), &waypoint.id()).await?;
    Site::is_known(&Way::pooled(&ztunnel, &site.at(HTTP))).await
}
