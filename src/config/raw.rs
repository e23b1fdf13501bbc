//! The configuration as it is written: one type per mapping, one field per key.
//!
//! Parsing, the JSON Schema and `docs/configuration.md` all come from these types. A doc comment is
//! the reference's text and an editor's hover text: it says what the key does, and its default in
//! words where that follows from something else. Defaults and ranges are in `facts`. Only types are
//! checked here; `compile` checks the meaning.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::de::{Field, OneOrMore, Pairs, TEXT_OR_MAPPING, shorthand};
use super::facts;
use super::values::{
    Address, ByteSize, Duration, FileMode, ListenerAddress, Literal, Moment, Network, Proxy,
    SocketPath,
};
use crate::event::{IdNames, MissingId};
use crate::handshake::HandshakeResponder;
use crate::ledger::{InFlightPolicy, UnsignedPolicy};
use crate::log;
use crate::providers::PRESETS;
use crate::route::{DeliveryMode, OnDuplicate};
use crate::signature::{Algorithm, Encoding, KeyEncoding, TimeUnit};
use crate::store::{Durability, Payloads};

/// One YAML document with keys in `snake_case`. Four lines are enough: a route's `path`,
/// `provider`, `secrets` and `upstream`. An unknown or repeated key is an error.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(
    title = "hookstile configuration",
    extend("anyOf" = [{"required": ["routes"]}, {"required": ["routes_from"]}])
)]
pub(super) struct File {
    /// The listeners that receive webhooks.
    #[schemars(
        extend("default" = [{"address": facts::LISTEN_ADDRESS}]),
        length(min = 1)
    )]
    pub listen: Field<Vec<Field<Listen>>>,
    /// The listener for health checks, metrics, the admin API and the dashboard.
    pub admin: Field<Admin>,
    /// The storage of event IDs, queued events and delivery records. A change takes effect after a
    /// restart.
    pub store: Field<Store>,
    /// The treatment of dead letters.
    pub dead_letters: Field<DeadLetters>,
    /// The endpoint that is notified when a problem begins and when it has ended. A change takes
    /// effect after a restart. Default: nobody is notified.
    pub notify: Field<Notify>,
    /// Limits for the whole process.
    pub limits: Field<Limits>,
    /// The proxies in front of the gateway. The gateway accepts client addresses from these only:
    /// in `X-Forwarded-For`, and in the PROXY protocol header of a listener with `proxy_protocol`.
    /// The first `X-Forwarded-For` from another peer is logged. `unix` stands for everyone who
    /// connects to a listener on a Unix socket.
    #[schemars(extend("default" = []))]
    pub trusted_proxies: Field<Vec<Field<Proxy>>>,
    /// The treatment of a route's secret whose file cannot be read. With `true`, a start fails, and a
    /// reload is refused; all such files are listed. With `false`, a start takes the route off line
    /// and serves the others, and a reload keeps what was read last. Any other file that cannot be
    /// read, and an unset variable, always refuse the configuration.
    #[schemars(transform = facts::STRICT_START.schema())]
    pub strict_start: Field<bool>,
    /// Graceful shutdown: how long the process takes to stop after SIGTERM.
    pub shutdown: Field<Shutdown>,
    /// The log, which goes to standard error.
    pub log: Field<Log>,
    /// Defaults for all routes: any key of a route. A key that a route sets replaces the default as
    /// a whole; mappings and lists are not merged.
    pub defaults: Field<Route>,
    /// The routes. A request that matches none is answered with 404.
    #[schemars(length(min = 1))]
    pub routes: Field<Vec<Field<Route>>>,
    /// Files with more routes: patterns such as `routes.d/*.yaml`, relative to this file's folder.
    /// Each file is a list of routes, as `routes` is, and its own relative paths start from its own
    /// folder. `*` matches any characters but `/`, and no name that begins with a dot. The folders
    /// are watched: a file that is added, changed or removed is applied like a reload. Default:
    /// none.
    #[schemars(length(min = 1))]
    pub routes_from: Field<Vec<Field<String>>>,
}

/// A listener for webhooks over HTTP/1.1 and HTTP/2. A reload opens new listeners, closes removed
/// ones, and changes the others without closing their sockets. Certificate files are read again when
/// they change and on every reload.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["address"]))]
pub(super) struct Listen {
    /// The address to listen on: an IP address or a host's name with a port, or `unix:` and the path
    /// of a Unix socket. With port 0 the system chooses a free port. A name is resolved at the
    /// start, and all its addresses are listened on.
    pub address: Field<ListenerAddress>,
    /// The permissions of the file of a Unix socket: `"0660"` lets the gateway's user and group
    /// connect, `"0666"` everyone who can enter the folder.
    #[schemars(transform = facts::SOCKET_MODE.schema())]
    pub mode: Field<FileMode>,
    /// The server certificate, or a list of several. With several, a sender gets the one for the
    /// name that it asks for (SNI), or else the first. TLS 1.2 and 1.3. Default: no TLS.
    #[schemars(schema_with = "one_or_more::<Certificate>")]
    pub tls: Field<OneOrMore<Certificate>>,
    /// Mutual TLS: a PEM file with the CA certificates that sign the senders' client certificates,
    /// relative to this file's folder. A sender without such a certificate cannot connect. Needs
    /// `tls`. Default: no client certificates.
    pub client_ca: Field<String>,
    /// Set this to `true` behind a layer-4 load balancer, such as an AWS NLB, that sends a PROXY
    /// protocol header (version 2) at the start of each connection. The address in the header is
    /// then the client address for `allow_from`, limits, logs and `X-Forwarded-For`. Only
    /// `trusted_proxies` may connect, and they must send the header within `limits.header_timeout`;
    /// any other connection is closed without a response. Needs `trusted_proxies`.
    #[schemars(transform = facts::PROXY_PROTOCOL.schema())]
    pub proxy_protocol: Field<bool>,
}

/// A certificate and its private key, in PEM files. Both paths are relative to this file's folder.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["certificate", "key"]))]
pub(super) struct Certificate {
    /// The certificate, followed by the intermediate certificates (a `fullchain.pem`).
    pub certificate: Field<String>,
    /// The certificate's private key, without a passphrase: RSA, ECDSA or Ed25519.
    pub key: Field<String>,
}

/// The admin listener: health checks, metrics, the admin API and the dashboard.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    /// The address to listen on. An address that other machines can reach (not loopback) needs a
    /// `token`.
    #[schemars(transform = facts::ADMIN_ADDRESS.schema())]
    pub address: Field<Address>,
    /// The token that a request must carry, except for `/healthz`, `/readyz` and `/metrics`.
    /// Default: no token.
    pub token: Field<Reference>,
    /// A second token that may read everything and change nothing. Needs a `token`. Default: none.
    pub read_token: Field<Reference>,
    /// Additional host names that requests may use, such as the name of a proxy in front:
    /// `ops.example.com`. A change takes effect after a restart. Default: only the machine's own name, its addresses and `localhost`.
    #[schemars(length(min = 1))]
    pub hosts: Field<Vec<Field<String>>>,
    /// The upstreams that webhooks made over the API may use: URLs such as
    /// `http://127.0.0.1:3000/hooks` (that path and everything below it) or
    /// `https://*.internal.example.com`. Default: any. Link-local addresses, and the addresses at
    /// which cloud providers serve a machine's credentials, are never allowed.
    #[schemars(length(min = 1))]
    pub allowed_upstreams: Field<Vec<Field<String>>>,
    /// The maximum number of webhooks made over the API. At the limit, a new one is answered with
    /// 409.
    #[schemars(transform = facts::MAX_WEBHOOKS.schema())]
    pub max_webhooks: Field<usize>,
}

/// The storage of event IDs, queued events and delivery records: a folder, or a PostgreSQL
/// database.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Store {
    /// The folder of the embedded store, relative to this file's folder. Only one gateway can use
    /// it at a time. It is created if it does not exist.
    #[schemars(transform = facts::STORE_PATH.schema(), length(min = 1))]
    pub path: Field<String>,
    /// The guarantee behind a response: what must be safe before the sender gets it. With
    /// `postgres`, `relaxed` sets `synchronous_commit=off`.
    #[schemars(transform = facts::DURABILITY.schema())]
    pub durability: Field<Durability>,
    /// The maximum number of remembered event IDs. Each takes up to 21 bytes of memory. Above the
    /// limit, new events are answered with 503; no ID is forgotten early. With `postgres`, the count
    /// is an estimate from the server's statistics.
    #[schemars(transform = facts::MAX_IDS.schema())]
    pub max_ids: Field<usize>,
    /// The maximum disk space. Above it, new events are answered with 503; nothing is deleted
    /// early. With `postgres`, the limit is for the stored data, not for the disk space of the
    /// tables. Default: no limit but the disk.
    #[schemars(transform = facts::STORE_SIZE.schema())]
    pub max_size: Field<ByteSize>,
    /// Fail the start if there is no store, instead of creating an empty one. An empty one, where a
    /// volume was not mounted or a database was restored without its data, knows no event: every copy
    /// is forwarded again. Set it after the first start.
    #[schemars(transform = facts::MUST_EXIST.schema())]
    pub must_exist: Field<bool>,
    /// A PostgreSQL database that several gateways share. Replaces `path`.
    pub postgres: Field<Postgres>,
}

/// The database that several gateways share: one ledger and one queue. The gateway creates its
/// tables in the schema `hookstile`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url"]))]
pub(super) struct Postgres {
    /// A reference to the connection URL in libpq's form:
    /// `postgres://user:password@host:5432/database`. Separate several hosts with commas. TLS is
    /// required and the server's name is verified, unless the server is on this machine;
    /// `sslmode=disable` turns TLS off.
    pub url: Field<Reference>,
}

/// The endpoint that is notified of problems, for those who have no Prometheus: it gets
/// `hookstile.problem.began` and `hookstile.problem.ended`, signed by the Standard Webhooks scheme.
/// Problems of severity `notice` are not sent. A warning that becomes critical is sent again. Of
/// several gateways with one store, one sends.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url", "secret"]))]
pub(super) struct Notify {
    /// The URL that gets the notifications by POST. Anything but 2xx is retried, until an hour after
    /// the end of the problem.
    pub url: Field<String>,
    /// The secret that signs them: base64, with or without `whsec_` before it.
    pub secret: Field<Reference>,
    /// The time for which a problem must be there, or be critical, before that is sent.
    #[schemars(transform = facts::NOTIFY_BEGIN_AFTER.schema())]
    pub begin_after: Field<Duration>,
    /// The time for which a problem must be gone before its end is sent.
    #[schemars(transform = facts::NOTIFY_END_AFTER.schema())]
    pub end_after: Field<Duration>,
}

/// Limits for the whole process. They bound its memory, whatever senders do. A reload changes them
/// for requests and connections that begin from then on.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    /// The maximum number of open connections from senders. Lowered, with a warning, where the
    /// process may have too few open files: an eighth of those, at least 256, are kept for
    /// upstreams, the store and the admin listener.
    #[schemars(transform = facts::CONNECTIONS.schema())]
    pub connections: Field<usize>,
    /// The maximum number of open connections from one client address (with IPv6, from one /64
    /// network). `trusted_proxies` are exempt: list a proxy there if it carries connections of many
    /// senders.
    #[schemars(transform = facts::CONNECTIONS_PER_ADDRESS.schema())]
    pub connections_per_address: Field<usize>,
    /// The largest request head. A larger one is answered with 431.
    #[schemars(transform = facts::HEADER_BYTES.schema())]
    pub header_bytes: Field<ByteSize>,
    /// The maximum memory for request bodies, over all routes and as far as they have arrived,
    /// plus the heads of HTTP/2 requests. Above it, the oldest unverified request of the client
    /// that holds most is answered with 503. Must not be less than any route's `max_body`.
    #[schemars(transform = facts::BODY_BYTES_IN_FLIGHT.schema())]
    pub body_bytes_in_flight: Field<ByteSize>,
    /// The time a request head may take to arrive. If this key is not set, it is at most the
    /// shortest `budget` less `budget_margin` of any route.
    #[schemars(transform = facts::HEADER_TIMEOUT.schema())]
    pub header_timeout: Field<Duration>,
    /// The time a connection stays open between two requests.
    #[schemars(transform = facts::IDLE_TIMEOUT.schema())]
    pub idle_timeout: Field<Duration>,
}

/// Graceful shutdown after SIGTERM: first `drain`, then `grace`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    /// The time for which `/readyz` returns 503 while requests are still accepted, so that a load
    /// balancer stops sending new ones. Requests that are not verified within half a second after
    /// this time are cut off.
    #[schemars(transform = facts::DRAIN.schema())]
    pub drain: Field<Duration>,
    /// The time that verified requests in flight then have to finish. If this key is not set and a
    /// route has a longer `budget`, the longest budget applies.
    #[schemars(transform = facts::GRACE.schema())]
    pub grace: Field<Duration>,
}

/// The log, which goes to standard error. A change takes effect with a reload.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    /// The format of log lines. Default: `pretty` on a terminal, and else `json`.
    pub format: Field<log::Format>,
    /// The least severe level that is logged. At `debug`, the line of a request that does not
    /// verify has `secrets_tried`: the names of the secrets that did not fit.
    #[schemars(transform = facts::LOG_LEVEL.schema())]
    pub level: Field<LogLevel>,
}

/// A level of the log. It is not tracing's own type because that is not deserialised from text and
/// has a level `off`, which the format does not.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The dead letters of all routes.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DeadLetters {
    /// The redelivery of dead letters without an operator. With `when_healthy`, a dead letter is
    /// redelivered once its route has delivered another event since. Each is redelivered so once:
    /// one that becomes a dead letter again waits for an operator.
    #[schemars(transform = facts::REDELIVER_DEAD_LETTERS.schema())]
    pub redeliver: Field<AutomaticRedelivery>,
}

/// The condition for redelivering a dead letter automatically.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum AutomaticRedelivery {
    Never,
    WhenHealthy,
}

/// A route: one path, the provider that sends to it, the secrets, the upstream and the rules.
/// `path`, `secrets` and `upstream` are required, here or in `defaults`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Route {
    /// The route's unique name in metrics, logs and the ledger. A renamed route no longer knows the
    /// event IDs that it has seen, and its stored events wait under the old name until they are
    /// moved (`hookstile routes move`). Default: derived from the path; `/webhooks/vpn-enterprise`
    /// becomes `webhooks-vpn-enterprise`.
    #[schemars(transform = facts::NAME.schema())]
    pub name: Field<String>,
    /// The `Host` that requests must name, without a port. If two routes have the same path, one
    /// with a matching host has precedence over one without a host. Default: any host.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub host: Field<String>,
    /// The request path. It is compared byte for byte, without decoding or normalisation.
    #[schemars(regex(pattern = r"^/[!-~]*$"))]
    pub path: Field<String>,
    /// The accepted methods. A request with another is answered with 405. A GET with a body is
    /// accepted only on a route that lists `GET`.
    #[schemars(transform = facts::METHODS.schema(), length(min = 1))]
    pub methods: Field<Vec<Field<Method>>>,
    /// The provider that sends to this route. Its preset sets the signature scheme and the defaults
    /// of `event`, `budget`, `max_body` and `replay.on_duplicate`. Cannot be combined with
    /// `signature`.
    #[schemars(transform = provider_names, transform = facts::PROVIDER.schema())]
    pub provider: Field<String>,
    /// A custom signature scheme, for a sender without a preset. Replaces `provider`.
    pub signature: Field<Signature>,
    /// The secrets that senders may sign with. Each is tried, so that a secret can be rotated
    /// without rejecting an event.
    #[schemars(length(min = 1))]
    pub secrets: Field<Vec<Field<Reference>>>,
    /// The location of the event's ID, type and time in the request. Default: the provider's.
    pub event: Field<Event>,
    /// The event types to deliver; `*` matches any characters. Others are answered with 200 and
    /// dropped. Default: all.
    #[schemars(length(min = 1))]
    pub events: Field<Vec<Field<String>>>,
    /// The application that receives verified events: a URL, or a mapping with more settings.
    pub upstream: Field<Upstream>,
    /// Headers to set on every request to the upstream. They replace headers from the sender that a
    /// receiver could read as the same: letter case is ignored, and every character outside letters
    /// and digits counts as `-`. A value is text, or a reference to a secret such as the token of
    /// the application: `Authorization: {env: APP_AUTHORIZATION}`, with the whole value.
    pub headers: Field<Pairs<HeaderText>>,
    /// Set this to `true` to append the query string of the request to the upstream's URL.
    #[schemars(transform = facts::FORWARD_QUERY.schema())]
    pub forward_query: Field<bool>,
    /// The way events are delivered: immediately, from the queue, or both.
    #[schemars(transform = facts::DELIVERY.schema())]
    pub delivery: Field<DeliveryMode>,
    /// The status of the response once an event is stored (`delivery: queue` or `spill`). A
    /// provider's preset may set another default: `orbvpn` has 200.
    #[schemars(transform = facts::ACCEPT_STATUS.schema())]
    pub accept_status: Field<u16>,
    /// The time one attempt to deliver a stored event may take. Default: the route's `budget`.
    #[schemars(transform = facts::ATTEMPT_TIMEOUT.schema())]
    pub attempt_timeout: Field<Duration>,
    /// The time the sender waits for a response, counted from the first byte of the request. A
    /// provider's preset may set another default.
    #[schemars(transform = facts::BUDGET.schema())]
    pub budget: Field<Duration>,
    /// The part of the budget that is kept in reserve, so that the response is written in time.
    /// Must be less than `budget`.
    #[schemars(transform = facts::BUDGET_MARGIN.schema())]
    pub budget_margin: Field<Duration>,
    /// The largest request body. A larger one is answered with 413. A provider's preset may set
    /// another default.
    #[schemars(transform = facts::MAX_BODY.schema(), transform = facts::describe_stored_body)]
    pub max_body: Field<ByteSize>,
    /// Replay protection: how long event IDs are remembered, and how duplicates are answered.
    pub replay: Field<Replay>,
    /// The retry schedule of stored events. With `delivery: proxy` it applies only to events that
    /// an operator redelivers.
    pub retry: Field<Retry>,
    /// The maximum number of concurrent requests to the upstream. Above it, requests are answered
    /// with 503, or stored with `delivery: spill`.
    #[schemars(
        transform = facts::CONCURRENCY.schema(),
        transform = facts::describe_queue_concurrency
    )]
    pub concurrency: Field<usize>,
    /// The maximum number of requests per second to the upstream or the queue. Above it, requests
    /// are answered with 429. Requests that do not verify, duplicates and events that the route
    /// ignores do not count, so only the sender can use up this rate. Default: no limit.
    pub rate_limit: Field<RateLimit>,
    /// The maximum number of requests per second that do not verify, from one client address (with
    /// IPv6, from one /64 network). Above it, they are answered with 429 instead of 401 and, if
    /// their signature is missing or malformed, without reading the body. Requests that verify
    /// always pass. Default: no limit.
    pub unverified_rate_limit: Field<RateLimit>,
    /// The networks that senders may connect from. Requests from other addresses are answered with
    /// 403. Default: any.
    #[schemars(length(min = 1))]
    pub allow_from: Field<Vec<Field<Network>>>,
    /// The treatment of the provider's handshake. Default: the gateway answers it.
    pub challenge: Field<Challenge>,
    /// The provider's probes that the gateway answers itself: requests without a body by which some
    /// providers ask whether the endpoint exists. They are not signed, and never reach the upstream.
    /// A method may not be in `methods` too. Default: none, so they are answered with 405.
    pub probes: Field<Probes>,
    /// Set this to `true` to leave out the body of the gateway's own responses, as Xero requires.
    /// Responses of the upstream are passed back as they are.
    #[schemars(transform = facts::EMPTY_RESPONSES.schema())]
    pub empty_responses: Field<bool>,
    /// The public URL of this route, exactly as it was entered at the provider. Required if the
    /// provider signs the URL (Square).
    pub public_url: Field<String>,
    /// Set this to `false` to forward requests with a bad signature instead of rejecting them. They
    /// are marked with `Hookstile-Verified: false`, bypass the ledger and the store, and are
    /// counted. `hookstile rejections list` shows why they would be rejected. Use it to try the
    /// gateway in front of an application that checks signatures itself.
    #[schemars(transform = facts::ENFORCE.schema())]
    pub enforce: Field<bool>,
    /// The retention of records and payloads of ended deliveries.
    pub retain: Field<Retain>,
    /// The longest normal pause between two verified events. If none arrives for longer, and the
    /// gateway has run for that long, `hookstile_route_silent` is 1 and the log and `hookstile
    /// status` report it. Default: not monitored.
    #[schemars(transform = facts::TIME_SPAN.schema())]
    pub expect_every: Field<Duration>,
    /// The capture of rejected requests, and of those that `enforce: false` lets pass, whole: with
    /// their signature and body, in memory, for `hookstile capture`. Default: nothing is captured.
    pub capture: Field<Capture>,
}

/// A method that a route can accept. It is not `http`'s own type because that takes any token as a
/// method.
#[derive(Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(inline)]
pub(super) enum Method {
    Post,
    Put,
    Patch,
    Get,
    Delete,
}

/// A custom signature scheme, for a sender without a preset. The signature is in a `header`, in a
/// `field` of the body, or in either: then the header has precedence if the request has it.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("anyOf" = [{"required": ["header"]}, {"required": ["field"]}]))]
pub(super) struct Signature {
    /// The header that carries the signature. A request must have it exactly once.
    pub header: Field<String>,
    /// A JSON pointer (RFC 6901) to the member of the body that holds the signature. The member,
    /// and the comma that joins it to the others, is cut out byte for byte; the rest is `{body}`.
    #[schemars(regex(pattern = "^/"))]
    pub field: Field<String>,
    /// The form in which the rest of the body is signed once `field` is cut out. `json`: without
    /// white space between tokens. Default: byte for byte.
    pub canonical: Field<Canonical>,
    /// The signature algorithm.
    #[schemars(transform = facts::ALGORITHM.schema())]
    pub algorithm: Field<Algorithm>,
    /// The text form of the signature.
    #[schemars(transform = facts::ENCODING.schema())]
    pub encoding: Field<Encoding>,
    /// A prefix to remove from the signature if it is there, such as `sha256=`.
    #[schemars(transform = facts::NO_PREFIX.schema())]
    pub prefix: Field<String>,
    /// The fields of the header, if it holds several, such as `t=1700000000,v1=5257…`. Default: the
    /// whole header is the signature.
    pub fields: Field<SignatureFields>,
    /// The signed content: a template with `{body}` exactly once. It may also have `{timestamp}`
    /// and `{id}` (the event ID's header), both as they were sent, and `{url}` (the route's
    /// `public_url`).
    #[schemars(transform = facts::SIGNED.schema())]
    pub signed: Field<String>,
    /// The signed timestamp. Default: the field that `fields.timestamp` names, or none.
    pub timestamp: Field<SignatureTimestamp>,
    /// The way a secret's text becomes key bytes.
    #[schemars(transform = facts::SECRET_ENCODING.schema())]
    pub secret_encoding: Field<KeyEncoding>,
    /// A prefix to remove from a secret before it is decoded, if it is there, such as `whsec_`.
    #[schemars(transform = facts::NO_PREFIX.schema())]
    pub strip_prefix: Field<String>,
}

/// The fields of a signature header.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["signature"]))]
pub(super) struct SignatureFields {
    /// The name of the field that holds a signature. The header may have several such fields; the
    /// first 16 are tried.
    pub signature: Field<String>,
    /// The name of the field that holds the signed timestamp, in the format of `timestamp.unit`.
    /// Default: none.
    pub timestamp: Field<String>,
    /// The character between two fields.
    #[schemars(transform = facts::SEPARATOR.schema(), length(min = 1, max = 1))]
    pub separator: Field<String>,
    /// The character between a field's name and its value.
    #[schemars(transform = facts::ASSIGN.schema(), length(min = 1, max = 1))]
    pub assign: Field<String>,
}

/// The signed timestamp.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SignatureTimestamp {
    /// The header that holds the timestamp. A request must have it exactly once. Cannot be combined
    /// with `fields.timestamp`.
    pub header: Field<String>,
    /// The format of the timestamp.
    #[schemars(transform = facts::TIME_UNIT.schema())]
    pub unit: Field<TimeUnit>,
    /// The accepted difference from the current time, in the past and in the future.
    #[schemars(transform = facts::TOLERANCE.schema())]
    pub tolerance: Field<Duration>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum Canonical {
    Json,
}

/// The treatment of a provider's handshake: the request with which it checks that an endpoint
/// exists before it sends events. Text is the `mode`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[schemars(transform = or_mode)]
pub(super) struct Challenge {
    /// The side that answers the handshake.
    #[schemars(transform = facts::CHALLENGE_MODE.schema())]
    pub mode: Field<HandshakeResponder>,
    /// The token that authenticates an unsigned handshake (Meta's `hub.verify_token`). Default:
    /// unsigned handshakes are rejected.
    pub verify_token: Field<Reference>,
}

/// The responses to a provider's probes, by method. Each has no body.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Probes {
    /// The response to a HEAD request (Trello).
    #[serde(rename = "HEAD")]
    pub head: Field<Probe>,
    /// The response to a GET request.
    #[serde(rename = "GET")]
    pub get: Field<Probe>,
    /// The response to an OPTIONS request (Azure Event Grid). It also lists the accepted methods in
    /// `Allow`.
    #[serde(rename = "OPTIONS")]
    pub options: Field<Probe>,
}

/// The response to a probe. A number is the `status`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[schemars(transform = or_status)]
pub(super) struct Probe {
    /// The status.
    #[schemars(transform = facts::PROBE_STATUS.schema())]
    pub status: Field<u16>,
    /// Headers of the response, such as `WebHook-Allowed-Origin`. Default: none.
    pub headers: Field<Pairs<String>>,
}

/// A reference to a secret: exactly one of `env`, `file` and `value`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["env"]}, {"required": ["file"]}, {"required": ["value"]}
]))]
pub(super) struct Reference {
    /// The name of the environment variable that holds the secret.
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub env: Field<String>,
    /// The file that holds the secret, relative to this file's folder. One newline at its end is
    /// removed. The file is watched, and a changed one is applied like a reload. While a route's
    /// secret cannot be read, its last content stays in effect, or else the route is off line.
    pub file: Field<String>,
    /// The secret itself. It works, but `hookstile check` warns: anyone who can read this file has
    /// the secret.
    pub value: Field<Literal>,
    /// The secret's name in metrics and logs, which show when a rotation is complete. Unique within
    /// its route. Default: the name of the variable or file, or `secret-N`.
    #[schemars(transform = facts::NAME.schema())]
    pub name: Field<String>,
    /// The time from which the secret is no longer accepted. Default: never.
    pub expires: Field<Moment>,
}

/// The value of a header: text, or a reference to it.
pub(super) enum HeaderText {
    Text(String),
    Secret(Reference),
}

impl<'de> Deserialize<'de> for HeaderText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrReference;

        impl<'de> Visitor<'de> for TextOrReference {
            type Value = HeaderText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or a reference: `{env: NAME}` or `{file: PATH}`")
            }

            fn visit_str<E>(self, text: &str) -> Result<HeaderText, E> {
                Ok(HeaderText::Text(text.into()))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                reference: D,
            ) -> Result<HeaderText, D::Error> {
                Reference::deserialize(reference).map(HeaderText::Secret)
            }
        }

        deserializer.deserialize_newtype_struct(TEXT_OR_MAPPING, TextOrReference)
    }
}

impl JsonSchema for HeaderText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HeaderText".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let reference = generator.subschema_for::<Reference>();
        schemars::json_schema!({"anyOf": [reference, {"type": "string"}]})
    }
}

/// The location of an event's ID, type and time in the request.
#[expect(clippy::struct_field_names, reason = "`type` is a keyword")]
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Event {
    /// The event ID, by which duplicates are recognised. If a header holds it and is not signed, an
    /// event is known by ID, type and body together. Default: the provider's, or `/id`.
    pub id: Field<EventId>,
    /// The event type. Default: the provider's, or `/type`.
    #[serde(rename = "type")]
    pub event_type: Field<EventSource>,
    /// The treatment of a message without an ID, such as a sender's control message. The provider's
    /// preset may set another default.
    #[schemars(transform = facts::MISSING_ID.schema())]
    pub missing_id: Field<MissingId>,
    /// The event type of a message without a type. Default: the provider's, or none: such a message
    /// is rejected.
    pub default_type: Field<String>,
    /// The time of the event: RFC 3339, or Unix time in seconds or milliseconds. Default: the
    /// provider's, or none.
    pub timestamp: Field<EventSource>,
    /// The largest accepted difference between the event's time and now, in the past or the future.
    /// Events further away are rejected. Needs `timestamp`. Default: not checked, because providers
    /// retry old events for days.
    #[schemars(transform = facts::TIME_SPAN.schema())]
    pub max_age: Field<Duration>,
}

/// The location of the event ID: exactly one of `pointer`, `header`, `body_digest` and `none`.
/// Text, or a list of texts, is the `pointer`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[schemars(transform = or_pointers)]
pub(super) struct EventId {
    /// A JSON pointer (RFC 6901) into the signed body; or a list of them, whose values are joined.
    #[schemars(schema_with = "one_or_more::<String>")]
    pub pointer: Field<OneOrMore<String>>,
    /// The name of a header.
    pub header: Field<String>,
    /// Set this to `true` for a sender without event IDs: the same body is then the same event,
    /// unless it has another signed time.
    #[schemars(extend("const" = true))]
    pub body_digest: Field<bool>,
    /// Set this to `true` if the same body is no reason to take two requests for one event. Every
    /// event is then delivered, also a replay, with `Hookstile-Possible-Replay: true`.
    #[schemars(extend("const" = true))]
    pub none: Field<bool>,
    /// The thing that the ID names. An `object`, such as a message or an order, has several events:
    /// then an event is known by ID, type and body together.
    #[schemars(transform = facts::ID_NAMES.schema())]
    pub names: Field<IdNames>,
}

/// The location of the event's type or time: exactly one of the keys. Text is the `pointer`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[schemars(transform = or_pointer)]
pub(super) struct EventSource {
    /// A JSON pointer (RFC 6901) into the signed body.
    pub pointer: Field<String>,
    /// The name of a header.
    pub header: Field<String>,
}

/// The application behind the gateway. Text is the `url`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[schemars(transform = or_url, extend("required" = ["url"]))]
pub(super) struct Upstream {
    /// The URL: `http://` or `https://`, without user information or fragment. The certificate of
    /// an `https` upstream is always verified.
    pub url: Field<String>,
    /// A PEM file with the CA certificates for the upstream's certificate, relative to this file's
    /// folder. A self-signed certificate of the upstream itself may be among them. The file is
    /// watched. Default: the system's CA certificates.
    pub ca: Field<String>,
    /// The path of a Unix socket to connect to, in place of the host and the port in `url`. The
    /// `url` then gives the `Host` header and the path. Default: a connection over TCP.
    pub socket: Field<SocketPath>,
    /// The time that connecting may take: the look-up of the name, all addresses that are tried, and
    /// the TLS handshake. Default: the rest of the budget.
    #[schemars(transform = facts::CONNECT_TIMEOUT.schema())]
    pub connect_timeout: Field<Duration>,
}

/// Lets a list of one item be written as that item.
fn one_or_more<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let one = generator.subschema_for::<T>();
    schemars::json_schema!({"anyOf": [{"type": "array", "items": one, "minItems": 1}, one]})
}

fn provider_names(schema: &mut Schema) {
    let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
    schema.insert("enum".into(), names.into());
}

fn or_pointer(schema: &mut Schema) {
    schema.insert("minProperties".into(), 1.into());
    schema.insert("maxProperties".into(), 1.into());
    or_text(schema, "^/");
}

fn or_pointers(schema: &mut Schema) {
    schema.insert("minProperties".into(), 1.into());
    schema.insert("maxProperties".into(), 2.into());
    let mapping = std::mem::take(schema);
    let pointer = serde_json::json!({"type": "string", "pattern": "^/"});
    *schema = schemars::json_schema!({"anyOf": [
        pointer,
        {"type": "array", "items": pointer, "minItems": 1},
        mapping,
    ]});
}

fn or_url(schema: &mut Schema) {
    or_text(schema, "^https?://");
}

fn or_mode(schema: &mut Schema) {
    or_text(schema, "^(answer|forward)$");
}

/// Lets the status alone replace the mapping that `schema` describes.
fn or_status(schema: &mut Schema) {
    let mapping = std::mem::take(schema);
    let statuses = facts::PROBE_STATUS.0;
    *schema = schemars::json_schema!({"anyOf": [{"enum": statuses}, mapping]});
}

/// Lets text that matches `pattern` replace the mapping that `schema` describes.
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

                    fn visit_newtype_struct<D: Deserializer<'de>>(
                        self,
                        mapping: D,
                    ) -> Result<$type, D::Error> {
                        // This calls serde's derived function, not this one: `remote = "Self"`
                        // makes the derive define it as an inherent function.
                        $type::deserialize(mapping)
                    }
                }

                deserializer.deserialize_newtype_struct(shorthand!($key), TextOrMapping)
            }
        })*
    };
}

may_be_text!(
    Challenge: "mode",
    EventId: "pointer",
    EventSource: "pointer",
    Probe: "status",
    Upstream: "url"
);

/// Replay protection: how long event IDs are remembered, and how duplicates are answered.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Replay {
    /// The time for which the ID of a completed event is remembered. Must not be shorter than the
    /// time for which the provider retries an event (VPN Enterprise: 72h). Should not be shorter
    /// than `retry.horizon`, or a copy of an event that is still queued may count as a new event.
    #[schemars(transform = facts::WINDOW.schema())]
    pub window: Field<Duration>,
    /// The response to a duplicate of a completed event. A provider's preset may set another
    /// default.
    #[schemars(transform = facts::ON_DUPLICATE.schema())]
    pub on_duplicate: Field<OnDuplicate>,
    /// The treatment of a copy that arrives while the first one is still in flight.
    #[schemars(transform = facts::IN_FLIGHT.schema())]
    pub in_flight: Field<InFlightPolicy>,
    /// The treatment of a body that was delivered before and comes again under another ID or type
    /// that is not signed, or with a new signed time.
    #[schemars(transform = facts::UNSIGNED.schema())]
    pub unsigned: Field<UnsignedPolicy>,
}

/// The retry schedule of stored events: exponential backoff with full jitter. The pause before an
/// attempt is a random part of a limit that grows with each attempt. A `Retry-After` from the
/// upstream has precedence.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retry {
    /// The longest pause before the second attempt. If this key is not set and `max_interval` or
    /// `horizon` is shorter, the shortest of those applies.
    #[schemars(transform = facts::RETRY_INITIAL.schema())]
    pub initial: Field<Duration>,
    /// The factor by which the longest pause grows with each attempt.
    #[schemars(transform = facts::RETRY_FACTOR.schema())]
    pub factor: Field<f64>,
    /// The longest pause between any two attempts; it also limits `Retry-After`. Must not be
    /// shorter than `initial`. If this key is not set and `initial` is longer, `initial` applies.
    #[schemars(transform = facts::RETRY_MAX_INTERVAL.schema())]
    pub max_interval: Field<Duration>,
    /// The time after an event's arrival at which it is no longer retried and becomes a dead
    /// letter. Must not be shorter than `initial`.
    #[schemars(transform = facts::RETRY_HORIZON.schema())]
    pub horizon: Field<Duration>,
    /// The treatment of 4xx responses, except 408, 409, 425 and 429.
    pub permanent: Field<Permanent>,
}

/// The point at which a stored event that the upstream answers with a 4xx becomes a dead letter.
/// After 413, 415 and 422 that is `attempts`. After any other 4xx it is both `attempts` and
/// `at_least`, because an upstream that is being deployed may answer 404 for a while. 408, 409, 425
/// and 429 are retried up to `horizon`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Permanent {
    /// The number of attempts that an event gets at least.
    #[schemars(transform = facts::PERMANENT_ATTEMPTS.schema())]
    pub attempts: Field<u32>,
    /// The time after an event's arrival for which it is retried at least. With more than
    /// `horizon`, `horizon` decides.
    #[schemars(transform = facts::PERMANENT_AT_LEAST.schema())]
    pub at_least: Field<Duration>,
}

/// The maximum number of requests per second, as a token bucket.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["per_second"]))]
pub(super) struct RateLimit {
    /// The sustained rate.
    #[schemars(transform = facts::RATE.schema())]
    pub per_second: Field<u32>,
    /// The number of requests that may arrive at once. Default: `per_second`.
    #[schemars(transform = facts::RATE.schema())]
    pub burst: Field<u32>,
}

/// The retention of records and payloads of ended deliveries, for inspection. Queued events and
/// dead letters are always kept with their payloads.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Retain {
    /// The payloads that are kept beside the records, with the first 4 KiB of the upstream's responses
    /// to failed attempts.
    #[schemars(transform = facts::RETAIN_PAYLOADS.schema())]
    pub payloads: Field<Payloads>,
    /// The time for which a record and its payload are kept.
    #[serde(rename = "for")]
    #[schemars(transform = facts::RETAIN_FOR.schema())]
    pub keep: Field<Duration>,
    /// The maximum space for the route's records and payloads, responses included. Above it, the oldest are deleted
    /// first. Queued events and dead letters do not count and are never deleted.
    #[schemars(transform = facts::RETAIN_SIZE.schema())]
    pub max_size: Field<ByteSize>,
}

/// The bounds of the requests that are captured: those that are rejected as `invalid_signature` or
/// `invalid_event` after their body was read. If a bound is reached, the oldest request of the
/// client with the most is removed. Only the admin token can fetch them, and each fetch is audited.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Capture {
    /// The maximum number of requests.
    #[schemars(transform = facts::CAPTURE_REQUESTS.schema())]
    pub requests: Field<usize>,
    /// The maximum number of bytes of all these requests together. A request that is larger alone
    /// is not captured. All routes together hold at most 64MiB.
    #[schemars(transform = facts::CAPTURE_BYTES.schema())]
    pub bytes: Field<ByteSize>,
    /// The time for which a request is kept.
    #[serde(rename = "for")]
    #[schemars(transform = facts::CAPTURE_FOR.schema())]
    pub keep: Field<Duration>,
}
