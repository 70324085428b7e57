//! Who asks: workloads of the mesh, and others that its CA vouches for.

use anyhow::{Context, Result};
use portcullis_tests::ca::Ca;
use portcullis_tests::istio::{Lab, Namespace, Pod, PodSpec};
use portcullis_tests::ztunnel::Outbound;
use std::net::SocketAddr;

/// Other names of the mesh's trust domain. One of them looks like the label of a namespace.
pub(crate) const ALIASES: [&str; 2] = ["old", "ns"];

/// The SPIFFE ids that ask, without their scheme. `{a}` and `{b}` stand for namespaces. Only the first three are what istiod
/// issues; the others have further segments, fewer, none of Istio's at all, or another trust domain.
pub(crate) const CALLERS: [&str; 14] = [
    "cluster.local/ns/{a}/sa/bot",
    "cluster.local/ns/{a}/sa/cat",
    "cluster.local/ns/{b}/sa/bot",
    "old/ns/{a}/sa/bot",
    "ns/ns/{b}/sa/bot",
    "cluster.local/agent/planner",
    "old/agent/planner",
    "ns/{a}/sa/bot",
    "cluster.local/ns/{a}",
    "cluster.local/ns/{a}/sa/bot/pod/1",
    "cluster.local/region/eu/ns/{a}/cluster/x/sa/cat",
    "cluster.local/sa/bot/ns/{b}/x",
    "cluster.local/ns/ns/sa/sa",
    "cluster.local/NS/{a}/SA/bot",
];

/// Pods that they ask from, by the namespace and the ServiceAccount; a caller's is the one at its index, counted around.
const PODS: [(usize, &str); 3] = [(0, "bot"), (0, "cat"), (1, "bot")];

/// Both ways to a waypoint: fed by istiod, and by manifests.
pub(crate) struct Ways {
    /// Where each listens.
    pub(crate) addresses: [SocketAddr; 2],
    /// Who each is.
    pub(crate) ids: [String; 2],
}

/// One who asks, with the ways to both waypoints.
pub(crate) struct Caller {
    /// The pod that it asks from.
    pub(crate) pod: Pod,
    /// Its SPIFFE id.
    pub(crate) id: String,
    pub(crate) istiod: Outbound,
    pub(crate) manifests: Outbound,
}

/// All of [`CALLERS`].
pub(crate) struct Callers {
    pub(crate) all: Vec<Caller>,
    namespaces: [Namespace; 2],
}

impl Callers {
    /// With certificates by the mesh's own CA, which vouches for more than istiod would ask of it.
    pub(crate) async fn set(lab: &Lab, ways: &Ways) -> Result<Self> {
        let namespaces = [lab.namespace("agents").await?, lab.namespace("bots").await?];
        let authority = lab.authority().await?;
        let ca = Ca::of("cluster.local", &authority.certificate, &authority.key)?;
        let mut pods = Vec::new();
        for (namespace, account) in PODS {
            let namespace = namespaces.get(namespace).context("a namespace")?;
            pods.push(namespace.pod(&PodSpec::new(account)).await?);
        }
        let named = |id: &str| named(&namespaces, id);
        let caller = |(id, pod): (&&str, &Pod)| {
            let id = format!("spiffe://{}", named(id));
            let svid = ca.svid(&id)?;
            let [istiod, manifests] = [0, 1]
                .map(|way| pod.ztunnel_with(&svid, &authority.roots, ways.addresses[way], &ways.ids[way]));
            anyhow::Ok(Caller { pod: pod.clone(), id, istiod: istiod?, manifests: manifests? })
        };
        let all = CALLERS.iter().zip(pods.iter().cycle()).map(caller).collect::<Result<_>>()?;
        Ok(Self { all, namespaces })
    }

    /// The text with the names of this lab.
    pub(crate) fn named(&self, text: &str) -> String {
        let address = self.all.first().map(|caller| caller.pod.address.to_string()).unwrap_or_default();
        named(&self.namespaces, text).replace("{ip}", &address)
    }
}

fn named([a, b]: &[Namespace; 2], text: &str) -> String {
    text.replace("{a}", &a.name).replace("{b}", &b.name)
}
