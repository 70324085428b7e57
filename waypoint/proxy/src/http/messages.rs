//! Messages of a gRPC body as it passes.

/// Bytes before a message: whether it is compressed, and its length (gRPC over HTTP/2, *Length-Prefixed-Message*).
const PREFIX: u8 = 5;

/// Counts the messages of one direction; what passes is never held.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// Bytes seen of the prefix at hand.
    prefix: u8,
    length: u32,
    /// Bytes of the message at hand that are still to come.
    left: u32,
}

impl Messages {
    /// How many messages begin in the next bytes of the body.
    pub(super) fn see(&mut self, mut data: &[u8]) -> u64 {
        let mut began = 0;
        while let Some((&first, rest)) = data.split_first() {
            if self.left > 0 {
                let inside = data.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= u32::try_from(inside).unwrap_or(self.left);
                data = data.get(inside..).unwrap_or_default();
                continue;
            }
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(first);
            }
            self.prefix += 1;
            if self.prefix == PREFIX {
                (self.left, self.length, self.prefix) = (self.length, 0, 0);
                began += 1;
            }
            data = rest;
        }
        began
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(lengths: &[u32]) -> Vec<u8> {
        let message = |length: &u32| {
            let mut bytes = vec![1];
            bytes.extend(length.to_be_bytes());
            bytes.extend(vec![0xff; usize::try_from(*length).unwrap()]);
            bytes
        };
        lengths.iter().flat_map(message).collect()
    }

    #[test]
    fn messages_are_counted_wherever_the_frames_are_cut() {
        let body = body(&[0, 1, 300, 0, 70_000]);
        for cut in [1, 2, 3, 5, 7, 64, 1_000, body.len()] {
            let mut messages = Messages::default();
            let seen: u64 = body.chunks(cut).map(|chunk| messages.see(chunk)).sum();
            assert_eq!(seen, 5, "cut at {cut}");
        }
    }

    #[test]
    fn a_message_that_is_longer_than_its_body_is_one() {
        let mut messages = Messages::default();
        assert_eq!(messages.see(&[0, 0xff, 0xff, 0xff, 0xff]), 1);
        assert_eq!(messages.see(&[0; 1_000]), 0);
    }
}
