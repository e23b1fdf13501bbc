//! The providers' schemes as values. What else a preset sets (budget, event types) is in `providers`.

use http::HeaderName;

use super::{Encoding, Scheme};

/// VPN Enterprise: `X-VPN-Signature: sha256=<hex>`, HMAC-SHA256 over the raw body.
/// Source: the provider's webhook documentation, "Webhook Signature Verification".
pub fn vpn_enterprise() -> Scheme {
    Scheme { header: HeaderName::from_static("x-vpn-signature"), encoding: Encoding::Hex, prefix: "sha256=".into() }
}

/// `OrbVPN` in the header form: `X-Signature: sha256=<hex>`, HMAC-SHA256 over the raw body.
/// Source: the provider's webhook documentation.
pub fn orbvpn_header() -> Scheme {
    Scheme { header: HeaderName::from_static("x-signature"), encoding: Encoding::Hex, prefix: "sha256=".into() }
}
