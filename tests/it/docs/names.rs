//! Names in code spans: keys, metrics, codes, paths, variables and API calls exist.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

use super::examples::Keys;
use super::markdown::Page;
use super::{assert_none, read, root};

/// Names of other programs, and names of no thing in particular.
const FOREIGN: [&str; 3] = ["from_x", "hookstile_default", "serde_yaml"];
/// Folders that come into being when something is run.
const MADE: [&str; 1] = ["fuzz/artifacts"];

/// Reads all files below some folders whose names end in one of these.
fn texts(folders: &[&str], endings: &[&str]) -> String {
    let mut open: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut all = String::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a folder");
            open.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if endings
            .iter()
            .any(|ending| path.to_string_lossy().ends_with(ending))
        {
            all += &String::from_utf8_lossy(&std::fs::read(&path).expect("a file"));
        }
    }
    all
}

/// Returns all words of a text: letters, digits and underscores.
fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .collect()
}

#[test]
fn every_metric_named_exists() {
    let name = Regex::new(r"\bhookstile_[a-z0-9_]*[a-z0-9]\b").expect("valid");
    let generated = read("docs/metrics.md");
    let known = words(&generated);
    let mut problems = Vec::new();
    for page in Page::all() {
        let blocks = page.blocks.iter().map(|block| block.text.as_str());
        for text in blocks.chain([page.prose.as_str()]) {
            for found in name.find_iter(text).map(|found| found.as_str()) {
                let parts = ["_bucket", "_sum", "_count"];
                let whole = parts.iter().find_map(|part| found.strip_suffix(part));
                let whole = whole.is_some_and(|name| known.contains(name));
                if !known.contains(found) && !whole && !FOREIGN.contains(&found) {
                    problems.push(format!("{}: {found}", page.path));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn every_variable_named_exists() {
    let name = Regex::new(r"\bHOOKSTILE_[A-Z0-9_]*[A-Z0-9]\b").expect("valid");
    let sources = texts(
        &[
            "src",
            "tests/it",
            "tests/browser",
            "benches",
            "scripts",
            "deploy",
            "config",
            "Makefile",
            "build.rs",
        ],
        &[""],
    );
    let known = words(&sources);
    let mut problems = Vec::new();
    for page in Page::all() {
        let blocks = page.blocks.iter().map(|block| block.text.as_str());
        for text in blocks.chain([page.prose.as_str()]) {
            let found = name.find_iter(text).map(|found| found.as_str());
            let unknown = found.filter(|found| !known.contains(found));
            problems.extend(unknown.map(|found| format!("{}: {found}", page.path)));
        }
    }
    assert_none(&problems);
}

/// Codes, fields, labels, keys and functions in code spans are words of the sources.
#[test]
fn every_identifier_named_exists() {
    let name = Regex::new(r"^[a-z][a-z0-9]*(_[a-z0-9]+)+$").expect("valid");
    let mut sources = texts(
        &[
            "src",
            "benches",
            "deploy",
            "fuzz",
            "tests/it",
            "docs/openapi.json",
            "docs/schema.graphql",
        ],
        &[
            ".rs", ".json", ".graphql", ".yml", ".yaml", ".py", ".cfg", ".md",
        ],
    );
    sources += &read("config/hookstile.schema.json");
    sources += &read("Cargo.toml");
    let known = words(&sources);
    let mut problems = Vec::new();
    for page in Page::all() {
        for (line, span) in page.spans() {
            let exists = known.contains(span.as_str())
                || known.contains(format!("hookstile_{span}").as_str())
                || FOREIGN.contains(&span.as_str());
            // Another test knows the metrics.
            if name.is_match(&span) && !exists && !span.starts_with("hookstile_") {
                problems.push(format!("{}:{line}: {span}", page.path));
            }
        }
    }
    assert_none(&problems);
}

/// Follows a path of keys, such as `replay.window`, through the schema.
fn follow<'a>(schema: &'a Value, mut at: &'a Value, path: &[&str]) -> bool {
    while let Some(target) = at["$ref"].as_str() {
        at = &schema["$defs"][target.trim_start_matches("#/$defs/")];
    }
    let forms = ["anyOf", "oneOf", "allOf"]
        .iter()
        .filter_map(|form| at[form].as_array())
        .flatten();
    if forms.into_iter().any(|form| follow(schema, form, path)) {
        return true;
    }
    let Some((first, rest)) = path.split_first() else {
        return true;
    };
    if at["items"].is_object() && follow(schema, &at["items"], path) {
        return true;
    }
    let property = &at["properties"][first];
    property.is_object() && follow(schema, property, rest)
}

#[test]
fn every_key_named_exists() {
    let path = Regex::new(r"^[a-z_]+(\[\])?(\.[a-z_]+(\[\])?)+$").expect("valid");
    let files = [
        "md", "yaml", "yml", "json", "rs", "db", "toml", "pem", "http", "txt", "sh",
    ];
    let keys = Keys::read();
    let mut problems = Vec::new();
    let mut count = 0;
    for page in Page::all() {
        for (line, span) in page.spans() {
            let named = span.replace("[]", "");
            let parts: Vec<_> = named.split('.').collect();
            let (first, last) = (parts[0], *parts.last().expect("one"));
            if !path.is_match(&span) || files.contains(&last) {
                continue;
            }
            let from = if keys.top.contains(first) {
                &keys.schema
            } else if keys.route.contains(first) {
                &keys.schema["$defs"]["Route"]
            } else {
                continue;
            };
            count += 1;
            if !follow(&keys.schema, from, &parts) {
                problems.push(format!("{}:{line}: {span}", page.path));
            }
        }
    }
    assert!(count > 50, "{count}");
    assert_none(&problems);
}

/// Paths of the repository in code spans and scripts, and pages named in the sources.
#[test]
fn every_path_named_exists() {
    let path = Regex::new(
        r"(?:^|[\s`\x22(])((?:src|docs|deploy|scripts|tests|benches|config|fuzz|\.github|\.ci)/[\w./*-]*\w)",
    )
    .expect("valid");
    let mut problems = Vec::new();
    for page in Page::all() {
        let blocks = page
            .blocks
            .iter()
            .map(|block| (block.line, block.text.clone()));
        for (line, text) in page.spans().into_iter().chain(blocks) {
            for found in path.captures_iter(&text).map(|found| found[1].to_owned()) {
                // ARCHITECTURE.md names modules, and a page in a folder of its own that folder's files.
                let exists = [
                    found.clone(),
                    format!("src/{found}.rs"),
                    page.resolve(&found),
                ]
                .iter()
                .any(|path| root().join(path).exists());
                let pattern = found.contains('*') || found.contains("NAME");
                if !exists && !pattern && !MADE.contains(&found.as_str()) {
                    problems.push(format!("{}:{line}: {found}", page.path));
                }
            }
        }
    }
    let page = Regex::new(r"\bdocs/([a-z-]+\.md)(?:#([\w-]+))?").expect("valid");
    let sources = texts(
        &[
            "src",
            "config",
            "deploy",
            "scripts",
            "benches",
            "tests/it",
            "Cargo.toml",
            "Makefile",
        ],
        &[
            ".rs", ".yaml", ".yml", ".toml", ".cfg", "Makefile", ".html", ".txt",
        ],
    );
    for found in page.captures_iter(&sources) {
        let name = format!("docs/{}", &found[1]);
        if !root().join(&name).exists() {
            problems.push(format!("the sources name {name}"));
        } else if let Some(anchor) = found.get(2)
            && !Page::read(&name).anchors().contains(anchor.as_str())
        {
            problems.push(format!("the sources name {}", &found[0]));
        }
    }
    assert_none(&problems);
}

/// Returns whether a path is one of a template, with anything in capitals for a parameter.
fn fits(template: &str, path: &str) -> bool {
    let (template, path) = (Path::new(template), Path::new(path));
    template.components().count() == path.components().count()
        && template.iter().zip(path).all(|(template, part)| {
            let (template, part) = (template.to_string_lossy(), part.to_string_lossy());
            let named = part.starts_with([':', '{']) || part.contains(char::is_uppercase);
            template == part || template.starts_with('{') && (named || part.contains('…'))
        })
}

/// `GET /webhooks/ID` and the like are operations of the API's document.
#[test]
fn every_api_call_named_exists() {
    let document: Value = serde_json::from_str(&read("docs/openapi.json")).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let call = Regex::new(r"^(GET|POST|PUT|PATCH|DELETE) (/[\w/:{}…-]*)$").expect("valid");
    // What the admin listener has besides the API: pages, health, metrics, documents, GraphQL.
    let besides = [
        "/",
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/graphql",
    ];
    let mut problems = Vec::new();
    let mut count = 0;
    for page in Page::all() {
        for (line, span) in page.spans() {
            let Some(found) = call.captures(&span) else {
                continue;
            };
            let (method, path) = (found[1].to_lowercase(), &found[2]);
            count += 1;
            let known = paths
                .iter()
                .any(|(template, methods)| fits(template, path) && !methods[&method].is_null());
            if !known && !besides.contains(&path) {
                problems.push(format!("{}:{line}: {span}", page.path));
            }
        }
    }
    assert!(count > 25, "{count}");
    assert_none(&problems);
}
