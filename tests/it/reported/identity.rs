//! Reports about events whose ID the signature does not cover.
