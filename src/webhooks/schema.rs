//! The JSON Schemas of the other keys of a route that can be set over the API, from the
//! configuration's.

use serde_json::{Map, Value};

use super::definition::MORE;
use crate::config::schema::json_schema;

/// JSON Schemas by name. They refer to each other as `#/$defs/NAME`.
pub(crate) struct Schemas {
    /// The schemas of the keys.
    pub keys: Map<String, Value>,
    /// The schemas that those refer to.
    pub named: Map<String, Value>,
}

/// Returns the schemas of all keys that can be set, without their defaults: a key that is not set
/// keeps its value.
pub(crate) fn schemas() -> Schemas {
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
