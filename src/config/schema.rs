//! The format as a JSON Schema, and as a reference for people that is made from the schema.
//!
//! Owns both texts' form; what they say comes from the doc comments in `raw` and `values`. The committed copies,
//! `config/hookstile.schema.json` and `docs/configuration.md`, are held to these by tests.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::raw;

/// The JSON Schema (draft 2020-12) of the configuration, as indented JSON.
pub fn json_schema() -> String {
    format!("{:#}\n", schema())
}

fn schema() -> Value {
    schemars::schema_for!(raw::File).to_value()
}

/// The reference in `docs/configuration.md`.
pub fn reference() -> String {
    let schema = schema();
    let mut reference = Reference {
        definitions: &schema["$defs"],
        sections: Vec::new(),
        text: INTRODUCTION.into(),
    };
    reference.section("", "Top level", &schema);
    let mut written = 0;
    while let Some((path, name)) = reference.sections.get(written).cloned() {
        let heading = format!("`{path}`");
        reference.section(&path, &heading, &schema["$defs"][&name]);
        written += 1;
    }
    reference.value_types();
    reference.text
}

const INTRODUCTION: &str = "\
<!-- Generated from the doc comments in src/config/raw.rs; do not edit.
     To make it anew: HOOKSTILE_REGENERATE=1 cargo test --lib config -->

# Configuration

A YAML file, by default `hookstile.yaml`. `hookstile init` writes one to start from, `hookstile check --config FILE` says
all that is wrong with one, and `hookstile schema` prints the JSON Schema for editors. Complete examples:
[`config/minimal.yaml`](../config/minimal.yaml), [`config/hookstile.yaml`](../config/hookstile.yaml).

Text is taken as it stands: `on` and `007` are no truth value and no number where text is expected. A key without a
value, or with `null`, is an error, as is an unknown or a repeated one. Anchors and aliases work; tags, merge keys and
several documents in a file are refused.
";

struct Reference<'a> {
    definitions: &'a Value,
    /// Mappings met so far: the path of their first use and their names in `definitions`.
    sections: Vec<(String, String)>,
    text: String,
}

impl Reference<'_> {
    fn section(&mut self, path: &str, heading: &str, schema: &Value) {
        let mapping = mapping(schema);
        let _ = write!(
            self.text,
            "\n## {heading}\n\n{}\n",
            paragraph(&mapping["description"])
        );
        if path == "routes[]" {
            self.text += "\n`defaults` takes the same keys.\n";
        }
        self.text += "\n| key | value | default | |\n| --- | --- | --- | --- |\n";
        let none = Map::new();
        for (key, property) in mapping["properties"].as_object().unwrap_or(&none) {
            let inner = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let kind = self.kind(property, &inner);
            let default = property
                .get("default")
                .map(|value| format!("`{}`", plain(value)))
                .unwrap_or_default();
            let required = mapping["required"]
                .as_array()
                .is_some_and(|keys| keys.iter().any(|name| name == key.as_str()));
            let default = if required { "required".into() } else { default };
            let _ = writeln!(
                self.text,
                "| `{key}` | {kind} | {default} | {} |",
                paragraph(&property["description"])
            );
        }
    }

    /// What a value looks like, in few words. Remembers mappings for a section of their own.
    fn kind(&mut self, schema: &Value, path: &str) -> String {
        if let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|target| target.strip_prefix("#/$defs/"))
        {
            return self.named(name, path);
        }
        if let Some(allowed) = schema["enum"].as_array() {
            return allowed
                .iter()
                .map(|value| format!("`{}`", plain(value)))
                .collect::<Vec<_>>()
                .join(", ");
        }
        if let Some([list, one]) = schema["anyOf"].as_array().map(Vec::as_slice) {
            return format!("{} or {}", self.kind(one, path), self.kind(list, path));
        }
        if let Some(variants) = schema["oneOf"].as_array() {
            return variants
                .iter()
                .map(|variant| self.kind(variant, path))
                .collect::<Vec<_>>()
                .join(", ");
        }
        if let Some(only) = schema.get("const") {
            return format!("`{}`", plain(only));
        }
        match schema["type"].as_str() {
            Some("array") => format!(
                "list of: {}",
                self.kind(&schema["items"], &format!("{path}[]"))
            ),
            Some("object") => format!(
                "names and values: {}",
                self.kind(&schema["additionalProperties"], path)
            ),
            Some("string") => "text".into(),
            Some("boolean") => "`true`, `false`".into(),
            Some(number) => number.replace("integer", "whole number"),
            None => String::new(),
        }
    }

    fn named(&mut self, name: &str, path: &str) -> String {
        let schema = &self.definitions[name];
        if mapping(schema)["properties"].is_null() {
            return format!("[{}](#values)", words(name));
        }
        let first_use = match self.sections.iter().find(|(_, known)| known == name) {
            Some((first_use, _)) => first_use.clone(),
            // A route is easier to find among the routes than among the defaults.
            None if path == "defaults" => "routes[]".to_owned(),
            None => path.to_owned(),
        };
        if !self.sections.iter().any(|(_, known)| known == name) {
            self.sections.push((first_use.clone(), name.to_owned()));
        }
        let anchor: String = first_use
            .chars()
            .filter(|c| c.is_alphanumeric() || "_-".contains(*c))
            .collect();
        let or_text = if std::ptr::eq(mapping(schema), schema) {
            ""
        } else {
            "text or "
        };
        format!("{or_text}[mapping](#{anchor})")
    }

    fn value_types(&mut self) {
        self.text += "\n## Values\n\n| kind | form |\n| --- | --- |\n";
        for (name, schema) in self.definitions.as_object().into_iter().flatten() {
            if mapping(schema)["properties"].is_null() {
                let _ = writeln!(
                    self.text,
                    "| {} | {} |",
                    words(name),
                    paragraph(&schema["description"])
                );
            }
        }
    }
}

/// The mapping in a schema that may also be text.
fn mapping(schema: &Value) -> &Value {
    let forms = schema["anyOf"].as_array().and_then(|forms| forms.last());
    forms
        .filter(|form| form["properties"].is_object())
        .unwrap_or(schema)
}

/// A doc comment on one line, fit for a table's cell.
fn paragraph(description: &Value) -> String {
    description
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ")
        .replace('|', "\\|")
}

/// A value as it is written in YAML.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!(
            "[{}]",
            items.iter().map(plain).collect::<Vec<_>>().join(", ")
        ),
        Value::Object(pairs) => {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(key, value)| format!("{key}: {}", plain(value)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

/// `ByteSize` → `byte size`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}
