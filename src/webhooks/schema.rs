//! What a route's other keys may be when they are set over the API, as JSON Schema: the configuration's own.

use serde_json::{Map, Value};

use super::definition::MORE;
use crate::config::schema::json_schema;

/// Schemas by name. They refer to each other as `#/$defs/NAME`.
pub struct Schemas {
    /// By key.
    pub keys: Map<String, Value>,
    /// What those refer to.
    pub named: Map<String, Value>,
}

/// The schemas of all keys that may be set. Without their defaults: what is not given of a webhook stays as it is.
pub fn schemas() -> Schemas {
    let schema: Value = serde_json::from_str(&json_schema()).expect("written as JSON just now");
    let key = |key: &str| {
        let mut schema = schema["$defs"]["Route"]["properties"][key].clone();
        schema
            .as_object_mut()
            .expect("a key of a route")
            .remove("default");
        (key.to_owned(), schema)
    };
    let keys: Map<_, _> = MORE.into_iter().map(key).collect();
    let (mut named, mut unread) = (Map::new(), Value::Object(keys.clone()).to_string());
    while !unread.is_empty() {
        for reference in std::mem::take(&mut unread).split("\"#/$defs/").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            if !named.contains_key(name) {
                unread += &schema["$defs"][name].to_string();
                named.insert(name.into(), schema["$defs"][name].clone());
            }
        }
    }
    Schemas { keys, named }
}
