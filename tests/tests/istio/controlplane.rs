//! The control plane is a real one: it checks tokens, signs certificates, renders waypoints.

use anyhow::Result;
use portcullis_tests::istio::{IstiodSettings, Lab, PodSpec};
use portcullis_tests::tls::uri_sans;
use std::time::Duration;

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

#[tokio::test]
async fn an_istiod_of_a_tests_own_can_be_killed_and_comes_back() -> Result<()> {
    let lab = Lab::get()?;
    let pod = lab.namespace("killed").await?.pod(&PodSpec::new("bot")).await?;
    let mut istiod = lab.istiod(IstiodSettings::default().with("MAX_WORKLOAD_CERT_TTL", "1m")).await?;
    let token = pod.token("istio-ca").await?;
    let ask = async |istiod, life| lab.certificate_from(istiod, &token, Duration::from_secs(life)).await;
    let first = ask(istiod.secure_address(), 20).await?;
    let chain = first.svid.chain();
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0])?;
    let ends_in = leaf.validity().time_to_expiration().map(|left| left.whole_seconds());
    assert!(ends_in.is_some_and(|seconds| (5..=20).contains(&seconds)), "{ends_in:?}");
    let refused =
        ask(istiod.secure_address(), 3600).await.expect_err("longer than its settings allow").to_string();
    assert!(refused.contains("grpc-status"), "{refused}");

    istiod.kill().await?;
    assert!(ask(istiod.secure_address(), 20).await.is_err(), "nobody listens");
    assert!(lab.certificate(&token).await.is_ok(), "the lab's own goes on");
    istiod.restart().await?;
    let second = ask(istiod.secure_address(), 20).await?;
    assert_eq!((second.svid.id, second.roots), (pod.id(), first.roots));
    Ok(())
}
