//! Imports in `src` point up the list in ARCHITECTURE.md only.

use std::fs;
use std::path::Path;

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
        "backoff clock delivery event handshake ledger log metrics outcome proxy_protocol route signature store tls upstream activity",
    ),
    ("providers", "json signature handshake event route"),
    (
        "config",
        "backoff delivery providers gateway handshake json log route store tls upstream ledger event signature secret",
    ),
    ("webhooks", "config route store upstream"),
    (
        "admin",
        "delivery event json ledger log metrics outcome providers queue route secret signature store tls activity webhooks",
    ),
    (
        "app",
        "admin clock config gateway ledger log metrics queue route store tls upstream activity webhooks",
    ),
    ("cli", "*"),
];

/// The steps of a connection that run before its first request, and know nothing of requests.
const CONNECTION_STEPS: [&str; 6] = [
    "connection_limits",
    "first_byte",
    "protocol",
    "proxy_header",
    "tls_accept",
    "wait",
];

#[test]
fn connection_steps_import_nothing_of_requests() {
    let listener = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway/listener");
    for step in CONNECTION_STEPS {
        let code = fs::read_to_string(listener.join(format!("{step}.rs"))).unwrap();
        for later in ["request", "response", "http1", "http2"] {
            let import = code
                .lines()
                .find(|line| line.starts_with("use ") && line.contains(&format!("{later}::")));
            assert_eq!(import, None, "{step} must not import `{later}`");
        }
    }
}

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
