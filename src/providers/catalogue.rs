//! The providers, each as one value. A new one needs a few lines here, a scheme in
//! `signature::presets`, and a test vector.

use std::time::Duration;

use http::{HeaderName, StatusCode};

use super::{Preset, PresetHandshake, SenderDefaults, orbvpn, vpn_enterprise};
use crate::event::{
    EnvelopeSpec, FallbackType, IdNames, IdSource, MissingId, MissingParts, Source, TimestampSpec,
};
use crate::handshake::{Challenge, ChallengeReply};
use crate::json::Pointer;
use crate::route::OnDuplicate;
use crate::signature::presets;

const MIB: usize = 1 << 20;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The defaults for a sender with a user's own `signature:`.
pub const UNKNOWN_SENDER: SenderDefaults = SenderDefaults {
    envelope: || id_in_body("/id", "/type"),
    budget: Duration::from_secs(10),
    on_duplicate: OnDuplicate::Reject,
    max_body: MIB,
    accept_status: StatusCode::ACCEPTED,
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
            envelope: || id_in_body("/id", "/type"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Reject,
            max_body: MIB,
            accept_status: StatusCode::ACCEPTED,
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
            envelope: || id_and_time_in_body("/id", "/type", "/timestamp"),
            budget: Duration::from_secs(30),
            on_duplicate: OnDuplicate::Reject,
            max_body: MIB,
            accept_status: StatusCode::OK,
            retry_horizon: Some(HOUR.saturating_mul(72)),
            event_types: orbvpn::EVENT_TYPES,
        },
        handshake: PresetHandshake::Never,
        example_type: "payment.completed",
        notes: "The signature is read from `X-Signature`, else from `X-Webhook-Signature`, else from \
                the body's member `signature`; see [below](#a-signature-in-the-body). It may be hex, \
                with or without `sha256=`, or base64, which OrbVPN's published server source sends. \
                OrbVPN wants 200 for an event that was received, so a stored event (`queue`, \
                `spill`) is answered with 200; `accept_status` may say 202.",
    },
    Preset {
        name: "github",
        title: "GitHub",
        scheme: presets::github,
        defaults: SenderDefaults {
            envelope: || id_in_header("x-github-delivery", "x-github-event"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 25 * MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(HOUR.saturating_mul(72)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "push",
        notes: "GitHub does not retry. For three days a delivery can be redelivered by hand, under \
                the same ID. Any content type works: ID and type are not read from the body.",
    },
    Preset {
        name: "stripe",
        title: "Stripe",
        scheme: presets::stripe,
        defaults: SenderDefaults {
            envelope: || id_in_body("/id", "/type"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(HOUR.saturating_mul(72)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "charge.succeeded",
        notes: "The secret is the whole `whsec_…`, not decoded. A signed time beyond the tolerance in \
                the future is refused too; Stripe's own libraries accept it.",
    },
    Preset {
        name: "standard-webhooks",
        title: "Standard Webhooks",
        scheme: presets::standard_webhooks,
        defaults: SenderDefaults {
            envelope: || id_in_signed_header("webhook-id"),
            budget: Duration::from_secs(15),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(Duration::from_secs(75 * 3600 + 35 * 60 + 5)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "user.created",
        notes: "The secret is `whsec_` and base64 (HMAC-SHA256), or the public key `whpk_` and base64 \
                (Ed25519, `v1a`).",
    },
    Preset {
        name: "svix",
        title: "Svix",
        scheme: presets::svix,
        defaults: SenderDefaults {
            envelope: || id_in_signed_header("svix-id"),
            budget: Duration::from_secs(15),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(Duration::from_secs(27 * 3600 + 35 * 60 + 5)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "user.created",
        notes: "For senders whose headers are named `webhook-…`, use `standard-webhooks`.",
    },
    Preset {
        name: "slack",
        title: "Slack",
        scheme: presets::slack,
        defaults: SenderDefaults {
            envelope: slack_envelope,
            budget: Duration::from_secs(3),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(MINUTE.saturating_mul(6)),
            event_types: &[],
        },
        handshake: PresetHandshake::Signed(slack_url_verification),
        example_type: "app_mention",
        notes: "For the Events API. Slash commands and interactivity send forms, which have no event \
                ID in JSON. Give them a route of their own with \
                `event: {id: {body_digest: true}, type: {header: Content-Type}}`.",
    },
    Preset {
        name: "shopify",
        title: "Shopify",
        scheme: presets::shopify,
        defaults: SenderDefaults {
            envelope: || id_in_header("x-shopify-webhook-id", "x-shopify-topic"),
            budget: Duration::from_secs(5),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 5 * MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(HOUR.saturating_mul(4)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "orders/create",
        notes: "After eight failures in a row Shopify removes the subscription. After a change of the \
                client secret it may sign with the old one for an hour: keep both.",
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
            accept_status: StatusCode::ACCEPTED,
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
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(MINUTE.saturating_mul(7 * 60 + 1)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "Issue",
        notes: "Linear's SDK also refuses a `webhookTimestamp` that is more than a minute away. Here, \
                `event: {max_age: 1m}` does that.",
    },
    Preset {
        name: "pagerduty",
        title: "PagerDuty",
        scheme: presets::pagerduty,
        defaults: SenderDefaults {
            envelope: || id_in_body("/event/id", "/event/event_type"),
            budget: Duration::from_secs(5),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 2 * MIB,
            accept_status: StatusCode::ACCEPTED,
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
            envelope: || id_in_body("/event_id", "/event_type"),
            budget: Duration::from_secs(5),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 2 * MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(HOUR.saturating_mul(72)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "transaction.completed",
        notes: "Paddle Billing. The secret is the whole `pdl_ntfset_…`. Paddle's own library allows a \
                tolerance of five seconds. Here it is five minutes, since clocks differ and the \
                ledger stops replays.",
    },
    Preset {
        name: "square",
        title: "Square",
        scheme: presets::square,
        defaults: SenderDefaults {
            envelope: || id_in_body("/event_id", "/type"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(HOUR.saturating_mul(24)),
            event_types: &[],
        },
        handshake: PresetHandshake::Never,
        example_type: "payment.created",
        notes: "Square signs the URL that was entered there. Set the route's `public_url` to exactly \
                that URL.",
    },
    Preset {
        name: "zoom",
        title: "Zoom",
        scheme: presets::zoom,
        defaults: SenderDefaults {
            envelope: || id_is_body_digest("/event"),
            budget: Duration::from_secs(3),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            accept_status: StatusCode::ACCEPTED,
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
            envelope: || id_is_body_digest("/object"),
            budget: Duration::from_secs(10),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: 3 * MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: None,
            event_types: &[],
        },
        handshake: PresetHandshake::Query,
        example_type: "whatsapp_business_account",
        notes: "Facebook, Instagram, WhatsApp. The secret is the app secret. The handshake needs \
                `challenge: {verify_token: {env: META_VERIFY_TOKEN}}` with the token that was entered \
                at Meta.",
    },
    Preset {
        name: "discord",
        title: "Discord",
        scheme: presets::discord,
        defaults: SenderDefaults {
            envelope: || id_is_body_digest("/event/type"),
            budget: Duration::from_secs(3),
            on_duplicate: OnDuplicate::Acknowledge,
            max_body: MIB,
            accept_status: StatusCode::ACCEPTED,
            retry_horizon: Some(MINUTE.saturating_mul(10)),
            event_types: &[],
        },
        handshake: PresetHandshake::Signed(discord_ping),
        example_type: "APPLICATION_AUTHORIZED",
        notes: "Webhook events, not interactions. The secret is the application's public key, in hex.",
    },
];

/// Returns an envelope whose ID and type are in the body.
fn id_in_body(id: &str, kind: &str) -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::Pointer(pointer(id)),
        id_names: IdNames::Event,
        event_type: Source::Pointer(pointer(kind)),
        missing: MissingParts::default(),
        timestamp: None,
    }
}

/// Returns an envelope with a time besides, for routes that set `max_age`.
fn id_and_time_in_body(id: &str, kind: &str, time: &str) -> EnvelopeSpec {
    let timestamp = TimestampSpec {
        source: Source::Pointer(pointer(time)),
        max_age: None,
    };
    EnvelopeSpec {
        timestamp: Some(timestamp),
        ..id_in_body(id, kind)
    }
}

/// Returns an envelope whose ID and type are in unsigned headers.
fn id_in_header(id: &'static str, kind: &'static str) -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::Header(header(id)),
        event_type: Source::Header(header(kind)),
        ..id_in_body("/id", "/type")
    }
}

/// Returns an envelope whose ID is in a signed header. Messages without a type (Supabase's auth
/// hooks) are accepted, since their ID protects them from replays.
fn id_in_signed_header(id: &'static str) -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::Header(header(id)),
        missing: MissingParts {
            event_type: Some(FallbackType::Text("untyped".into())),
            ..MissingParts::default()
        },
        ..id_in_body("/id", "/type")
    }
}

/// Returns an envelope without an ID: the same body is the same event.
fn id_is_body_digest(kind: &str) -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::BodyDigest,
        ..id_in_body("/id", kind)
    }
}

fn gitlab_envelope() -> EnvelopeSpec {
    EnvelopeSpec {
        event_type: Source::Header(header("x-gitlab-event")),
        ..id_in_signed_header("webhook-id")
    }
}

/// Returns Slack's envelope. Its `app_rate_limited` has no ID, and its type stands elsewhere.
/// Source: docs.slack.dev, "Using the Events API", "Rate limiting".
fn slack_envelope() -> EnvelopeSpec {
    EnvelopeSpec {
        missing: MissingParts {
            id: MissingId::BodyDigest,
            event_type: Some(FallbackType::Pointer(pointer("/type"))),
        },
        ..id_in_body("/event_id", "/event/type")
    }
}

fn linear_envelope() -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::Header(header("linear-delivery")),
        ..id_and_time_in_body("/id", "/type", "/webhookTimestamp")
    }
}

/// Returns Slack's URL verification. Source: docs.slack.dev, "Using the Events API".
fn slack_url_verification() -> Challenge {
    Challenge {
        pointer: pointer("/type"),
        value: "url_verification",
        event_type: "url_verification",
        reply: ChallengeReply::Echo(pointer("/challenge")),
    }
}

/// Returns Zoom's URL validation. Source: developers.zoom.us, "Validate your webhook endpoint".
fn zoom_url_validation() -> Challenge {
    Challenge {
        pointer: pointer("/event"),
        value: "endpoint.url_validation",
        event_type: "endpoint.url_validation",
        reply: ChallengeReply::Proof(pointer("/payload/plainToken")),
    }
}

/// Returns Discord's PING. Source: docs.discord.com, "Webhook events", a payload of type 0.
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
