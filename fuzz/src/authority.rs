//! The `:authority` of a CONNECT: what parses is written back as text that parses to the same target.
#![no_main]

use hbone::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(target) = Target::parse(text) else { return };
    let written = target.to_string();
    assert_eq!(Target::parse(&written).as_ref(), Ok(&target), "{text:?} was written as {written:?}");
    assert_ne!(target.port(), 0, "{text:?} has no port to dial");
});
