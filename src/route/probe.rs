//! Probes: unsigned requests without a body by which a provider asks whether an endpoint exists.
//!
//! They prove nothing and change nothing, so a route that answers them says nothing but that.

use http::{HeaderName, HeaderValue, Method, StatusCode};

/// The response to a provider's probe. It has no body.
#[derive(Debug, PartialEq, Eq)]
pub struct Probe {
    pub method: Method,
    pub status: StatusCode,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}
