//! The providers, each as one value. A new one is a few lines here, a scheme in `signature::presets`, and a vector.

use std::time::Duration;

use http::HeaderName;

use super::{Preset, PresetHandshake, SenderDefaults, orbvpn, vpn_enterprise};
use crate::event::{EnvelopeSpec, IdSource, Source, TimestampSpec};
use crate::handshake::{Challenge, ChallengeReply};
use crate::json::Pointer;
use crate::route::OnDuplicate;
use crate::signature::presets;

const MIB: usize = 1 << 20;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// What is taken for granted of a sender with a scheme of the user's own.
pub const UNKNOWN_SENDER: SenderDefaults = SenderDefaults {
    envelope: || in_body("/id", "/type"),
    budget: Duration::from_secs(10),
    on_duplicate: OnDuplicate::Reject,
    max_body: MIB,
    retry_horizon: None,
    event_types: &[],
};

/// The providers that this version knows.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "vpn-enterprise",
        title: "VPN Enterprise",
        scheme: presets::vpn_enterprise,
        defaults: SenderDefaults {
            envelope: || in_body("/id", "/type"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Reject,
            max_body: MIB,
            retry_horizon: Some(HOUR.saturating_mul(72)),
            event_types: vpn_enterprise::EVENT_TYPES,
        },
        handshake: PresetHandshake::Never,
        example_type: "user.created",
        notes: "",
    },
    Preset {
        name: "orbvpn",
        title: "OrbVPN",
        scheme: presets::orbvpn,
        defaults: SenderDefaults {
            envelope: || dated("/id", "/type", "/timestamp"),
            budget: Duration::from_secs(30),
            on_duplicate: OnDuplicate::Reject,
            max_body: MIB,
            retry_horizon: Some(HOUR.saturating_mul(72)),
            event_types: orbvpn::EVENT_TYPES,
        },
        handshake: PresetHandshake::Never,
        example_type: "payment.completed",
        notes: "The signature is taken from `X-Signature`, else `X-Webhook-Signature`, else the body's member `signature`; see [below](#a-signature-in-the-body). It may be hex, with or without `sha256=`, or base64, which OrbVPN's published server source sends.",
    },
    Preset {
        name: "github",
        title: "GitHub",
        scheme: presets::github,
        defaults: SenderDefaults {
            envelope: || headed("x-github-delivery", "x-github-event"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 25 * MIB,
            retry_horizon: Some(HOUR.saturating_mul(72)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "push",
        notes: "GitHub sends nothing again by itself; for three days a delivery can be sent again by hand, under the same ID. Set the webhook's content type to `application/json` or leave it: the body is not read for the ID and the type.",
    },
    Preset {
        name: "stripe",
        title: "Stripe",
        scheme: presets::stripe,
        defaults: SenderDefaults {
            envelope: || in_body("/id", "/type"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            retry_horizon: Some(HOUR.saturating_mul(72)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "charge.succeeded",
        notes: "The secret is the whole `whsec_…`, not decoded. Times in the future are refused beyond the tolerance, too, which Stripe's own libraries let pass.",
    },
    Preset {
        name: "standard-webhooks",
        title: "Standard Webhooks",
        scheme: presets::standard_webhooks,
        defaults: SenderDefaults {
            envelope: || signed_id("webhook-id"),
            budget: Duration::from_secs(15),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            retry_horizon: Some(Duration::from_secs(75 * 3600 + 35 * 60 + 5)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "user.created",
        notes: "A secret is `whsec_` and base64 (HMAC-SHA256), or the public key `whpk_` and base64 (Ed25519, `v1a`).",
    },
    Preset {
        name: "svix",
        title: "Svix",
        scheme: presets::svix,
        defaults: SenderDefaults {
            envelope: || signed_id("svix-id"),
            budget: Duration::from_secs(15),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            retry_horizon: Some(Duration::from_secs(27 * 3600 + 35 * 60 + 5)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "user.created",
        notes: "For senders that use the names `webhook-…`, take `standard-webhooks`.",
    },
    Preset {
        name: "slack",
        title: "Slack",
        scheme: presets::slack,
        defaults: SenderDefaults {
            envelope: || in_body("/event_id", "/event/type"),
            budget: Duration::from_secs(3),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            retry_horizon: Some(MINUTE.saturating_mul(6)),
            event_types: &[],
        },
        handshake: PresetHandshake::Signed(slack_url_verification),
        example_type: "app_mention",
        notes: "For the Events API. Slash commands and interactivity send forms, which have no event ID in JSON: give those a route with `event: {id: {body_digest: true}, type: {header: Content-Type}}`.",
    },
    Preset {
        name: "shopify",
        title: "Shopify",
        scheme: presets::shopify,
        defaults: SenderDefaults {
            envelope: || headed("x-shopify-webhook-id", "x-shopify-topic"),
            budget: Duration::from_secs(5),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 5 * MIB,
            retry_horizon: Some(HOUR.saturating_mul(4)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "orders/create",
        notes: "After eight failures in a row Shopify removes the subscription. After a change of the client secret it may sign with the old one for an hour: keep both.",
    },
    Preset {
        name: "gitlab",
        title: "GitLab",
        scheme: presets::standard_webhooks,
        defaults: SenderDefaults {
            envelope: gitlab_envelope,
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 25 * MIB,
            retry_horizon: None,
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "Push Hook",
        notes: "For webhooks with a *signing token* (Standard Webhooks), not for the plain `X-Gitlab-Token`.",
    },
    Preset {
        name: "linear",
        title: "Linear",
        scheme: presets::linear,
        defaults: SenderDefaults {
            envelope: linear_envelope,
            budget: Duration::from_secs(5),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            retry_horizon: Some(MINUTE.saturating_mul(7 * 60 + 1)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "Issue",
        notes: "Linear's SDK also refuses a `webhookTimestamp` that is more than a minute away: `event: {max_age: 1m}` does that here.",
    },
    Preset {
        name: "pagerduty",
        title: "PagerDuty",
        scheme: presets::pagerduty,
        defaults: SenderDefaults {
            envelope: || in_body("/event/id", "/event/event_type"),
            budget: Duration::from_secs(5),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 2 * MIB,
            retry_horizon: None,
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "incident.triggered",
        notes: "Version 3 webhooks.",
    },
    Preset {
        name: "paddle",
        title: "Paddle",
        scheme: presets::paddle,
        defaults: SenderDefaults {
            envelope: || in_body("/event_id", "/event_type"),
            budget: Duration::from_secs(5),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 2 * MIB,
            retry_horizon: Some(HOUR.saturating_mul(72)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "transaction.completed",
        notes: "Paddle Billing. The secret is the whole `pdl_ntfset_…`. Paddle's own library allows five seconds; here it is the usual five minutes, since clocks differ and IDs are remembered.",
    },
    Preset {
        name: "square",
        title: "Square",
        scheme: presets::square,
        defaults: SenderDefaults {
            envelope: || in_body("/event_id", "/type"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            retry_horizon: Some(HOUR.saturating_mul(24)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "payment.created",
        notes: "Square signs the URL that was entered there: say it with the route's `public_url`, letter for letter.",
    },
    Preset {
        name: "zoom",
        title: "Zoom",
        scheme: presets::zoom,
        defaults: SenderDefaults {
            envelope: || digested("/event"),
            budget: Duration::from_secs(3),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            retry_horizon: Some(MINUTE.saturating_mul(85)),
            event_types: &[],
        },
        handshake: PresetHandshake::Signed(zoom_url_validation),
        example_type: "meeting.started",
        notes: "The secret is the app's *secret token*. Zoom repeats its URL validation every 72 hours.",
    },
    Preset {
        name: "meta",
        title: "Meta",
        scheme: presets::github,
        defaults: SenderDefaults {
            envelope: || digested("/object"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 3 * MIB,
            retry_horizon: None,
            event_types: &[],
        },
        handshake: PresetHandshake::Query,
        example_type: "whatsapp_business_account",
        notes: "Facebook, Instagram, WhatsApp. The secret is the app secret; the handshake needs `challenge: {verify_token: {env: META_VERIFY_TOKEN}}` with the token that was entered at Meta.",
    },
    Preset {
        name: "discord",
        title: "Discord",
        scheme: presets::discord,
        defaults: SenderDefaults {
            envelope: || digested("/event/type"),
            budget: Duration::from_secs(3),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            retry_horizon: Some(MINUTE.saturating_mul(10)),
            event_types: &[],
        },
        handshake: PresetHandshake::Signed(discord_ping),
        example_type: "APPLICATION_AUTHORIZED",
        notes: "Webhook events, not interactions. The secret is the application's public key, in hex.",
    },
];

/// ID and type stand in the body.
fn in_body(id: &str, kind: &str) -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::Pointer(pointer(id)),
        event_type: Source::Pointer(pointer(kind)),
        timestamp: None,
    }
}

/// So does a time, for routes that ask for it.
fn dated(id: &str, kind: &str, time: &str) -> EnvelopeSpec {
    let timestamp = TimestampSpec {
        source: Source::Pointer(pointer(time)),
        max_age: None,
    };
    EnvelopeSpec {
        timestamp: Some(timestamp),
        ..in_body(id, kind)
    }
}

/// ID and type stand in headers that are not signed.
fn headed(id: &'static str, kind: &'static str) -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::Header(header(id)),
        event_type: Source::Header(header(kind)),
        timestamp: None,
    }
}

/// The ID stands in a header that is signed.
fn signed_id(id: &'static str) -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::Header(header(id)),
        ..in_body("/id", "/type")
    }
}

/// There is no ID: the same body is the same event.
fn digested(kind: &str) -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::BodyDigest,
        ..in_body("/id", kind)
    }
}

fn gitlab_envelope() -> EnvelopeSpec {
    EnvelopeSpec {
        event_type: Source::Header(header("x-gitlab-event")),
        ..signed_id("webhook-id")
    }
}

fn linear_envelope() -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::Header(header("linear-delivery")),
        ..dated("/id", "/type", "/webhookTimestamp")
    }
}

/// Source: docs.slack.dev, "Using the Events API", URL verification.
fn slack_url_verification() -> Challenge {
    Challenge {
        pointer: pointer("/type"),
        value: "url_verification",
        event_type: "url_verification",
        reply: ChallengeReply::Echo(pointer("/challenge")),
    }
}

/// Source: developers.zoom.us, "Validate your webhook endpoint".
fn zoom_url_validation() -> Challenge {
    Challenge {
        pointer: pointer("/event"),
        value: "endpoint.url_validation",
        event_type: "endpoint.url_validation",
        reply: ChallengeReply::Proof(pointer("/payload/plainToken")),
    }
}

/// Source: docs.discord.com, "Webhook events": a payload of type 0.
fn discord_ping() -> Challenge {
    Challenge {
        pointer: pointer("/type"),
        value: "0",
        event_type: "PING",
        reply: ChallengeReply::NoContent,
    }
}

fn pointer(text: &str) -> Pointer {
    text.parse().expect("a JSON pointer")
}

fn header(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}
