//! Shares of requests.

/// Shares in millionths, as the model counts them.
pub(super) mod millionths {
    use istio_protos::envoy::r#type::v3::FractionalPercent;
    use istio_protos::envoy::r#type::v3::fractional_percent::DenominatorType;

    /// Every request.
    pub(in super::super) const ALL: u32 = 1_000_000;

    /// At most all. A denominator that is not known is found before this is asked.
    pub(in super::super) fn of(percent: &FractionalPercent) -> u32 {
        let factor = match DenominatorType::try_from(percent.denominator) {
            Ok(DenominatorType::Hundred) => 10_000,
            Ok(DenominatorType::TenThousand) => 100,
            Ok(DenominatorType::Million) | Err(_) => 1,
        };
        percent.numerator.saturating_mul(factor).min(ALL)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn shares_are_millionths() {
            for (numerator, denominator, want) in [
                (100, DenominatorType::Hundred, ALL),
                (1, DenominatorType::Hundred, 10_000),
                (25, DenominatorType::TenThousand, 2_500),
                (7, DenominatorType::Million, 7),
                (300, DenominatorType::Hundred, ALL),
            ] {
                let percent = FractionalPercent { numerator, denominator: denominator as i32 };
                assert_eq!(of(&percent), want, "{percent:?}");
            }
        }
    }
}
