//! `istio.workload.Workload` → [`Workload`].

use std::net::IpAddr;

use bytes::Bytes;
use istio_protos::istio::workload::{TunnelProtocol, Workload as Wire};
use spiffe_id::SpiffeId;
use waypoint_model::{Locality, TunnelKind, Workload, WorkloadUid};

use super::index::{AddressError, Texts};

/// What an empty trust domain stands for (Istio `Workload.trust_domain`).
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Where we stand ourselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Our network; empty where the mesh has one only.
    pub network: String,
}

/// Translates one workload. One of another network keeps its identity and labels, and no address: its addresses may be
/// ours too, and mean another.
pub(super) fn translate(wire: Wire, own: &Own, texts: &mut Texts) -> Result<Workload, AddressError> {
    let identity = identity(&wire, texts)?;
    let addresses: Vec<IpAddr> =
        wire.addresses.iter().map(|raw| ip("addresses", raw)).collect::<Result<_, _>>()?;
    let here = wire.network.is_empty() || own.network.is_empty() || wire.network == own.network;
    let tunnel = tunnel(&wire);
    let or_name =
        |text: &str, texts: &mut Texts| if text.is_empty() { texts.one(&wire.name) } else { texts.one(text) };
    let canonical_name = or_name(&wire.canonical_name, texts);
    let canonical_revision = texts.one(&wire.canonical_revision);
    // The workload API has no labels: app and version in metrics are the canonical ones, as in Istio's Envoy.
    let version = Some(canonical_revision.clone()).filter(|revision| !revision.is_empty());
    Ok(Workload {
        name: wire.name.as_str().into(),
        namespace: texts.one(&wire.namespace),
        addresses: if here { addresses } else { Vec::new() },
        identity,
        tunnel,
        locality: wire.locality.as_ref().map_or_else(Locality::default, |at| Locality {
            region: texts.one(&at.region),
            zone: texts.one(&at.zone),
            subzone: texts.one(&at.subzone),
        }),
        workload_name: or_name(&wire.workload_name, texts),
        app: Some(canonical_name.clone()),
        canonical_name,
        canonical_revision,
        version,
        cluster: texts.one(&wire.cluster_id),
        uid: WorkloadUid(wire.uid.into()),
    })
}

/// The exact identity that its certificate bears; none where it has no ServiceAccount (an external host).
fn identity(wire: &Wire, texts: &mut Texts) -> Result<Option<SpiffeId>, AddressError> {
    if wire.service_account.is_empty() {
        return Ok(None);
    }
    let trust_domain = Some(wire.trust_domain.as_str()).filter(|name| !name.is_empty());
    let trust_domain = trust_domain.unwrap_or(DEFAULT_TRUST_DOMAIN);
    let identity = SpiffeId::istio(trust_domain, &wire.namespace, &wire.service_account)?;
    Ok(Some(texts.identity(identity)))
}

/// A sidecar's own mTLS is not spoken by a waypoint, as Envoy's does not: such a workload is reached in plain.
fn tunnel(wire: &Wire) -> TunnelKind {
    match wire.tunnel_protocol() {
        TunnelProtocol::Hbone => TunnelKind::Hbone,
        TunnelProtocol::None | TunnelProtocol::LegacyIstioMtls => TunnelKind::Plain,
    }
}

/// Four or sixteen bytes, in network order.
pub(super) fn ip(field: &'static str, raw: &Bytes) -> Result<IpAddr, AddressError> {
    let of = |ip: IpAddr| ip.to_canonical();
    if let Ok(four) = <[u8; 4]>::try_from(raw.as_ref()) {
        return Ok(of(four.into()));
    }
    let sixteen = <[u8; 16]>::try_from(raw.as_ref());
    sixteen.map(|bytes| of(bytes.into())).map_err(|_| AddressError::Ip { field, length: raw.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> Wire {
        Wire {
            uid: "Kubernetes//Pod/ns/a".to_owned(),
            name: "a".to_owned(),
            namespace: "ns".to_owned(),
            service_account: "sa".to_owned(),
            addresses: vec![vec![10, 0, 0, 1].into()],
            tunnel_protocol: TunnelProtocol::Hbone.into(),
            ..Wire::default()
        }
    }

    fn translated(wire: Wire, own: &Own) -> Result<Workload, AddressError> {
        translate(wire, own, &mut Texts::default())
    }

    #[test]
    fn the_identity_is_that_of_its_service_account() {
        let plain = Wire { service_account: String::new(), ..wire() };
        let other = Wire { trust_domain: "td.example".to_owned(), ..wire() };
        let rows = [
            (wire(), Some("spiffe://cluster.local/ns/ns/sa/sa")),
            (other, Some("spiffe://td.example/ns/ns/sa/sa")),
            (plain, None),
        ];
        for (wire, want) in rows {
            let got = translated(wire, &Own::default()).unwrap();
            assert_eq!(got.identity.as_ref().map(SpiffeId::as_str), want);
        }
        let broken = Wire { trust_domain: "no domain".to_owned(), ..wire() };
        assert!(matches!(translated(broken, &Own::default()), Err(AddressError::Identity(_))));
    }

    #[test]
    fn an_address_of_another_network_is_not_ours() {
        let own = Own { network: "here".to_owned() };
        for (network, want) in [("", 1), ("here", 1), ("there", 0)] {
            let wire = Wire { network: network.to_owned(), ..wire() };
            assert_eq!(translated(wire, &own).unwrap().addresses.len(), want, "{network}");
        }
    }

    #[test]
    fn names_that_are_missing_are_the_workloads_own() {
        let got = translated(wire(), &Own::default()).unwrap();
        assert_eq!((&*got.workload_name, &*got.canonical_name, got.tunnel), ("a", "a", TunnelKind::Hbone));
    }
}
