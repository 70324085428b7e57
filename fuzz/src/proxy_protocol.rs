//! A PROXY v2 header: what parses is written back as bytes that parse to the same header.
#![no_main]

use hbone::proxy_protocol::{encode, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((header, length)) = parse(bytes) else { return };
    assert!(length <= bytes.len());
    let written = encode(&header);
    let (again, all) = parse(&written).expect("what we write we read");
    assert_eq!((again, all), (header, written.len()));
});
