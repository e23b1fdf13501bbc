//! The problems of a configuration and their presentation: text in rustc's style for people, and
//! `diagnostic` for programs and logs.
//!
//! Owns collecting, ordering and rendering. `tree`, `de` and `compile` find the problems; `redact`
//! chooses the parts of the file that are not shown.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::include::Texts;
use super::tree::Span;
use super::variables::{self, Inserted};
use crate::diagnostic::{LocatedDiagnostic, OtherPlace, Severity};

/// The place of a value in a configuration, of which a problem may be found later; none for a value
/// that is not written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place(pub(super) Option<Span>);

/// All problems of one configuration, in the order of its files.
///
/// Neither the rendered text nor `Debug` shows a secret.
pub struct Report {
    /// The offset at which each file begins in `source`, with its name, in order. At least one.
    files: Vec<(usize, String)>,
    /// The text of all files, one after the other.
    source: String,
    line_starts: Vec<usize>,
    /// The bytes of `source` that are shown as `***`, in order and not overlapping.
    masks: Vec<Span>,
    diagnostics: Vec<Diagnostic>,
}

/// One problem: where it is, what is wrong, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Diagnostic {
    severity: Severity,
    /// The location; `None` for the whole file.
    span: Option<Span>,
    message: String,
    label: Option<String>,
    also: Option<(Span, &'static str)>,
    help: Option<String>,
}

impl Diagnostic {
    pub(super) fn error(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, span.into(), message.into())
    }

    pub(super) fn warning(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, span.into(), message.into())
    }

    fn new(severity: Severity, span: Option<Span>, message: String) -> Self {
        Self {
            severity,
            span,
            message,
            label: None,
            also: None,
            help: None,
        }
    }

    /// Shows variables in place of their values.
    fn hide(&mut self, inserted: &[Inserted]) {
        let texts = [
            Some(&mut self.message),
            self.label.as_mut(),
            self.help.as_mut(),
        ];
        for text in texts.into_iter().flatten() {
            *text = variables::hide(text, inserted);
        }
    }

    /// Sets the text beside the caret.
    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Sets a second location that belongs to the problem.
    pub(super) fn also(mut self, span: Span, label: &'static str) -> Self {
        self.also = Some((span, label));
        self
    }

    /// Sets the advice on how to fix the problem.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The problems of one file as they are found. All stages share it.
#[derive(Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Diagnostic>>,
    /// The keys that were meant by wrong ones, with the location of their mapping.
    meant: RefCell<HashSet<(Span, String)>>,
    /// The values of variables that were inserted, with the location of the text.
    inserted: RefCell<HashMap<Span, Vec<Inserted>>>,
}

impl Problems {
    pub(super) fn push(&self, diagnostic: Diagnostic) {
        self.found.borrow_mut().push(diagnostic);
    }

    pub(super) fn any_error(&self) -> bool {
        self.found
            .borrow()
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Returns the message of the error that was found last.
    pub(super) fn last_error(&self) -> Option<String> {
        let diagnostics = self.found.borrow();
        let mut errors = diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == Severity::Error);
        errors.next_back().map(|error| error.message.clone())
    }

    /// Returns whether an error was found inside of `span`.
    pub(super) fn any_error_in(&self, span: Span) -> bool {
        self.found.borrow().iter().any(|diagnostic| {
            diagnostic.severity == Severity::Error
                && diagnostic
                    .span
                    .is_some_and(|at| span.start <= at.start && at.end <= span.end)
        })
    }

    /// Records that a wrong key of the mapping at `span` most likely means `key`, so that its
    /// absence is not reported as well. Returns `false` if that was recorded before.
    pub(super) fn set_meant(&self, span: Span, key: &str) -> bool {
        self.meant.borrow_mut().insert((span, key.into()))
    }

    /// Returns whether a wrong key of the mapping at `span` was reported that means `key`.
    pub(super) fn is_meant(&self, span: Span, key: &str) -> bool {
        self.meant.borrow().contains(&(span, key.into()))
    }

    /// Records that the text at `span` has values of variables, which no message may have.
    pub(super) fn set_inserted(&self, span: Span, values: Vec<Inserted>) {
        self.inserted.borrow_mut().insert(span, values);
    }

    /// Returns whether the text at `span` has the value of a variable.
    pub(super) fn is_inserted(&self, span: Span) -> bool {
        self.inserted.borrow().contains_key(&span)
    }

    pub(super) fn into_report(self, texts: Texts) -> Report {
        let Texts {
            text: source,
            files,
            masks,
        } = texts;
        let mut diagnostics = self.found.into_inner();
        let inserted = self.inserted.into_inner();
        for diagnostic in &mut diagnostics {
            if let Some(values) = diagnostic.span.and_then(|span| inserted.get(&span)) {
                diagnostic.hide(values);
            }
        }
        diagnostics.sort_by_key(|diagnostic| diagnostic.span);
        // A problem in `defaults` is found once per route, but reported once.
        let mut reported = HashSet::new();
        diagnostics.retain(|diagnostic| reported.insert(diagnostic.clone()));
        let line_starts = std::iter::once(0)
            .chain(source.match_indices('\n').map(|(newline, _)| newline + 1))
            .collect();
        let names = files.into_iter();
        Report {
            files: names
                .map(|(start, path)| (start, path.display().to_string()))
                .collect(),
            source,
            line_starts,
            masks,
            diagnostics,
        }
    }
}

impl Report {
    /// Returns the name of the configuration's own file, for people.
    pub fn main_file(&self) -> &str {
        self.file(0)
    }

    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// Adds a warning about the configuration as a whole, found outside of it.
    pub fn add_warning(&mut self, message: impl Into<String>, help: impl Into<String>) {
        let warning = Diagnostic::warning(None, message).help(help);
        self.diagnostics.push(warning);
    }

    /// Adds a warning that was found while the configuration was applied.
    pub fn add_warning_at(&mut self, place: Place, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::warning(place.0, message));
    }

    /// Adds an error that was found while the configuration was applied.
    pub fn add_error_at(&mut self, place: Place, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(place.0, message));
    }

    /// Returns the number of problems of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    }

    /// Renders all problems with their locations in the file, with `colour` for a terminal or
    /// without.
    pub fn to_text(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            text += &self.rendered(diagnostic, &renderer);
            text += "\n\n";
        }
        text
    }

    /// Returns each error as one line, in the form of [`Report::summaries`].
    pub fn errors(&self) -> impl Iterator<Item = String> {
        self.located()
            .filter(|diagnostic| diagnostic.severity == Severity::Error)
            .map(|diagnostic| diagnostic.to_string())
    }

    /// Returns each problem as one line: `file:line:column: message`.
    pub fn summaries(&self) -> impl Iterator<Item = String> {
        self.located().map(|diagnostic| diagnostic.to_string())
    }

    /// Returns all problems with their locations in words.
    pub fn located(&self) -> impl Iterator<Item = LocatedDiagnostic> {
        self.diagnostics
            .iter()
            .map(|diagnostic| self.locate(diagnostic))
    }

    fn locate(&self, diagnostic: &Diagnostic) -> LocatedDiagnostic {
        let start = diagnostic.span.map(|span| span.start);
        let position = start.map(|start| self.position(start));
        LocatedDiagnostic {
            severity: diagnostic.severity,
            file: self.file(start.unwrap_or_default()).to_owned(),
            line: position.map(|(line, _)| line),
            column: position.map(|(_, column)| column),
            message: diagnostic.message.clone(),
            label: diagnostic.label.clone(),
            help: diagnostic.help.clone(),
            also: diagnostic.also.map(|(span, message)| {
                let (line, column) = self.position(span.start);
                OtherPlace {
                    file: self.file(span.start).to_owned(),
                    line,
                    column,
                    message: message.to_owned(),
                }
            }),
        }
    }

    fn rendered(&self, diagnostic: &Diagnostic, renderer: &Renderer) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(diagnostic.message.as_str()));
        let mut shown_column = None;
        group = match diagnostic.span {
            None => group.element(Origin::path(self.file(0))),
            Some(span) => {
                let (snippet, column) = self.snippet(span, diagnostic);
                shown_column = Some((self.position(span.start), column));
                group.element(snippet)
            }
        };
        if let Some((span, label)) = self.elsewhere(diagnostic) {
            group = group.element(self.other_snippet(span, label));
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let text = renderer.render(&[group]);
        match shown_column {
            // Text behind a masked secret has moved in the snippet, but not in the file.
            Some(((line, column), shown)) if shown != column => {
                let file = self.file(diagnostic.span.map_or(0, |span| span.start));
                text.replacen(
                    &format!("{file}:{line}:{shown}"),
                    &format!("{file}:{line}:{column}"),
                    1,
                )
            }
            _ => text,
        }
    }

    /// Returns the lines around `span`, and the column of `span` in them.
    fn snippet<'a>(
        &'a self,
        span: Span,
        diagnostic: &'a Diagnostic,
    ) -> (Snippet<'a, Annotation<'a>>, usize) {
        let also = diagnostic
            .also
            .filter(|_| self.elsewhere(diagnostic).is_none())
            .map(|(span, label)| (self.on_one_line(span), label));
        let span = self.on_one_line(span);
        let (first, last) = match also {
            Some((other, _)) => (span.start.min(other.start), span.end.max(other.end)),
            None => (span.start, span.end),
        };
        let window = self.line_around(first).start..self.line_around(last).end;
        let shown = Masked::new(&self.source, window.clone(), &self.masks);
        let range = shown.range(span);
        let line_start = shown.text[..range.start]
            .rfind('\n')
            .map_or(0, |newline| newline + 1);
        let column = shown.text[line_start..range.start].chars().count() + 1;
        let primary = AnnotationKind::Primary
            .span(range)
            .label(diagnostic.label.as_deref());
        let secondary =
            also.map(|(span, label)| AnnotationKind::Context.span(shown.range(span)).label(label));
        let (line, _) = self.position(window.start);
        let snippet = Snippet::source(shown.text)
            .path(self.file(span.start))
            .line_start(line);
        (snippet.annotation(primary).annotations(secondary), column)
    }

    /// Returns the second location of a problem, if it is in another file than the first.
    fn elsewhere(&self, diagnostic: &Diagnostic) -> Option<(Span, &'static str)> {
        let (span, also) = diagnostic.span.zip(diagnostic.also)?;
        (self.file_index(span.start) != self.file_index(also.0.start)).then_some(also)
    }

    /// Returns the line around a second location in another file.
    fn other_snippet(&self, span: Span, label: &'static str) -> Snippet<'_, Annotation<'_>> {
        let span = self.on_one_line(span);
        let window = self.line_around(span.start);
        let shown = Masked::new(&self.source, window.clone(), &self.masks);
        let range = shown.range(span);
        let (line, _) = self.position(window.start);
        Snippet::source(shown.text)
            .path(self.file(span.start))
            .line_start(line)
            .annotation(AnnotationKind::Context.span(range).label(label))
    }

    fn file_index(&self, at: usize) -> usize {
        let behind = self.files.partition_point(|(start, _)| *start <= at);
        behind.saturating_sub(1)
    }

    /// Returns the name of the file that has a byte.
    fn file(&self, at: usize) -> &str {
        let file = self.files.get(self.file_index(at));
        file.map_or("", |(_, name)| name)
    }

    /// Returns the line and the column of a byte in its file, both from 1, the column in characters.
    fn position(&self, at: usize) -> (usize, usize) {
        let count = |at| {
            self.line_starts
                .partition_point(|&start| start <= at)
                .max(1)
        };
        let line = count(at);
        let first = self.files.get(self.file_index(at));
        let above = first.map_or(0, |(start, _)| count(*start) - 1);
        let before = self
            .source
            .get(self.line_starts[line - 1]..at)
            .unwrap_or_default();
        (line - above, before.chars().count() + 1)
    }

    /// Cuts `span` at the end of its first line: carets under a whole route would hide its start.
    fn on_one_line(&self, span: Span) -> Span {
        let start = span.start.min(self.source.len());
        let end = span
            .end
            .clamp(start, self.line_around(start).end.max(start));
        Span { start, end }
    }

    /// Returns the line that contains `at`, without the line break.
    fn line_around(&self, at: usize) -> Range<usize> {
        let (before, after) = self
            .source
            .split_at_checked(at)
            .unwrap_or((&self.source, ""));
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let end = after
            .find(['\n', '\r'])
            .map_or(self.source.len(), |newline| at + newline);
        start..end
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(false))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("files", &self.files)
            .field("diagnostics", &self.diagnostics)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Report {}

const MASK: &str = "***";

/// A part of the file with its masks, and the mapping from the bytes of the file to it.
struct Masked {
    text: String,
    /// The masked ranges of the file, each with the range of `text` that replaces it, in order.
    replaced: Vec<(Range<usize>, Range<usize>)>,
    start: usize,
}

impl Masked {
    fn new(source: &str, window: Range<usize>, masks: &[Span]) -> Self {
        let mut shown = Self {
            text: String::new(),
            replaced: Vec::new(),
            start: window.start,
        };
        let mut at = window.start;
        for mask in masks {
            let (from, to) = (mask.start.max(at), mask.end.min(window.end));
            if from >= to {
                continue;
            }
            shown.text += source.get(at..from).unwrap_or_default();
            let masked_from = shown.text.len();
            shown.text += MASK;
            // Line breaks are kept, so that the lines below keep their numbers.
            shown
                .text
                .extend(source.get(from..to).unwrap_or_default().matches('\n'));
            shown
                .replaced
                .push((from..to, masked_from..shown.text.len()));
            at = to;
        }
        shown.text += source.get(at..window.end).unwrap_or_default();
        shown
    }

    fn range(&self, span: Span) -> Range<usize> {
        let (start, end) = (self.offset(span.start, false), self.offset(span.end, true));
        start..end.max(start)
    }

    /// Returns the offset in `text` of a byte of the file.
    fn offset(&self, at: usize, is_end: bool) -> usize {
        let Some((from, to)) = self
            .replaced
            .iter()
            .rev()
            .find(|(from, _)| from.start < at || (from.start == at && !is_end))
        else {
            return at - self.start;
        };
        match at.checked_sub(from.end) {
            Some(behind) => to.end + behind,
            None if is_end => to.start + MASK.len(),
            None => to.start,
        }
    }
}
