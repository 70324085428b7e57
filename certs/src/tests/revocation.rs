//! Revoked and expired peers: refused when they come, found when they are here already.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rcgen::KeyIdMethod;
use tempfile::TempDir;

use super::{
    authority::{Authority, Issued, Leaf},
    handshake::{CLIENT, WAYPOINT, id},
    peer::Peer,
    soon,
};
use crate::{MeshTls, Revocations, StaticSource, SvidError, TrustDomains, X509Svid, clock::Clock};

/// A file of revocation lists.
struct ListFile {
    directory: TempDir,
}

impl ListFile {
    fn holding(pem: &str) -> Self {
        let file = Self { directory: TempDir::new().unwrap() };
        file.write(pem);
        file
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("crl.pem")
    }

    /// In one step, as a mounted volume changes.
    fn write(&self, pem: &str) {
        let draft = self.directory.path().join("draft");
        fs::write(&draft, pem).unwrap();
        fs::rename(draft, self.path()).unwrap();
    }

    fn open(&self) -> Revocations {
        Revocations::open(self.path()).unwrap()
    }
}

fn mesh(svid: X509Svid, revocations: &Revocations) -> MeshTls {
    MeshTls::new(&StaticSource::new(svid), TrustDomains::default(), revocations.clone())
}

#[tokio::test]
async fn a_revoked_leaf_or_intermediate_is_refused_in_both_directions() {
    let root = Authority::root("root");
    let intermediate = root.intermediate("intermediate", (-60, 3600));
    let leaf = intermediate.issue(&Leaf::of(CLIENT));
    let other = root.issue(&Leaf::of(CLIENT));
    let stranger = Authority::root("stranger");
    let table = [
        ("the leaf", intermediate.revokes(&[&leaf.serial], 60), Err("revoked")),
        ("the intermediate", root.revokes(&[intermediate.serial()], 60), Err("revoked")),
        ("another leaf", intermediate.revokes(&[&other.serial], 60), Ok(())),
        ("nothing", intermediate.revokes(&[], 60), Ok(())),
        ("the leaf's number, but by another issuer", root.revokes(&[&leaf.serial], 60), Ok(())),
        ("a list of a stranger", stranger.revokes(&[&leaf.serial], 60), Ok(())),
        (
            "the intermediate, in the second list of two",
            intermediate.revokes(&[], 60) + &root.revokes(&[intermediate.serial()], 60),
            Err("revoked"),
        ),
        (
            "the leaf, in the newer list, which stands second",
            intermediate.revokes(&[], 600) + &intermediate.revokes(&[&leaf.serial], 60),
            Err("revoked"),
        ),
        (
            "the leaf, in an older list only",
            intermediate.revokes(&[], 60) + &intermediate.revokes(&[&leaf.serial], 600),
            Ok(()),
        ),
    ];
    for (what, pem, expected) in table {
        let ours = mesh(root.svid(WAYPOINT), &ListFile::holding(&pem).open());
        let peer = Peer::showing(leaf.clone());
        let inbound = peer.calls(&ours).await.0.map(|_| ()).map_err(|e| e.reason());
        let outbound = peer.called_by(&ours, &[id(CLIENT)]).await.0.map(|_| ()).map_err(|e| e.reason());
        assert_eq!((inbound, outbound), (expected, expected), "{what}");
    }
}

#[tokio::test]
async fn a_list_forged_in_the_name_of_an_issuer_lets_nobody_of_it_in() {
    let (root, forger) = (Authority::root("root"), Authority::root("root"));
    for claims in [root.key_id(), KeyIdMethod::PreSpecified(Vec::new())] {
        let pem = forger.revokes_as(&[], 60, claims.clone());
        let ours = mesh(root.svid(WAYPOINT), &ListFile::holding(&pem).open());
        let (accepted, _client) = Peer::showing(root.issue(&Leaf::of(CLIENT))).calls(&ours).await;
        assert_eq!(accepted.unwrap_err().reason(), "untrusted", "{claims:?}");
    }
}

/// istiod's roots all bear one name: while one takes over from the other, each has its own list.
#[tokio::test]
async fn a_list_says_nothing_of_another_root_with_the_same_name() {
    let (old, new) = (Authority::root("root"), Authority::root("root"));
    let both = format!("{}{}", old.bundle(), new.bundle());
    let (of_old, of_new) = (old.issue(&Leaf::of(CLIENT)), new.issue(&Leaf::of(CLIENT)));
    for claims in [KeyIdMethod::Sha256, KeyIdMethod::PreSpecified(Vec::new())] {
        let empty = |root: &Authority| root.revokes_as(&[], 60, claims.clone());
        let naming =
            |root: &Authority, issued: &Issued| root.revokes_as(&[&issued.serial], 60, claims.clone());
        let table = [
            ("the old root's", empty(&old), (Ok(()), Ok(()))),
            ("the new root's", empty(&new), (Ok(()), Ok(()))),
            ("the old root's, of one", naming(&old, &of_old), (Err("revoked"), Ok(()))),
            ("both, of one of the old", naming(&old, &of_old) + &empty(&new), (Err("revoked"), Ok(()))),
            ("both, of one of the new", naming(&new, &of_new) + &empty(&old), (Ok(()), Err("revoked"))),
            ("the new's number by the old", naming(&old, &of_new), (Ok(()), Ok(()))),
        ];
        for (what, pem, expected) in table {
            let own = new.issue(&Leaf::of(WAYPOINT)).svid(&both);
            let ours = mesh(own, &ListFile::holding(&pem).open());
            let calls = async |issued: &Issued| {
                Peer::showing(issued.clone()).calls(&ours).await.0.map(drop).map_err(|e| e.reason())
            };
            assert_eq!((calls(&of_old).await, calls(&of_new).await), expected, "{what}, {claims:?}");
        }
    }
}

#[tokio::test]
async fn a_reload_finds_the_open_connection_of_a_revoked_peer() {
    let root = Authority::root("root");
    let (victim, bystander) = (root.issue(&Leaf::of(CLIENT)), root.issue(&Leaf::of(CLIENT)));
    let file = ListFile::holding(&root.revokes(&[], 60));
    let ours = mesh(root.svid(WAYPOINT), &file.open());
    let mut reloads = ours.revocations();
    let held = Peer::showing(victim.clone()).calls(&ours).await.0.unwrap();
    let other = Peer::showing(bystander).calls(&ours).await.0.unwrap();
    ours.recheck(&held.certificate).unwrap();

    file.write(&root.revokes(&[&victim.serial], 30));
    soon(reloads.changed()).await.unwrap();
    assert_eq!(ours.recheck(&held.certificate).unwrap_err().reason(), "revoked");
    ours.recheck(&other.certificate).unwrap();
    assert_eq!(Peer::showing(victim).calls(&ours).await.0.unwrap_err().reason(), "revoked");
}

#[tokio::test]
async fn a_list_damaged_later_leaves_the_last_one_in_force() {
    let root = Authority::root("root");
    let (victim, second) = (root.issue(&Leaf::of(CLIENT)), root.issue(&Leaf::of(CLIENT)));
    let file = ListFile::holding(&root.revokes(&[&victim.serial], 60));
    let ours = mesh(root.svid(WAYPOINT), &file.open());
    let mut reloads = ours.revocations();

    file.write("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    // A good one afterwards is the sign that the bad one was passed over, or not even seen.
    let reader = Revocations::open(file.path());
    assert!(matches!(reader, Err(SvidError::InFile { .. })));
    assert_eq!(Peer::showing(victim.clone()).calls(&ours).await.0.unwrap_err().reason(), "revoked");
    file.write(&root.revokes(&[&victim.serial, &second.serial], 30));
    soon(reloads.changed()).await.unwrap();
    for revoked in [victim, second] {
        assert_eq!(Peer::showing(revoked).calls(&ours).await.0.unwrap_err().reason(), "revoked");
    }
}

#[test]
fn a_bad_list_at_the_start_is_an_error_that_names_the_file() {
    let root = Authority::root("root");
    let cut = root.revokes(&[], 60).replace("-----END X509 CRL-----", "");
    for (what, pem) in [
        ("empty", ""),
        ("a certificate", root.bundle()),
        ("no list inside", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
        ("cut off", &cut),
    ] {
        let file = ListFile::holding(pem);
        let error = Revocations::open(file.path()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: the revocation list", file.path().display())),
            "{what}: {error}"
        );
    }
    let missing = PathBuf::from("/nowhere/crl.pem");
    let error = Revocations::open(missing).unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nowhere/crl.pem: "), "{error}");
}

#[tokio::test]
async fn a_peer_that_expires_while_it_is_here_is_found() {
    let root = Authority::root("root");
    let hours = Arc::new(AtomicU64::new(0));
    let turned = Arc::clone(&hours);
    let clock = Clock::from_fn(move || {
        SystemTime::now() + Duration::from_secs(3600 * turned.load(Ordering::Relaxed))
    });
    let source = StaticSource::new(root.svid_of(&Leaf { valid: (-60, 36_000), ..Leaf::of(WAYPOINT) }));
    let ours = MeshTls::with_clock(&source, TrustDomains::default(), Revocations::none(), clock);
    let brief = root.issue(&Leaf { valid: (-60, 5400), ..Leaf::of(CLIENT) });
    let under_brief =
        root.intermediate("brief", (-60, 5400)).issue(&Leaf { valid: (-60, 36_000), ..Leaf::of(CLIENT) });
    let held = [
        Peer::showing(brief.clone()).calls(&ours).await.0.unwrap(),
        Peer::showing(under_brief).calls(&ours).await.0.unwrap(),
    ];
    let lifetime = held[0].certificate.not_after().duration_since(SystemTime::now()).unwrap();
    assert!(lifetime.abs_diff(Duration::from_secs(5400)) < Duration::from_secs(60), "{lifetime:?}");

    hours.store(1, Ordering::Relaxed);
    held.iter().for_each(|held| ours.recheck(&held.certificate).unwrap());
    hours.store(2, Ordering::Relaxed);
    for held in &held {
        assert_eq!(ours.recheck(&held.certificate).unwrap_err().reason(), "expired");
    }
    assert_eq!(Peer::showing(brief).calls(&ours).await.0.unwrap_err().reason(), "expired");
}
