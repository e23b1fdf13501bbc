//! A walk along several pointers' paths through a JSON text, in one pass.
//!
//! Decides what is ambiguous: a key, or its twin in another case, that an object on a pointer's path
//! has twice. Receivers take the first, the last, or the one in the case they expect; a ledger that
//! guesses differently lets replays through. [`cursor`](super::cursor) skips everything off the
//! paths, and still checks its grammar.

use super::{
    cursor::{Cursor, NotJson, Text},
    pointer::{KeyMatch, Pointer, Step},
};

/// The value at a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PointerValue<'a> {
    Nothing,
    Ambiguous,
    Text(Text<'a>),
    /// The number as written. Also `-Infinity`.
    Number(&'a str),
    /// An object, an array, `true`, `false`, `null`, or a number that is not finite.
    Other,
}

struct Walk<'a, 'p, const N: usize> {
    cursor: Cursor<'a>,
    targets: [Target<'a, 'p>; N],
}

/// The state of following one pointer.
struct Target<'a, 'p> {
    steps: &'p [Step],
    /// One bit a step: the key was seen there. A path enters one container a level (a second would
    /// need the same key twice above it), so no bit is ever reset.
    seen: u128,
    found: PointerValue<'a>,
}

/// The targets whose path leads to the current value, one bit each.
type ActiveTargets = u8;

/// The byte order mark, U+FEFF: the bytes EF BB BF.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';

/// Reads the whole text and returns the value at each pointer, eight at most. The text may begin
/// with a byte order mark: .NET senders write it, and most receivers skip it (RFC 8259, section
/// 8.1).
pub(crate) fn find<'a, const N: usize>(
    text: &'a str,
    pointers: [Option<&Pointer>; N],
) -> Result<[PointerValue<'a>; N], NotJson> {
    const { assert!(N <= ActiveTargets::BITS as usize, "a pointer has one bit") };
    let mut walk = Walk {
        cursor: Cursor::new(text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)),
        targets: pointers.map(Target::new),
    };
    let first = walk.cursor.next()?;
    let all = pointers.iter().enumerate().fold(0, |all, (n, pointer)| {
        all | u8::from(pointer.is_some()) << n
    });
    walk.value(first, all, 0)?;
    walk.cursor.end()?;
    Ok(walk.targets.map(|target| target.found))
}

impl<const N: usize> Walk<'_, '_, N> {
    /// Reads the value that starts with `first`, just consumed, `level` steps below the root. Calls
    /// itself once a step of the longest pointer, however deep the text is.
    fn value(&mut self, first: u8, live: ActiveTargets, level: usize) -> Result<(), NotJson> {
        if live == 0 {
            return self.cursor.skip_value(first);
        }
        let found = match first {
            b'{' => {
                self.object(live, level)?;
                PointerValue::Other
            }
            b'[' => {
                self.array(live, level)?;
                PointerValue::Other
            }
            b'"' => PointerValue::Text(self.cursor.string()?),
            b'-' | b'0'..=b'9' => PointerValue::Number(self.cursor.number()?),
            _ => {
                self.cursor.skip_scalar(first)?;
                PointerValue::Other
            }
        };
        for (_, target) in alive(&mut self.targets, live) {
            if target.steps.len() == level {
                target.found = found;
            }
        }
        Ok(())
    }

    fn object(&mut self, live: ActiveTargets, level: usize) -> Result<(), NotJson> {
        if self.cursor.consume_if(b'}') {
            return Ok(());
        }
        loop {
            let key = self.cursor.key()?;
            let within = self.follow_key(key, live, level);
            let first = self.cursor.next()?;
            self.value(first, within, level + 1)?;
            match self.cursor.next()? {
                b',' => {}
                b'}' => return Ok(()),
                _ => return Err(NotJson),
            }
        }
    }

    fn array(&mut self, live: ActiveTargets, level: usize) -> Result<(), NotJson> {
        if self.cursor.consume_if(b']') {
            return Ok(());
        }
        for index in 0.. {
            let within = self.follow_index(index, live, level);
            let first = self.cursor.next()?;
            self.value(first, within, level + 1)?;
            match self.cursor.next()? {
                b',' => {}
                b']' => break,
                _ => return Err(NotJson),
            }
        }
        Ok(())
    }

    /// Returns the targets whose path goes on into the member `key`. Marks a target as ambiguous when
    /// the key occurs a second time.
    fn follow_key(&mut self, key: Text<'_>, live: ActiveTargets, level: usize) -> ActiveTargets {
        let mut within = 0;
        for (bit, target) in alive(&mut self.targets, live) {
            let matched = target
                .steps
                .get(level)
                .map_or(KeyMatch::Other, |token| token.match_key(key));
            if matched == KeyMatch::Other {
                continue;
            }
            if target.seen >> level & 1 == 1 {
                target.found = PointerValue::Ambiguous;
                continue;
            }
            target.seen |= 1 << level;
            if matched == KeyMatch::Same {
                within |= bit;
            }
        }
        within
    }

    fn follow_index(&mut self, index: usize, live: ActiveTargets, level: usize) -> ActiveTargets {
        alive(&mut self.targets, live)
            .filter(|(_, target)| {
                target
                    .steps
                    .get(level)
                    .is_some_and(|token| token.index == Some(index))
            })
            .fold(0, |within, (bit, _)| within | bit)
    }
}

impl<'p> Target<'_, 'p> {
    fn new(pointer: Option<&'p Pointer>) -> Self {
        Self {
            steps: pointer.map_or(&[], Pointer::steps),
            seen: 0,
            found: PointerValue::Nothing,
        }
    }
}

/// Iterates over the active targets, each with its bit.
fn alive<'t, 'a, 'p>(
    targets: &'t mut [Target<'a, 'p>],
    live: ActiveTargets,
) -> impl Iterator<Item = (ActiveTargets, &'t mut Target<'a, 'p>)> {
    targets
        .iter_mut()
        .enumerate()
        .map(|(n, target)| (1 << n, target))
        .filter(move |(bit, _)| live & bit != 0)
}
