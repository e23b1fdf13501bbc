//! The providers' signature schemes as values. `providers` has a preset's other defaults.
//!
//! Each scheme has a test vector that the provider or its SDK made, in `tests/vectors`.

use super::{
    Algorithm, BodySignature, Content, Encoding, Header, HeaderFields, KeyEncoding, KeyFormat,
    Scheme, SignatureFormat, SignatureLocation, SignedTime, TimeUnit, TimestampLocation,
};
use crate::json::Pointer;

/// Returns VPN Enterprise's scheme: `X-VPN-Signature: sha256=<hex>`, HMAC-SHA256 over the raw body.
/// Source: the provider's webhook documentation, "Webhook Signature Verification".
pub fn vpn_enterprise() -> Scheme {
    signs_body(
        &["X-VPN-Signature"],
        SignatureFormat {
            prefix: "sha256=".into(),
            ..hmac_sha256(Encoding::Hex)
        },
    )
}

/// Returns `OrbVPN`'s scheme: the body's member `signature`, or `X-Signature`, or
/// `X-Webhook-Signature`; hex, with or without `sha256=`, or base64. Sources: the provider's API
/// documentation; its published server source, which sends base64 in `X-Webhook-Signature`.
pub fn orbvpn() -> Scheme {
    let kind = SignatureFormat {
        prefix: "sha256=".into(),
        encodings: vec![Encoding::Hex, Encoding::Base64],
        ..hmac_sha256(Encoding::Hex)
    };
    let mut scheme = signs_body(&["X-Signature", "X-Webhook-Signature"], kind);
    let pointer = "/signature".parse::<Pointer>().expect("a JSON pointer");
    scheme
        .locations
        .push(SignatureLocation::Body(BodySignature {
            pointer,
            compact: false,
        }));
    scheme
}

/// Returns GitHub's scheme. Source: docs.github.com, "Validating webhook deliveries".
pub fn github() -> Scheme {
    signs_body(
        &["X-Hub-Signature-256"],
        SignatureFormat {
            prefix: "sha256=".into(),
            ..hmac_sha256(Encoding::Hex)
        },
    )
}

/// Returns Stripe's scheme: `t=<seconds>,v1=<hex>`, with a `v1` for each active secret; the key is
/// the whole `whsec_…`.
/// Source: docs.stripe.com, "Verify webhook signatures manually".
pub fn stripe() -> Scheme {
    with_fields("Stripe-Signature", ',', "t", "{timestamp}.{body}", "v1")
}

/// Returns the scheme of Standard Webhooks: `v1,<base64>` (HMAC-SHA256) and `v1a,<base64>` (Ed25519),
/// separated by spaces. Source: its specification, "Signature scheme".
pub fn standard_webhooks() -> Scheme {
    standard_webhooks_with("webhook-id", "webhook-timestamp", "webhook-signature")
}

/// Returns Svix's scheme: Standard Webhooks under other header names. Source: docs.svix.com,
/// "Verifying webhooks manually".
pub fn svix() -> Scheme {
    standard_webhooks_with("svix-id", "svix-timestamp", "svix-signature")
}

/// Returns Slack's scheme. Source: docs.slack.dev, "Verifying requests from Slack".
pub fn slack() -> Scheme {
    with_time_header(
        "X-Slack-Signature",
        "v0=",
        "X-Slack-Request-Timestamp",
        "v0:{timestamp}:{body}",
    )
}

/// Returns Shopify's scheme. Source: shopify.dev, "Verify webhook deliveries".
pub fn shopify() -> Scheme {
    signs_body(&["X-Shopify-Hmac-SHA256"], hmac_sha256(Encoding::Base64))
}

/// Returns Zoom's scheme. Source: developers.zoom.us, "Verify webhook events".
pub fn zoom() -> Scheme {
    with_time_header(
        "x-zm-signature",
        "v0=",
        "x-zm-request-timestamp",
        "v0:{timestamp}:{body}",
    )
}

/// Returns the scheme of `PagerDuty` V3: `v1=<hex>` for each active secret. Source:
/// developer.pagerduty.com, "Verifying webhook signatures".
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
        locations: vec![SignatureLocation::Fields(place)],
        formats: vec![kind],
        signed: Content::body(),
        time: None,
    }
}

/// Returns the scheme of Paddle Billing: `ts=<seconds>;h1=<hex>`. Source: developer.paddle.com,
/// "Verify webhook signatures".
pub fn paddle() -> Scheme {
    with_fields("Paddle-Signature", ';', "ts", "{timestamp}:{body}", "h1")
}

/// Returns Square's scheme: signs the endpoint's URL and the body. Source: developer.squareup.com,
/// "Verify and validate an event notification".
pub fn square() -> Scheme {
    Scheme {
        signed: content("{url}{body}", None),
        ..signs_body(
            &["x-square-hmacsha256-signature"],
            hmac_sha256(Encoding::Base64),
        )
    }
}

/// Returns Linear's scheme. Source: linear.app/developers, "Webhooks".
pub fn linear() -> Scheme {
    signs_body(&["Linear-Signature"], hmac_sha256(Encoding::Hex))
}

/// Returns Discord's scheme: Ed25519 over time and body; the secret is the application's public key.
/// Source: docs.discord.com, "Setting up an endpoint".
pub fn discord() -> Scheme {
    let kind = SignatureFormat {
        algorithm: Algorithm::Ed25519,
        key: KeyFormat {
            prefix: "".into(),
            private_prefix: "".into(),
            encoding: KeyEncoding::Hex,
        },
        ..hmac_sha256(Encoding::Hex)
    };
    Scheme {
        formats: vec![kind],
        ..with_time_header(
            "X-Signature-Ed25519",
            "",
            "X-Signature-Timestamp",
            "{timestamp}{body}",
        )
    }
}

/// Returns HMAC-SHA256 with the secret's text as the key, as most providers sign.
fn hmac_sha256(encoding: Encoding) -> SignatureFormat {
    SignatureFormat {
        algorithm: Algorithm::HmacSha256,
        encodings: vec![encoding],
        field: "".into(),
        prefix: "".into(),
        key: KeyFormat {
            prefix: "".into(),
            private_prefix: "".into(),
            encoding: KeyEncoding::Utf8,
        },
    }
}

/// Returns a scheme that signs the raw body, with the signature in one of `headers`.
fn signs_body(headers: &[&'static str], kind: SignatureFormat) -> Scheme {
    let places = headers
        .iter()
        .map(|header| SignatureLocation::Header(Header::from_static(header)))
        .collect();
    Scheme {
        locations: places,
        formats: vec![kind],
        signed: Content::body(),
        time: None,
    }
}

/// Returns a scheme with a hex signature in one header, and the signed time in another.
fn with_time_header(
    header: &'static str,
    prefix: &str,
    time: &'static str,
    signed: &str,
) -> Scheme {
    let kind = SignatureFormat {
        prefix: prefix.into(),
        ..hmac_sha256(Encoding::Hex)
    };
    Scheme {
        signed: content(signed, None),
        time: Some(seconds(TimestampLocation::Header(Header::from_static(
            time,
        )))),
        ..signs_body(&[header], kind)
    }
}

/// Returns a scheme with a hex signature and the signed time as fields of one header.
fn with_fields(
    header: &'static str,
    separator: char,
    time: &str,
    signed: &str,
    field: &str,
) -> Scheme {
    Scheme {
        locations: vec![SignatureLocation::Fields(HeaderFields {
            header: Header::from_static(header),
            separator,
            assign: '=',
        })],
        formats: vec![SignatureFormat {
            field: field.into(),
            ..hmac_sha256(Encoding::Hex)
        }],
        signed: content(signed, None),
        time: Some(seconds(TimestampLocation::Field(time.into()))),
    }
}

fn standard_webhooks_with(id: &'static str, time: &'static str, header: &'static str) -> Scheme {
    let key = |prefix: &str, private_prefix: &str| KeyFormat {
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
        locations: vec![SignatureLocation::Fields(HeaderFields {
            header: Header::from_static(header),
            separator: ' ',
            assign: ',',
        })],
        formats: vec![symmetric, asymmetric],
        signed: content("{id}.{timestamp}.{body}", Some(&Header::from_static(id))),
        time: Some(seconds(TimestampLocation::Header(Header::from_static(
            time,
        )))),
    }
}

fn seconds(place: TimestampLocation) -> SignedTime {
    SignedTime {
        location: place,
        unit: TimeUnit::Seconds,
        tolerance: SignedTime::USUAL_TOLERANCE,
    }
}

fn content(text: &str, id: Option<&Header>) -> Content {
    Content::parse(text, id).expect("written here")
}
