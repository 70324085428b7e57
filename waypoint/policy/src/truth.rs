//! Kleene's three-valued logic over [`Truth`]: *not yet* stays open unless the other parts settle the answer.

use agent_protocols::Truth;

pub(crate) fn of(holds: bool) -> Truth {
    if holds { Truth::Yes } else { Truth::No }
}

pub(crate) fn not(part: Truth) -> Truth {
    match part {
        Truth::Yes => Truth::No,
        Truth::No => Truth::Yes,
        Truth::NotYet => Truth::NotYet,
    }
}

/// `No` if any part is, else `NotYet` if any part is. Stops at the first `No`.
pub(crate) fn all(parts: impl Iterator<Item = Truth>) -> Truth {
    settle(parts, Truth::No, Truth::Yes)
}

/// `Yes` if any part is, else `NotYet` if any part is. Stops at the first `Yes`.
pub(crate) fn any(parts: impl Iterator<Item = Truth>) -> Truth {
    settle(parts, Truth::Yes, Truth::No)
}

fn settle(parts: impl Iterator<Item = Truth>, decisive: Truth, otherwise: Truth) -> Truth {
    let mut answer = otherwise;
    for part in parts {
        if part == decisive {
            return decisive;
        }
        if part == Truth::NotYet {
            answer = Truth::NotYet;
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use Truth::{No, NotYet, Yes};

    #[test]
    fn an_open_part_stays_open_unless_another_settles_the_answer() {
        let rows: &[(&[Truth], Truth, Truth)] = &[
            (&[], Yes, No),
            (&[Yes], Yes, Yes),
            (&[No], No, No),
            (&[NotYet], NotYet, NotYet),
            (&[Yes, NotYet], NotYet, Yes),
            (&[NotYet, Yes], NotYet, Yes),
            (&[NotYet, No], No, NotYet),
            (&[No, NotYet], No, NotYet),
            (&[Yes, No, NotYet], No, Yes),
        ];
        for (parts, want_all, want_any) in rows {
            assert_eq!(all(parts.iter().copied()), *want_all, "all {parts:?}");
            assert_eq!(any(parts.iter().copied()), *want_any, "any {parts:?}");
        }
        assert_eq!([Yes, No, NotYet].map(not), [No, Yes, NotYet]);
    }
}
