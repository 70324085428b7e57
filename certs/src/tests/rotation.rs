//! New certificates come while connections are open.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    authority::{Authority, Issued, Leaf},
    handshake::{CLIENT, WAYPOINT, between, id, mesh},
    peer::Peer,
    soon,
};
use crate::{FilePaths, FileSource, MeshTls, Revocations, StaticSource, TrustDomains, watcher::Pace};

/// A directory as the kubelet mounts it: the files are links through `..data`, which is a link to the version of the day.
struct Volume {
    directory: TempDir,
}

impl Volume {
    fn holding(issued: &Issued, bundle: &str) -> Self {
        let volume = Self { directory: TempDir::new().unwrap() };
        volume.swap("v1", issued, bundle);
        for name in ["cert-chain.pem", "key.pem", "root-cert.pem"] {
            symlink(Path::new("..data").join(name), volume.at(name)).unwrap();
        }
        volume
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn swap(&self, version: &str, issued: &Issued, bundle: &str) {
        fs::create_dir(self.at(version)).unwrap();
        fs::write(self.at(version).join("cert-chain.pem"), &issued.chain).unwrap();
        fs::write(self.at(version).join("key.pem"), &issued.key).unwrap();
        fs::write(self.at(version).join("root-cert.pem"), bundle).unwrap();
        symlink(version, self.at("..data_tmp")).unwrap();
        fs::rename(self.at("..data_tmp"), self.at("..data")).unwrap();
    }

    fn paths(&self) -> FilePaths {
        FilePaths {
            chain: self.at("cert-chain.pem"),
            key: self.at("key.pem"),
            bundle: self.at("root-cert.pem"),
        }
    }
}

#[tokio::test]
async fn a_symlink_swap_renews_for_new_handshakes_and_leaves_open_connections_alone() {
    let authority = Authority::root("root");
    let volume = Volume::holding(&authority.issue(&Leaf::of(WAYPOINT)), authority.bundle());
    let source = FileSource::open_at(Pace::EVENTS_ONLY, volume.paths()).unwrap();
    let server = MeshTls::new(&source, TrustDomains::default(), Revocations::none());
    // The source keeps working for those who listen.
    drop(source);
    let client = mesh(authority.svid(CLIENT));
    let mut renewed = server.svid();
    let first = renewed.borrow_and_update().clone().unwrap();
    let (connected, accepted) = between(&client, &server, &[id(WAYPOINT)]).await;
    let (mut connected, mut accepted) = (connected.unwrap().stream, accepted.unwrap().stream);

    let next = authority.issue(&Leaf::of("spiffe://td.example/ns/tools/sa/renamed"));
    volume.swap("v2", &next, authority.bundle());
    soon(renewed.changed()).await.unwrap();
    let second = renewed.borrow_and_update().clone().unwrap();
    assert_ne!(first.serial(), second.serial());
    assert_eq!(server.local_id(), Some(id("spiffe://td.example/ns/tools/sa/renamed")));

    connected.write_all(b"still here").await.unwrap();
    connected.flush().await.unwrap();
    let mut read = [0; 10];
    soon(accepted.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"still here");
    let (old, _) = between(&client, &server, &[id(WAYPOINT)]).await;
    assert_eq!(old.unwrap_err().reason(), "wrong_identity");
    let (new, _) = between(&client, &server, &[id("spiffe://td.example/ns/tools/sa/renamed")]).await;
    assert_eq!(new.unwrap().peer.id(), second.id());
}

#[tokio::test]
async fn a_new_root_is_trusted_at_once_and_a_root_that_left_is_not() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let ours = old.issue(&Leaf::of(WAYPOINT));
    let source = StaticSource::new(ours.svid(old.bundle()));
    let server = MeshTls::new(&source, TrustDomains::default(), Revocations::none());
    let of_old = Peer::showing(old.issue(&Leaf::of(CLIENT)));
    let of_new = Peer::showing(new.issue(&Leaf::of(CLIENT)));
    let held = of_old.calls(&server).await.0.unwrap();
    assert_eq!(of_new.calls(&server).await.0.unwrap_err().reason(), "untrusted");

    source.replace(ours.svid(&(old.bundle().to_owned() + new.bundle())));
    of_old.calls(&server).await.0.unwrap();
    of_new.calls(&server).await.0.unwrap();
    source.replace(ours.svid(new.bundle()));
    assert_eq!(of_old.calls(&server).await.0.unwrap_err().reason(), "untrusted");
    of_new.calls(&server).await.0.unwrap();
    // The contract of rotation: a stream that was accepted is not dropped because the roots moved on.
    server.recheck(&held.certificate).unwrap();
}
