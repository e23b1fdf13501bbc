//! Keys at the wrong indentation: finds each group of them, reports it once, and puts the keys
//! where they belong.
//!
//! So one wrong indentation is one problem, and everything else in the file is checked as if it
//! were right. The keys of each mapping come from the JSON Schema, so none is written here.

use std::rc::Rc;
use std::sync::LazyLock;

use serde_json::Value as Json;

use super::diagnostics::{Diagnostic, Problems};
use super::mistakes;
use super::schema;
use super::tree::{Entry, Node, Span, Value};

static FORMAT: LazyLock<Json> = LazyLock::new(schema::schema);

/// The name of the whole file's mapping.
const FILE: &str = "File";
const ROUTE: &str = "Route";

/// A mapping of the format on the way from the file to a key.
#[derive(Clone, Copy)]
struct Level<'a> {
    /// The mapping's type in `raw`.
    mapping: &'a str,
    /// The key whose value the mapping is; empty for the file.
    key: &'a str,
}

/// The direction in which keys have to move.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// Below the key that comes before them.
    In,
    /// To a mapping that contains theirs.
    Out,
}

/// Keys that stand in a row and belong to the same place.
struct Group<'a> {
    direction: Direction,
    /// The mapping that they belong to, and the one in which they are.
    home: Level<'a>,
    here: Level<'a>,
    keys: Vec<(String, Span)>,
}

/// A key that belongs to the mapping at this depth.
type Outgoing = (usize, Entry);

/// Reports the keys at a wrong level below `root`, and returns the tree with each in its place.
pub(super) fn correct(root: &Rc<Node>, problems: &Problems) -> Rc<Node> {
    let file = Level {
        mapping: FILE,
        key: "",
    };
    Placement { problems }.mapping(&[file], root).0
}

/// Returns the mapping of the format in which `key` stands, as a path of keys below `mapping` or
/// from the top, if there is exactly one.
pub(super) fn home(mapping: &str, key: &str) -> Option<String> {
    below(mapping, key).or_else(|| below(FILE, key))
}

/// Returns the only path from `mapping` to a mapping with this key: the nearest ones first.
fn below(mapping: &str, key: &str) -> Option<String> {
    let mut level = vec![(String::new(), mapping)];
    for _ in 0..4 {
        let mut next = Vec::new();
        for (path, mapping) in &level {
            for (name, _) in properties(mapping) {
                if let Some(child) = child(mapping, name).filter(|_| name != "defaults") {
                    let dot = if path.is_empty() { "" } else { "." };
                    next.push((format!("{path}{dot}{name}"), child));
                }
            }
        }
        let found: Vec<_> = next.iter().filter(|(_, child)| has(child, key)).collect();
        match found[..] {
            [] => level = next,
            [(path, _)] => return Some(path.clone()),
            _ => return None,
        }
    }
    None
}

fn definition(mapping: &str) -> &'static Json {
    let schema = if mapping == FILE {
        &*FORMAT
    } else {
        &FORMAT["$defs"][mapping]
    };
    schema::mapping(schema)
}

fn properties(mapping: &str) -> impl Iterator<Item = (&'static String, &'static Json)> {
    definition(mapping)["properties"]
        .as_object()
        .into_iter()
        .flatten()
}

/// Returns whether this mapping of the format has `key`.
pub(super) fn has(mapping: &str, key: &str) -> bool {
    definition(mapping)["properties"].get(key).is_some()
}

/// Returns the type of the mapping, or of the mappings in the list, that is the value of `key`.
fn child(mapping: &str, key: &str) -> Option<&'static str> {
    fn reference(schema: &'static Json) -> Option<&'static str> {
        let forms = schema["anyOf"].as_array();
        let target = schema["$ref"]
            .as_str()
            .or_else(|| schema["items"]["$ref"].as_str())
            .and_then(|target| target.strip_prefix("#/$defs/"));
        target.or_else(|| forms?.iter().find_map(reference))
    }
    let child = reference(&definition(mapping)["properties"][key])?;
    definition(child)["properties"].is_object().then_some(child)
}

struct Placement<'a> {
    problems: &'a Problems,
}

impl Placement<'_> {
    /// Corrects the mapping `node` at the end of `path`. Returns it, and the keys that belong to
    /// mappings further out.
    fn mapping(&self, path: &[Level<'_>], node: &Rc<Node>) -> (Rc<Node>, Vec<Outgoing>) {
        let (Value::Mapping(entries), Some(here)) = (&node.value, path.last()) else {
            return (Rc::clone(node), Vec::new());
        };
        let depth = path.len() - 1;
        let (mut kept, mut outgoing): (Vec<Entry>, Vec<Outgoing>) = (Vec::new(), Vec::new());
        let mut groups: Vec<Group<'_>> = Vec::new();
        // The key with a mapping or a list of mappings that comes last so far.
        let mut above: Option<Level<'_>> = None;
        let mut incoming: Vec<(Level<'_>, Entry)> = Vec::new();
        let is_flat = here.mapping == FILE && has_stray_route(entries);
        for entry in entries {
            let Some(word) = entry.key.text().filter(|_| !entry.rejected) else {
                kept.push(entry.clone());
                continue;
            };
            if has(here.mapping, word) {
                let Some(mapping) = child(here.mapping, word) else {
                    kept.push(entry.clone());
                    continue;
                };
                let level = Level { mapping, key: word };
                above = Some(level);
                let inner: Vec<_> = path.iter().copied().chain([level]).collect();
                let (value, found) = self.value(&inner, &entry.value);
                kept.push(Entry {
                    value,
                    ..entry.clone()
                });
                for (home, found) in found {
                    if home == depth {
                        add(&mut kept, found);
                    } else {
                        outgoing.push((home, found));
                    }
                }
                continue;
            }
            let inward = above.filter(|above| has(above.mapping, word)).or_else(|| {
                (is_flat && has(ROUTE, word)).then_some(Level {
                    mapping: ROUTE,
                    key: "routes",
                })
            });
            let outward = || {
                let is_known = mistakes::advice_for_key(here.mapping, word).is_some();
                (0..depth)
                    .rev()
                    .find(|&at| !is_known && has(path[at].mapping, word))
            };
            let (direction, home) = if let Some(home) = inward {
                incoming.push((home, entry.clone()));
                (Direction::In, home)
            } else if let Some(at) = outward() {
                outgoing.push((at, entry.clone()));
                (Direction::Out, path[at])
            } else {
                kept.push(entry.clone());
                continue;
            };
            let found = (word.to_owned(), entry.key.span);
            match groups.last_mut() {
                Some(group) if group.direction == direction && group.home.key == home.key => {
                    group.keys.push(found);
                }
                _ => groups.push(Group {
                    direction,
                    home,
                    here: *here,
                    keys: vec![found],
                }),
            }
        }
        let routes = kept.iter().any(|entry| entry.key.text() == Some("routes"));
        for group in &groups {
            self.report(group, routes);
        }
        for (home, entry) in incoming {
            put_below(&mut kept, home.key, entry);
        }
        let corrected = Node {
            span: node.span,
            value: Value::Mapping(kept),
        };
        (Rc::new(corrected), outgoing)
    }

    /// Corrects a mapping, or the mappings of a list.
    fn value(&self, path: &[Level<'_>], node: &Rc<Node>) -> (Rc<Node>, Vec<Outgoing>) {
        let Value::Sequence(items) = &node.value else {
            return self.mapping(path, node);
        };
        let (mut corrected, mut outgoing) = (Vec::with_capacity(items.len()), Vec::new());
        for item in items {
            let (item, found) = self.mapping(path, item);
            corrected.push(item);
            outgoing.extend(found);
        }
        let list = Node {
            span: node.span,
            value: Value::Sequence(corrected),
        };
        (Rc::new(list), outgoing)
    }

    fn report(&self, group: &Group<'_>, has_routes: bool) {
        let Some(&(_, first)) = group.keys.first() else {
            return;
        };
        let (home, here) = (words(group.home), words(group.here));
        let names: Vec<_> = group
            .keys
            .iter()
            .map(|(name, _)| format!("`{name}`"))
            .collect();
        let (message, pronoun) = match &names[..] {
            [name] => (format!("{name} is a key of {home}, not of {here}"), "it"),
            [rest @ .., last] => (
                format!(
                    "{} and {last} are keys of {home}, not of {here}",
                    rest.join(", ")
                ),
                "these lines",
            ),
            [] => return,
        };
        let key = group.home.key;
        let label = match group.direction {
            Direction::In if group.home.mapping == ROUTE && !has_routes => {
                format!("put {pronoun} below `routes:`, as a route: `- path: …`")
            }
            Direction::In if group.home.mapping == ROUTE && key == "routes" => {
                format!("indent {pronoun} as far as the route's other keys")
            }
            Direction::In => format!("indent {pronoun} below `{key}`"),
            Direction::Out if group.home.mapping == FILE => {
                format!("write {pronoun} without indentation")
            }
            Direction::Out => format!("indent {pronoun} less: as far as `{}`", group.here.key),
        };
        self.problems
            .push(Diagnostic::error(first, message).label(label));
    }
}

/// Returns whether keys of a route are among those of the file, and no other program's words for
/// keys of the file.
fn has_stray_route(file: &[Entry]) -> bool {
    file.iter().filter_map(|entry| entry.key.text()).any(|key| {
        !has(FILE, key) && has(ROUTE, key) && mistakes::advice_for_key(FILE, key).is_none()
    })
}

/// Returns the name of a mapping in a sentence.
fn words(level: Level<'_>) -> String {
    match level.mapping {
        FILE => "the file".into(),
        ROUTE => "a route".into(),
        "Listen" => "a listener".into(),
        _ => format!("`{}`", level.key),
    }
}

/// Adds `entry` unless its key is there.
fn add(entries: &mut Vec<Entry>, entry: Entry) {
    if entries
        .iter()
        .all(|other| other.key.text() != entry.key.text())
    {
        entries.push(entry);
    }
}

/// Puts `entry` into the mapping that is the value of `key`, or into the last one of its list that
/// begins before the entry.
fn put_below(entries: &mut Vec<Entry>, key: &str, entry: Entry) {
    let span = entry.key.span;
    let is_list = key == "routes";
    let node = |value| Rc::new(Node { span, value });
    let Some(target) = entries.iter_mut().find(|it| it.key.text() == Some(key)) else {
        let mapping = node(Value::Mapping(vec![entry]));
        let value = if is_list {
            node(Value::Sequence(vec![mapping]))
        } else {
            mapping
        };
        let text = key.into();
        entries.push(Entry {
            key: node(Value::Scalar { text, plain: true }),
            value,
            rejected: false,
        });
        return;
    };
    let with_entry = |node: &Rc<Node>| match &node.value {
        Value::Mapping(inner) => {
            let mut inner = inner.clone();
            add(&mut inner, entry.clone());
            Rc::new(Node {
                span: node.span,
                value: Value::Mapping(inner),
            })
        }
        _ => Rc::clone(node),
    };
    target.value = match &target.value.value {
        Value::Null => {
            let mapping = node(Value::Mapping(vec![entry.clone()]));
            if is_list {
                node(Value::Sequence(vec![mapping]))
            } else {
                mapping
            }
        }
        Value::Sequence(items) => {
            let before = items.iter().rposition(|item| item.span.start < span.start);
            let at = before.unwrap_or(0);
            let items = items.iter().enumerate();
            let items = items.map(|(index, item)| {
                if index == at {
                    with_entry(item)
                } else {
                    Rc::clone(item)
                }
            });
            Rc::new(Node {
                span: target.value.span,
                value: Value::Sequence(items.collect()),
            })
        }
        _ => with_entry(&target.value),
    };
}
