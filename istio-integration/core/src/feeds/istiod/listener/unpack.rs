//! Messages inside messages, taken out with whatever must not be passed over.

use istio_protos::{Any, Finding};
use prost::{Message, Name};

use super::translated::Refused;

/// The message of this type; anything in it that is not known is a refusal.
pub(super) fn unpack<M: Message + Name + Default>(any: Option<&Any>) -> Result<M, Refused> {
    let (message, findings) = unpack_with_findings(any)?;
    match findings.first() {
        None => Ok(message),
        Some(finding) => Err(Refused::new(finding.to_string())),
    }
}

/// The message of this type, and what in it is not known, for those who can tell where it belongs.
pub(super) fn unpack_with_findings<M: Message + Name + Default>(
    any: Option<&Any>,
) -> Result<(M, Vec<Finding>), Refused> {
    let any = any.ok_or_else(|| Refused::new("no configuration"))?;
    let decoded = istio_protos::unpack::<M>(any).map_err(|error| Refused::new(error.to_string()))?;
    Ok((decoded.message, decoded.findings))
}
