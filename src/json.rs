//! JSON without a tree: the value at a pointer, and its position in the text.
//!
//! Decides on grammar and ambiguity. `event` (the envelope), `signature` (signatures in the body)
//! and `handshake` decide what the values mean.

mod block;
mod cursor;
mod find;
mod layout;
mod member;
mod pointer;

pub(crate) use cursor::Text;
pub(crate) use find::{PointerValue, find};
pub(crate) use layout::pretty;
pub(crate) use member::{MemberError, compact, member};
pub use pointer::{Pointer, PointerError};
