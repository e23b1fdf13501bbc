//! The import order that ARCHITECTURE.md lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const LIST_HEADING: &str = "## Imports";

/// The steps of a connection that run before its first request, and know nothing of requests.
const CONNECTION_STEPS: [&str; 7] = [
    "connection_limits",
    "first_byte",
    "protocol",
    "proxy_header",
    "read_ahead",
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

/// The most files that may import each other in a circle, such as a type's file and its steps.
const CIRCLE_FILES_MAX: usize = 3;

#[test]
fn import_circles_have_at_most_three_files() {
    let imports = file_imports(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(imports.len() > 200, "only {} files", imports.len());
    let reachable: BTreeMap<_, _> = imports
        .keys()
        .map(|file| (file, reachable_from(file, &imports)))
        .collect();
    for (file, reached) in &reachable {
        let circle: Vec<_> = reached
            .iter()
            .filter(|other| reachable[*other].contains(*file))
            .map(|other| other.join("::"))
            .collect();
        assert!(circle.len() <= CIRCLE_FILES_MAX, "{circle:#?}");
    }
}

/// A source file by the segments of its module path, with the files that it imports from.
type FileImports = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

fn reachable_from(file: &Vec<String>, imports: &FileImports) -> BTreeSet<Vec<String>> {
    let mut reached = BTreeSet::new();
    let mut left = vec![file];
    while let Some(file) = left.pop() {
        for imported in &imports[file] {
            if reached.insert(imported.clone()) {
                left.push(imported);
            }
        }
    }
    reached
}

fn file_imports(src: &Path) -> FileImports {
    let files: BTreeMap<Vec<String>, String> = files_below(src)
        .into_iter()
        .map(|(file, text)| (segments(src, &file), text))
        .collect();
    files
        .iter()
        .map(|(file, text)| {
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            let imported = use_paths(code)
                .into_iter()
                .filter_map(|path| absolute(file, &path))
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

/// Returns the segments of a path in `file` from the crate's root; `None` for another crate's, or a
/// child's.
fn absolute(file: &[String], path: &str) -> Option<Vec<String>> {
    let mut segments: Vec<_> = path.split("::").map(str::to_owned).collect();
    let mut base = file.to_vec();
    match segments[0].as_str() {
        "crate" => base.clear(),
        "self" => {}
        "super" => {
            base.pop();
        }
        // Another crate, or a child of this file, which is a part of it.
        _ => return None,
    }
    segments.remove(0);
    while segments.first().is_some_and(|segment| segment == "super") {
        base.pop();
        segments.remove(0);
    }
    base.append(&mut segments);
    Some(base)
}

fn first_word(path: &str) -> String {
    path.chars()
        .take_while(|&character| character.is_ascii_alphanumeric() || character == '_')
        .collect()
}

fn files_of(src: &Path, module: &str) -> Vec<(String, String)> {
    let mut files = files_below(&src.join(module));
    let file = src.join(format!("{module}.rs"));
    let text = fs::read_to_string(&file).unwrap();
    files.push((file.display().to_string(), text));
    files
}

/// Reads the source files below a folder, unit tests left out.
fn files_below(folder: &Path) -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut folders = vec![folder.to_owned()];
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
