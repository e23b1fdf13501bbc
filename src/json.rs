//! JSON texts, read strictly and without building a tree: what stands at a pointer, and where.
//!
//! Owns the grammar and what is ambiguous. What the values mean is for `event` (the envelope), `signature` (one that
//! stands in the body) and `handshake` to say.

mod block;
mod cursor;
mod find;
mod layout;
mod member;
mod pointer;

pub use cursor::MAX_DEPTH;
pub(crate) use cursor::Text;
pub(crate) use find::{PointerValue, find};
pub(crate) use layout::pretty;
pub(crate) use member::{MemberError, compact, member};
pub use pointer::{Pointer, PointerError};
