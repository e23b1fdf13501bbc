//! Reports about secret files, and certificates of upstreams.
