//! The YAML text as a tree of nodes that know where they stand.
//!
//! Owns syntax: repeated keys, anchors, tags and more than one document are dealt with here. Knows nothing of which
//! keys exist (that is `raw`) nor of types beyond "text, list, mapping, nothing" (that is `de`).

use std::collections::HashMap;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle};

use super::diagnostics::{Diagnostic, Problems};

/// A range of bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Span {
    pub start: usize,
    /// Exclusive.
    pub end: usize,
}

impl Span {
    fn of(span: granit_parser::Span) -> Self {
        let range = span.byte_range().unwrap_or_default();
        Self {
            start: range.start,
            end: range.end,
        }
    }
}

/// A value. Shared, since every alias of an anchor is the same node. Not `Debug`: it may hold a literal secret.
pub(super) struct Node {
    pub span: Span,
    pub value: Value,
}

pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    Scalar {
        text: Box<str>,
        /// Without quotes, so that `true` and `5` may be more than text.
        plain: bool,
    },
    Sequence(Vec<Rc<Node>>),
    Mapping(Vec<Entry>),
}

pub(super) struct Entry {
    pub key: Rc<Node>,
    pub value: Rc<Node>,
    /// Its key was there already, or is no text. This was reported, and the entry means nothing.
    pub refused: bool,
}

impl Node {
    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }
}

/// Reads a YAML document; more than one is an error. What is wrong goes to `problems`; `None` means that there is no
/// tree to go on with.
pub(super) fn parse(source: &str, problems: &Problems) -> Option<Vec<Rc<Node>>> {
    let options =
        granit_parser::options! { emit_unresolved_aliases: true, disallow_directives: true };
    let mut builder = Builder {
        source,
        open: Vec::new(),
        anchors: HashMap::new(),
        documents: Vec::new(),
        problems,
    };
    for next in Parser::new_from_str_with_options(source, options) {
        match next {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let at = error.marker().byte_offset().unwrap_or(source.len());
                let span = Span { start: at, end: at };
                problems.push(
                    Diagnostic::error(span, format!("this is not valid YAML: {}", error.kind()))
                        .help("nothing else was checked; what is wrong may begin on a line above, with a quote or bracket left open"),
                );
                return None;
            }
        }
    }
    if builder.documents.is_empty() {
        problems.push(
            Diagnostic::error(None, "the file is empty")
                .help("`hookstile init` writes one to start from"),
        );
    }
    Some(builder.documents)
}

/// Puts the parser's events together. A stack and not recursion: the depth is the file's to choose.
struct Builder<'a> {
    source: &'a str,
    open: Vec<Open>,
    /// By the parser's number for the anchor.
    anchors: HashMap<usize, Rc<Node>>,
    documents: Vec<Rc<Node>>,
    problems: &'a Problems,
}

/// A list or mapping whose end has not come yet.
struct Open {
    start: Span,
    anchor: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Rc<Node>>),
    Mapping {
        entries: Vec<Entry>,
        /// The key whose value comes next.
        key: Option<Rc<Node>>,
        first_seen: HashMap<Box<str>, Span>,
    },
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, at: granit_parser::Span) {
        let span = Span::of(at);
        match event {
            Event::DocumentStart(..) if self.documents.len() == 1 => {
                self.problems.push(
                    Diagnostic::error(span, "a second YAML document begins here").help("keep one"),
                );
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), at);
                // A block scalar reaches to the next token.
                let written = self.source.get(span.start..span.end).unwrap_or_default();
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
                self.refuse_tag(tag.is_some(), at);
                self.open.push(Open {
                    start: span,
                    anchor,
                    content: Content::Sequence(Vec::new()),
                });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), at);
                let content = Content::Mapping {
                    entries: Vec::new(),
                    key: None,
                    first_seen: HashMap::new(),
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
                None => self.refuse_alias(span, "this alias stands inside of what it refers to"),
            },
            Event::UnresolvedAlias(_) => {
                self.refuse_alias(span, "no anchor of this name stands above")
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
        // A block ends where the next begins; its last child says better where it stands.
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
                first_seen,
            } => match key.take() {
                None => *key = Some(node),
                Some(key) => {
                    let refused = !is_fresh(&key, first_seen, self.problems);
                    entries.push(Entry {
                        key,
                        value: node,
                        refused,
                    });
                }
            },
        }
    }

    fn refuse_tag(&self, tagged: bool, at: granit_parser::Span) {
        if tagged {
            let span = at.tag_span().map_or(Span::of(at), Span::of);
            self.problems.push(
                Diagnostic::error(span, "a YAML tag means nothing here").help("leave it out"),
            );
        }
    }

    fn refuse_alias(&mut self, span: Span, message: &'static str) {
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

/// Whether `key` is text, and the first of its name. The first of two counts, though the file is refused anyway.
fn is_fresh(key: &Node, first_seen: &mut HashMap<Box<str>, Span>, problems: &Problems) -> bool {
    let Some(text) = key.text() else {
        problems.push(Diagnostic::error(key.span, "a key must be a word"));
        return false;
    };
    if let Some(&first) = first_seen.get(text) {
        let error = Diagnostic::error(
            key.span,
            format!("`{}` is given twice", text.escape_debug()),
        );
        problems.push(
            error
                .label("here again")
                .also(first, "first given here")
                .help("keep one of them"),
        );
        return false;
    }
    first_seen.insert(text.into(), key.span);
    true
}
