//! The YAML text as a tree of nodes with their locations.
//!
//! Owns syntax: repeated keys, anchors, tags and more than one document are handled here. Knows
//! neither the keys of the format (`raw`) nor any type but text, list, mapping and null (`de`).

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle};

use super::diagnostics::{Diagnostic, Problems};

/// A range of bytes of all files, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Span {
    pub start: usize,
    /// The end, exclusive.
    pub end: usize,
}

impl Span {
    /// Returns the range in a text that begins at `start`.
    fn from_parser(span: granit_parser::Span, start: usize) -> Self {
        let range = span.byte_range().unwrap_or_default();
        Self {
            start: range.start,
            end: range.end,
        }
        .moved(start)
    }

    /// Returns the range behind `by` more bytes.
    pub(super) fn moved(self, by: usize) -> Self {
        Self {
            start: self.start + by,
            end: self.end + by,
        }
    }
}

/// A value. It is shared because every alias of an anchor is the same node. It does not implement
/// `Debug` because it may contain a literal secret.
pub(super) struct Node {
    pub span: Span,
    pub value: Value,
}

pub(super) enum Value {
    /// An empty value, `~` or `null`.
    Null,
    Scalar {
        text: Box<str>,
        /// True without quotes: then `true` and `5` may be more than text.
        plain: bool,
    },
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<Entry>),
    /// A value that cannot be used, which has been reported.
    Wrong,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub key: Rc<Node>,
    pub value: Rc<Node>,
    /// True if the key is repeated or is not text. This has been reported, and the entry is
    /// ignored.
    pub rejected: bool,
}

impl Node {
    /// Returns the text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }
}

/// Parses a YAML document; more than one is an error. Returns `None` if the text is not YAML. The
/// text begins at byte `start` of all files.
pub(super) fn parse(source: &str, start: usize, problems: &Problems) -> Option<Vec<Rc<Node>>> {
    let options =
        granit_parser::options! { emit_unresolved_aliases: true, disallow_directives: true };
    let mut builder = Builder {
        source,
        start,
        open: Vec::new(),
        anchors: HashMap::new(),
        documents: Vec::new(),
        problems,
    };
    for next in Parser::new_from_str_with_options(source, options) {
        match next {
            Ok((event, span)) => builder.handle(event, span),
            Err(error) => {
                let at = error.marker().byte_offset().unwrap_or(source.len());
                let span = Span { start: at, end: at }.moved(start);
                let error =
                    Diagnostic::error(span, format!("this is not valid YAML: {}", error.kind()));
                problems.push(error.help(if has_variable_in_braces(source, at) {
                    "a secret is not inserted with `${…}` but named: `{env: NAME}`; other text with \
                     `${…}` needs quotes inside of `{}` and `[]`"
                } else {
                    "the rest was not checked; the cause may be on a line above, such as an open \
                     quote or bracket"
                }));
                return None;
            }
        }
    }
    if builder.documents.is_empty() && start > 0 {
        let span = Span { start, end: start };
        problems.push(Diagnostic::warning(span, "this file has no routes"));
    } else if builder.documents.is_empty() {
        problems.push(
            Diagnostic::error(None, "the file is empty")
                .help("`hookstile init` writes a configuration to start from"),
        );
    }
    Some(builder.documents)
}

/// Returns a mapping with one of its entries only. Another node is returned as it is.
pub(super) fn section(root: &Rc<Node>, key: &str) -> Rc<Node> {
    let Value::Mapping(entries) = &root.value else {
        return Rc::clone(root);
    };
    let section = entries
        .iter()
        .filter(|entry| !entry.rejected && entry.key.text() == Some(key))
        .map(|entry| Entry {
            key: Rc::clone(&entry.key),
            value: Rc::clone(&entry.value),
            rejected: false,
        });
    Rc::new(Node {
        span: root.span,
        value: Value::Mapping(section.collect()),
    })
}

/// Blanks all lines but those of one section of a block mapping: from its key to the next line
/// that is not indented. The bytes that are left keep their places.
pub(super) fn blank_other_sections(source: &str, key: &str) -> String {
    let mut is_kept = false;
    let mut text = String::with_capacity(source.len());
    for line in source.split_inclusive('\n') {
        if !line.starts_with([' ', '\t', '#', '\r', '\n']) {
            let rest = line.strip_prefix(key);
            is_kept = rest.is_some_and(|rest| rest.trim_start().starts_with(':'));
        }
        if is_kept {
            text.push_str(line);
        } else {
            let blank = |byte| if byte == b'\n' { '\n' } else { ' ' };
            text.extend(line.bytes().map(blank));
        }
    }
    text
}

/// Returns whether a `${` without quotes is on the line of byte `at`, or on the one above.
fn has_variable_in_braces(source: &str, at: usize) -> bool {
    let (before, behind) = source.split_at_checked(at).unwrap_or((source, ""));
    let rest = behind.split('\n').next().unwrap_or_default();
    let until_line_end = &source[..before.len() + rest.len()];
    until_line_end.rsplit('\n').take(2).any(|line| {
        line.match_indices("${")
            .any(|(at, _)| !line[..at].trim_end().ends_with(['"', '\'']))
    })
}

/// Builds the tree from the parser's events. It has a stack and no recursion because the file
/// determines the depth.
struct Builder<'a> {
    source: &'a str,
    /// The offset of the text in all files.
    start: usize,
    open: Vec<Open>,
    /// The anchored nodes by the parser's number for the anchor.
    anchors: HashMap<usize, Rc<Node>>,
    documents: Vec<Rc<Node>>,
    problems: &'a Problems,
}

/// A list or mapping whose end has not been parsed yet.
struct Open {
    start: Span,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Rc<Node>>),
    Mapping {
        entries: Vec<Entry>,
        /// The key of the next value.
        key: Option<Rc<Node>>,
        first_keys: HashMap<Box<str>, Span>,
    },
}

impl Builder<'_> {
    fn handle(&mut self, event: Event<'_>, at: granit_parser::Span) {
        let span = Span::from_parser(at, self.start);
        match event {
            Event::DocumentStart(..) if self.documents.len() == 1 => {
                self.problems.push(
                    Diagnostic::error(span, "a second YAML document begins here")
                        .help("keep only one document"),
                );
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.report_tag(tag.is_some(), at);
                // The parser ends a block scalar at the next token.
                let own = span.start - self.start..span.end - self.start;
                let written = self.source.get(own).unwrap_or_default();
                let span = Span {
                    end: span.start + written.trim_end().len(),
                    ..span
                };
                let plain = style == ScalarStyle::Plain;
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    text => Value::Scalar {
                        text: text.into(),
                        plain,
                    },
                };
                self.add(Node { span, value }, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.report_tag(tag.is_some(), at);
                self.open.push(Open {
                    start: span,
                    anchor,
                    content: Content::Sequence(Vec::new()),
                });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.report_tag(tag.is_some(), at);
                let content = Content::Mapping {
                    entries: Vec::new(),
                    key: None,
                    first_keys: HashMap::new(),
                };
                self.open.push(Open {
                    start: span,
                    anchor,
                    content,
                });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => self.attach(node),
                None => self.reject_alias(span, "this alias is inside the value of its anchor"),
            },
            Event::UnresolvedAlias(_) => {
                self.reject_alias(span, "there is no anchor with this name above");
            }
            _ => {}
        }
    }

    fn close(&mut self, end: Span) {
        let Some(Open {
            start,
            anchor,
            content,
        }) = self.open.pop()
        else {
            return;
        };
        let (value, last) = match content {
            Content::Sequence(items) => {
                let last = items.last().map(|item| item.span.end);
                (Value::Sequence(items), last)
            }
            Content::Mapping { entries, .. } => {
                let last = entries
                    .last()
                    .map(|entry| entry.value.span.end.max(entry.key.span.end));
                (Value::Mapping(entries), last)
            }
        };
        // The parser ends a block where the next one begins, so the end of the last child is
        // better.
        let end = if end.end > end.start {
            end.end
        } else {
            last.unwrap_or(start.end)
        };
        self.add(
            Node {
                span: Span {
                    start: start.start,
                    end: end.max(start.end),
                },
                value,
            },
            anchor,
        );
    }

    fn add(&mut self, node: Node, anchor: usize) {
        let node = Rc::new(node);
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.attach(node);
    }

    fn attach(&mut self, node: Rc<Node>) {
        let Some(parent) = self.open.last_mut() else {
            self.documents.push(node);
            return;
        };
        match &mut parent.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping {
                entries,
                key,
                first_keys,
            } => match key.take() {
                None => *key = Some(node),
                Some(key) => {
                    let rejected = !check_key(&key, first_keys, self.problems);
                    entries.push(Entry {
                        key,
                        value: node,
                        rejected,
                    });
                }
            },
        }
    }

    fn report_tag(&self, tagged: bool, at: granit_parser::Span) {
        if tagged {
            let span = at.tag_span().unwrap_or(at);
            self.problems.push(
                Diagnostic::error(
                    Span::from_parser(span, self.start),
                    "YAML tags are not supported",
                )
                .help("remove the tag"),
            );
        }
    }

    fn reject_alias(&mut self, span: Span, message: &'static str) {
        self.problems.push(Diagnostic::error(span, message));
        self.attach(Rc::new(Node {
            span,
            value: Value::Scalar {
                text: "".into(),
                plain: false,
            },
        }));
    }
}

/// Returns whether `key` is text and the first with this name, and reports one that is not.
fn check_key(key: &Node, first_keys: &mut HashMap<Box<str>, Span>, problems: &Problems) -> bool {
    let Some(text) = key.text() else {
        problems.push(Diagnostic::error(key.span, "a key must be text"));
        return false;
    };
    if let Some(&first) = first_keys.get(text) {
        let error = Diagnostic::error(
            key.span,
            format!("the key `{}` is repeated", text.escape_debug()),
        );
        problems.push(
            error
                .label("repeated here")
                .also(first, "first used here")
                .help("keep one of the two"),
        );
        return false;
    }
    first_keys.insert(text.into(), key.span);
    true
}
