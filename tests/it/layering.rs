//! The import order that ARCHITECTURE.md lists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LIST_HEADING: &str = "## Imports";

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
fn modules_import_only_what_architecture_lists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let allowed = allowed_imports(&fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap());
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (module, allowed) in &allowed {
        for (file, text) in files_of(&root.join("src"), module) {
            for imported in imports(&text) {
                seen += 1;
                if imported != *module && !allowed.contains(&imported) {
                    wrong.push(format!("{file}: `{module}` must not import `{imported}`"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 500, "only {seen} imports were found");
}

#[test]
fn architecture_lists_every_module() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let allowed = allowed_imports(&fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap());
    let lib = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    for line in lib.lines().filter_map(|line| line.strip_suffix(';')) {
        let Some((_, module)) = line.split_once("mod ") else {
            continue;
        };
        // Reads test data; nothing imports it outside of tests.
        assert!(
            allowed.contains_key(module) || module == "corpus",
            "{module}"
        );
    }
}

/// Reads the list: a line `module: import import`, where `*` is every module above it.
fn allowed_imports(architecture: &str) -> BTreeMap<String, Vec<String>> {
    let (_, section) = architecture.split_once(LIST_HEADING).unwrap();
    let list = section.split("```").nth(1).unwrap();
    let mut allowed = BTreeMap::new();
    let mut above: Vec<String> = Vec::new();
    for (module, imports) in list.lines().filter_map(|line| line.split_once(':')) {
        let imports = match imports.trim() {
            "*" => above.clone(),
            imports => imports.split_whitespace().map(str::to_owned).collect(),
        };
        for import in &imports {
            assert!(
                above.contains(import),
                "ARCHITECTURE.md: `{import}` stands below `{module}`, which imports it"
            );
        }
        above.push(module.to_owned());
        allowed.insert(module.to_owned(), imports);
    }
    allowed
}

/// The modules that the code of a file names by `crate::`, its unit tests left out.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: Vec<_> = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect();
    let code = code.join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            None => found.push(first_word(rest)),
            Some(group) => found.extend(group_members(group)),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// The first word of each path in a `{…}` group, whose opening brace is consumed.
fn group_members(group: &str) -> Vec<String> {
    let (mut members, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                members.push(first_word(group[start..at].trim()));
                start = at + 1;
                if character == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    members
}

fn first_word(path: &str) -> String {
    path.chars()
        .take_while(|&character| character.is_ascii_alphanumeric() || character == '_')
        .collect()
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
    paths
        .into_iter()
        .filter_map(|path: PathBuf| {
            Some((path.display().to_string(), fs::read_to_string(path).ok()?))
        })
        .collect()
}
