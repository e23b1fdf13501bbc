//! The configuration as it is written: one type a mapping, one field a key.
//!
//! Parsing, the JSON Schema and `docs/configuration.md` all come from here; the doc comments are the reference's
//! text. Nothing is checked here beyond types: what the values mean is `compile`'s business.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::de::{Field, OneOrMore, Pairs, shorthand};
use super::values::{Address, ByteSize, Duration, Literal, Moment, Network};
use crate::providers::PRESETS;

/// One YAML document, all keys in `snake_case`. Four lines are enough: a route's `path`, `provider`, `secrets` and
/// `upstream`. Unknown and repeated keys are errors.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "hookstile configuration", extend("required" = ["routes"]))]
pub(super) struct File {
    /// Where webhooks come in.
    #[schemars(extend("default" = [{"address": "127.0.0.1:8080"}]), length(min = 1))]
    pub listen: Field<Vec<Field<Listen>>>,
    /// The listener for health checks, metrics and operators.
    pub admin: Field<Admin>,
    /// Where event IDs, queued events and the records of deliveries are kept. Counts from the next start.
    pub store: Field<Store>,
    /// Bounds for the whole process.
    pub limits: Field<Limits>,
    /// Proxies in front of the gateway that are believed about the sender's address: their `X-Forwarded-For`, and where a
    /// listener has `proxy_protocol`, its header.
    #[schemars(extend("default" = []))]
    pub trusted_proxies: Field<Vec<Field<Network>>>,
    /// What a stop (SIGTERM) takes its time for.
    pub shutdown: Field<Shutdown>,
    /// The log, on standard error.
    pub log: Field<Log>,
    /// Any keys of a route, for all routes. A route's own key takes the place of the one here as a whole; the two are
    /// never merged.
    pub defaults: Field<Route>,
    /// The routes. Requests for anything else are answered with 404.
    #[schemars(length(min = 1))]
    pub routes: Field<Vec<Field<Route>>>,
}

/// A listener for webhooks, HTTP/1.1 and HTTP/2. Where it is, and whether with TLS or the PROXY protocol, counts from the
/// next start; its files are read again when they change, and at each reload.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["address"]))]
pub(super) struct Listen {
    /// Port 0 lets the system choose one.
    pub address: Field<Address>,
    /// The certificate that senders are shown, or a list of several: each sender is shown the one with the name that it asks
    /// for (SNI), or else the first. TLS 1.2 and 1.3. Default: no TLS.
    #[schemars(schema_with = "one_or_more::<Certificate>")]
    pub tls: Field<OneOrMore<Certificate>>,
    /// A PEM file, relative to this file's folder, with the certificates that may sign the senders' own. A sender that shows
    /// none of these is not let in. Needs `tls`. Default: senders show no certificate.
    pub client_ca: Field<String>,
    /// `true` behind a layer-4 load balancer (an AWS NLB, for example) that begins each connection with a header of the
    /// PROXY protocol, version 2: the address in it is the sender's, for `allow_from`, limits, logs and `X-Forwarded-For`.
    /// Only `trusted_proxies` may connect, and must send the header within `limits.header_timeout`; other connections are
    /// closed without an answer. Needs `trusted_proxies`.
    #[schemars(extend("default" = false))]
    pub proxy_protocol: Field<bool>,
}

/// A certificate with its key, in PEM files that are named relative to this file's folder.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["certificate", "key"]))]
pub(super) struct Certificate {
    /// The certificate, and after it those that lead to one that senders know (a `fullchain.pem`).
    pub certificate: Field<String>,
    /// Its private key, without a passphrase: RSA, ECDSA or Ed25519.
    pub key: Field<String>,
}

/// The admin listener.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    /// An address that is not the machine's own (loopback) needs a `token`.
    #[schemars(extend("default" = "127.0.0.1:9180"))]
    pub address: Field<Address>,
    /// Asked for by everything but `/healthz`, `/readyz` and `/metrics`. Default: no token.
    pub token: Field<Reference>,
    /// For those who may look and change nothing. Needs a `token`. Default: none.
    pub read_token: Field<Reference>,
    /// Further names that the listener is asked by, as a proxy in front of it has them: `ops.example.com`. Default: the
    /// machine's own name, its addresses and `localhost` alone.
    #[schemars(length(min = 1))]
    pub hosts: Field<Vec<Field<String>>>,
    /// What webhooks made over the API may name as their upstream: URLs, as in `http://127.0.0.1:3000/hooks` (that path
    /// and what is below it) or `https://*.internal.example.com`. Default: any, but for link-local addresses and those at
    /// which clouds keep a machine's credentials, which are never allowed.
    #[schemars(length(min = 1))]
    pub allowed_upstreams: Field<Vec<Field<String>>>,
}

/// Where event IDs, queued events and the records of deliveries are kept: a folder that one gateway at a time uses.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Store {
    /// A folder, relative to this file's. It is made when it is missing.
    #[schemars(extend("default" = "./hookstile-data"), length(min = 1))]
    pub path: Field<String>,
    /// What an answer waits for. `strict`: until the disk has it; it survives a loss of power. `relaxed`: until the
    /// operating system has it; after a loss of power the last moment's acknowledged events and completed IDs may be
    /// forgotten, so that events are lost or forwarded twice.
    #[schemars(extend("default" = "strict"))]
    pub durability: Field<Durability>,
    /// Event IDs that are remembered at once, 1,000 to 1,000,000,000, at about 25 bytes of memory each. Above it new
    /// events are answered with 503; none is forgotten early.
    #[schemars(extend("default" = 50_000_000), range(min = 1000, max = 1_000_000_000))]
    pub max_ids: Field<usize>,
    /// Bytes on disk, at least 16MiB. Above it new events are answered with 503; nothing is forgotten early. Default:
    /// no bound but the disk's.
    pub max_size: Field<ByteSize>,
    /// Instead of `path`: a PostgreSQL database that several gateways share. `durability: relaxed` then is
    /// `synchronous_commit=off`; `max_ids` and `max_size` are held to the server's own statistics.
    pub postgres: Field<Postgres>,
}

/// The database that several gateways share: one ledger, one queue. Tables are made in its schema `hookstile`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url"]))]
pub(super) struct Postgres {
    /// A reference to the URL, as libpq writes it: `postgres://user:password@host:5432/database`, several hosts with commas
    /// between them. TLS and the server's name are checked unless it is on this machine; `sslmode=disable` says otherwise.
    pub url: Field<Reference>,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Durability {
    Strict,
    Relaxed,
}

/// Bounds for the whole process. Memory is bounded by them, whatever is sent.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    /// Connections from senders at once, 1 to 1,000,000.
    #[schemars(extend("default" = 10000), range(min = 1, max = 1_000_000))]
    pub connections: Field<usize>,
    /// Connections from one address at once (with IPv6 from one /64), 1 to 1,000,000. `trusted_proxies` are not bound by it:
    /// name a proxy there whose connections are many senders'.
    #[schemars(extend("default" = 1000), range(min = 1, max = 1_000_000))]
    pub connections_per_address: Field<usize>,
    /// The longest head of a request, 1KiB to 1MiB. A longer one is answered with 431.
    #[schemars(extend("default" = "32KiB"))]
    pub header_bytes: Field<ByteSize>,
    /// Bodies in memory at once, all routes together, as far as they have come, and the heads of HTTP/2 requests; not less
    /// than any route's `max_body`. Above it: 503.
    #[schemars(extend("default" = "256MiB"))]
    pub body_bytes_in_flight: Field<ByteSize>,
    /// How long a head may take to arrive. Not 0, at most 1h. Default: 5s, or the shortest budget of a route, its margin
    /// taken off, where that is shorter.
    #[schemars(extend("default" = "5s"))]
    pub header_timeout: Field<Duration>,
    /// How long a connection is kept open between two requests. Not 0, at most 1h.
    #[schemars(extend("default" = "60s"))]
    pub idle_timeout: Field<Duration>,
}

/// How the process stops.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    /// How long `/readyz` says 503 while requests are still taken, so that a load balancer notices. At most 1h.
    #[schemars(extend("default" = "5s"))]
    pub drain: Field<Duration>,
    /// How long requests in flight may then go on. At most 1h. Default: 15s, or the longest budget of a route where that
    /// is longer.
    #[schemars(extend("default" = "15s"))]
    pub grace: Field<Duration>,
}

/// The log.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    /// `json`: one object a line. `pretty`: for people.
    #[schemars(extend("default" = "json"))]
    pub format: Field<LogFormat>,
    /// The least severe level that is written.
    #[schemars(extend("default" = "info"))]
    pub level: Field<LogLevel>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum LogFormat {
    Json,
    Pretty,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// One path with its provider's scheme, its secrets, its rules and its upstream. `path`, `secrets` and `upstream` must
/// be given, here or in `defaults`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Route {
    /// The route's name in metrics, logs and the ledger: 1 to 64 of `A-Z a-z 0-9 . _ -`, unique. A route that is
    /// renamed does not know the event IDs it has seen. Default: from the path, `/webhooks/vpn-enterprise` being
    /// `webhooks-vpn-enterprise`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,64}$"))]
    pub name: Field<String>,
    /// The `Host` that requests must name, without a port. Default: any. A route that names a host goes before one
    /// with the same path that does not.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub host: Field<String>,
    /// Compared byte for byte with the request's path; nothing is decoded or normalised.
    #[schemars(regex(pattern = r"^/[!-~]*$"))]
    pub path: Field<String>,
    /// The methods that are taken. Others are answered with 405.
    #[schemars(extend("default" = ["POST"]), length(min = 1))]
    pub methods: Field<Vec<Field<Method>>>,
    /// The preset for who sends: the signature's scheme and the defaults of `event`, `budget`, `max_body` and
    /// `replay.on_duplicate`. Not together with `signature`.
    #[schemars(transform = provider_names, extend("default" = "vpn-enterprise"))]
    pub provider: Field<String>,
    /// A scheme of your own in the place of a `provider`.
    pub signature: Field<Signature>,
    /// The secrets that senders may sign with. Each is tried, so that one can take another's place without a gap.
    #[schemars(length(min = 1))]
    pub secrets: Field<Vec<Field<Reference>>>,
    /// Where the event's ID, type and time stand. Default: the provider's.
    pub event: Field<Event>,
    /// The event types that are handed over; `*` stands for any characters. Others are answered with 200 and dropped.
    /// Default: all.
    #[schemars(length(min = 1))]
    pub events: Field<Vec<Field<String>>>,
    /// The application that gets what is genuine: a URL, or a mapping with more about it.
    pub upstream: Field<Upstream>,
    /// Headers to set on every request to the upstream, over what the sender sent.
    pub headers: Field<Pairs<String>>,
    /// Whether the query string of the request is appended to the upstream's path.
    #[schemars(extend("default" = false))]
    pub forward_query: Field<bool>,
    /// How events are handed over. `proxy`: now, and the upstream's answer is passed back. `queue`: stored, answered
    /// with `accept_status`, and delivered afterwards. `spill`: as `proxy`, and as `queue` when the upstream cannot be
    /// reached, answers 5xx or 429, or the budget is nearly spent.
    #[schemars(extend("default" = "proxy"))]
    pub delivery: Field<Delivery>,
    /// What an event is answered with that was stored (`queue`, `spill`).
    #[schemars(extend("enum" = [202, 200], "default" = 202))]
    pub accept_status: Field<u16>,
    /// How long one attempt at a stored event may take. Not 0, at most 1h. Default: `budget`.
    pub attempt_timeout: Field<Duration>,
    /// How long the sender waits for an answer, counted from the first byte of the request. Not 0, at most 1h.
    /// Default: the provider's, else 10s.
    #[schemars(extend("default" = "10s"))]
    pub budget: Field<Duration>,
    /// The part of the budget that is kept back, so that the answer is written in time. Less than `budget`.
    #[schemars(extend("default" = "500ms"))]
    pub budget_margin: Field<Duration>,
    /// The biggest body, 1 byte to 1GiB; to 256MiB where bodies are stored, which is with `queue`, `spill` or
    /// `retain.payloads: all`. A bigger one is answered with 413. Default: the provider's, else 1MiB.
    #[schemars(extend("default" = "1MiB"))]
    pub max_body: Field<ByteSize>,
    /// What replays meet.
    pub replay: Field<Replay>,
    /// How stored events are tried again. With `delivery: proxy` these are only those that are redelivered on request.
    pub retry: Field<Retry>,
    /// Attempts in flight to the upstream at once, 1 to 1,000,000. Above it, requests get 503, or are stored with
    /// `spill`. Attempts at stored events are among them: as many, or 32 where this is not given.
    #[schemars(extend("default" = 1024), range(min = 1, max = 1_000_000))]
    pub concurrency: Field<usize>,
    /// Requests a second. Above it: 429. Default: no bound.
    pub rate_limit: Field<RateLimit>,
    /// Networks that senders may come from. Others are answered with 403. Default: any.
    #[schemars(length(min = 1))]
    pub allow_from: Field<Vec<Field<Network>>>,
    /// What becomes of the provider's handshakes. Default: the gateway answers them.
    pub challenge: Field<Challenge>,
    /// The URL that the provider sends to, for those that sign it (Square).
    pub public_url: Field<String>,
    /// Whether a bad signature stops a request. `false` is for trying the gateway out in front of an application that
    /// checks signatures itself: what does not verify is forwarded all the same, marked with `Hookstile-Verified: false`,
    /// past the ledger and the store, and counted.
    #[schemars(extend("default" = true))]
    pub enforce: Field<bool>,
    /// What is kept of deliveries that have ended.
    pub retain: Field<Retain>,
    /// How often a genuine event comes at the least, while all is well. When none was verified for longer, nor the gateway
    /// started since, `hookstile_route_silent` is 1, and the log and `hookstile status` say so. Not 0. Default: not watched.
    pub expect_every: Field<Duration>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
pub(super) enum Method {
    Post,
    Put,
    Patch,
    Get,
    Delete,
}

/// A signature scheme of a sender that has no preset. Where the signature stands is said by `header`, by `field`, or by
/// both: then the header goes before, where it is there.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("anyOf" = [{"required": ["header"]}, {"required": ["field"]}]))]
pub(super) struct Signature {
    /// The header that carries the signature. It must be there exactly once.
    pub header: Field<String>,
    /// A JSON pointer (RFC 6901) to the member of the body that holds the signature. The member, and the comma that
    /// joined it, is cut out byte for byte; what is left is `{body}`.
    #[schemars(regex(pattern = "^/"))]
    pub field: Field<String>,
    /// `json`: what is left of the body when `field` is cut out is signed without the white space between its tokens.
    /// Default: byte for byte.
    pub canonical: Field<Canonical>,
    /// With `ed25519` the secrets are public keys of 32 bytes.
    #[schemars(extend("default" = "hmac-sha256"))]
    pub algorithm: Field<Algorithm>,
    /// The signature's text form.
    #[schemars(extend("default" = "hex"))]
    pub encoding: Field<Encoding>,
    /// Taken off the signature where it stands there, as in `sha256=`.
    #[schemars(extend("default" = ""))]
    pub prefix: Field<String>,
    /// The header holds fields, as in `t=1700000000,v1=5257…`. Default: it is the signature.
    pub fields: Field<SignatureFields>,
    /// What is signed: text with `{body}` once, and `{timestamp}` (as it was sent), `{id}` (the event ID's header, as it
    /// was sent) and `{url}` (the route's `public_url`) where they belong.
    #[schemars(extend("default" = "{body}"))]
    pub signed: Field<String>,
    /// The signed time. Default: none, or the field that `fields.timestamp` names.
    pub timestamp: Field<SignatureTimestamp>,
    /// What a secret's text stands for: itself, or key bytes.
    #[schemars(extend("default" = "utf8"))]
    pub secret_encoding: Field<SecretEncoding>,
    /// Taken off a secret's text before it is decoded, where it stands there, as in `whsec_`.
    #[schemars(extend("default" = ""))]
    pub strip_prefix: Field<String>,
}

/// How a header with fields is read.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["signature"]))]
pub(super) struct SignatureFields {
    /// The name of the field that holds a signature. It may be there several times, of which 16 are looked at.
    pub signature: Field<String>,
    /// The name of the field that holds the signed time, as `timestamp.unit` says. Default: none.
    pub timestamp: Field<String>,
    /// One character between fields.
    #[schemars(extend("default" = ","), length(min = 1, max = 1))]
    pub separator: Field<String>,
    /// One character between a field's name and its value.
    #[schemars(extend("default" = "="), length(min = 1, max = 1))]
    pub assign: Field<String>,
}

/// The signed time.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SignatureTimestamp {
    /// The header that holds it. It must be there exactly once. Not together with `fields.timestamp`.
    pub header: Field<String>,
    /// Unix seconds, Unix milliseconds, or RFC 3339.
    #[schemars(extend("default" = "s"))]
    pub unit: Field<TimeUnit>,
    /// How far from now it may be, into the past and into the future. Not 0, at most 1h.
    #[schemars(extend("default" = "5m"))]
    pub tolerance: Field<Duration>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Canonical {
    Json,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) enum TimeUnit {
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "rfc3339")]
    Rfc3339,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) enum Algorithm {
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    #[serde(rename = "hmac-sha1")]
    HmacSha1,
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
    #[serde(rename = "ed25519")]
    Ed25519,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Encoding {
    Hex,
    Base64,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum SecretEncoding {
    Utf8,
    Base64,
    Hex,
}

/// What becomes of a provider's handshake, the request by which it asks whether an endpoint is there; a plain text is
/// the `mode`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[schemars(transform = or_a_mode)]
pub(super) struct Challenge {
    /// `answer`: the gateway answers it. `forward`: the upstream does, as it would an event; only handshakes that are
    /// signed can be forwarded.
    #[schemars(extend("default" = "answer"))]
    pub mode: Field<ChallengeMode>,
    /// The token that proves a handshake that is not signed (Meta's `hub.verify_token`). Default: such handshakes are
    /// refused.
    pub verify_token: Field<Reference>,
}

#[derive(Clone, Copy, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum ChallengeMode {
    Answer,
    Forward,
}

/// Where a secret is: exactly one of `env`, `file` and `value`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["env"]}, {"required": ["file"]}, {"required": ["value"]}]))]
pub(super) struct Reference {
    /// An environment variable.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub env: Field<String>,
    /// A file, relative to this file's folder. One newline at its end is dropped.
    pub file: Field<String>,
    /// The secret itself. It works, and `hookstile check` warns: who reads the file has it.
    pub value: Field<Literal>,
    /// Shown in metrics and logs, so that a rotation can be finished: 1 to 64 of `A-Z a-z 0-9 . _ -`, unique in its
    /// route. Default: the variable's or the file's name, or `secret-N`.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,64}$"))]
    pub name: Field<String>,
    /// From this moment on it is no longer accepted. Default: never.
    pub expires: Field<Moment>,
}

/// Where an event's ID, type and time stand.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Event {
    /// The event ID, by which replays are known. A header is not signed: the ledger then also goes by the body.
    /// Default: the provider's, else `/id`.
    pub id: Field<EventId>,
    /// Default: the provider's, else `/type`.
    #[serde(rename = "type")]
    pub kind: Field<EventSource>,
    /// RFC 3339, or Unix time in seconds or milliseconds. Default: the provider's, else none.
    pub timestamp: Field<EventSource>,
    /// Events whose time is further away, before or after, are refused. Needs `timestamp`. Default: not checked, since
    /// providers send old events again for days.
    pub max_age: Field<Duration>,
}

/// Exactly one of the keys; a plain text is the `pointer`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[schemars(transform = or_a_pointer)]
pub(super) struct EventId {
    /// A JSON pointer (RFC 6901) into the signed body.
    pub pointer: Field<String>,
    /// A header.
    pub header: Field<String>,
    /// `true` for senders without IDs: the same body is the same event.
    #[schemars(extend("const" = true))]
    pub body_digest: Field<bool>,
}

/// Exactly one of the keys; a plain text is the `pointer`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[schemars(transform = or_a_pointer)]
pub(super) struct EventSource {
    /// A JSON pointer (RFC 6901) into the signed body.
    pub pointer: Field<String>,
    /// A header.
    pub header: Field<String>,
}

/// The application behind the gateway; a plain text is the `url`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[schemars(transform = or_a_url, extend("required" = ["url"]))]
pub(super) struct Upstream {
    /// `http://` or `https://`, without user information or fragment. `https` is always verified.
    pub url: Field<String>,
    /// A PEM file, relative to this file's folder, with the certificates that may sign the upstream's. Default: the
    /// system's.
    pub ca: Field<String>,
    /// The longest a connect, TLS included, may take. Not 0, at most 1h. Default: what is left of the budget.
    pub connect_timeout: Field<Duration>,
}

/// Lets a list of one be written as what is in it.
fn one_or_more<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let one = generator.subschema_for::<T>();
    schemars::json_schema!({"anyOf": [{"type": "array", "items": one, "minItems": 1}, one]})
}

fn provider_names(schema: &mut Schema) {
    let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
    schema.insert("enum".into(), names.into());
}

fn or_a_pointer(schema: &mut Schema) {
    schema.insert("minProperties".into(), 1.into());
    schema.insert("maxProperties".into(), 1.into());
    or_text(schema, "^/");
}

fn or_a_url(schema: &mut Schema) {
    or_text(schema, "^https?://");
}

fn or_a_mode(schema: &mut Schema) {
    or_text(schema, "^(answer|forward)$");
}

/// Lets text that matches `pattern` stand for the mapping that `schema` describes.
fn or_text(schema: &mut Schema, pattern: &str) {
    let mapping = std::mem::take(schema);
    *schema = schemars::json_schema!({"anyOf": [{"type": "string", "pattern": pattern}, mapping]});
}

/// Lets `$type` be written as the text that its `$key` would have.
macro_rules! may_be_text {
    ($($type:ident: $key:literal),*) => {
        $(impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TextOrMapping;

                impl<'de> Visitor<'de> for TextOrMapping {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("text or a mapping")
                    }

                    fn visit_newtype_struct<D: Deserializer<'de>>(self, mapping: D) -> Result<$type, D::Error> {
                        // serde's derive, not this implementation: that is what `remote = "Self"` is for.
                        $type::deserialize(mapping)
                    }
                }

                deserializer.deserialize_newtype_struct(shorthand!($key), TextOrMapping)
            }
        })*
    };
}

may_be_text!(Challenge: "mode", EventId: "pointer", EventSource: "pointer", Upstream: "url");

/// How events are handed over.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Delivery {
    Proxy,
    Queue,
    Spill,
}

/// What replays meet.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Replay {
    /// How long a completed event ID is remembered. Not less than the time for which the provider sends an event again
    /// (VPN Enterprise: 72h); not less than `retry.horizon` either, or a copy of an event that is still queued may be
    /// taken for a new one.
    #[schemars(extend("default" = "96h"))]
    pub window: Field<Duration>,
    /// The answer to an event that was completed before: `reject` is 409, `acknowledge` is 200. Default: the
    /// provider's, else `reject`.
    #[schemars(extend("default" = "reject"))]
    pub on_duplicate: Field<OnDuplicate>,
    /// What a copy does while the first one is under way: `wait` for its end, or be answered with 409 at once
    /// (`reject`).
    #[schemars(extend("default" = "wait"))]
    pub in_flight: Field<InFlight>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum OnDuplicate {
    Reject,
    Acknowledge,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum InFlight {
    Wait,
    Reject,
}

/// How stored events are tried again: after a random part of a pause that grows with each attempt. The upstream's
/// `Retry-After` goes before it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retry {
    /// The longest pause before the second attempt. Not 0. Default: 5s, or `max_interval` or `horizon` where that is
    /// shorter.
    #[schemars(extend("default" = "5s"))]
    pub initial: Field<Duration>,
    /// What the pause grows by with each attempt, 1 to 10.
    #[schemars(extend("default" = 2), range(min = 1, max = 10))]
    pub factor: Field<f64>,
    /// The longest pause of all, `Retry-After` included. Not less than `initial`. Default: 1h, or `initial` where that
    /// is longer.
    #[schemars(extend("default" = "1h"))]
    pub max_interval: Field<Duration>,
    /// How long an event is tried, counted from its arrival, before it becomes a dead letter. Not less than `initial`.
    #[schemars(extend("default" = "72h"))]
    pub horizon: Field<Duration>,
}

/// Requests a second.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["per_second"]))]
pub(super) struct RateLimit {
    /// The steady rate. Not 0.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_second: Field<u32>,
    /// Requests that may come at once. Not 0. Default: `per_second`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Field<u32>,
}

/// What is kept of deliveries that have ended, for people to look at. Queued events and dead letters are always kept,
/// payload and all: none of this applies to them.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retain {
    /// Which payloads are kept beside the record: none, those of deliveries that failed, or all.
    #[schemars(extend("default" = "failed"))]
    pub payloads: Field<Payloads>,
    /// How long a record is kept, its payload with it. Not 0.
    #[serde(rename = "for")]
    #[schemars(extend("default" = "7d"))]
    pub keep: Field<Duration>,
    /// Records of a route and their payloads, at least 1MiB; above it the oldest go first. Queued events and dead
    /// letters don't count and never go.
    #[schemars(extend("default" = "1GiB"))]
    pub max_size: Field<ByteSize>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Payloads {
    None,
    Failed,
    All,
}
