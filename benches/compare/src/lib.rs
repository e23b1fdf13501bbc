//! What the loader and the peers that are built here share.

pub mod event;
pub mod exchange;
