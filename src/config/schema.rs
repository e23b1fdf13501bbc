//! The format as a JSON Schema, and as a reference for people that is generated from the schema.
//!
//! Owns the form of both; the content comes from the doc comments in `raw` and `values`, and from
//! `facts`. Tests compare the committed copies, `config/hookstile.schema.json` and
//! `docs/configuration.md`, with what is generated here.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{facts, raw};

/// The address of this version's schema: a file of its release, as the packages are.
pub const SCHEMA_URL: &str = concat!(
    env!("CARGO_PKG_REPOSITORY"),
    "/releases/download/v",
    env!("CARGO_PKG_VERSION"),
    "/hookstile.schema.json"
);

/// Returns the JSON Schema (draft 2020-12) of the configuration, as indented JSON.
pub fn json_schema() -> String {
    let mut schema = schema();
    describe_facts(&mut schema);
    // What the file is comes first.
    let mut named = Map::new();
    named.extend(
        schema
            .as_object_mut()
            .and_then(|keys| keys.remove_entry("$schema")),
    );
    named.insert("$id".into(), SCHEMA_URL.into());
    named.extend(schema.as_object().cloned().into_iter().flatten());
    format!("{:#}\n", Value::Object(named))
}

/// Returns the schema as it is generated.
pub(super) fn schema() -> Value {
    schemars::schema_for!(raw::File).to_value()
}

/// Adds the defaults and accepted values of all keys to their descriptions: editors show the
/// description of a key, but not its other keywords.
fn describe_facts(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                properties.values_mut().for_each(describe_property);
            }
            object.values_mut().for_each(describe_facts);
        }
        Value::Array(items) => items.iter_mut().for_each(describe_facts),
        _ => {}
    }
}

fn describe_property(property: &mut Value) {
    let Value::Object(property) = property else {
        return;
    };
    let default = property
        .get("default")
        .map(|default| format!("Default: `{}`.", plain(default)));
    let accepted = property.remove(facts::ACCEPTED);
    let accepted = accepted
        .as_ref()
        .and_then(Value::as_str)
        .map(|accepted| format!("Accepted: {accepted}."));
    let facts: Vec<_> = default.into_iter().chain(accepted).collect();
    if let (Some(Value::String(description)), false) =
        (property.get_mut("description"), facts.is_empty())
    {
        *description = format!("{description}\n\n{}", facts.join(" "));
    }
}

/// Returns the reference in `docs/configuration.md`.
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
<!-- Generated from src/config/raw.rs and src/config/facts.rs; do not edit.
     To regenerate: HOOKSTILE_REGENERATE=1 cargo test --lib config -->

# Configuration

The configuration is a YAML file, by default `hookstile.yaml`. `hookstile init` writes one to start
from, and `hookstile check FILE` reports every problem in one. Complete examples are
[`config/minimal.yaml`](../config/minimal.yaml) and [`config/hookstile.yaml`](../config/hookstile.yaml).

Editors with the YAML language server read the JSON Schema that the first line names. `hookstile
init` writes that line, with the address of the schema in the release of the program's version.
Where the editor cannot reach it, name a file instead: `/usr/share/hookstile/hookstile.schema.json`
of the Debian package, or what `hookstile schema > hookstile.schema.json` writes.

Any value may have environment variables: `${NAME}`, or `${NAME:-default}` for one that may be unset
or empty. They are replaced after parsing; `$${` is `${` itself. A variable that is not set and has
no default is an error. Secrets are named instead, with `{env: NAME}`: the `value` of a reference has
no variables. Inside of `{}` and `[]`, a value with a variable needs quotes.

Where text is expected, a value is text: `on` is not converted to a boolean, nor `007` to a number.
A key without a value, or with `null`, is an error; so is an unknown or a repeated key. Anchors and
aliases work. Tags, merge keys and several documents in one file are errors.
";

struct Reference<'a> {
    definitions: &'a Value,
    /// The mappings found so far: the path of their first use and their names in `definitions`.
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
        self.text += "\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
        let none = Map::new();
        for (key, property) in mapping["properties"].as_object().unwrap_or(&none) {
            let inner = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let mut form = self.form(property, &inner);
            if let Some(accepted) = property[facts::ACCEPTED].as_str() {
                let _ = write!(form, ", {accepted}");
            }
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
                "| `{key}` | {form} | {default} | {}{} |",
                paragraph(&property["description"]),
                variants(property)
            );
        }
    }

    /// Returns the form of a value in a few words. Remembers mappings, which get their own
    /// sections.
    fn form(&mut self, schema: &Value, path: &str) -> String {
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
            return format!("{} or {}", self.form(one, path), self.form(list, path));
        }
        if let Some(variants) = schema["oneOf"].as_array() {
            return variants
                .iter()
                .map(|variant| self.form(variant, path))
                .collect::<Vec<_>>()
                .join(", ");
        }
        if let Some(only) = schema.get("const") {
            return format!("`{}`", plain(only));
        }
        match schema["type"].as_str() {
            Some("array") => format!(
                "list of: {}",
                self.form(&schema["items"], &format!("{path}[]"))
            ),
            Some("object") => format!(
                "names and values: {}",
                self.form(&schema["additionalProperties"], path)
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
            .flat_map(char::to_lowercase)
            .collect();
        let short = if std::ptr::eq(mapping(schema), schema) {
            String::new()
        } else {
            self.form(&schema["anyOf"][0], path) + " or "
        };
        format!("{short}[mapping](#{anchor})")
    }

    fn value_types(&mut self) {
        self.text += "\n## Values\n\n| value | form |\n| --- | --- |\n";
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

/// Returns the mapping in a schema that may also be a single value.
pub(super) fn mapping(schema: &Value) -> &Value {
    let forms = schema["anyOf"].as_array().and_then(|forms| forms.last());
    forms
        .filter(|form| form["properties"].is_object())
        .unwrap_or(schema)
}

/// Returns the descriptions of the values of an enumeration: ``  `strict`: … ``.
fn variants(schema: &Value) -> String {
    let mut text = String::new();
    for variant in schema["oneOf"].as_array().into_iter().flatten() {
        if variant["description"].is_string() {
            let (value, meaning) = (plain(&variant["const"]), &variant["description"]);
            let _ = write!(text, " `{value}`: {}", paragraph(meaning));
        }
    }
    text
}

/// Returns a doc comment on one line, fit for a table's cell.
fn paragraph(description: &Value) -> String {
    description
        .as_str()
        .unwrap_or_default()
        .replace('\n', " ")
        .replace('|', "\\|")
}

/// Returns a value as it is written in YAML.
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

/// Splits a type's name into words: `ByteSize` becomes `byte size`.
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
