//! Screening of an event stream: how the bytes are cut makes no difference, and what is denied does not get through.
//!
//! The first two bytes of the input choose where the stream is cut, the rest is the stream.
#![no_main]

use agent_protocols::Limits;
use agent_protocols::mcp::{Entry, Judge, Screened, SseScreen, screen_json};
use libfuzzer_sys::fuzz_target;

struct Nobody;

impl Judge for Nobody {
    fn keep(&mut self, _: &Entry<'_>) -> bool {
        false
    }
}

/// What comes out of the stream when it arrives in these pieces, up to the piece that could not be screened.
fn screened(pieces: &[&[u8]]) -> (Vec<u8>, bool, Screened) {
    let mut screen = SseScreen::new(Limits::default());
    let mut counts = Screened::default();
    let mut out = Vec::new();
    for piece in pieces {
        match screen.push(piece, &mut Nobody, &mut counts) {
            Ok(bytes) => out.extend_from_slice(&bytes),
            Err(_) => return (out, false, counts),
        }
    }
    (out, true, counts)
}

fuzz_target!(|input: &[u8]| {
    let Some((cut, stream)) = input.split_first_chunk::<2>() else { return };
    let at = usize::from(u16::from_le_bytes(*cut)) % (stream.len() + 1);
    let (first, second) = stream.split_at(at);
    let (whole, whole_ends, counts) = screened(&[stream]);
    let (parts, parts_end, part_counts) = screened(&[first, second]);
    assert_eq!(whole_ends, parts_end, "cut at {at}");
    if whole_ends {
        assert_eq!(whole, parts, "cut at {at}");
        assert_eq!(counts, part_counts, "cut at {at}");
    }
    assert_eq!(counts.kept, 0);
    // What came out is screened: nothing is left to hide.
    if whole_ends {
        let (again, ends, more) = screened(&[&whole]);
        assert!(ends && more.hidden == 0, "{more:?} in {:?}", String::from_utf8_lossy(&again));
    }
    // The same screen, for one answer in JSON.
    let mut counts = Screened::default();
    if let Ok(Some(bytes)) = screen_json(stream, &Limits::default(), &mut Nobody, &mut counts) {
        let mut more = Screened::default();
        let again =
            screen_json(&bytes, &Limits::default(), &mut Nobody, &mut more).expect("what we write we read");
        assert!(again.is_none() && more.hidden == 0, "{more:?} in {:?}", String::from_utf8_lossy(&bytes));
    }
});
