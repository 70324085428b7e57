//! How much work one question may be.

/// Work of one question, in units of about a nanosecond. What goes beyond is an error, so that no body and no expression
/// takes long: a millisecond or a few.
pub(super) const MAX_COST: u64 = 1_000_000;

/// What each part of an expression costs, and each element that is visited.
pub(super) const STEP: u64 = 32;
/// What each member costs that is looked at on the way to another.
pub(super) const MEMBER: u64 = 8;
/// Bytes of a text that are read for one unit.
const BYTES: usize = 4;

/// What is left of the work.
#[derive(Debug)]
pub(super) struct Cost {
    left: u64,
    exhausted: bool,
}

impl Cost {
    pub(super) fn new() -> Self {
        Self { left: MAX_COST, exhausted: false }
    }

    /// Whether more was asked for than there is. Nothing can be spent from then on.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Whether the units could be spent.
    pub(super) fn spend(&mut self, units: u64) -> bool {
        match self.left.checked_sub(units).filter(|_| !self.exhausted) {
            Some(left) => self.left = left,
            None => self.exhausted = true,
        }
        !self.exhausted
    }

    /// What reading a text costs.
    pub(super) fn of_text(bytes: usize) -> u64 {
        (bytes / BYTES) as u64
    }
}
