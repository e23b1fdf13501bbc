//! Examples of configurations, whole or in part, are valid, and JSON is JSON.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use super::markdown::Page;
use super::{assert_none, read};
use crate::harness::tls::Authority;

/// What makes a route whole.
const ROUTE: [(&str, &str); 4] = [
    ("path", "path: /webhooks/example"),
    ("provider", "provider: github"),
    ("secrets", "secrets: [{env: WEBHOOK_SECRET}]"),
    ("upstream", "upstream: http://127.0.0.1:3000/hooks"),
];

/// Returns a list of one route that has these keys, and what else a route needs.
fn route(named: &BTreeSet<String>, fragment: &str) -> String {
    let needed = ROUTE.iter().filter(|(key, _)| {
        let replaced = *key == "provider" && named.contains("signature");
        !named.contains(*key) && !replaced
    });
    let lines = needed.map(|(_, line)| *line).chain(fragment.lines());
    let mut text = String::from("routes:\n  -");
    for line in lines {
        text += "\n    ";
        text += line;
    }
    text
}

/// The keys of the configuration and of a route, from the schema.
pub struct Keys {
    pub schema: Value,
    pub top: BTreeSet<String>,
    pub route: BTreeSet<String>,
}

impl Keys {
    pub fn read() -> Self {
        let schema: Value =
            serde_json::from_str(&read("config/hookstile.schema.json")).expect("JSON");
        let keys = |mapping: &Value| {
            let properties = mapping["properties"].as_object().expect("a mapping");
            properties.keys().cloned().collect::<BTreeSet<_>>()
        };
        Self {
            top: keys(&schema),
            route: keys(&schema["$defs"]["Route"]),
            schema,
        }
    }

    /// Returns a whole configuration that has a fragment in its place, or `None` if its keys are
    /// neither those of the configuration nor those of a route.
    pub fn whole(&self, fragment: &str) -> Option<String> {
        let key = Regex::new("(?m)^([a-z_]+):").expect("valid");
        let named: BTreeSet<_> = key
            .captures_iter(fragment)
            .map(|found| found[1].to_owned())
            .collect();
        if named.is_empty() {
            return None;
        }
        if named.iter().all(|key| self.top.contains(key)) {
            let routes = named.contains("routes") || named.contains("routes_from");
            let rest = if routes {
                String::new()
            } else {
                route(&BTreeSet::new(), "")
            };
            return Some(format!("{fragment}\n{rest}"));
        }
        let fits = named.iter().all(|key| self.route.contains(key));
        fits.then(|| route(&named, fragment))
    }
}

/// Runs `check` on a configuration whose variables are set and whose files exist. Returns what it
/// reports.
fn check(folder: &Path, yaml: &str) -> Result<(), String> {
    let variable = Regex::new(r"env: ([A-Z_]+)").expect("valid");
    let file = Regex::new(r"file: ([a-z./-]+)").expect("valid");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookstile"));
    for found in variable.captures_iter(yaml) {
        let value = match &found[1] {
            "DATABASE_URL" => "postgres://hookstile:password@127.0.0.1/hookstile",
            _ => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        };
        command.env(&found[1], value);
    }
    for found in file.captures_iter(yaml) {
        std::fs::write(folder.join(&found[1]), "a-secret-of-some-length").expect("writable");
    }
    let path = folder.join("hookstile.yaml");
    std::fs::write(&path, yaml).expect("a writable folder");
    let output = command
        .current_dir(folder)
        .arg("check")
        .arg(&path)
        .output()
        .expect("it runs");
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr))
}

/// Returns a folder with the certificates that the pages name.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new();
    let issued = authority.issue("hooks.example.com");
    for (name, content) in [
        ("fullchain.pem", issued.certificate.as_str()),
        ("privkey.pem", issued.key.as_str()),
        ("senders-ca.pem", authority.pem()),
    ] {
        std::fs::write(folder.path().join(name), content).expect("a writable folder");
    }
    folder
}

#[test]
fn every_yaml_block_is_valid() {
    let (folder, keys) = (folder(), Keys::read());
    let mut problems = Vec::new();
    let mut count = 0;
    for page in Page::all() {
        for block in page.blocks.iter().filter(|block| block.kind == "yaml") {
            count += 1;
            let error = match keys.whole(&block.text) {
                None => "its keys are neither of the configuration nor of a route".to_owned(),
                Some(yaml) => match check(folder.path(), &yaml) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
            };
            problems.push(format!("{}: {error}", block.place()));
        }
    }
    assert!(count >= 9, "{count}");
    assert_none(&problems);
}

/// A code span such as `delivery: queue` is a line of a configuration.
#[test]
fn every_yaml_line_in_prose_is_valid() {
    let (folder, keys) = (folder(), Keys::read());
    let line_of_yaml = Regex::new(r"^[a-z_]+: \S").expect("valid");
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for page in Page::all() {
        // Messages of commits look like it.
        if page.path == "CONTRIBUTING.md" {
            continue;
        }
        for (line, span) in page.spans() {
            let placeholder = span.contains('…') || span.contains("NAME") || span.contains("PATH");
            if !line_of_yaml.is_match(&span) || placeholder || !seen.insert(span.clone()) {
                continue;
            }
            let Some(yaml) = keys.whole(&span) else {
                continue;
            };
            // What is said of a provider need not fit every other one.
            let other = yaml.replace("provider: github", "provider: linear");
            if let Err(error) = check(folder.path(), &yaml)
                && check(folder.path(), &other).is_err()
            {
                problems.push(format!("{}:{line}: {span}\n{error}", page.path));
            }
        }
    }
    assert!(seen.len() > 20, "{}", seen.len());
    assert_none(&problems);
}

#[test]
fn every_json_block_is_json() {
    let mut problems = Vec::new();
    for page in Page::all() {
        for block in page.blocks.iter().filter(|block| block.kind == "json") {
            if let Err(error) = serde_json::from_str::<Value>(&block.text) {
                problems.push(format!("{}: {error}", block.place()));
            }
        }
    }
    assert_none(&problems);
}
