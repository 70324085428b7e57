//! `x-forwarded-client-cert` with the caller's identity (annotation `ambient.istio.io/xfcc-include-client-identity`).

use istio_protos::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use istio_protos::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use istio_protos::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;

use super::translated::Refused;

/// The filter's name.
pub(super) const FILTER: &str = "istio.waypoint.xfcc_client_identity";
const HEADER: &str = "x-forwarded-client-cert";
const VALUE: &str =
    "By=%FILTER_STATE(io.istio.local_principal:PLAIN)%;URI=%FILTER_STATE(io.istio.peer_principal:PLAIN)%";

/// Whether the filter does exactly what we do: overwrites the header with both identities.
pub(super) fn check(filter: &HeaderMutation) -> Result<(), Refused> {
    let mutations = filter.mutations.as_ref().map_or(&[][..], |mutations| &mutations.request_mutations);
    let [only] = mutations else { return Err(Refused::new("one change of one header is expected")) };
    let Some(Action::Append(option)) = only.action.as_ref() else {
        return Err(Refused::new("a header that is set is expected"));
    };
    let overwrites = option.append_action == HeaderAppendAction::OverwriteIfExistsOrAdd as i32;
    let same = option.header.as_ref().is_some_and(|header| header.key == HEADER && header.value == VALUE);
    match overwrites && same {
        true => Ok(()),
        false => Err(Refused::new(format!("only {HEADER} with both identities is supported"))),
    }
}
