//! A SPIFFE id: nothing is normalized, and its parts make up the whole again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spiffe_id::SpiffeId;

fuzz_target!(|text: &str| {
    let Ok(id) = SpiffeId::parse(text) else { return };
    assert_eq!(id.as_str(), text);
    assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
    assert_eq!(format!("spiffe://{}", id.principal()), text);
});
