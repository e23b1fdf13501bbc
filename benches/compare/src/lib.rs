//! The code that the loader and the peers built here share.

pub mod event;
pub mod exchange;
pub mod http2;
pub mod segment;
pub mod socket;
