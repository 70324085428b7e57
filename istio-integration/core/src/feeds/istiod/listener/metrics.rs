//! The filter `istio.stats`: Istio's metrics and what a Telemetry changes in them.

use istio_protos::Any;
use istio_protos::stats::{MetricConfig, PluginConfig};
use waypoint_model::{LabelValue, MetricOverride};

use super::chain::ChainDraft;
use super::unpack::unpack;

/// The filter's name, among HTTP filters and among network filters.
pub(super) const FILTER: &str = "istio.stats";
/// Its type.
pub(super) const TYPE: &str = "stats.PluginConfig";
const PREFIX: &str = "istio_";

/// Keeps the metrics, with their changes. What is not understood is noted: it concerns what is told, not who may.
pub(super) fn apply(config: Option<&Any>, draft: &mut ChainDraft) {
    draft.telemetry.standard_metrics = true;
    match unpack::<PluginConfig>(config) {
        Ok(config) => draft.telemetry.metrics.extend(config.metrics.iter().map(metric)),
        Err(refused) => draft.notes.push(refused.at(FILTER)),
    }
}

fn metric(change: &MetricConfig) -> MetricOverride {
    let name = change.name.strip_prefix(PREFIX).unwrap_or(&change.name);
    MetricOverride {
        metric: (!name.is_empty()).then(|| name.to_owned()),
        disabled: change.drop,
        set: change.dimensions.iter().map(|(label, value)| (label.clone(), label_value(value))).collect(),
        remove: change.tags_to_remove.clone(),
    }
}

/// A CEL expression: a literal in quotes, or attributes.
fn label_value(expression: &str) -> LabelValue {
    let text = ['"', '\''].into_iter().find_map(|quote| {
        let inner = expression.trim().strip_prefix(quote)?.strip_suffix(quote)?;
        (!inner.contains([quote, '\\'])).then(|| inner.to_owned())
    });
    text.map_or_else(|| LabelValue::Attribute(expression.to_owned()), LabelValue::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_told_from_an_expression() {
        let text = |text: &str| LabelValue::Text(text.to_owned());
        let attribute = |text: &str| LabelValue::Attribute(text.to_owned());
        for (expression, want) in [
            ("\"a b\"", text("a b")),
            ("'a'", text("a")),
            ("\"\"", text("")),
            ("request.host", attribute("request.host")),
            ("\"a\" + \"b\"", attribute("\"a\" + \"b\"")),
            ("\"", attribute("\"")),
        ] {
            assert_eq!(label_value(expression), want);
        }
    }
}
