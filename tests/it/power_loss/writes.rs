//! What a gateway writes to the files of its store, from a trace of its system calls, and what a loss
//! of power at any moment leaves of it.
//!
//! The model is that of a disk behind a page cache. A sector holds what it had after one of the writes
//! to it, none older than the last flush; each sector by itself, and so does the length of the file. A
//! file's name is kept as soon as it is given: an order of names is the business of the file system,
//! which the tests on a real one show.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use fastrand::Rng;

/// What a disk writes as a whole, in bytes.
const SECTOR: usize = 512;

/// The files of a folder that have no meaning after the end of the process.
const IGNORED: [&str; 2] = ["hookstile.lock", "hookstile.db-shm"];

/// The content of the files of a folder.
pub type Files = BTreeMap<OsString, Vec<u8>>;

/// What a gateway did, in order.
pub struct Writes {
    before: Files,
    steps: Vec<Step>,
}

enum Step {
    Change(OsString, Change),
    /// What the file had after this many changes is on the disk.
    Flushed(OsString, usize),
    /// This change of the file is on the disk.
    Written(OsString, usize),
    Renamed(OsString, OsString),
    Removed(OsString),
    Forwarded(String),
    Acknowledged(String),
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length { shrinks: bool, length: usize },
}

/// A file as it is at a moment.
#[derive(Default)]
struct Tracked {
    base: Vec<u8>,
    changes: Vec<Change>,
    flushed: usize,
    written: BTreeSet<usize>,
}

/// What a loss of power leaves of what was not flushed.
#[derive(Clone, Copy, Debug)]
pub enum Kept {
    Everything,
    Nothing,
    /// Each file as a whole, or nothing of it.
    Files,
    Sectors,
}

/// What senders and the receiver had seen at a moment.
#[derive(Default)]
pub struct Seen {
    pub forwarded: BTreeSet<String>,
    pub acknowledged: BTreeSet<String>,
}

impl Seen {
    pub fn add(&mut self, other: Self) {
        self.forwarded.extend(other.forwarded);
        self.acknowledged.extend(other.acknowledged);
    }
}

impl Writes {
    /// Reads a trace of a gateway that found these files in its folder.
    pub fn parse(trace: &str, folder: &Path, before: Files) -> Self {
        let lengths = before
            .iter()
            .map(|(name, content)| (name.clone(), content.len()));
        let mut parser = Parser {
            folder,
            lengths: lengths.collect(),
            changes: HashMap::new(),
            opened: HashMap::new(),
            begun: HashMap::new(),
            steps: Vec::new(),
        };
        for line in trace.lines() {
            parser.read(line);
        }
        Self {
            before,
            steps: parser.steps,
        }
    }

    /// Returns the number of moments at which the power can be lost.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    pub fn seen(&self, moment: usize) -> Seen {
        let mut seen = Seen::default();
        for step in &self.steps[..moment] {
            match step {
                Step::Forwarded(id) => drop(seen.forwarded.insert(id.clone())),
                Step::Acknowledged(id) => drop(seen.acknowledged.insert(id.clone())),
                _ => {}
            }
        }
        seen
    }

    /// Returns what is left if the power is lost after this many steps.
    pub fn left(&self, moment: usize, kept: Kept, random: &mut Rng) -> Files {
        let tracked = |(name, base): (&OsString, &Vec<u8>)| {
            let base = base.clone();
            (
                name.clone(),
                Tracked {
                    base,
                    ..Tracked::default()
                },
            )
        };
        let mut files: BTreeMap<_, _> = self.before.iter().map(tracked).collect();
        for step in &self.steps[..moment] {
            match step {
                Step::Change(name, change) => {
                    files
                        .entry(name.clone())
                        .or_default()
                        .changes
                        .push(change.clone());
                }
                Step::Flushed(name, changes) => {
                    files.entry(name.clone()).or_default().flushed = *changes;
                }
                Step::Written(name, change) => {
                    files
                        .entry(name.clone())
                        .or_default()
                        .written
                        .insert(*change);
                }
                Step::Renamed(from, to) => {
                    if let Some(file) = files.remove(from) {
                        files.insert(to.clone(), file);
                    }
                }
                Step::Removed(name) => drop(files.remove(name)),
                Step::Forwarded(_) | Step::Acknowledged(_) => {}
            }
        }
        files
            .into_iter()
            .map(|(name, file)| (name, file.left(kept, random)))
            .collect()
    }
}

impl Tracked {
    fn left(self, kept: Kept, random: &mut Rng) -> Vec<u8> {
        let mut content = self.base;
        let (flushed, pending) = self.changes.split_at(self.flushed);
        for change in flushed {
            change.apply(&mut content);
        }
        let keeps_file = random.bool();
        let keep = |random: &mut Rng, least: usize, most: usize| match kept {
            Kept::Everything => most,
            Kept::Files if keeps_file => most,
            Kept::Nothing | Kept::Files => least,
            Kept::Sectors => least + random.usize(..=most - least),
        };
        let is_written = |change: usize| self.written.contains(&(self.flushed + change));
        let lasts = |index: usize, change: &Change| {
            matches!(change, Change::Length { .. }) || is_written(index)
        };
        // What is behind a length that was not kept is of blocks that the file did not have yet.
        let least = (0..pending.len())
            .rfind(|change| is_written(*change))
            .map_or(0, |last| last + 1);
        let lengths = keep(random, least, pending.len());
        let end = (lengths..pending.len())
            .find(|change| matches!(pending[*change], Change::Length { shrinks: true, .. }))
            .unwrap_or(pending.len());
        let mut length = content.len();
        for change in &pending[..lengths] {
            length = change.length_after(length);
        }
        let mut writes: HashMap<usize, (usize, usize)> = HashMap::new();
        for (index, change) in pending[..end].iter().enumerate() {
            for sector in change.sectors() {
                let (least, most) = writes.entry(sector).or_default();
                *most += 1;
                if lasts(index, change) {
                    *least = *most;
                }
            }
        }
        let mut sectors: Vec<_> = writes.into_iter().collect();
        sectors.sort_unstable();
        let mut left: HashMap<usize, usize> = sectors
            .into_iter()
            .map(|(sector, (least, most))| (sector, keep(random, least, most)))
            .collect();
        for change in &pending[..end] {
            match change {
                Change::Length { shrinks: true, .. } => change.apply(&mut content),
                Change::Length { .. } => {}
                Change::Write { offset, bytes } => {
                    for sector in change.sectors() {
                        let left = left.get_mut(&sector).expect("counted above");
                        if *left > 0 {
                            *left -= 1;
                            let from = (sector * SECTOR).max(*offset);
                            let to = ((sector + 1) * SECTOR).min(offset + bytes.len());
                            write(&mut content, from, &bytes[from - offset..to - offset]);
                        }
                    }
                }
            }
        }
        content.resize(length, 0);
        content
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write(content, *offset, bytes),
            Self::Length { length, .. } => content.resize(*length, 0),
        }
    }

    fn length_after(&self, before: usize) -> usize {
        match self {
            Self::Write { offset, bytes } => before.max(offset + bytes.len()),
            Self::Length { length, .. } => *length,
        }
    }

    fn sectors(&self) -> std::ops::Range<usize> {
        match self {
            Self::Write { offset, bytes } => {
                offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR)
            }
            Self::Length { .. } => 0..0,
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

/// Reads the lines of a trace.
struct Parser<'t> {
    folder: &'t Path,
    /// The length of each file that exists.
    lengths: HashMap<OsString, usize>,
    /// The number of changes of each file.
    changes: HashMap<OsString, usize>,
    /// Where the next `write` to a descriptor goes, and whether it is synchronous.
    opened: HashMap<&'t str, (usize, bool)>,
    /// The call that each thread has begun, and what its end makes true.
    begun: HashMap<&'t str, (&'t str, Option<Step>)>,
    steps: Vec<Step>,
}

impl<'t> Parser<'t> {
    /// Reads `1234 1700000000.123456 fsync(7</store/hookstile.db>) = 0`, or the half of that.
    fn read(&mut self, line: &'t str) {
        let Some((thread, rest)) = line.trim_start().split_once(' ') else {
            return;
        };
        let Some((_, text)) = rest.trim_start().split_once(' ') else {
            return;
        };
        if let Some((_, end)) = text
            .strip_prefix("<... ")
            .and_then(|end| end.split_once(" resumed>"))
        {
            if let Some((begin, then)) = self.begun.remove(thread) {
                self.end(begin, end, then);
            }
        } else if let Some(begin) = text.strip_suffix(" <unfinished ...>") {
            let then = self.begin(begin);
            self.begun.insert(thread, (begin, then));
        } else {
            let then = self.begin(text);
            self.end(text, text, then);
        }
    }

    /// Reads the begin of a call. Returns what is true once it has succeeded.
    fn begin(&mut self, text: &str) -> Option<Step> {
        let (call, arguments) = text.split_once('(')?;
        let (descriptor, rest) = arguments.split_once('<').unwrap_or((arguments, ""));
        let (path, rest) = rest.split_once('>').unwrap_or((rest, ""));
        match call {
            "sendto" | "writev" | "write" if is_message(rest) => {
                self.message(&strings(rest).concat());
                None
            }
            "write" | "pwrite64" => {
                let name = self.name(&decode(path))?;
                let bytes = strings(rest).concat();
                let (next, synchronous) = self.opened.get(descriptor).copied().unwrap_or_default();
                let offset = match call {
                    "write" => next,
                    _ => numbers(rest).last().copied()?,
                };
                if let Some((next, _)) = self.opened.get_mut(descriptor).filter(|_| call == "write")
                {
                    *next += bytes.len();
                }
                let change = self.change(&name, Change::Write { offset, bytes });
                synchronous.then_some(Step::Written(name, change))
            }
            "ftruncate" | "fallocate" if !rest.contains("KEEP_SIZE") => {
                let name = self.name(&decode(path))?;
                let numbers = numbers(rest);
                let length = self.lengths.get(&name).copied().unwrap_or(0);
                let to: usize = if call == "fallocate" {
                    length.max(numbers.iter().rev().take(2).sum())
                } else {
                    *numbers.last()?
                };
                let change = Change::Length {
                    length: to,
                    shrinks: to < length,
                };
                self.change(&name, change);
                None
            }
            "fsync" | "fdatasync" => {
                let name = self.name(&decode(path))?;
                let changes = self.changes.get(&name).copied().unwrap_or(0);
                Some(Step::Flushed(name, changes))
            }
            _ => None,
        }
    }

    /// Reads the end of a call.
    fn end(&mut self, begin: &'t str, end: &'t str, then: Option<Step>) {
        let Some((_, result)) = end.rsplit_once(" = ") else {
            return;
        };
        if result.starts_with('-') {
            return;
        }
        self.steps.extend(then);
        let Some((call, arguments)) = begin.split_once('(') else {
            return;
        };
        let names = || {
            strings(arguments)
                .into_iter()
                .map(|path| self.name(&path))
                .collect::<Vec<_>>()
        };
        match (call, &names()[..]) {
            ("openat", [Some(name)]) => {
                let (descriptor, _) = result.split_once('<').unwrap_or((result, ""));
                let flags = |flag: &str| begin.contains(flag) || end.contains(flag);
                self.opened
                    .insert(descriptor, (0, flags("O_DSYNC") || flags("O_SYNC")));
                if flags("O_TRUNC") || !self.lengths.contains_key(name) {
                    let shrinks = self.lengths.contains_key(name);
                    self.change(&name.clone(), Change::Length { shrinks, length: 0 });
                }
            }
            ("rename" | "renameat" | "renameat2", [Some(from), Some(to)]) => {
                let (from, to) = (from.clone(), to.clone());
                for numbers in [&mut self.lengths, &mut self.changes] {
                    if let Some(number) = numbers.remove(&from) {
                        numbers.insert(to.clone(), number);
                    }
                }
                self.steps.push(Step::Renamed(from, to));
            }
            ("unlink" | "unlinkat", [Some(name)]) => {
                let name = name.clone();
                self.lengths.remove(&name);
                self.changes.remove(&name);
                self.steps.push(Step::Removed(name));
            }
            _ => {}
        }
    }

    fn change(&mut self, name: &OsString, change: Change) -> usize {
        let length = self.lengths.entry(name.clone()).or_default();
        *length = change.length_after(*length);
        self.steps.push(Step::Change(name.clone(), change));
        let changes = self.changes.entry(name.clone()).or_default();
        *changes += 1;
        *changes - 1
    }

    /// Reads the begin of a message: of a request to the receiver, or of a response to a sender.
    fn message(&mut self, message: &[u8]) {
        let text =
            String::from_utf8_lossy(&message[..message.len().min(4096)]).to_ascii_lowercase();
        let header = text
            .split("\r\n")
            .find_map(|line| line.strip_prefix("hookstile-event-id: "));
        let Some(id) = header.map(str::to_owned) else {
            return;
        };
        if text.starts_with("post ") {
            self.steps.push(Step::Forwarded(id));
        } else if text.starts_with("http/1.1 2") {
            self.steps.push(Step::Acknowledged(id));
        }
    }

    /// Returns the name of a file of the folder that lasts.
    fn name(&self, path: &[u8]) -> Option<OsString> {
        // Relative to the gateway's folder, in which the store's is.
        let path = self
            .folder
            .parent()?
            .join(OsString::from_vec(path.to_vec()));
        let name = path
            .file_name()
            .filter(|_| path.parent() == Some(self.folder))?;
        (!IGNORED.iter().any(|ignored| name == *ignored)).then(|| name.to_owned())
    }
}

/// Returns whether the string begins as a request or a response does: with `POST` or `HTTP`.
fn is_message(arguments: &str) -> bool {
    let string = arguments.split('"').nth(1).unwrap_or_default();
    [r"\x50\x4f\x53\x54\x20", r"\x48\x54\x54\x50\x2f"]
        .iter()
        .any(|begin| string.starts_with(begin))
}

/// Returns the strings of the arguments, which have no quotes inside.
fn strings(arguments: &str) -> Vec<Vec<u8>> {
    assert!(!arguments.contains("\"..."), "a string of the trace is cut");
    arguments
        .split('"')
        .skip(1)
        .step_by(2)
        .map(decode)
        .collect()
}

/// Returns the numbers of the arguments outside of strings, up to the result.
fn numbers(arguments: &str) -> Vec<usize> {
    let plain: String = arguments.split('"').step_by(2).collect();
    let (arguments, _) = plain.split_once(')').unwrap_or((&plain, ""));
    arguments
        .split(", ")
        .filter_map(|number| number.trim_start_matches(',').trim().parse().ok())
        .collect()
}

/// Decodes `\x2f\x74`.
fn decode(text: &str) -> Vec<u8> {
    let digit = |digit: u8| {
        (digit as char)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (bytes, _) = text.as_bytes().as_chunks::<4>();
    let decoded = bytes
        .iter()
        .map(|[_, _, high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    decoded.collect::<Option<_>>().unwrap_or_default()
}
