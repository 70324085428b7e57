//! A little chance, so that the pods of a node do not all do the same at the same moment. Nothing secret hangs on it.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
};

/// A factor between `1 - fraction` and `1 + fraction`. A fresh `RandomState` is randomness enough for that.
pub(crate) fn about(fraction: f64) -> f64 {
    const STEPS: u64 = 2000;
    let step = RandomState::new().build_hasher().finish() % (STEPS + 1);
    1.0 + fraction * (step as f64 / (STEPS / 2) as f64 - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_stays_within_its_fraction_and_varies() {
        let drawn: Vec<f64> = (0..100).map(|_| about(0.05)).collect();
        assert!(drawn.iter().all(|factor| (0.95..=1.05).contains(factor)), "{drawn:?}");
        assert!(drawn.iter().any(|factor| *factor != drawn[0]), "{drawn:?}");
    }
}
