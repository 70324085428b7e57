//! Numbers as policy compares them: decimal text, or not at all.

/// The longest text of a number that is compared, in bytes. A double needs 24 in scientific notation.
const LONGEST: usize = 64;

/// The shortest plain decimal of a JSON number (`1.0`, `1e0` and `10e-1` are all `1`; `-0` is `0`).
///
/// `None` where readers disagree on the value: outside the range of a double, or with digits that a double drops
/// (`1e400`, 2^53 + 1, `5.0000000000000000001`). A JavaScript server reads such a number as another one, so no rule
/// may rest on it. `None` also for a text of more than [`LONGEST`] bytes, so that the work on one number is bounded.
pub(crate) fn canonical(number: &str) -> Option<String> {
    if number.len() > LONGEST {
        return None;
    }
    let double: f64 = number.parse().ok().filter(|d: &f64| d.is_finite())?;
    if double == 0.0 {
        return Decimal::read(number)?.digits.is_empty().then(|| "0".to_owned());
    }
    let shortest = double.to_string();
    (Decimal::read(number)? == Decimal::read(&shortest)?).then_some(shortest)
}

/// `0.d₁d₂d₃… × 10^exponent`, without outer zeros; zero has no digits.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// Reads a JSON number; `None` if it has more digits than any double, or an exponent that no double has.
    fn read(number: &str) -> Option<Self> {
        let (negative, magnitude) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number),
        };
        let (mantissa, exponent) = magnitude.split_once(['e', 'E']).unwrap_or((magnitude, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let significant = || whole.bytes().chain(fraction.bytes());
        let leading = significant().take_while(|&d| d == b'0').count();
        let count = whole.len() + fraction.len() - leading;
        if count == 0 {
            return Some(Self { negative: false, digits: Vec::new(), exponent: 0 });
        }
        let trailing = significant().rev().take_while(|&d| d == b'0').count();
        let exponent: i64 = exponent.parse().ok()?;
        let point = i64::try_from(whole.len()).ok()?.checked_sub(i64::try_from(leading).ok()?)?;
        Some(Self {
            negative,
            digits: significant().skip(leading).take(count - trailing).collect(),
            exponent: exponent.checked_add(point)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_numbers_have_one_text_and_doubtful_ones_none() {
        for (number, text) in [
            ("0", Some("0")),
            ("-0", Some("0")),
            ("0.00e7", Some("0")),
            ("1", Some("1")),
            ("1.0", Some("1")),
            ("1e0", Some("1")),
            ("10E-1", Some("1")),
            ("100.010", Some("100.01")),
            ("-2.50", Some("-2.5")),
            ("0.1", Some("0.1")),
            ("1e3", Some("1000")),
            ("1e21", Some("1000000000000000000000")),
            ("9007199254740992", Some("9007199254740992")),
            ("9007199254740993", None),
            ("1234567890123456789", None),
            ("5.0000000000000000001", None),
            ("1e400", None),
            ("-1e400", None),
            ("1e-400", None),
            ("1e99999999999999999999", None),
            ("0e99999999999999999999", Some("0")),
        ] {
            assert_eq!(canonical(number).as_deref(), text, "{number}");
        }
    }

    #[test]
    fn a_number_of_more_than_64_bytes_is_not_told() {
        for (zeros, text) in [(62, Some("1")), (63, None), (1_000_000, None)] {
            assert_eq!(canonical(&format!("1.{}", "0".repeat(zeros))).as_deref(), text, "{zeros}");
        }
    }

    proptest! {
        #[test]
        fn every_double_that_is_written_shortest_is_told(double in proptest::num::f64::NORMAL) {
            let text = format!("{double}");
            prop_assert_eq!(canonical(&format!("{double:e}")), Some(text.clone()));
            prop_assert_eq!(canonical(&text), Some(text).filter(|text| text.len() <= LONGEST));
        }
    }
}
