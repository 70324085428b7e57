//! When to renew and when to try again. Pure: chance comes as an argument.

use std::time::Duration;

/// How far from half of its life a renewal may be moved by chance.
pub(super) const RENEWAL_SPREAD: f64 = 0.05;
/// How far a pause after a failure may be moved by chance.
pub(super) const RETRY_SPREAD: f64 = 0.2;

/// No renewal comes later than at this part of a life, whatever chance says.
const LATEST: f64 = 0.6;
/// The shortest time between two fetches: a certificate that came with no life left must not make us spin.
const SHORTEST: Duration = Duration::from_millis(250);

/// The first pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause while what we hold is valid.
const LONGEST_PAUSE: Duration = Duration::from_secs(150);
/// The longest pause while nothing is: nobody is served until the authority is back.
const LONGEST_PAUSE_WITHOUT: Duration = Duration::from_secs(15);
/// No pause takes more than this part of the time that is left.
const OF_WHAT_IS_LEFT: u32 = 4;

/// How long a fetch may take while there is time.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take in any case.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait until the renewal of an SVID with this much life left when it came. Not the life from its `notBefore`:
/// authorities date that back against clocks that go wrong (istiod by two minutes), which is more than a short life.
pub(super) fn renew_after(life: Duration, chance: f64) -> Duration {
    life.mul_f64((0.5 * chance).clamp(0.0, LATEST)).max(SHORTEST)
}

/// How long to wait after a failure, `failures` having gone before it, with an SVID that is valid for `left`.
pub(super) fn retry_after(failures: u32, left: Option<Duration>, chance: f64) -> Duration {
    let longest = left.map_or(LONGEST_PAUSE_WITHOUT, |left| LONGEST_PAUSE.min(left / OF_WHAT_IS_LEFT));
    let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures));
    doubled.mul_f64_capped(chance, longest).max(SHORTEST)
}

/// How long a fetch may take with an SVID that is valid for `left`: several must fit before its end.
pub(super) fn patience(left: Option<Duration>) -> Duration {
    left.map_or(PATIENCE, |left| (left / OF_WHAT_IS_LEFT).clamp(LEAST_PATIENCE, PATIENCE))
}

trait Capped {
    fn mul_f64_capped(self, factor: f64, cap: Self) -> Self;
}

impl Capped for Duration {
    /// The cap first: a doubled pause can be too long to be multiplied.
    fn mul_f64_capped(self, factor: f64, cap: Self) -> Self {
        self.min(cap).mul_f64(factor).min(cap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn renewal_is_at_half_of_the_life_and_never_far_beyond() {
        for (life, chance, expected) in [
            (24 * HOUR, 1.0, 12 * HOUR),
            (24 * HOUR, 1.0 - RENEWAL_SPREAD, 24 * HOUR * 19 / 40),
            (24 * HOUR, 1.0 + RENEWAL_SPREAD, 24 * HOUR * 21 / 40),
            (24 * HOUR, 9.0, 24 * HOUR * 6 / 10),
            (millis(10_000), 1.0, millis(5000)),
            (millis(2000), 1.0, millis(1000)),
            (millis(100), 1.0, SHORTEST),
            (Duration::ZERO, 1.0, SHORTEST),
        ] {
            assert_eq!(renew_after(life, chance).as_millis(), expected.as_millis(), "{life:?} {chance}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_shrink_towards_the_end() {
        let day = Some(24 * HOUR);
        for (failures, left, expected) in [
            (0, day, 500),
            (1, day, 1000),
            (2, day, 2000),
            (8, day, 128_000),
            (9, day, 150_000),
            (u32::MAX, day, 150_000),
            (0, None, 500),
            (9, None, 15_000),
            // Short lives: four tries at least are left at any time.
            (0, Some(millis(5000)), 500),
            (9, Some(millis(5000)), 1250),
            (9, Some(millis(40_000)), 10_000),
            (9, Some(millis(10)), 250),
        ] {
            assert_eq!(retry_after(failures, left, 1.0), millis(expected), "{failures} {left:?}");
        }
        assert_eq!(retry_after(0, day, 1.2), millis(600));
        assert_eq!(retry_after(9, day, 1.2), LONGEST_PAUSE);
    }

    #[test]
    fn a_fetch_leaves_time_for_others() {
        for (left, expected) in [
            (None, 15_000),
            (Some(24 * HOUR), 15_000),
            (Some(millis(20_000)), 5000),
            (Some(millis(5000)), 1250),
            (Some(millis(500)), 1000),
        ] {
            assert_eq!(patience(left), millis(expected), "{left:?}");
        }
    }
}
