//! How long a shutdown may take, where the environment says so.

use std::time::Duration;

use serde_json::{Map, Value};

use super::Environment;

/// What is left of a grace period for closing what the drain left open; as ztunnel keeps.
const BEFORE_THE_KILL: Duration = Duration::from_secs(5);

/// Times of the shutdown; what is not set keeps the default of the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainTimes {
    /// From the request to stop until what is still open is cut: `TERMINATION_DRAIN_DURATION_SECONDS`,
    /// `terminationDrainDuration` of `PROXY_CONFIG`, or `TERMINATION_GRACE_PERIOD_SECONDS` less five seconds.
    pub deadline: Option<Duration>,
}

pub(super) fn read(
    environment: &Environment,
    proxy_config: &Map<String, Value>,
) -> Result<DrainTimes, String> {
    let seconds = |name: &'static str| match environment.get(name) {
        None => Ok(None),
        Some(text) => match text.parse::<u64>() {
            Ok(seconds) if seconds > 0 => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(format!(
                "{name}={text} is no number of seconds\n  fix: write a whole number above 0, or remove it"
            )),
        },
    };
    let drain = seconds("TERMINATION_DRAIN_DURATION_SECONDS")?;
    let grace = seconds("TERMINATION_GRACE_PERIOD_SECONDS")?;
    let configured = match proxy_config.get("terminationDrainDuration") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_str().and_then(duration).filter(|drain| !drain.is_zero()).ok_or_else(|| {
            format!("PROXY_CONFIG.terminationDrainDuration={value} is no duration\n  fix: write it like 25s in Istio's proxy configuration")
        })?),
    };
    let left = |grace: Duration| {
        grace.checked_sub(BEFORE_THE_KILL).filter(|left| !left.is_zero()).unwrap_or(grace / 2)
    };
    Ok(DrainTimes { deadline: drain.or(configured).or(grace.map(left)) })
}

/// A duration as Go writes it: numbers with `h`, `m`, `s` or `ms`, such as `1h30m`, `10s`, `1.5s`. `None` if it is none.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, unit) = rest.split_at_checked(end)?;
        let (scale, after) = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
            .into_iter()
            .find_map(|(name, scale)| Some((scale, unit.strip_prefix(name)?)))?;
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()?;
        sum = sum.checked_add(part)?;
        rest = after;
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("24h0m0s", 86_400_000),
            ("1.5s", 1_500),
            ("250ms", 250),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "-1s", "10 s", "1d", "1..5s", "10sx", "99999999999999999999h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_deadline_is_the_first_that_is_set() {
        let of = |variables: &[(&str, &str)], config: &str| {
            let environment =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            read(&environment, &serde_json::from_str(config).unwrap())
                .map(|times| times.deadline.map(|deadline| deadline.as_millis()))
        };
        let grace = ("TERMINATION_GRACE_PERIOD_SECONDS", "60");
        let drain = ("TERMINATION_DRAIN_DURATION_SECONDS", "7");
        let config = r#"{"terminationDrainDuration": "40s"}"#;
        assert_eq!(of(&[], "{}"), Ok(None));
        assert_eq!(of(&[grace], "{}"), Ok(Some(55_000)));
        assert_eq!(of(&[(grace.0, "4")], "{}"), Ok(Some(2_000)));
        assert_eq!(of(&[grace], config), Ok(Some(40_000)));
        assert_eq!(of(&[grace, drain], config), Ok(Some(7_000)));
        assert!(of(&[(drain.0, "soon")], "{}").is_err_and(|fault| fault.starts_with(drain.0)));
        assert!(
            of(&[], r#"{"terminationDrainDuration": "soon"}"#)
                .is_err_and(|fault| fault.contains("terminationDrainDuration"))
        );
    }
}
