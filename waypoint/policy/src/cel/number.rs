//! Numbers: whole ones of 64 bits, and finite doubles.

use std::cmp::Ordering;

/// The order of two numbers by their values, exactly: no whole number is rounded to a double.
pub(super) fn order(whole: i64, double: f64) -> Ordering {
    /// 2^63, which no `i64` reaches.
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if double >= BEYOND {
        return Ordering::Less;
    }
    if double < -BEYOND {
        return Ordering::Greater;
    }
    #[expect(clippy::cast_possible_truncation, reason = "truncation is meant, and the range was checked")]
    let truncated = double.trunc() as i64;
    let rest = double.fract();
    let beyond = if rest > 0.0 {
        Ordering::Less
    } else if rest < 0.0 {
        Ordering::Greater
    } else {
        Ordering::Equal
    };
    whole.cmp(&truncated).then(beyond)
}

/// The whole number that a double is cut to (`int(1.9)` is 1); `None` where there is none of 64 bits.
pub(super) fn cut(double: f64) -> Option<i64> {
    const LEAST: f64 = -9_223_372_036_854_775_808.0;
    let cut = double.trunc();
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    let whole = cut as i64;
    (LEAST..-LEAST).contains(&cut).then_some(whole)
}

/// The whole number that a double is, if it is one.
pub(super) fn whole(double: f64) -> Option<i64> {
    cut(double).filter(|_| double.fract() == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_and_doubles_are_ordered_by_value() {
        let rows = [
            (1, 1.0, Ordering::Equal),
            (0, -0.0, Ordering::Equal),
            (1, 1.5, Ordering::Less),
            (-1, -1.5, Ordering::Greater),
            (0, -0.5, Ordering::Greater),
            (9_007_199_254_740_993, 9_007_199_254_740_992.0, Ordering::Greater),
            (i64::MAX, 9_223_372_036_854_775_808.0, Ordering::Less),
            (i64::MIN, -9_223_372_036_854_775_808.0, Ordering::Equal),
            (i64::MIN, -1e300, Ordering::Greater),
            (i64::MAX, 1e300, Ordering::Less),
        ];
        for (whole, double, want) in rows {
            assert_eq!(order(whole, double), want, "{whole} and {double}");
        }
    }

    #[test]
    fn doubles_are_cut_within_the_range_only() {
        let rows = [
            (1.9, Some(1), None),
            (-1.9, Some(-1), None),
            (2.0, Some(2), Some(2)),
            (9_223_372_036_854_775_808.0, None, None),
            (-9_223_372_036_854_775_808.0, Some(i64::MIN), Some(i64::MIN)),
        ];
        for (double, want_cut, want_whole) in rows {
            assert_eq!((cut(double), whole(double)), (want_cut, want_whole), "{double}");
        }
    }
}
