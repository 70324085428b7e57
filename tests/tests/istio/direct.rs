//! Tunnels straight to a waypoint, after Istio's TestDirect/waypoint: what it carries, and what it refuses.

use crate::stage::{Ask, HTTP, Service, Stage};
use anyhow::Result;
use portcullis_tests::istio::echo;
use portcullis_tests::ztunnel::Refused;

#[tokio::test]
async fn a_waypoint_carries_what_it_serves_and_refuses_all_else() -> Result<()> {
    let stage = Stage::new("direct").await?;
    let served = stage.service("served", &["v1"]).await?;
    let unserved = Service::new(&stage.namespace, "unserved", "", &["v1"]).await?;
    let client = stage.client("client").await?;
    let ask = Ask::get("/");
    client.until_status(&served.at(HTTP), &ask, 200).await?;

    // Envoy knows names only where there are several networks. Here a name is good wherever the address is.
    let name = format!("{}.{}.svc.cluster.local", served.name, stage.namespace.name);
    let other = format!("{}.{}.svc.cluster.local", unserved.name, stage.namespace.name);
    let pods = [&served, &unserved].map(|service| service.pods[0].port(echo::HTTP).to_string());
    let waypoint = stage.waypoint.pod.address;
    let carried = [("VIP", served.at(HTTP)), ("name", format!("{name}:{HTTP}"))];
    for (what, authority) in carried {
        assert_eq!(client.status(&authority, &ask).await?, 200, "{what}");
    }
    let refused = [
        ("VIP, unknown port", served.at(12345), 503),
        ("name, unknown port", format!("{name}:12345"), 503),
        ("name that nobody has", format!("nobody.example:{HTTP}"), 503),
        ("name of an unserved Service", format!("{other}:{HTTP}"), 503),
        ("pod of a served Service", pods[0].clone(), 400),
        ("unserved VIP", unserved.at(HTTP), 400),
        ("unserved pod", pods[1].clone(), 400),
        ("its own admin port", format!("{waypoint}:15000"), 400),
        ("its own admin port by loopback", "127.0.0.1:15000".to_owned(), 400),
        ("its own tunnel port", format!("{waypoint}:15008"), 400),
    ];
    for (what, authority, status) in refused {
        assert_eq!(Refused::status_of(client.ztunnel.connect(&authority).await), status, "{what}");
    }
    assert_eq!(unserved.servers[0].ztunnel.seen().len(), 0);
    Ok(())
}
