//! Reports about odd but readable bodies.
