//! Routes in files of their own: finds the files that `routes_from` names, and adds their routes to
//! those of the configuration.
//!
//! All files are one text for the rest of the module, one after the other. So a location is enough
//! to know the file, its name for messages and the folder of its relative paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::de::Located;
use super::diagnostics::{Diagnostic, Problems};
use super::files::{FileDigest, RouteFiles};
use super::placement;
use super::redact;
use super::tree::{self, Entry, Node, Span, Value};
use super::variables::{self, Scope};

/// The most files that one pattern may match. Each is hashed whenever its folder changes.
const FILES_MAX: usize = 10_000;

/// The text of all files, one after the other.
pub(super) struct Texts {
    pub text: String,
    /// The offset at which each file begins, with its path, in order.
    pub files: Vec<(usize, PathBuf)>,
    /// The bytes that no output shows, in order.
    pub masks: Vec<Span>,
}

impl Texts {
    pub(super) fn new(file: PathBuf, text: String) -> Self {
        Self {
            text,
            files: vec![(0, file)],
            masks: Vec::new(),
        }
    }

    /// Adds a file. Returns the offset at which it begins.
    fn push(&mut self, file: PathBuf, text: &str) -> usize {
        self.text.push('\n');
        let start = self.text.len();
        self.text.push_str(text);
        self.files.push((start, file));
        start
    }
}

/// Adds the routes of all files that `routes_from` names to `root`. Adds their texts to `texts`.
/// Returns the files that each pattern matches.
pub(super) fn add_routes(
    root: Rc<Node>,
    folder: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    texts: &mut Texts,
    problems: &Problems,
) -> (Rc<Node>, Vec<RouteFiles>) {
    let patterns = patterns(&root);
    if patterns.is_empty() {
        return (root, Vec::new());
    }
    let (mut found, mut routes) = (BTreeMap::new(), Vec::new());
    let mut matched = Vec::with_capacity(patterns.len());
    for pattern in &patterns {
        let files = match RouteFiles::find(folder, &pattern.value, FILES_MAX) {
            Ok(files) => files,
            Err(problem) => {
                problems.push(Diagnostic::error(pattern.span, problem));
                continue;
            }
        };
        if files.paths().next().is_none() {
            let warning = Diagnostic::warning(pattern.span, "no file matches this pattern");
            problems.push(warning.help("its folder is watched: a file that is added is loaded"));
        }
        for path in files.paths() {
            found.entry(path.clone()).or_insert(pattern.span);
        }
        matched.push(files);
    }
    let mut bytes_left = super::FILE_BYTES_MAX.saturating_sub(texts.text.len());
    for (path, span) in found {
        let text = match super::read_text(&path, "the file", bytes_left) {
            Ok(text) => text,
            Err(problem) => {
                let problem = format!("`{}`: {problem}", path.display());
                problems.push(Diagnostic::error(span, problem));
                continue;
            }
        };
        bytes_left -= text.len().min(bytes_left);
        let digest = FileDigest::of_content(text.as_bytes());
        for files in &mut matched {
            files.set_loaded(&path, digest);
        }
        let start = texts.push(path, &text);
        routes.extend(routes_in(&text, start, env, texts, problems));
    }
    (with_routes(&root, routes), matched)
}

/// Returns the patterns in `routes_from`. Anything else in it is reported by its type.
fn patterns(root: &Node) -> Vec<Located<String>> {
    let Some(Value::Sequence(items)) = entry(root, "routes_from").map(|it| &it.value.value) else {
        return Vec::new();
    };
    items
        .iter()
        .filter_map(|item| {
            Some(Located {
                value: item.text()?.to_owned(),
                span: item.span,
            })
        })
        .collect()
}

fn entry<'n>(root: &'n Node, key: &str) -> Option<&'n Entry> {
    let Value::Mapping(entries) = &root.value else {
        return None;
    };
    entries
        .iter()
        .find(|entry| !entry.rejected && entry.key.text() == Some(key))
}

/// Returns the routes of one file, whose text begins at `start`.
fn routes_in(
    text: &str,
    start: usize,
    env: &dyn Fn(&str) -> Option<String>,
    texts: &mut Texts,
    problems: &Problems,
) -> Vec<Rc<Node>> {
    let documents = tree::parse(text, start, problems);
    let masks = match &documents {
        Some(documents) => redact::mask_trees(documents),
        None => redact::mask_text(text)
            .into_iter()
            .map(|mask| mask.moved(start))
            .collect(),
    };
    texts.masks.extend(masks);
    let Some(root) = documents.as_deref().and_then(<[_]>::first) else {
        return Vec::new();
    };
    if !matches!(root.value, Value::Sequence(_)) {
        let error = Diagnostic::error(root.span, "this file is no list of routes");
        problems.push(if entry(root, "routes").is_some() {
            error.label("leave out `routes:`, and begin each route with `- path: …`")
        } else {
            error.label("begin each route with `- path: …`")
        });
        return Vec::new();
    }
    // The same steps as for the routes of the configuration itself.
    let file = placement::correct(&with_list(root), problems);
    let file = variables::insert(&file, env, Scope::Whole, problems);
    match entry(&file, "routes").map(|it| &it.value.value) {
        Some(Value::Sequence(items)) => items.clone(),
        _ => Vec::new(),
    }
}

fn with_list(routes: &Rc<Node>) -> Rc<Node> {
    Rc::new(Node {
        span: routes.span,
        value: Value::Mapping(vec![routes_entry(routes.span, Rc::clone(routes))]),
    })
}

fn routes_entry(span: Span, value: Rc<Node>) -> Entry {
    let (text, plain) = ("routes".into(), true);
    Entry {
        key: Rc::new(Node {
            span,
            value: Value::Scalar { text, plain },
        }),
        value,
        rejected: false,
    }
}

/// Returns `root` with more routes.
fn with_routes(root: &Rc<Node>, more: Vec<Rc<Node>>) -> Rc<Node> {
    let Value::Mapping(entries) = &root.value else {
        return Rc::clone(root);
    };
    if more.is_empty() {
        return Rc::clone(root);
    }
    let mut entries = entries.clone();
    let own = entries
        .iter_mut()
        .find(|entry| !entry.rejected && entry.key.text() == Some("routes"));
    match own {
        Some(own) => {
            let mut routes = match &own.value.value {
                Value::Sequence(items) => items.clone(),
                Value::Null => Vec::new(),
                // It has the wrong type, and `de` says so.
                _ => return Rc::clone(root),
            };
            routes.extend(more);
            own.value = Rc::new(Node {
                span: own.value.span,
                value: Value::Sequence(routes),
            });
        }
        None => {
            let span = root.span;
            let list = Rc::new(Node {
                span,
                value: Value::Sequence(more),
            });
            entries.push(routes_entry(span, list));
        }
    }
    Rc::new(Node {
        span: root.span,
        value: Value::Mapping(entries),
    })
}
