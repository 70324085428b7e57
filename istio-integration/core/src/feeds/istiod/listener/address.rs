//! Addresses and ranges of them.

use std::net::IpAddr;

use ipnet::IpNet;
use istio_protos::envoy::config::core::v3 as core;
use istio_protos::xds::core::v3 as xds;

use super::translated::Refused;

/// Envoy's range; without a length it is every address.
pub(super) fn range(range: &core::CidrRange) -> Result<IpNet, Refused> {
    net(&range.address_prefix, range.prefix_len)
}

/// The same as xDS writes it.
pub(super) fn xds_range(range: &xds::CidrRange) -> Result<IpNet, Refused> {
    net(&range.address_prefix, range.prefix_len)
}

fn net(address: &str, length: Option<u32>) -> Result<IpNet, Refused> {
    let refused = || Refused::new(format!("{address}/{} is no range of addresses", length.unwrap_or(0)));
    let address: IpAddr = address.parse().map_err(|_| refused())?;
    let length = u8::try_from(length.unwrap_or(0)).map_err(|_| refused())?;
    IpNet::new(address, length).map(|net| net.trunc()).map_err(|_| refused())
}

/// A range of one address.
pub(super) fn single(net: IpNet) -> Option<IpAddr> {
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_envoys() {
        let of = |address_prefix: &str, prefix_len| core::CidrRange {
            address_prefix: address_prefix.to_owned(),
            prefix_len,
        };
        let rows = [
            ("10.1.2.3", Some(16), Some("10.1.0.0/16")),
            ("10.1.2.3", Some(32), Some("10.1.2.3/32")),
            ("::1", Some(128), Some("::1/128")),
            ("10.0.0.0", None, Some("0.0.0.0/0")),
            ("10.0.0.0", Some(33), None),
            ("10.0.0.0", Some(300), None),
            ("a.example", Some(32), None),
        ];
        for (address, length, want) in rows {
            let have = range(&of(address, length)).ok().map(|net| net.to_string());
            assert_eq!(have.as_deref(), want, "{address} {length:?}");
        }
    }
}
