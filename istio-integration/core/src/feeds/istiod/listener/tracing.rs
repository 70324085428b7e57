//! Traces.

use istio_protos::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;

/// Envoy's default share where none is named, percent.
const ALL: f64 = 100.0;

/// Share of requests whose trace begins here, in hundredths of a percent. Without a provider nothing is traced.
pub(super) fn sampling(tracing: &Tracing) -> Option<u32> {
    tracing.provider.as_ref()?;
    let percent =
        |share: Option<&istio_protos::envoy::r#type::v3::Percent>| share.map_or(ALL, |share| share.value);
    let random = percent(tracing.random_sampling.as_ref()).min(percent(tracing.overall_sampling.as_ref()));
    let bounded = if random.is_finite() { random.clamp(0.0, ALL) } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10,000")]
    let hundredths = (bounded * 100.0).round() as u32;
    Some(hundredths)
}
