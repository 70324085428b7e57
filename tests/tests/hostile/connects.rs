//! CONNECT to ourselves, to this host, and to what we do not front.

use crate::bystander::Stage;
use anyhow::Result;
use portcullis_tests::single::Running;
use portcullis_tests::ztunnel::Refused;

#[tokio::test]
async fn to_what_is_not_ours() -> Result<()> {
    let stage = Stage::start("").await?;
    let attack = async |running: &Running| {
        let portcullis = &running.mesh.portcullis;
        let mut targets = Vec::new();
        for port in ["hbone", "admin", "metrics", "ready"] {
            let address = portcullis.address(port)?;
            targets.push(address.to_string());
            for host in ["localhost", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "127.1"] {
                targets.push(format!("{host}:{}", address.port()));
            }
        }
        for elsewhere in
            ["169.254.169.254:80", "10.96.0.1:15008", "192.0.2.1:80", "example.com:443", "[fe80::1]:80"]
        {
            targets.push(elsewhere.to_owned());
        }
        let connection = running.bot()?.dial().await?;
        for target in &targets {
            let status = Refused::status_of(connection.connect(target).await).as_u16();
            assert!(matches!(status, 400 | 503), "{target}: {status}");
        }
        // A connection that is told no a thousand times is one that is served.
        for _ in 0..1000 {
            Refused::status_of(connection.connect(&targets[0]).await);
        }
        Ok(())
    };
    stage.under("portcullis_refusals_total", &[("reason", "not_ours")], attack).await
}
