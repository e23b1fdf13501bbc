//! The providers' schemes as values. What else a preset sets (budget, event types) is in `providers`.
//!
//! Each has a vector of the provider's, or of its SDK's, in `tests/vectors`.

use super::{
    Algorithm, Content, Encoding, Header, HeaderFields, InBody, KeyEncoding, KeyForm, Scheme,
    SignatureFormat, SignatureLocation, SignedTime, TimeUnit, TimestampLocation,
};
use crate::json::Pointer;

/// VPN Enterprise: `X-VPN-Signature: sha256=<hex>`, HMAC-SHA256 over the raw body.
/// Source: the provider's webhook documentation, "Webhook Signature Verification".
pub fn vpn_enterprise() -> Scheme {
    of_the_body(
        &["X-VPN-Signature"],
        SignatureFormat {
            prefix: "sha256=".into(),
            ..hmac_sha256(Encoding::Hex)
        },
    )
}

/// `OrbVPN`: the body's member `signature`, or `X-Signature` or `X-Webhook-Signature`; hex, with or without `sha256=`, or
/// base64. Sources: the provider's API documentation; its published server source, which sends base64 in
/// `X-Webhook-Signature`.
pub fn orbvpn() -> Scheme {
    let kind = SignatureFormat {
        prefix: "sha256=".into(),
        encodings: vec![Encoding::Hex, Encoding::Base64],
        ..hmac_sha256(Encoding::Hex)
    };
    let mut scheme = of_the_body(&["X-Signature", "X-Webhook-Signature"], kind);
    let pointer = "/signature".parse::<Pointer>().expect("a JSON pointer");
    scheme.places.push(SignatureLocation::Body(InBody {
        pointer,
        compact: false,
    }));
    scheme
}

/// GitHub. Source: docs.github.com, "Validating webhook deliveries".
pub fn github() -> Scheme {
    of_the_body(
        &["X-Hub-Signature-256"],
        SignatureFormat {
            prefix: "sha256=".into(),
            ..hmac_sha256(Encoding::Hex)
        },
    )
}

/// Stripe: `t=<seconds>,v1=<hex>`, once for each active secret; the key is the whole `whsec_…`.
/// Source: docs.stripe.com, "Verify webhook signatures manually".
pub fn stripe() -> Scheme {
    fielded("Stripe-Signature", ',', "t", "{timestamp}.{body}", "v1")
}

/// Standard Webhooks: `v1,<base64>` (HMAC-SHA256) and `v1a,<base64>` (Ed25519) with spaces between.
/// Source: its specification, "Signature scheme".
pub fn standard_webhooks() -> Scheme {
    standard("webhook-id", "webhook-timestamp", "webhook-signature")
}

/// Svix: Standard Webhooks under names of its own. Source: docs.svix.com, "Verifying webhooks manually".
pub fn svix() -> Scheme {
    standard("svix-id", "svix-timestamp", "svix-signature")
}

/// Slack. Source: docs.slack.dev, "Verifying requests from Slack".
pub fn slack() -> Scheme {
    timed(
        "X-Slack-Signature",
        "v0=",
        "X-Slack-Request-Timestamp",
        "v0:{timestamp}:{body}",
    )
}

/// Shopify. Source: shopify.dev, "Verify webhook deliveries".
pub fn shopify() -> Scheme {
    of_the_body(&["X-Shopify-Hmac-SHA256"], hmac_sha256(Encoding::Base64))
}

/// Zoom. Source: developers.zoom.us, "Verify webhook events".
pub fn zoom() -> Scheme {
    timed(
        "x-zm-signature",
        "v0=",
        "x-zm-request-timestamp",
        "v0:{timestamp}:{body}",
    )
}

/// `PagerDuty` V3: `v1=<hex>`, once for each active secret. Source: developer.pagerduty.com, "Verifying webhook signatures".
pub fn pagerduty() -> Scheme {
    let place = HeaderFields {
        header: Header::from_static("X-PagerDuty-Signature"),
        separator: ',',
        assign: '=',
    };
    let kind = SignatureFormat {
        field: "v1".into(),
        ..hmac_sha256(Encoding::Hex)
    };
    Scheme {
        places: vec![SignatureLocation::Fields(place)],
        kinds: vec![kind],
        signed: Content::body(),
        time: None,
    }
}

/// Paddle Billing: `ts=<seconds>;h1=<hex>`. Source: developer.paddle.com, "Verify webhook signatures".
pub fn paddle() -> Scheme {
    fielded("Paddle-Signature", ';', "ts", "{timestamp}:{body}", "h1")
}

/// Square: over the URL that it was given, and the body. Source: developer.squareup.com, "Verify and validate an event
/// notification".
pub fn square() -> Scheme {
    Scheme {
        signed: content("{url}{body}", None),
        ..of_the_body(
            &["x-square-hmacsha256-signature"],
            hmac_sha256(Encoding::Base64),
        )
    }
}

/// Linear. Source: linear.app/developers, "Webhooks".
pub fn linear() -> Scheme {
    of_the_body(&["Linear-Signature"], hmac_sha256(Encoding::Hex))
}

/// Discord: Ed25519 over time and body; the secret is the application's public key. Source: docs.discord.com, "Setting
/// up an endpoint".
pub fn discord() -> Scheme {
    let kind = SignatureFormat {
        algorithm: Algorithm::Ed25519,
        key: KeyForm {
            prefix: "".into(),
            private_prefix: "".into(),
            encoding: KeyEncoding::Hex,
        },
        ..hmac_sha256(Encoding::Hex)
    };
    Scheme {
        kinds: vec![kind],
        ..timed(
            "X-Signature-Ed25519",
            "",
            "X-Signature-Timestamp",
            "{timestamp}{body}",
        )
    }
}

/// HMAC-SHA256 with the secret's text as the key, as most providers sign.
fn hmac_sha256(encoding: Encoding) -> SignatureFormat {
    SignatureFormat {
        algorithm: Algorithm::HmacSha256,
        encodings: vec![encoding],
        field: "".into(),
        prefix: "".into(),
        key: KeyForm {
            prefix: "".into(),
            private_prefix: "".into(),
            encoding: KeyEncoding::Utf8,
        },
    }
}

/// In one of these headers, over the raw body.
fn of_the_body(headers: &[&'static str], kind: SignatureFormat) -> Scheme {
    let places = headers
        .iter()
        .map(|header| SignatureLocation::Header(Header::from_static(header)))
        .collect();
    Scheme {
        places,
        kinds: vec![kind],
        signed: Content::body(),
        time: None,
    }
}

/// In one header, its time in another; hex.
fn timed(header: &'static str, prefix: &str, time: &'static str, signed: &str) -> Scheme {
    let kind = SignatureFormat {
        prefix: prefix.into(),
        ..hmac_sha256(Encoding::Hex)
    };
    Scheme {
        signed: content(signed, None),
        time: Some(seconds(TimestampLocation::Header(Header::from_static(
            time,
        )))),
        ..of_the_body(&[header], kind)
    }
}

/// In a header with fields, its time beside it; hex.
fn fielded(header: &'static str, separator: char, time: &str, signed: &str, field: &str) -> Scheme {
    Scheme {
        places: vec![SignatureLocation::Fields(HeaderFields {
            header: Header::from_static(header),
            separator,
            assign: '=',
        })],
        kinds: vec![SignatureFormat {
            field: field.into(),
            ..hmac_sha256(Encoding::Hex)
        }],
        signed: content(signed, None),
        time: Some(seconds(TimestampLocation::Field(time.into()))),
    }
}

fn standard(id: &'static str, time: &'static str, header: &'static str) -> Scheme {
    let key = |prefix: &str, private_prefix: &str| KeyForm {
        prefix: prefix.into(),
        private_prefix: private_prefix.into(),
        encoding: KeyEncoding::Base64,
    };
    let symmetric = SignatureFormat {
        field: "v1".into(),
        key: key("whsec_", ""),
        ..hmac_sha256(Encoding::Base64)
    };
    let asymmetric = SignatureFormat {
        algorithm: Algorithm::Ed25519,
        field: "v1a".into(),
        key: key("whpk_", "whsk_"),
        ..hmac_sha256(Encoding::Base64)
    };
    Scheme {
        places: vec![SignatureLocation::Fields(HeaderFields {
            header: Header::from_static(header),
            separator: ' ',
            assign: ',',
        })],
        kinds: vec![symmetric, asymmetric],
        signed: content("{id}.{timestamp}.{body}", Some(&Header::from_static(id))),
        time: Some(seconds(TimestampLocation::Header(Header::from_static(
            time,
        )))),
    }
}

fn seconds(place: TimestampLocation) -> SignedTime {
    SignedTime {
        place,
        unit: TimeUnit::Seconds,
        tolerance: SignedTime::USUAL_TOLERANCE,
    }
}

fn content(text: &str, id: Option<&Header>) -> Content {
    Content::parse(text, id).expect("written here")
}
