//! The walk along the pointers' paths through a JSON text, in one pass.
//!
//! Owns what is ambiguous: a name, or a twin of it by case, that stands twice in an object on a pointer's path.
//! Receivers take the first, the last, or the one whose case they like; a ledger that guesses differently lets
//! replays through. Everything off the paths is skipped by [`cursor`](super::cursor), which still checks its grammar.

use super::{
    cursor::{Cursor, MAX_DEPTH, NotJson, Text},
    pointer::{KeyMatch, Pointer, Step},
};

/// What stands where a pointer points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PointerValue<'a> {
    Nothing,
    Ambiguous,
    Text(Text<'a>),
    /// As written.
    Number(&'a str),
    /// An object, an array, `true`, `false` or `null`.
    Other,
}

struct Walk<'a, 'p, const N: usize> {
    cursor: Cursor<'a>,
    targets: [Target<'a, 'p>; N],
}

/// One pointer, and how far it was followed.
struct Target<'a, 'p> {
    tokens: &'p [Step],
    /// One bit a level: the name was seen there. A path enters only one container a level (a second one would need a
    /// name twice above it), so no bit is ever reset.
    seen: u128,
    found: PointerValue<'a>,
}

/// The targets, one bit each, whose path leads to the value at hand.
type ActiveTargets = u8;

/// Reads the whole text and tells what stands at each of the pointers, eight at most.
pub(crate) fn find<'a, const N: usize>(
    text: &'a str,
    pointers: [Option<&Pointer>; N],
) -> Result<[PointerValue<'a>; N], NotJson> {
    const { assert!(N <= ActiveTargets::BITS as usize, "a pointer has one bit") };
    let mut walk = Walk {
        cursor: Cursor::new(text),
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
    /// The value that starts with `first`, just consumed, `level` steps below the root.
    fn value(&mut self, first: u8, live: ActiveTargets, level: usize) -> Result<(), NotJson> {
        if live == 0 {
            return self.cursor.skip_value(first, level);
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
            if target.tokens.len() == level {
                target.found = found;
            }
        }
        Ok(())
    }

    fn object(&mut self, live: ActiveTargets, level: usize) -> Result<(), NotJson> {
        if level >= MAX_DEPTH {
            return Err(NotJson);
        }
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
        if level >= MAX_DEPTH {
            return Err(NotJson);
        }
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

    /// The targets whose path goes on into the member named `key`; notes those that a second such name makes ambiguous.
    fn follow_key(&mut self, key: Text<'_>, live: ActiveTargets, level: usize) -> ActiveTargets {
        let mut within = 0;
        for (bit, target) in alive(&mut self.targets, live) {
            let likeness = target
                .tokens
                .get(level)
                .map_or(KeyMatch::Other, |token| token.match_key(key));
            if likeness == KeyMatch::Other {
                continue;
            }
            if target.seen >> level & 1 == 1 {
                target.found = PointerValue::Ambiguous;
                continue;
            }
            target.seen |= 1 << level;
            if likeness == KeyMatch::Same {
                within |= bit;
            }
        }
        within
    }

    fn follow_index(&mut self, index: usize, live: ActiveTargets, level: usize) -> ActiveTargets {
        alive(&mut self.targets, live)
            .filter(|(_, target)| {
                target
                    .tokens
                    .get(level)
                    .is_some_and(|token| token.index == Some(index))
            })
            .fold(0, |within, (bit, _)| within | bit)
    }
}

impl<'p> Target<'_, 'p> {
    fn new(pointer: Option<&'p Pointer>) -> Self {
        Self {
            tokens: pointer.map_or(&[], Pointer::tokens),
            seen: 0,
            found: PointerValue::Nothing,
        }
    }
}

/// The live targets, each with its bit.
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
