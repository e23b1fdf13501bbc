//! Imports in `src` point up the list in ARCHITECTURE.md only, and files form no circle of imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module with what it may import from the crate; `*` is everything.
const ALLOWED: &[(&str, &str)] = &[
    ("clock", ""),
    ("secret", ""),
    ("outcome", ""),
    ("backoff", ""),
    ("metrics", "backoff outcome"),
    ("activity", "metrics outcome"),
    ("json", ""),
    ("signature", "json secret"),
    ("handshake", "json secret signature"),
    ("event", "json"),
    ("explain", "event handshake json secret signature"),
    ("store", "backoff signature clock metrics"),
    ("ledger", "store event signature clock"),
    ("delivery", "signature"),
    ("tls", ""),
    ("proxy_protocol", ""),
    ("upstream", "backoff delivery metrics store tls"),
    (
        "route",
        "backoff signature handshake event store ledger upstream",
    ),
    (
        "queue",
        "backoff clock delivery ledger metrics route store upstream",
    ),
    ("log", "outcome"),
    (
        "gateway",
        "backoff clock delivery event handshake ledger log metrics outcome proxy_protocol queue route signature store tls upstream activity",
    ),
    ("providers", "json signature handshake event route"),
    (
        "config",
        "backoff delivery providers gateway handshake json log route store tls upstream ledger event signature secret",
    ),
    ("webhooks", "config gateway route store upstream"),
    (
        "admin",
        "delivery event json ledger log metrics outcome providers queue route secret signature store activity webhooks gateway",
    ),
    (
        "app",
        "admin clock config gateway ledger log metrics queue store tls upstream activity webhooks",
    ),
    ("cli", "*"),
];

#[test]
fn imports_point_up_the_list_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for (module, allowed) in ALLOWED {
        let allowed: Vec<_> = allowed.split(' ').collect();
        for (file, text) in files_of(&src, module) {
            // Tests may use what they need to make a value.
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for line in code
                .lines()
                .filter_map(|line| line.trim().strip_prefix("use crate::"))
            {
                seen += 1;
                let imported = if let Some(group) = line.strip_prefix('{') {
                    group
                        .trim_end_matches("};")
                        .split(',')
                        .map(|name| first_word(name.trim()))
                        .collect::<Vec<_>>()
                } else {
                    vec![first_word(line)]
                };
                for name in imported {
                    let permitted = name == *module || allowed.contains(&name) || allowed == ["*"];
                    assert!(permitted, "{file}: `{module}` must not import `{name}`");
                }
            }
        }
    }
    assert!(seen > 50, "the imports were found: {seen}");
}

/// The modules whose files are checked for circles.
const CIRCLE_FREE: &[&str] = &["admin"];

#[test]
fn files_import_no_circle() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for module in CIRCLE_FREE {
        let mut imports = file_imports(&src, module);
        assert!(imports.len() > 3, "the files of `{module}` were found");
        // Files that import none of those left are in no circle.
        loop {
            let left: BTreeSet<_> = imports.keys().cloned().collect();
            imports.retain(|_, imported| imported.iter().any(|file| left.contains(file)));
            if imports.len() == left.len() {
                break;
            }
        }
        let circle: Vec<_> = imports.keys().collect();
        assert!(
            circle.is_empty(),
            "these files import each other: {circle:#?}"
        );
    }
}

/// Returns the files of a module, each by its path segments, with the files that it imports from.
fn file_imports(src: &Path, module: &str) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let files: BTreeMap<Vec<String>, String> = files_of(src, module)
        .into_iter()
        .map(|(file, text)| (segments(src, &file), text))
        .collect();
    files
        .iter()
        .map(|(file, text)| {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let imported = use_paths(code)
                .into_iter()
                .filter_map(|path| absolute(file, &path, |child| files.contains_key(child)))
                .filter_map(|mut path| {
                    while !path.is_empty() && !files.contains_key(&path) {
                        path.pop();
                    }
                    (!path.is_empty() && path != *file).then_some(path)
                })
                .collect();
            (file.clone(), imported)
        })
        .collect()
}

/// Returns the module path of a source file.
fn segments(src: &Path, file: &str) -> Vec<String> {
    let file = PathBuf::from(file).with_extension("");
    let relative = file.strip_prefix(src).unwrap_or(&file);
    relative
        .iter()
        .map(|segment| segment.to_string_lossy().into_owned())
        .collect()
}

/// Returns the paths of all `use` declarations, with the groups in braces expanded.
fn use_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let starts_item = rest[..at]
            .lines()
            .next_back()
            .is_none_or(|before| before.trim().is_empty() || before.trim().starts_with("pub"));
        rest = &rest[at + 4..];
        if let Some(end) = rest.find(';').filter(|_| starts_item) {
            expand("", &rest[..end], &mut paths);
        }
    }
    paths
}

fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((outer, group)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default();
        paths.push(format!("{prefix}{}", path.trim()));
        return;
    };
    let prefix = format!("{prefix}{}", outer.trim());
    let group = group.rsplit_once('}').map_or(group, |(group, _)| group);
    let (mut depth, mut start) = (0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&prefix, &group[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !group[start..].trim().is_empty() {
        expand(&prefix, &group[start..], paths);
    }
}

/// Returns the segments of a path in `file` from the crate's root; `None` for another crate's.
fn absolute(
    file: &[String],
    path: &str,
    is_file: impl Fn(&Vec<String>) -> bool,
) -> Option<Vec<String>> {
    let mut segments: Vec<_> = path.split("::").map(str::to_owned).collect();
    let mut base = file.to_vec();
    match segments[0].as_str() {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            base.pop();
        }
        child => {
            base.push(child.to_owned());
            if !is_file(&base) {
                return None;
            }
        }
    }
    segments.remove(0);
    while segments.first().is_some_and(|segment| segment == "super") {
        base.pop();
        segments.remove(0);
    }
    base.append(&mut segments);
    Some(base)
}

fn first_word(path: &str) -> &str {
    path.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .next()
        .unwrap_or_default()
}

fn files_of(src: &Path, module: &str) -> Vec<(String, String)> {
    let mut paths = vec![src.join(format!("{module}.rs"))];
    let mut folders = vec![src.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.ends_with("tests") || path.ends_with("tests.rs") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                paths.push(path);
            }
        }
    }
    let read = |path: std::path::PathBuf| {
        Some((path.display().to_string(), fs::read_to_string(path).ok()?))
    };
    paths.into_iter().filter_map(read).collect()
}
