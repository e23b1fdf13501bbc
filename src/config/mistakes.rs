//! The mistakes of people who write a configuration by heart, and the advice for each.
//!
//! Owns words only: what other programs call a key or a value, and how a key is written whose value
//! has the wrong shape. `de` and `compile` ask for the advice where they report the mistake.

use std::rc::Rc;

use super::diagnostics::{Diagnostic, Problems};
use super::redact::{bare_variable, is_variable};
use super::tree::{Node, Value};

/// The advice for keys that a mapping does not have.
struct Synonyms {
    /// The mapping's type in `raw`.
    mapping: &'static str,
    /// What people write, in lower case and without `_`, with a space between two of them.
    words: &'static str,
    /// The key of the mapping that is meant; empty if it has none.
    key: &'static str,
    advice: &'static str,
}

/// The advice for a key that its mapping does not have.
#[derive(Clone, Copy)]
pub(super) struct KeyAdvice {
    /// The key of the mapping that is meant; empty if it has none.
    pub key: &'static str,
    pub text: &'static str,
}

/// Makes the table out of `Mapping: "words" => "key", "advice";`.
macro_rules! synonyms {
    ($($mapping:ident: $words:literal => $key:literal, $advice:literal;)*) => {
        const SYNONYMS: &[Synonyms] = &[$(Synonyms {
            mapping: stringify!($mapping),
            words: $words,
            key: $key,
            advice: $advice,
        }),*];
    };
}

synonyms! {
    // Top level
    File: "port bind bindaddress address host server http listeners"
        => "listen", "write `listen: [{address: 0.0.0.0:8080}]`";
    File: "webhooks webhook hooks endpoints paths sources services"
        => "routes", "write `routes:`";
    File: "include includes import imports routesfile routefiles"
        => "routes_from", "write `routes_from: [routes.d/*.yaml]`";
    File: "logging loglevel verbose verbosity debug level"
        => "log", "write `log: {level: info}`";
    File: "database databaseurl db postgres postgresql"
        => "store", "write `store: {postgres: {url: {env: DATABASE_URL}}}`";
    File: "storage datadir data statedir"
        => "store", "write `store: {path: ./hookstile-data}`";
    File: "upstream upstreams backend backends targets destinations"
        => "", "each route has its own `upstream`; one for all routes: `defaults: {upstream: URL}`";
    File: "proxies trustedips trustproxy realipfrom setrealipfrom"
        => "trusted_proxies", "write `trusted_proxies: [10.0.0.0/8]`";
    File: "dashboard ui api prometheus health healthcheck adminaddress"
        => "admin", "the admin listener has it: `admin: {address: 127.0.0.1:9180}`";
    File: "version"
        => "", "the file has no version; remove this line";
    File: "timeout timeouts retries maxretries"
        => "",
        "each route has its own `budget` and `retry`; for all routes, put them below \
         `defaults`";
    // `listen[]`
    Listen: "port host bind addr ip listen url"
        => "address", "write `address: 0.0.0.0:8080`: an IP address and a port";
    Listen: "ssl cert certificate certificates certfile key keyfile https"
        => "tls", "write `tls: {certificate: tls.crt, key: tls.key}`";
    Certificate: "cert crt certfile chain fullchain public file"
        => "certificate", "write `certificate: tls.crt`";
    Certificate: "privatekey keyfile private pem"
        => "key", "write `key: tls.key`";
    // `admin`
    Admin: "port host bind addr listen url"
        => "address", "write `address: 127.0.0.1:9180`: an IP address and a port";
    Admin: "password secret apikey key auth bearer tokenenv"
        => "token", "write `token: {env: HOOKSTILE_ADMIN_TOKEN}`";
    // `store`
    Store: "dir folder directory datadir file location"
        => "path", "write `path: ./hookstile-data`";
    Store: "url dsn database databaseurl connection postgresql"
        => "postgres", "write `postgres: {url: {env: DATABASE_URL}}`";
    Store: "type engine driver backend kind"
        => "", "set `path` for a folder, or `postgres` for a database; remove this line";
    Postgres: "dsn uri database host env file connection"
        => "url", "write `url: {env: DATABASE_URL}`, a reference to the whole connection URL";
    // `limits`, `shutdown`, `log`
    Limits: "maxconnections maxconns"
        => "connections", "write `connections`";
    Limits: "maxbody maxbodysize bodysize bodybytes requestsize"
        => "", "each route has its own `max_body`; for all routes: `defaults: {max_body: 1MiB}`";
    Limits: "keepalive keepalivetimeout readtimeout"
        => "idle_timeout",
        "write `idle_timeout`, the time between two requests, or `header_timeout`";
    Shutdown: "timeout graceperiod gracefultimeout"
        => "grace", "write `grace: 15s`";
    Log: "output file path destination target"
        => "",
        "the log goes to standard error; remove this line, and redirect it to where you want \
         it";
    Log: "json pretty style encoding type"
        => "format", "write `format: json`, or `format: pretty`";
    Log: "verbosity severity debug"
        => "level", "write `level: info`";
    // `routes[]`
    Route: "timeout deadline requesttimeout responsetimeout readtimeout"
        => "budget",
        "write `budget` (the time the sender waits), or `attempt_timeout` (one attempt from \
         the queue)";
    Route: "retries retrycount maxretries maxattempts attempts retrypolicy backoff numretries"
        => "retry", "events are retried for a time, not a number of times: `retry: {horizon: 72h}`";
    Route:
        "url target targeturl backend forwardto forward destination proxypass upstreamurl to \
         application app upstreams"
        => "upstream", "write `upstream: http://127.0.0.1:3000/hooks`";
    Route:
        "secretenv secretkey signingsecret signingkey webhooksecret key keys env token \
         password"
        => "secrets", "write `secrets: [{env: WEBHOOK_SECRET}]`";
    Route: "secretfile secretpath file"
        => "secrets", "write `secrets: [{file: PATH}]`";
    Route:
        "maxsize maxbodysize bodylimit bodysize clientmaxbodysize limit limits maxpayload \
         maxbytes"
        => "max_body", "write `max_body: 1MiB`";
    Route: "enabled disabled active disable enable"
        => "", "a route in the file is on; to turn it off, put `#` before each of its lines";
    Route: "hostname domain servername hosts vhost"
        => "host", "write `host: hooks.example.com`";
    Route: "uri route location endpoint prefix urlpath pathprefix match"
        => "path", "write `path: /webhooks/billing`";
    Route: "verb verbs httpmethod"
        => "methods", "write `methods: [POST]`";
    Route: "type preset source sender kind service vendor scheme"
        => "provider", "write `provider`, or `signature` for a sender without a preset";
    Route: "allowlist whitelist ipallowlist allowedips allow allowips sourceips"
        => "allow_from", "write `allow_from: [203.0.113.0/24]`";
    Route: "rate rps throttle ratelimiting maxrps ratelimitpersecond"
        => "rate_limit", "write `rate_limit: {per_second: 100}`";
    Route: "maxconcurrency workers parallelism maxinflight maxconnections"
        => "concurrency", "write `concurrency: 32`";
    Route: "mode deliverymode async queue queued sync spill"
        => "delivery", "write `delivery: proxy`, `queue` or `spill`";
    Route: "dedupe dedup deduplicate deduplication idempotency idempotent ttl"
        => "replay", "write `replay: {window: 96h}`";
    Route: "verify verification verifysignature skipverification insecure"
        => "enforce", "requests are always verified; for a trial without: `enforce: false`";
    Route: "responsestatus status statuscode responsecode"
        => "accept_status", "write `accept_status: 200`, for stored events";
    Route: "filter filters eventtypes types topics include"
        => "events", "write `events: [\"user.*\"]`";
    Route: "retention keep history storepayloads"
        => "retain", "write `retain: {payloads: failed, for: 7d}`";
    Route: "id label title description"
        => "name", "write `name: billing`";
    Route: "auth bearer authorization setheaders requestheaders addheaders"
        => "headers", "write `headers: {Name: value}`";
    // Below a route
    Upstream: "uri address host target path endpoint port scheme"
        => "url", "write `url: http://127.0.0.1:3000/hooks`: the whole URL";
    Upstream: "timeout requesttimeout readtimeout responsetimeout"
        => "connect_timeout",
        "write `connect_timeout`, or for the whole request `budget` beside `upstream`";
    Upstream: "tls insecure verify tlsverify skipverify cafile cert"
        => "ca", "certificates are always verified; to trust one of your own: `ca: ca.pem`";
    Reference: "var variable environment envvar fromenv secretenv id secret key"
        => "env",
        "write `{env: NAME}`, with the name of an environment variable, or `{file: PATH}`";
    Reference: "path fromfile secretfile filename"
        => "file", "write `{file: PATH}`";
    Reference: "literal text plain inline content"
        => "value",
        "write `{value: LITERAL}`, or better `{env: NAME}`: anyone who can read this file has \
         it";
    Reference: "until expiry expiresat validuntil notafter"
        => "expires", "write `expires: 2026-12-31T00:00:00Z`";
    Retry: "max maxattempts maxretries attempts count limit retries maxage timeout for until"
        => "horizon", "events are retried for a time, not a number of times: `horizon: 72h`";
    Retry: "delay interval wait mininterval initialinterval initialdelay base"
        => "initial", "write `initial: 5s`";
    Retry: "maxdelay maxbackoff maxwait"
        => "max_interval", "write `max_interval: 1h`";
    Retry: "backoff multiplier exponent backofffactor"
        => "factor", "write `factor: 2`";
    Replay: "ttl retention for duration period horizon"
        => "window", "write `window: 96h`";
    Replay: "duplicates duplicate ondup response"
        => "on_duplicate", "write `on_duplicate: reject`, or `acknowledge`";
    RateLimit: "rate rps limit requests max requestspersecond perminute"
        => "per_second", "write `per_second: 100`";
    Retain: "days ttl duration period time window"
        => "for", "write `for: 7d`";
    Retain: "size limit bytes"
        => "max_size", "write `max_size: 1GiB`";
    Signature: "algo hash digest hmac method"
        => "algorithm", "write `algorithm: hmac-sha256`";
    Signature: "secret secrets key env"
        => "", "the route has the secrets, beside `signature`: `secrets: [{env: WEBHOOK_SECRET}]`";
    Signature: "format"
        => "encoding", "write `encoding: hex`, or `base64`";
    Signature: "template payload content message signedcontent"
        => "signed", "write `signed: \"{timestamp}.{body}\"`";
}

/// The words of other programs for a value, in lower case and with a space between two of them, and
/// the value that is meant.
const VALUES: &[(&str, &str)] = &[
    ("warning", "warn"),
    ("fatal critical err off none", "error"),
    ("verbose all", "debug"),
    ("text plain console logfmt human", "pretty"),
    ("async store background store-and-forward", "queue"),
    ("sync direct forward pass", "proxy"),
    ("fallback overflow hybrid", "spill"),
    ("ignore ok accept drop skip", "acknowledge"),
    ("deny block refuse conflict", "reject"),
    ("sha256 hmac hmac_sha256", "hmac-sha256"),
    ("sha1 hmac_sha1", "hmac-sha1"),
    ("sha512 hmac_sha512", "hmac-sha512"),
];

/// The way in which a key is written whose value has the wrong shape: a key with a list or a
/// mapping.
const EXAMPLES: &[(&str, &str)] = &[
    ("listen", "`listen: [{address: 0.0.0.0:8080}]`"),
    ("tls", "`tls: {certificate: tls.crt, key: tls.key}`"),
    ("admin", "`admin: {address: 127.0.0.1:9180}`"),
    ("hosts", "`hosts: [ops.example.com]`"),
    (
        "allowed_upstreams",
        "`allowed_upstreams: [\"http://127.0.0.1:3000/hooks\"]`",
    ),
    ("store", "`store: {path: ./hookstile-data}`"),
    ("postgres", "`postgres: {url: {env: DATABASE_URL}}`"),
    ("dead_letters", "`dead_letters: {redeliver: when_healthy}`"),
    ("limits", "`limits: {connections: 10000}`"),
    ("trusted_proxies", "`trusted_proxies: [10.0.0.0/8]`"),
    ("shutdown", "`shutdown: {drain: 5s, grace: 15s}`"),
    ("log", "`log: {level: info}`"),
    ("defaults", "`defaults: {max_body: 1MiB}`"),
    ("routes_from", "`routes_from: [routes.d/*.yaml]`"),
    (
        "routes",
        "`routes:`, and below it `- path: /webhooks/billing` with the route's other keys",
    ),
    ("methods", "`methods: [POST]`"),
    ("signature", "`signature: {header: X-Signature}`"),
    ("fields", "`fields: {signature: v1, timestamp: t}`"),
    ("timestamp", "`timestamp: {header: X-Timestamp}`"),
    (
        "secrets",
        "`secrets: [{env: WEBHOOK_SECRET}]`, or `{file: PATH}`",
    ),
    ("event", "`event: {id: /id, type: /type}`"),
    ("events", "`events: [\"user.*\"]`"),
    ("headers", "`headers: {X-Custom-Header: value}`"),
    ("probes", "`probes: {HEAD: 200}`"),
    ("replay", "`replay: {window: 96h}`"),
    ("retry", "`retry: {initial: 5s, horizon: 72h}`"),
    ("permanent", "`permanent: {attempts: 3}`"),
    ("rate_limit", "`rate_limit: {per_second: 100}`"),
    (
        "unverified_rate_limit",
        "`unverified_rate_limit: {per_second: 10}`",
    ),
    ("allow_from", "`allow_from: [203.0.113.0/24]`"),
    ("retain", "`retain: {payloads: failed, for: 7d}`"),
];

/// Returns the advice for a key that `mapping` does not have, if people use it for another one.
pub(super) fn advice_for_key(mapping: &str, word: &str) -> Option<KeyAdvice> {
    let word = word.to_lowercase().replace(['_', '-'], "");
    let entry = SYNONYMS
        .iter()
        .find(|entry| entry.mapping == mapping && entry.words.split(' ').any(|it| it == word))?;
    Some(KeyAdvice {
        key: entry.key,
        text: entry.advice,
    })
}

/// Returns the value out of `known` that people call `word`.
pub(super) fn meant_value(word: &str, known: &[&'static str]) -> Option<&'static str> {
    let word = word.to_lowercase();
    VALUES
        .iter()
        .filter(|(words, _)| words.split(' ').any(|it| it == word))
        .find_map(|(_, meant)| known.iter().copied().find(|known| known == meant))
}

/// Returns the way in which `key` is written, if its value is a list or a mapping.
pub(super) fn example(key: &str) -> Option<&'static str> {
    let found = EXAMPLES.iter().find(|(known, _)| *known == key);
    found.map(|(_, example)| *example)
}

/// Returns `true` or `false` for a word that people use for one of the two.
pub(super) fn meant_bool(word: &str) -> Option<bool> {
    match word.to_lowercase().as_str() {
        "yes" | "y" | "on" | "1" | "enabled" => Some(true),
        "no" | "n" | "off" | "0" | "disabled" => Some(false),
        _ => None,
    }
}

/// Returns whether `text` is to be replaced by a text of one's own, as in `https://YOUR-HOST/`.
pub(super) fn is_placeholder(text: &str) -> bool {
    let upper = text.to_uppercase().replace(['_', ' '], "-");
    let is_bracketed = text.len() > 2 && text.starts_with('<') && text.ends_with('>');
    // Many words begin with a small `your`, so only the usual form of a placeholder counts.
    text.contains("YOUR-")
        || text.contains("YOUR_")
        || is_bracketed
        || ["CHANGEME", "CHANGE-ME", "REPLACEME", "REPLACE-ME"]
            .iter()
            .any(|word| upper.contains(word))
}

/// Returns whether `text` has a variable without braces, such as `$HOST`. Only names in upper case
/// count, since a path or a header may have any other text.
fn has_bare_variable(text: &str) -> bool {
    text.split('$').skip(1).any(|behind| {
        let end = |c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        let name = behind.split(end).next().unwrap_or_default();
        name.len() > 1 && is_variable(name)
    })
}

/// Warns about each text that is still a placeholder, unless it is reported as wrong, and about
/// variables without braces. Skips the texts of secrets, which `compile`
/// checks wherever they come from.
pub(super) fn warn_of_placeholders(root: &Rc<Node>, problems: &Problems) {
    let mut nodes = vec![root];
    while let Some(node) = nodes.pop() {
        match &node.value {
            Value::Null | Value::Wrong => {}
            Value::Scalar { text, .. } => {
                if has_bare_variable(text) {
                    let warning =
                        Diagnostic::warning(node.span, "a variable without braces is not replaced");
                    problems.push(warning.label("write `${NAME}`"));
                }
                if is_placeholder(text) && !problems.any_error_in(node.span) {
                    let warning = Diagnostic::warning(node.span, "this is still a placeholder");
                    problems.push(warning.label("write your own here"));
                }
            }
            Value::Sequence(items) => nodes.extend(items),
            Value::Mapping(entries) => {
                let is_secret = |key: &str| matches!(key, "value" | "env");
                let shown = entries
                    .iter()
                    .filter(|entry| !entry.rejected && !entry.key.text().is_some_and(is_secret));
                nodes.extend(shown.map(|entry| &entry.value));
            }
        }
    }
}

/// Returns the variable that `text` would insert, if people expect it to be replaced: `$NAME`,
/// `${NAME}`, `$(NAME)`, `%NAME%` and `{{NAME}}`.
pub(super) fn inserted_variable(text: &str) -> Option<&str> {
    let bare = bare_variable(text);
    (bare.len() < text.len()).then_some(bare)
}

/// Returns whether `text` has `${NAME}` or `${NAME:-default}` in it.
pub(super) fn has_variable(text: &str) -> bool {
    text.split("${").skip(1).any(|behind| {
        let name = behind.split_once('}').map(|(variable, _)| variable);
        let name = name.map(|it| it.split_once(":-").map_or(it, |(name, _)| name));
        name.is_some_and(is_variable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::placement;

    #[test]
    fn advice_ignores_the_spelling() {
        for word in ["retry_count", "retryCount", "Retry-Count"] {
            assert_eq!(
                advice_for_key("Route", word).map(|it| it.key),
                Some("retry")
            );
        }
        assert!(advice_for_key("Route", "budget").is_none());
    }

    #[test]
    fn words_have_one_advice_each() {
        for (at, entry) in SYNONYMS.iter().enumerate() {
            assert!(
                entry.key.is_empty() || placement::has(entry.mapping, entry.key),
                "{}: {}",
                entry.mapping,
                entry.key
            );
            for word in entry.words.split(' ') {
                assert_eq!(word, word.to_lowercase().replace('_', ""), "{word}");
                let earlier = SYNONYMS[..at].iter().any(|other| {
                    other.mapping == entry.mapping && other.words.split(' ').any(|it| it == word)
                });
                assert!(!earlier, "{}: {word}", entry.mapping);
            }
        }
    }

    #[test]
    fn placeholders_are_recognised() {
        for text in [
            "https://YOUR-HOST/x",
            "<your secret>",
            "replace-me-with-it",
            "change_me",
        ] {
            assert!(is_placeholder(text), "{text}");
        }
        for text in ["your-value", "https://hooks.example.com/", "<", "yours"] {
            assert!(!is_placeholder(text), "{text}");
        }
    }
}
