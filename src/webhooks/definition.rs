//! The definition of a webhook made over the API, and its compilation to a route by the
//! configuration's own rules.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::patch::{self, WebhookPatch};
use crate::config;
use crate::route::Route;

/// The length of a generated secret in bytes.
const SECRET_BYTES: usize = 32;

/// The length of a generated name in hex digits: 64 bits.
const NAME_DIGITS: usize = 16;

/// The longest description in bytes.
const DESCRIPTION_MAX: usize = 1024;

/// The definition of a webhook as it is stored. It must not be printed, because it has the secret.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Definition {
    /// The URL of the upstream.
    pub url: String,
    /// The patterns of the event types to deliver. An empty list matches all.
    pub events: Vec<String>,
    pub description: String,
    pub active: bool,
    pub path: String,
    pub provider: String,
    secret: Zeroizing<String>,
    pub headers: BTreeMap<String, String>,
    /// Other keys of a route, in the form of the configuration.
    pub more: Map<String, Value>,
    pub created_at: Timestamp,
    /// The time of the last change; `None` for one that was never changed since versions keep it.
    #[serde(default)]
    changed_at: Option<Timestamp>,
}

/// A webhook to create. It needs a `url`.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = NewWebhook)]
#[serde(expecting = "an object")]
pub(crate) struct NewWebhook {
    #[serde(flatten)]
    pub given: WebhookChange,
}

/// Keys of a webhook. A key that is not set keeps its value, or gets its default in a new webhook.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[schema(as = WebhookChange)]
#[serde(expecting = "an object")]
pub(crate) struct WebhookChange {
    /// The URL of the upstream.
    #[schema(pattern = "^https?://")]
    pub url: Option<String>,
    /// The patterns of the event types to deliver; `*` matches any characters. An empty list
    /// matches all, as `*` does.
    pub events: Option<Vec<String>>,
    /// A description, at most 1,024 bytes.
    #[schema(max_length = 1024)]
    pub description: Option<String>,
    /// The state of the webhook. Default: active.
    pub active: Option<bool>,
    /// The request path. Default: `/webhooks/ID`.
    #[schema(pattern = "^/[!-~]*$")]
    pub path: Option<String>,
    /// The name of the provider's preset, as in the configuration. Default: `vpn-enterprise`.
    pub provider: Option<String>,
    /// The secret that the sender signs with. Default: a generated one.
    #[schema(value_type = Option<String>, write_only, min_length = 1)]
    pub secret: Option<Zeroizing<String>>,
    /// Headers to set on every request to the upstream: names with values.
    pub headers: Option<BTreeMap<String, String>>,
    /// Other keys of a route, from [`MORE`].
    #[serde(flatten)]
    #[schema(ignore)]
    pub more: Map<String, Value>,
}

/// The other keys of a route that can be set over the API. None of them reads a file or a variable,
/// or weakens the route's verification.
pub(super) const MORE: [&str; 20] = [
    "host",
    "event",
    "forward_query",
    "delivery",
    "accept_status",
    "attempt_timeout",
    "budget",
    "budget_margin",
    "max_body",
    "replay",
    "retry",
    "concurrency",
    "rate_limit",
    "unverified_rate_limit",
    "allow_from",
    "probes",
    "empty_responses",
    "public_url",
    "retain",
    "expect_every",
];

impl WebhookChange {
    /// Returns the problems that do not depend on other keys or routes.
    pub(super) fn problems(&self) -> Vec<String> {
        key_problems(self.description.as_deref(), &self.more)
    }
}

impl WebhookPatch {
    /// Returns the problems that do not depend on other keys or routes.
    pub(super) fn problems(&self) -> Vec<String> {
        let description = self.description.as_ref().and_then(Option::as_deref);
        let mut problems = key_problems(description, &self.more);
        if self.url == Some(None) {
            problems.push(MISSING_URL.into());
        }
        if self.secret == Some(None) {
            problems.push("`secret` cannot be removed; give another one.".into());
        }
        problems
    }
}

/// The problem of a webhook without an upstream.
const MISSING_URL: &str = "`url` is missing: the URL that events are delivered to.";

fn key_problems(description: Option<&str>, more: &Map<String, Value>) -> Vec<String> {
    let unknown = more.keys().filter(|key| !MORE.contains(&key.as_str()));
    let mut problems: Vec<_> = unknown
        .map(|key| {
            format!(
                "`{}` cannot be set over the API; the keys are: {}.",
                key.escape_debug(),
                known_keys().join(", ")
            )
        })
        .collect();
    if description.is_some_and(|text| text.len() > DESCRIPTION_MAX) {
        problems.push(format!(
            "`description` must be at most {DESCRIPTION_MAX} bytes long."
        ));
    }
    problems.extend(check_texts(more));
    problems
}

/// The keys, at any depth, whose value is any text. YAML accepts a number for it, but JSON must
/// not.
const TEXTS: [&str; 4] = ["header", "host", "pointer", "public_url"];

/// Returns a problem for each of these keys whose value is not text.
fn check_texts(keys: &Map<String, Value>) -> Vec<String> {
    let problems = keys.iter().flat_map(|(key, value)| match value {
        Value::Bool(_) | Value::Number(_) if TEXTS.contains(&key.as_str()) => {
            vec![format!("`{key}` must be text.")]
        }
        Value::Object(keys) => check_texts(keys),
        _ => Vec::new(),
    });
    problems.collect()
}

fn known_keys() -> Vec<&'static str> {
    let own = [
        "url",
        "events",
        "description",
        "active",
        "path",
        "provider",
        "secret",
        "headers",
    ];
    own.into_iter().chain(MORE).collect()
}

impl NewWebhook {
    /// Makes a definition: generates the name, and the secret if none is set.
    ///
    /// # Errors
    /// Returns the problems, each a sentence.
    pub(super) fn define(self) -> Result<(String, Definition), Vec<String>> {
        let mut problems = self.given.problems();
        let WebhookChange {
            url,
            events,
            description,
            active,
            path,
            provider,
            secret,
            headers,
            more,
        } = self.given;
        if url.is_none() {
            problems.push(MISSING_URL.into());
        }
        let random = random().ok_or_else(|| vec!["The system has no random bytes.".to_owned()])?;
        let name = hex::encode(&random[SECRET_BYTES..]);
        let provider = provider.unwrap_or_else(|| config::DEFAULT_PROVIDER.into());
        let definition = Definition {
            url: url.unwrap_or_default(),
            events: events.unwrap_or_default(),
            description: description.unwrap_or_default(),
            active: active.unwrap_or(true),
            path: path.unwrap_or_else(|| default_path(&name)),
            provider,
            secret: secret.unwrap_or_else(|| {
                Zeroizing::new(format!("whsec_{}", BASE64.encode(&random[..SECRET_BYTES])))
            }),
            headers: headers.unwrap_or_default(),
            more,
            created_at: Timestamp::now(),
            changed_at: None,
        };
        if problems.is_empty() {
            Ok((name, definition))
        } else {
            Err(problems)
        }
    }
}

fn default_path(name: &str) -> String {
    format!("/webhooks/wh_{name}")
}

fn random() -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; SECRET_BYTES + NAME_DIGITS / 2]);
    getrandom::fill(&mut bytes).ok().map(|()| bytes)
}

impl Definition {
    pub(super) fn from_stored(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn to_stored(&self) -> String {
        serde_json::to_string(self).expect("maps with names, and text")
    }

    /// Returns the secret. It is shown only once: to the operator who created the webhook.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// Returns the time of the last change, or else of the creation.
    pub(crate) fn updated_at(&self) -> Timestamp {
        self.changed_at.unwrap_or(self.created_at)
    }

    /// Returns the definition with the keys of `change` applied.
    pub(super) fn changed(&self, change: WebhookChange) -> Self {
        let WebhookChange {
            url,
            events,
            description,
            active,
            path,
            provider,
            secret,
            headers,
            more,
        } = change;
        let mut kept = self.clone();
        kept.url = url.unwrap_or(kept.url);
        kept.events = events.unwrap_or(kept.events);
        kept.description = description.unwrap_or(kept.description);
        kept.active = active.unwrap_or(kept.active);
        kept.path = path.unwrap_or(kept.path);
        kept.provider = provider.unwrap_or(kept.provider);
        kept.secret = secret.unwrap_or(kept.secret);
        kept.headers = headers.unwrap_or(kept.headers);
        kept.more.extend(more);
        kept.changed_at = Some(Timestamp::now());
        kept
    }

    /// Returns the definition of the webhook `name` with `patch` merged into it. The patch has no
    /// problems.
    pub(super) fn merged(&self, name: &str, patch: WebhookPatch) -> Self {
        let WebhookPatch {
            url,
            events,
            description,
            active,
            path,
            provider,
            secret,
            headers,
            more,
        } = patch;
        let mut merged = self.clone();
        merged.url = url.flatten().unwrap_or(merged.url);
        merged.secret = secret.flatten().unwrap_or(merged.secret);
        if let Some(events) = events {
            merged.events = events.unwrap_or_default();
        }
        if let Some(description) = description {
            merged.description = description.unwrap_or_default();
        }
        if let Some(active) = active {
            merged.active = active.unwrap_or(true);
        }
        if let Some(path) = path {
            merged.path = path.unwrap_or_else(|| default_path(name));
        }
        if let Some(provider) = provider {
            merged.provider = provider.unwrap_or_else(|| config::DEFAULT_PROVIDER.into());
        }
        match headers {
            Some(Some(headers)) => {
                for (header, value) in headers {
                    // Whatever the case, it is the same header.
                    merged
                        .headers
                        .retain(|name, _| !name.eq_ignore_ascii_case(&header));
                    if let Some(value) = value {
                        merged.headers.insert(header, value);
                    }
                }
            }
            Some(None) => merged.headers.clear(),
            None => {}
        }
        patch::merge(&mut merged.more, more);
        merged.changed_at = Some(Timestamp::now());
        merged
    }

    /// Compiles the definition to a route.
    ///
    /// # Errors
    /// Returns the problems, each a sentence. They do not contain the secret.
    pub(super) fn compile(&self, name: &str) -> Result<Route, Vec<String>> {
        let mut route = self.more.clone();
        // Without `events` the route delivers every type.
        if !self.events.is_empty() && self.events != ["*"] {
            route.insert("events".into(), json!(self.events));
        }
        if !self.headers.is_empty() {
            route.insert("headers".into(), json!(self.headers));
        }
        let fixed = json!({
            "name": name, "path": self.path, "provider": self.provider, "upstream": self.url,
            "secrets": [{"value": *self.secret, "name": "current"}],
        });
        if let Value::Object(fixed) = fixed {
            route.extend(fixed);
        }
        // JSON is almost YAML, so the configuration's own parser and rules apply.
        let text = as_yaml(&json!({ "routes": [route] }).to_string());
        let loaded = config::load_text("webhook", text, &|_| None);
        let loaded = loaded.map_err(|report| report.errors().collect::<Vec<_>>())?;
        let mut route = loaded
            .config
            .routes
            .into_iter()
            .next()
            .ok_or_else(|| vec!["The definition has no route.".to_owned()])?;
        route.active = self.active;
        if let Some(upstream) = Arc::get_mut(&mut route.upstream) {
            upstream.forbid_internal_addresses();
        }
        Ok(route)
    }
}

/// Escapes the characters that JSON allows in its texts and YAML does not (YAML 1.2 §5.1).
fn as_yaml(json: &str) -> String {
    let mut yaml = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let _ = write!(yaml, "\\u{:04x}", u32::from(character));
            }
            _ => yaml.push(character),
        }
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(document: Value) -> NewWebhook {
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn webhook_needs_only_a_url() {
        let (name, definition) = new(json!({"url": "http://127.0.0.1:3000/x"}))
            .define()
            .unwrap();
        assert_eq!(name.len(), NAME_DIGITS);
        assert_eq!(definition.path, format!("/webhooks/wh_{name}"));
        assert!(definition.secret().starts_with("whsec_") && definition.secret().len() > 40);
        let route = definition.compile(&name).unwrap();
        assert_eq!(
            (&*route.name, &*route.path, route.active),
            (&*name, &*definition.path, true)
        );
        assert!(route.events.accepts("anything"));
        let stored = Definition::from_stored(&definition.to_stored()).unwrap();
        assert_eq!(stored.to_stored(), definition.to_stored());
    }

    #[test]
    fn api_rejects_keys_that_read_files_or_open_the_route() {
        for key in [
            "secrets",
            "enforce",
            "challenge",
            "signature",
            "upstream",
            "methods",
            "name",
            "nonsense",
        ] {
            let problems = new(json!({"url": "http://127.0.0.1/x", key: {"file": "/etc/passwd"}}))
                .define()
                .err()
                .unwrap();
            assert!(problems[0].contains(key), "{key}: {problems:?}");
        }
    }

    #[test]
    fn text_keys_reject_numbers() {
        for keys in [
            json!({"host": false}),
            json!({"public_url": 1}),
            json!({"event": {"id": {"header": 0}}}),
        ] {
            let mut document = json!({"url": "http://127.0.0.1/x"});
            document
                .as_object_mut()
                .unwrap()
                .extend(keys.as_object().unwrap().clone());
            let problems = new(document).define().err().unwrap();
            assert!(
                problems[0].ends_with("must be text."),
                "{keys}: {problems:?}"
            );
        }
    }

    #[test]
    fn patch_keeps_replaces_and_removes_keys() {
        let (name, definition) = new(json!({
            "url": "http://127.0.0.1/x", "path": "/a", "provider": "github", "active": false,
            "description": "d", "events": ["a.*"], "headers": {"X-A": "1", "X-B": "2"},
            "retry": {"initial": "1s", "horizon": "1h"}, "budget": "5s"
        }))
        .define()
        .unwrap();
        let patch = |document: Value| {
            let patch: WebhookPatch = serde_json::from_value(document).unwrap();
            assert_eq!(patch.problems(), [""; 0]);
            definition.merged(&name, patch)
        };
        let same = patch(json!({}));
        assert_eq!(
            (&same.url, &same.more, same.secret()),
            (&definition.url, &definition.more, definition.secret())
        );
        assert!(same.updated_at() >= definition.updated_at());
        let merged = patch(json!({
            "headers": {"X-A": null, "X-C": "3"}, "retry": {"initial": null, "factor": 2},
            "budget": null, "events": ["b"]
        }));
        assert_eq!(
            merged.headers,
            BTreeMap::from([("X-B".into(), "2".into()), ("X-C".into(), "3".into())])
        );
        assert_eq!(
            Value::Object(merged.more),
            json!({"retry": {"horizon": "1h", "factor": 2}})
        );
        assert_eq!(
            (&*merged.path, &*merged.events),
            ("/a", &["b".to_owned()][..])
        );
        let removed = patch(json!({
            "path": null, "provider": null, "active": null, "description": null, "events": null,
            "headers": null
        }));
        assert_eq!(removed.path, format!("/webhooks/wh_{name}"));
        assert_eq!(
            (&*removed.provider, removed.active, &*removed.description),
            ("vpn-enterprise", true, "")
        );
        assert!(removed.events.is_empty() && removed.headers.is_empty());
    }

    #[test]
    fn patch_cannot_remove_url_or_secret() {
        for (document, says) in [
            (json!({"url": null}), "`url` is missing"),
            (json!({"secret": null}), "`secret` cannot be removed"),
            (json!({"enforce": null}), "`enforce` cannot be set"),
            (json!({"host": 1}), "must be text"),
        ] {
            let patch: WebhookPatch = serde_json::from_value(document).unwrap();
            let problems = patch.problems();
            assert!(
                problems.len() == 1 && problems[0].contains(says),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn text_may_contain_any_character() {
        let some = |character: &char| {
            u32::from(*character) < 0x3000 || u32::from(*character) & 0xff > 0xf0
        };
        let secret = format!("({})", (' '..=char::MAX).filter(some).collect::<String>());
        let (name, definition) = new(json!({"url": "http://127.0.0.1/x", "secret": secret}))
            .define()
            .unwrap();
        assert_eq!(definition.compile(&name).err(), None);
    }

    #[test]
    fn problems_do_not_contain_the_secret() {
        let document =
            json!({"url": "ftp://x/", "secret": "canary\nx", "budget": "0s", "events": [""]});
        let (name, definition) = new(document).define().unwrap();
        let problems = definition.compile(&name).err().unwrap().join("\n");
        assert!(
            problems.contains("http") && !problems.contains("canary"),
            "{problems}"
        );
    }
}
