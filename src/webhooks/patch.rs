//! A JSON Merge Patch (RFC 7396) for a webhook.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// A patch. A key that is not given stays. One that is `null` gets its default again.
#[expect(
    clippy::option_option,
    reason = "a key may be missing, or `null`, or have a value"
)]
#[derive(Clone, Default, Deserialize, ToSchema)]
#[schema(as = WebhookPatch)]
#[serde(expecting = "an object")]
pub(crate) struct WebhookPatch {
    /// The URL of the upstream. It can't be removed.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String, required = false, pattern = "^https?://")]
    pub url: Option<Option<String>>,
    /// The patterns of the event types to deliver, which replace the former ones.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    pub events: Option<Option<Vec<String>>>,
    /// A description, at most 1,024 bytes.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 1024)]
    pub description: Option<Option<String>>,
    /// The state of the webhook. Default: active.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<bool>)]
    pub active: Option<Option<bool>>,
    /// The request path. Default: `/webhooks/ID`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, pattern = "^/[!-~]*$")]
    pub path: Option<Option<String>>,
    /// The name of the provider's preset. Default: `vpn-enterprise`.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    pub provider: Option<Option<String>>,
    /// The secret that the sender signs with. It can't be removed.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = String, required = false, write_only, min_length = 1)]
    pub secret: Option<Option<Zeroizing<String>>>,
    /// Headers to set on every request to the upstream. One that is `null` is removed, those that
    /// are not given stay.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    pub headers: Option<Option<BTreeMap<String, Option<String>>>>,
    /// Other keys of a route, merged at any depth.
    #[serde(flatten)]
    #[schema(ignore)]
    pub more: Map<String, Value>,
}

/// Tells a key that is `null` from one that is not given.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Merges a patch into an object. Its depth is bounded by that of the JSON that was parsed.
pub(super) fn merge(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(patch) => {
                let mut inner = match target.remove(&key) {
                    Some(Value::Object(inner)) => inner,
                    _ => Map::new(),
                };
                merge(&mut inner, patch);
                target.insert(key, Value::Object(inner));
            }
            value => {
                target.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The examples of RFC 7396, appendix A, in which both documents are objects.
    #[test]
    fn merge_passes_the_examples_of_the_rfc() {
        for (target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": "b"}),
                json!({"b": "c"}),
                json!({"a": "b", "b": "c"}),
            ),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (
                json!({"a": "b", "b": "c"}),
                json!({"a": null}),
                json!({"b": "c"}),
            ),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (
                json!({"a": [{"b": "c"}]}),
                json!({"a": [1]}),
                json!({"a": [1]}),
            ),
            (
                json!({"e": null}),
                json!({"a": 1}),
                json!({"e": null, "a": 1}),
            ),
            (
                json!({}),
                json!({"a": {"bb": {"ccc": null}}}),
                json!({"a": {"bb": {}}}),
            ),
        ] {
            let (Value::Object(mut merged), Value::Object(patch)) = (target, patch) else {
                unreachable!()
            };
            merge(&mut merged, patch);
            assert_eq!(Value::Object(merged), expected);
        }
    }

    #[test]
    fn null_is_told_from_a_missing_key() {
        let patch: WebhookPatch =
            serde_json::from_value(json!({"path": null, "active": false, "retry": null})).unwrap();
        assert_eq!((patch.path, patch.active), (Some(None), Some(Some(false))));
        assert_eq!(patch.events, None);
        assert_eq!(patch.more.get("retry"), Some(&Value::Null));
    }
}
