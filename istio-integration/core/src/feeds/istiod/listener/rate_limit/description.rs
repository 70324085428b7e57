//! How requests are described to limits (Envoy `RateLimit.Action`).

use istio_protos::envoy::config::core::v3::TypedExtensionConfig;
use istio_protos::envoy::config::route::v3::RateLimit;
use istio_protos::envoy::config::route::v3::rate_limit::Action;
use istio_protos::envoy::config::route::v3::rate_limit::action::{ActionSpecifier, MetaData};
use istio_protos::envoy::extensions::rate_limit_descriptors::expr::v3::Descriptor;
use istio_protos::envoy::extensions::rate_limit_descriptors::expr::v3::descriptor::ExprSpecifier;
use istio_protos::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
use waypoint_model::{Absent, DescribedBy, Description, DescriptionPart};

use super::super::metadata::{FILTERS, OURS};
use super::super::translated::{At, Refused};
use super::super::unpack::unpack;

/// The attribute of Envoy that is the caller's SPIFFE ID.
const IDENTITY: &str = "connection.uri_san_peer_certificate";

/// All descriptions of a filter.
pub(super) fn descriptions(written: &[RateLimit]) -> Result<Vec<Description>, Refused> {
    let one = |(at, one): (usize, &RateLimit)| {
        if one.actions.is_empty() {
            return Err(Refused::new("describes nothing").at(format!("rate_limits[{at}].actions")));
        }
        let parts = one.actions.iter().enumerate();
        let parts = parts.map(|(index, action)| part(action).at(format!("actions[{index}]")));
        parts.collect::<Result<Description, _>>().at(format!("rate_limits[{at}]"))
    };
    written.iter().enumerate().map(one).collect()
}

fn part(action: &Action) -> Result<DescriptionPart, Refused> {
    let specifier = action.action_specifier.as_ref().ok_or_else(|| Refused::new("no action"))?;
    let named = |key: &str, otherwise: &str, value, absent| {
        let key = if key.is_empty() { otherwise } else { key };
        if key.is_empty() {
            return Err(Refused::new("is missing").at("descriptor_key"));
        }
        Ok(DescriptionPart { key: key.to_owned(), value, absent })
    };
    match specifier {
        ActionSpecifier::RequestHeaders(headers) => {
            let name = headers.header_name.to_ascii_lowercase();
            let value = DescribedBy::Header(name);
            named(&headers.descriptor_key, "", value, absent("", headers.skip_if_absent))
        }
        ActionSpecifier::RemoteAddress(_) => {
            named("", "remote_address", DescribedBy::RemoteAddress, Absent::NotDescribed)
        }
        ActionSpecifier::GenericKey(generic) => {
            let value = DescribedBy::Text(generic.descriptor_value.clone());
            named(&generic.descriptor_key, "generic_key", value, Absent::NotDescribed)
        }
        ActionSpecifier::Metadata(metadata) => {
            let absent = absent(&metadata.default_value, metadata.skip_if_absent);
            named(&metadata.descriptor_key, "", fact(metadata)?, absent)
        }
        ActionSpecifier::Extension(extension) => {
            let descriptor = expression(extension).at("extension")?;
            let absent = absent("", descriptor.skip_if_error);
            named(&descriptor.descriptor_key, "", DescribedBy::Principal, absent)
        }
        ActionSpecifier::SourceCluster(_)
        | ActionSpecifier::DestinationCluster(_)
        | ActionSpecifier::HeaderValueMatch(_) => Err(Refused::new("this action is not supported")),
    }
}

fn absent(default: &str, skip: bool) -> Absent {
    match (default, skip) {
        ("", false) => Absent::NotDescribed,
        ("", true) => Absent::LeftOut,
        (text, _) => Absent::Text(text.to_owned()),
    }
}

/// A fact by the name that policies have for it.
fn fact(metadata: &MetaData) -> Result<DescribedBy, Refused> {
    let key = metadata.metadata_key.as_ref().ok_or_else(|| Refused::new("is missing").at("metadata_key"))?;
    let ours = key.key.strip_prefix(FILTERS).filter(|name| OURS.contains(name));
    let filter = ours.ok_or_else(|| {
        Refused::new(format!("filter {:?} is not here: only facts of MCP and A2A are known", key.key))
            .at("metadata_key")
    })?;
    let mut path = key.path.iter().map(|step| step.segment.as_ref().map(|Segment::Key(key)| key.clone()));
    match (path.next().flatten(), path.next()) {
        (Some(fact), None) => Ok(DescribedBy::Fact { filter: filter.to_owned(), key: fact }),
        _ => Err(Refused::new("a fact has a path of one step").at("metadata_key.path")),
    }
}

/// Of all that Envoy could compute, the caller's identity.
fn expression(extension: &TypedExtensionConfig) -> Result<Descriptor, Refused> {
    let descriptor: Descriptor = unpack(extension.typed_config.as_ref())?;
    match descriptor.expr_specifier.as_ref() {
        Some(ExprSpecifier::Text(text)) if text.trim() == IDENTITY => Ok(descriptor),
        Some(ExprSpecifier::Text(_)) | None => {
            Err(Refused::new(format!("only {IDENTITY} is known")).at("text"))
        }
    }
}
