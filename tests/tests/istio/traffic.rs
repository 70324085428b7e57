//! Pods reach each other as in a cluster: by address, with certificates of one mesh, through HBONE.

use anyhow::Result;
use portcullis_tests::application::hears;
use portcullis_tests::http::{Client, post_json};
use portcullis_tests::istio::{Lab, PodSpec, echo};
use portcullis_tests::upstream::{self, Upstream};
use portcullis_tests::ztunnel::HBONE_PORT;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

#[tokio::test]
async fn istios_client_reaches_istios_server_through_hbone() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("echo").await?;
    let server = namespace.pod(&PodSpec::new("server")).await?;
    let client = namespace.pod(&PodSpec::new("client")).await?;
    let echo = server.echo("v7").await?;
    let url = format!("http://{}/path", server.port(echo::HTTP));
    let answers =
        client.echo_client(server.port(HBONE_PORT), &url, &["--count=3", "--header=x-asked: yes"]).await?;
    assert_eq!(answers.len(), 3);
    for answer in answers {
        assert_eq!(answer.status()?, 200);
        assert_eq!(answer.field("ServiceVersion"), Some("v7"));
        assert_eq!(answer.request_header("x-asked"), Some("yes"));
    }
    let seen = echo.ztunnel.seen();
    assert!(seen.iter().all(|connect| connect.peer == client.id()), "{seen:?}");
    Ok(())
}

#[tokio::test]
async fn a_pod_dials_from_its_own_address() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("dials").await?;
    let server = namespace.pod(&PodSpec::new("server")).await?;
    let client = namespace.pod(&PodSpec::new("client")).await?;
    let listener = server.network.listen(server.port(8080))?;
    let mut dialled = client.network.connect(server.port(8080)).await?;
    let (mut accepted, from) = listener.accept().await?;
    assert_eq!(from.ip(), client.address);
    dialled.write_all(b"hello").await?;
    hears(&mut accepted, b"hello").await?;
    Ok(())
}

#[tokio::test]
async fn a_program_in_a_pod_uses_the_pods_ztunnel_through_a_port_of_its_loopback() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("forward").await?;
    let server = namespace.pod(&PodSpec::new("server")).await?;
    let client = namespace.pod(&PodSpec::new("client")).await?;
    let ztunnel = server.serve_hbone().await?;
    let listener = server.network.listen(server.port(8080))?;
    let _application = Upstream::on(listener, |seen| upstream::result(seen, &json!({"it": "works"})))?;
    let outbound = client.ztunnel(server.port(HBONE_PORT), &server.id()).await?;
    let port = outbound.forward(&server.port(8080).to_string()).await?;
    let http = Client::http1(client.network.connect(port.address).await?).await?;
    let reply = http
        .send(post_json("/mcp", "server", &json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}))?)
        .await?;
    assert_eq!(reply.json()?["result"], json!({"it": "works"}));
    assert_eq!(ztunnel.saw(1).await?[0].peer, client.id());
    // The port is the pod's: this process, in the hub, has none of that number.
    assert!(tokio::net::TcpStream::connect(port.address).await.is_err());
    Ok(())
}

#[tokio::test]
async fn endpoints_of_a_service_are_its_pods_at_the_target_ports() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("service").await?;
    let server = namespace.pod(&PodSpec::new("server")).await?;
    let service = "apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{name: http, port: 80, targetPort: 8080, appProtocol: http}]}
";
    namespace.apply(service).await?;
    namespace.endpoints("server", &[&server]).await?;
    let vip = namespace.service_address("server").await?;
    assert_eq!(vip.octets()[..2], [10, 96]);
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices/server-pods", namespace.name);
    let slice = lab.api.get(&path).await?;
    assert_eq!(slice["ports"][0]["port"], 8080);
    assert_eq!(slice["endpoints"][0]["addresses"], json!([server.address]));
    Ok(())
}
