//! Many CIDR blocks at once.

use std::net::IpAddr;

use ipnet::IpNet;

/// CIDR blocks as ranges, sorted and merged, so that a lookup is a binary search.
///
/// An IPv4 address that is written as IPv6 (`::ffff:10.0.0.1`) is the IPv4 address, on either side.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Vec<Range>);

/// First and last address of one family; the family orders first, so the two never mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    family: Family,
    first: u128,
    last: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

impl Ranges {
    /// One block.
    pub(crate) fn one(net: IpNet) -> Self {
        let net = canonical(net);
        let ((family, first), (_, last)) = (number(net.network()), number(net.broadcast()));
        Self(vec![Range { family, first, last }])
    }

    /// Adds the blocks of another; [`Ranges::seal`] makes them searchable.
    pub(crate) fn absorb(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Sorts the ranges and merges those that overlap.
    pub(crate) fn seal(&mut self) {
        self.0.sort_unstable();
        self.0.dedup_by(|next, kept| {
            let overlap = next.family == kept.family && next.first <= kept.last;
            if overlap {
                kept.last = kept.last.max(next.last);
            }
            overlap
        });
    }

    /// Whether some block holds the address.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let (family, number) = number(address.to_canonical());
        let after = self.0.partition_point(|range| (range.family, range.first) <= (family, number));
        let before = after.checked_sub(1).and_then(|at| self.0.get(at));
        before.is_some_and(|range| range.family == family && number <= range.last)
    }
}

/// A block within `::ffff:0:0/96` is an IPv4 block.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    v4.and_then(|(address, bits)| IpNet::new(address.into(), bits).ok()).unwrap_or(net)
}

fn number(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(v4) => (Family::V4, u128::from(v4.to_bits())),
        IpAddr::V6(v6) => (Family::V6, v6.to_bits()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(nets: &[IpNet]) -> Ranges {
        let mut ranges = Ranges::default();
        nets.iter().for_each(|net| ranges.absorb(Ranges::one(*net)));
        ranges.seal();
        ranges
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_families_never_mix() {
        let rows = [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.0.0.1", false),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "10.1.2.3", false),
            ("::/0", "fd00::1", true),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
        ];
        for (net, address, want) in rows {
            assert_eq!(
                set(&[net.parse().unwrap()]).contain(address.parse().unwrap()),
                want,
                "{net} {address}"
            );
        }
        assert!(!set(&[]).contain("10.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn merged_ranges_hold_what_some_block_holds(
            nets in proptest::collection::vec((0u32..64, 24u8..=32), 0..12),
            host in 0u32..64,
        ) {
            let address = |low: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 | (low << 6) | low);
            let nets: Vec<IpNet> =
                nets.into_iter().map(|(low, bits)| IpNet::new(address(low).into(), bits).unwrap()).collect();
            let asked = IpAddr::from(address(host));
            prop_assert_eq!(set(&nets).contain(asked), nets.iter().any(|net| net.contains(&asked)));
        }
    }
}
