//! Reports about odd but honest HTTP.
