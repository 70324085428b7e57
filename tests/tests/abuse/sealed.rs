//! Sessions whose ids are sealed under a key that all replicas share.

use crate::sessions::{Caller, goes_on, has_no_session, owner_and_thief, server};
use crate::stage::{PORT, Peer, RULES, Scene, Stage};
use anyhow::Result;
use http::StatusCode;
use portcullis_tests::manifests::Port;
use portcullis_tests::mesh::Setup;
use portcullis_tests::portcullis::{Portcullis, Run};
use portcullis_tests::upstream::Upstream;
use portcullis_tests::ztunnel::Outbound;
use std::path::{Path, PathBuf};

/// A key file whose bytes are all `byte`.
fn key(folder: &Path, byte: u8) -> Result<PathBuf> {
    let path = folder.join(format!("key-{byte}"));
    std::fs::write(&path, [byte; 32])?;
    Ok(path)
}

fn keyed(run: Run, keys: &[&PathBuf]) -> Run {
    keys.iter().fold(run, |run, key| run.arg("--session-key", key))
}

/// The same workload, asking another replica.
fn at(stage: &Stage, replica: &Portcullis, name: &str) -> Result<Peer> {
    let ca = &stage.mesh.setup.ca;
    let svid = ca.svid(&ca.id("agents", name))?;
    let outbound = Outbound::new(ca, &svid, replica.address("hbone")?, &stage.mesh.waypoint_id())?;
    Ok(Peer { outbound, authority: stage.service.authority(PORT) })
}

#[tokio::test]
async fn a_sealed_id_hides_the_servers_and_opens_for_its_owner_only() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let key = key(folder.path(), 1)?;
    let stage = Scene::new(server).await?.start(&[("--session-key", &key.display().to_string())]).await?;
    let (owner, thief) = owner_and_thief(&stage).await?;
    let id = owner.initialize().await?;
    let servers = "0f8fad5b-d9cb-469f-a165-70867728950e";
    assert!(!id.contains(servers) && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
    goes_on(&owner, &id).await?;
    for seen in stage.upstream.seen().iter().filter(|seen| seen.headers.contains_key("mcp-session-id")) {
        assert_eq!(seen.headers["mcp-session-id"], servers, "the server knows its own id");
    }
    let before = stage.upstream.seen().len();
    has_no_session(&thief, &id).await?;
    has_no_session(&owner, servers).await?;
    for forged in forgeries(&id) {
        has_no_session(&owner, &forged).await?;
    }
    assert_eq!(stage.upstream.seen().len(), before, "no forgery reached the server");
    assert_ne!(owner.initialize().await?, id, "the same session is never sealed twice alike");
    goes_on(&owner, &id).await
}

/// Ids that are almost the one that was given.
fn forgeries(id: &str) -> Vec<String> {
    let mut forged =
        vec![id[1..].to_owned(), id[..id.len() - 1].to_owned(), format!("{id}A"), id.to_ascii_uppercase()];
    for at in [0, id.len() / 2, id.len() - 2] {
        let other = if id.as_bytes()[at] == b'A' { "B" } else { "A" };
        let mut changed = id.to_owned();
        changed.replace_range(at..=at, other);
        forged.push(changed);
    }
    forged
}

#[tokio::test]
async fn a_sealed_id_outlives_its_waypoint_and_serves_another_replica() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (old, new, other) = (key(folder.path(), 1)?, key(folder.path(), 2)?, key(folder.path(), 3)?);
    let scene = Scene::new(server).await?;
    let run = scene.setup.run();
    let stage = scene.start(&[("--session-key", &old.display().to_string())]).await?;
    let id = Caller::of(stage.peer("bot")?).await?.initialize().await?;

    let replica = Portcullis::start(&keyed(run.clone(), &[&old])).await?;
    goes_on(&Caller::of(at(&stage, &replica, "bot")?).await?, &id).await?;
    has_no_session(&Caller::of(at(&stage, &replica, "twin")?).await?, &id).await?;
    drop(replica);

    let rotated = Portcullis::start(&keyed(run.clone(), &[&new, &old])).await?;
    let owner = Caller::of(at(&stage, &rotated, "bot")?).await?;
    goes_on(&owner, &id).await?;
    let fresh = owner.initialize().await?;
    goes_on(&owner, &fresh).await?;
    // The old key alone can't open what the new one sealed: the first key seals.
    has_no_session(&Caller::of(stage.peer("bot")?).await?, &fresh).await?;

    let after = Portcullis::start(&keyed(run.clone(), &[&new])).await?;
    let owner = Caller::of(at(&stage, &after, "bot")?).await?;
    goes_on(&owner, &fresh).await?;
    has_no_session(&owner, &id).await?;

    let stranger = Portcullis::start(&keyed(run, &[&other])).await?;
    has_no_session(&Caller::of(at(&stage, &stranger, "bot")?).await?, &fresh).await
}

/// A remembered id is of this process, and ends with it.
#[tokio::test]
async fn a_remembered_id_is_not_known_to_another_replica() -> Result<()> {
    let scene = Scene::new(server).await?;
    let run = scene.setup.run();
    let stage = scene.start(&[]).await?;
    let owner = Caller::of(stage.peer("bot")?).await?;
    let id = owner.initialize().await?;
    let replica = Portcullis::start(&run).await?;
    has_no_session(&Caller::of(at(&stage, &replica, "bot")?).await?, &id).await?;
    goes_on(&owner, &id).await
}

/// Two endpoints with sessions of their own: each session stays where it was opened, at every replica.
#[tokio::test]
async fn a_session_stays_with_its_endpoint() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for keys in [vec![], vec![key(folder.path(), 1)?]] {
        let mut setup = Setup::new()?;
        let pods = [setup.pod("app", true).await?, setup.pod("app", true).await?];
        let mut upstreams = Vec::new();
        for pod in &pods {
            upstreams.push(Upstream::start(pod.port(PORT), server).await?);
        }
        let service = setup.service("app", &[Port::new("mcp", PORT).speaking("http")])?;
        setup.policy("rules", "app", "ALLOW", RULES)?;
        let run = keyed(setup.run(), &keys.iter().collect::<Vec<_>>());
        let mesh = setup.start_with(run.clone()).await?;
        let other = if keys.is_empty() { None } else { Some(Portcullis::start(&run).await?) };
        let here = || -> Result<Peer> {
            Ok(Peer { outbound: mesh.peer("agents", "bot")?, authority: service.authority(PORT) })
        };
        let mut homes = [0, 0];
        for _ in 0..16 {
            upstreams.iter().for_each(Upstream::forget);
            let caller = Caller::of(here()?).await?;
            let id = caller.initialize().await?;
            for _ in 0..4 {
                assert_eq!(caller.call(&id).await?.status, StatusCode::OK);
            }
            if let Some(other) = &other {
                let ca = &mesh.setup.ca;
                let svid = ca.svid(&ca.id("agents", "bot"))?;
                let outbound = Outbound::new(ca, &svid, other.address("hbone")?, &mesh.waypoint_id())?;
                let caller = Caller::of(Peer { outbound, authority: service.authority(PORT) }).await?;
                assert_eq!(caller.call(&id).await?.status, StatusCode::OK);
            }
            let seen: Vec<usize> = upstreams.iter().map(|upstream| upstream.seen().len()).collect();
            let all = 5 + usize::from(other.is_some());
            assert!(seen == [all, 0] || seen == [0, all], "one session at two endpoints: {seen:?}");
            homes[usize::from(seen[0] == 0)] += 1;
        }
        assert!(homes[0] > 0 && homes[1] > 0, "both endpoints keep sessions: {homes:?}");
    }
    Ok(())
}
