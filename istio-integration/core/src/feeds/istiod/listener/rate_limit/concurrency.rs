//! How many at once: a filter of ours, in a TypedStruct, since Envoy has none.

use istio_protos::portcullis::limits::v1::ConcurrencyLimit;
use istio_protos::portcullis::limits::v1::concurrency_limit::Descriptor;
use istio_protos::udpa::r#type::v1::TypedStruct;
use istio_protos::{Any, from_json};
use prost::Message as _;
use serde_json::Value;
use waypoint_model::{DescribedQuota, LimitShare, LocalLimit, Quota};

use super::super::json::json;
use super::super::translated::{At, Refused};
use super::super::unpack::unpack;
use super::Limit;
use super::description::descriptions;
use super::terms::{entries, name, refusal};

pub(super) const TYPE: &str = "portcullis.limits.v1.ConcurrencyLimit";

/// On, and enforced, unless a descriptor has `shadow_mode`.
pub(super) fn translate(config: &Any) -> Result<Limit, Refused> {
    let written: ConcurrencyLimit = unpack(Some(&message(config)?))?;
    let quotas = written.descriptors.iter().enumerate();
    let quotas = quotas.map(|(at, written)| quota(written).at(format!("descriptors[{at}]")));
    let quotas = quotas.collect::<Result<Vec<_>, _>>()?;
    if quotas.is_empty() {
        return Err(Refused::new("is empty, so it limits nothing").at("descriptors"));
    }
    Ok(Limit::Local(LocalLimit {
        name: name(&written.stat_prefix, "concurrency_limit"),
        descriptions: descriptions(&written.rate_limits)?,
        quotas,
        general: None,
        general_counts_all: false,
        share: LimitShare::ALL,
        refusal: refusal(written.status.as_ref(), false, &[])?,
    }))
}

fn quota(written: &Descriptor) -> Result<DescribedQuota, Refused> {
    if written.max_concurrent == 0 {
        return Err(Refused::new("none would ever pass: write a DENY policy").at("max_concurrent"));
    }
    Ok(DescribedQuota {
        entries: entries(&written.entries)?,
        quota: Quota::Concurrent(written.max_concurrent),
        shadow: written.shadow_mode,
    })
}

/// The message that a TypedStruct stands for. Its two types are alike on the wire.
fn message(config: &Any) -> Result<Any, Refused> {
    let unreadable = |error: &dyn std::error::Error| Refused::new(error.to_string());
    let stands = TypedStruct::decode(config.value.clone()).map_err(|error| unreadable(&error))?;
    let Value::Object(mut members) = json(&stands.value.unwrap_or_default()) else {
        return Err(Refused::new("no configuration"));
    };
    members.insert("@type".to_owned(), stands.type_url.into());
    from_json(&Value::Object(members)).map_err(|error| unreadable(&error))
}
