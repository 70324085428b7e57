//! `%START_TIME(format)%`: the letters of `strftime` that logs use, and Envoy's fractions of a second.

use std::fmt::Write as _;
use std::time::SystemTime;

use time::OffsetDateTime;

/// How a time is written, always in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clock(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(char),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Epoch,
    Zone,
    Offset,
    MonthName,
    /// Digits of the fraction.
    Fraction(usize),
}

/// RFC 3339 with milliseconds, Envoy's own.
const DEFAULT: &str = "%Y-%m-%dT%H:%M:%S.%3fZ";
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Clock {
    /// `None` where a letter is not known. Empty: the default.
    pub(super) fn parse(format: &str) -> Option<Self> {
        let format = if format.is_empty() { DEFAULT } else { format };
        let (mut parts, mut chars) = (Vec::new(), format.chars());
        while let Some(c) = chars.next() {
            if c != '%' {
                parts.push(Part::Literal(c));
                continue;
            }
            match chars.next()? {
                'Y' => parts.push(Part::Year),
                'm' => parts.push(Part::Month),
                'd' => parts.push(Part::Day),
                'H' => parts.push(Part::Hour),
                'M' => parts.push(Part::Minute),
                'S' => parts.push(Part::Second),
                's' => parts.push(Part::Epoch),
                'Z' => parts.push(Part::Zone),
                'z' => parts.push(Part::Offset),
                'b' => parts.push(Part::MonthName),
                'f' => parts.push(Part::Fraction(9)),
                'F' => parts.extend(Self::parse("%Y-%m-%d")?.0),
                'T' => parts.extend(Self::parse("%H:%M:%S")?.0),
                '%' => parts.push(Part::Literal('%')),
                digit @ '1'..='9' if chars.next() == Some('f') => {
                    parts.push(Part::Fraction(usize::try_from(digit.to_digit(10)?).ok()?));
                }
                _unknown => return None,
            }
        }
        Some(Self(parts))
    }

    /// `None` where the clock is beyond what can be written.
    pub(super) fn write(&self, at: SystemTime) -> Option<String> {
        let at = OffsetDateTime::from(at);
        let mut out = String::with_capacity(32);
        for part in &self.0 {
            match part {
                Part::Literal(c) => out.write_char(*c),
                Part::Year => write!(out, "{:04}", at.year()),
                Part::Month => write!(out, "{:02}", u8::from(at.month())),
                Part::Day => write!(out, "{:02}", at.day()),
                Part::Hour => write!(out, "{:02}", at.hour()),
                Part::Minute => write!(out, "{:02}", at.minute()),
                Part::Second => write!(out, "{:02}", at.second()),
                Part::Epoch => write!(out, "{}", at.unix_timestamp()),
                Part::Zone => out.write_str("UTC"),
                Part::Offset => out.write_str("+0000"),
                Part::MonthName => {
                    out.write_str(MONTHS.get(usize::from(u8::from(at.month())).checked_sub(1)?)?)
                }
                Part::Fraction(digits) => {
                    out.write_str(format!("{:09}", at.nanosecond()).get(..*digits).unwrap_or_default())
                }
            }
            .ok()?;
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_written_as_its_letters_say() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_767_225_600_012_345_678);
        for (format, want) in [
            ("", Some("2026-01-01T00:00:00.012Z")),
            ("%Y/%m/%dT%H:%M:%S%z %s", Some("2026/01/01T00:00:00+0000 1767225600")),
            ("%s.%6f", Some("1767225600.012345")),
            ("%F %T.%f %Z 5%%", Some("2026-01-01 00:00:00.012345678 UTC 5%")),
            ("%d %b", Some("01 Jan")),
            ("%q", None),
            ("%3", None),
            ("%", None),
        ] {
            assert_eq!(Clock::parse(format).and_then(|clock| clock.write(at)).as_deref(), want, "{format}");
        }
    }
}
