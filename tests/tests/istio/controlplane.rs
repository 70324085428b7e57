//! The control plane is a real one: it checks tokens, signs certificates, renders waypoints.

use anyhow::Result;
use portcullis_tests::istio::{Lab, PodSpec};
use portcullis_tests::tls::uri_sans;

#[tokio::test]
async fn a_pod_gets_a_certificate_with_its_own_identity() -> Result<()> {
    let lab = Lab::get()?;
    let namespace = lab.namespace("certs").await?;
    let pod = namespace.pod(&PodSpec::new("bot")).await?;
    let identity = pod.certificate().await?;
    assert_eq!(identity.svid.id, pod.id());
    assert_eq!(
        uri_sans(&identity.svid.chain()[0]),
        [format!("spiffe://cluster.local/ns/{}/sa/bot", namespace.name)]
    );
    assert_eq!(identity.roots.trim(), lab.roots().await?.trim());
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_not_for_istiod_is_refused() -> Result<()> {
    let lab = Lab::get()?;
    let pod = lab.namespace("tokens").await?.pod(&PodSpec::new("bot")).await?;
    let good = pod.token("istio-ca").await?;
    let other = lab.namespace("tokens").await?.pod(&PodSpec::new("bot")).await?;
    let rows = [
        ("no token at all", String::new()),
        ("for somebody else", pod.token("vault").await?),
        ("with another signature", format!("{}AAAA", &good[..good.len() - 4])),
        ("of a pod that is gone", {
            let token = other.token("istio-ca").await?;
            other.delete().await?;
            token
        }),
    ];
    for (what, token) in rows {
        let refusal = lab.certificate(&token).await.expect_err(what).to_string();
        assert!(refusal.contains("grpc-status Some(\"16\")"), "{what}: {refusal}");
    }
    assert_eq!(lab.certificate(&good).await?.svid.id, pod.id());
    Ok(())
}
