//! istiod's reply: believed to come from istiod, and still checked before anything is made of it.

use certs::X509Svid;
use spiffe_id::SpiffeId;

use super::CaError;

/// Makes an SVID of the chain. It must hold a leaf for our key with our identity, valid now, which leads to one of the
/// roots at the end of the chain.
pub(super) fn read(chain: &[String], key: &str, expected: &SpiffeId) -> Result<X509Svid, CaError> {
    let Some((roots, own)) = chain.split_last().filter(|(_, own)| !own.is_empty()) else {
        return Err(CaError::ShortChain { elements: chain.len() });
    };
    let own: String = own.iter().map(|pem| format!("{}\n", pem.trim_end())).collect();
    let svid = X509Svid::from_pem(own.as_bytes(), key.as_bytes(), roots.as_bytes())?;
    if svid.id() != expected {
        return Err(CaError::WrongIdentity { presented: svid.id().clone(), expected: expected.clone() });
    }
    svid.check_chain()?;
    Ok(svid)
}
