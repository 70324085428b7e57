//! Consistent hashing: points of endpoints on a ring (ketama), so that most keys stay when endpoints come and go.

/// Points of an endpoint of middling weight. The same however many there are: then an endpoint that comes or goes moves
/// its own keys and no other.
const POINTS: u64 = 256;

/// Points on one ring; with more endpoints than that allows each gets fewer.
const MOST_POINTS: u64 = 1 << 16;

/// Where a key leads: the endpoint of the next point. Endpoints are known by their index.
pub(super) struct Ring(Vec<(u64, u32)>);

impl Ring {
    /// A ring of endpoints by name and weight. Each has at least one point.
    pub(super) fn new(endpoints: &[(String, u64)]) -> Self {
        let total = endpoints.iter().map(|(_, weight)| weight).sum::<u64>().max(1);
        let count = endpoints.len() as u64;
        let size = count.saturating_mul(POINTS).min(MOST_POINTS);
        let mut points = Vec::new();
        for (index, (name, weight)) in (0_u32..).zip(endpoints) {
            let share = u128::from(size) * u128::from(*weight) / u128::from(total);
            let share = u64::try_from(share).unwrap_or(size).max(1);
            points.extend((0..share).map(|number| (point(name, number), index)));
        }
        // Two endpoints at one point: the order of their names' indices decides, everywhere the same.
        points.sort_unstable();
        Self(points)
    }

    /// Indices of endpoints from the point of `hash` onwards, once around; an endpoint comes as often as it has points.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.0.split_at_checked(start).unwrap_or((&self.0, &[]));
        after.iter().chain(before).map(|(_, index)| *index as usize)
    }
}

fn point(name: &str, number: u64) -> u64 {
    mixed(fnv(name.as_bytes()) ^ mixed(number))
}

/// FNV-1a, 64 bits: the same on every replica and in every version of ours.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Spreads every bit over all others (the finalizer of splitmix64).
pub(super) fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(names: impl IntoIterator<Item = u32>) -> Vec<(String, u64)> {
        names.into_iter().map(|name| (format!("10.0.0.{name}:80"), 1)).collect()
    }

    fn owner<'a>(ring: &Ring, endpoints: &'a [(String, u64)], key: u64) -> &'a str {
        &endpoints[ring.from(mixed(key)).next().unwrap()].0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_key_moves_only_from_an_endpoint_that_went(count in 2_u32..30, gone in 0_u32..30) {
            let all = named(0..count);
            let gone = gone % count;
            let rest = named((0..count).filter(|name| *name != gone));
            let (before, after) = (Ring::new(&all), Ring::new(&rest));
            let mut moved = 0;
            for key in 0..2_000 {
                let (was, is) = (owner(&before, &all, key), owner(&after, &rest, key));
                moved += usize::from(was != is);
                prop_assert!(was == is || was == all[gone as usize].0, "{} moved from {} to {}", key, was, is);
            }
            let fair = 2_000 / count as usize;
            prop_assert!(moved <= fair * 2, "{moved} of 2000 moved, {fair} were its share");
        }

        #[test]
        fn the_order_in_which_endpoints_are_told_does_not_matter(count in 1_u32..20, key in any::<u64>()) {
            let (forth, back) = (named(0..count), named((0..count).rev()));
            prop_assert_eq!(owner(&Ring::new(&forth), &forth, key), owner(&Ring::new(&back), &back, key));
        }
    }

    #[test]
    fn keys_are_shared_by_weight() {
        let endpoints = [("a:1".to_owned(), 1), ("b:1".to_owned(), 3)];
        let ring = Ring::new(&endpoints);
        let heavy = (0..10_000).filter(|key| owner(&ring, &endpoints, *key) == "b:1").count();
        assert!((6_800..=8_200).contains(&heavy), "{heavy}");
    }

    #[test]
    fn once_around_meets_every_endpoint() {
        let endpoints = named(0..50);
        let met: std::collections::BTreeSet<usize> = Ring::new(&endpoints).from(u64::MAX).collect();
        assert_eq!(met.len(), 50);
        assert!(Ring::new(&[]).from(3).next().is_none());
    }
}
