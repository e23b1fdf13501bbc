//! Pages of the documentation, as far as the tests read them. Fenced blocks and the text around them
//! are apart, so that nothing in a block counts as a link or a code span.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use regex::Regex;

use super::{read, root};

/// Folders whose pages are read.
const FOLDERS: [&str; 7] = [
    "",
    "docs",
    "deploy",
    "benches/compare",
    "tests/browser",
    "tests/sdk",
    ".github",
];
/// What the versions before changed is not what the program does now.
const HISTORY: &str = "CHANGELOG.md";

/// A page.
pub struct Page {
    pub path: String,
    /// The text without its blocks, line for line.
    pub prose: String,
    pub blocks: Vec<Block>,
}

/// A fenced block.
pub struct Block {
    pub page: String,
    /// The line of the fence.
    pub line: usize,
    pub kind: String,
    pub text: String,
}

impl Block {
    pub fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }
}

impl Page {
    /// Reads every page.
    pub fn all() -> Vec<Page> {
        let mut pages = Vec::new();
        for folder in FOLDERS {
            let entries = std::fs::read_dir(root().join(folder)).into_iter().flatten();
            let mut names: Vec<_> = entries
                .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
                .filter(|name| {
                    Path::new(name).extension() == Some("md".as_ref()) && name != HISTORY
                })
                .collect();
            names.sort();
            pages.extend(
                names
                    .iter()
                    .map(|name| Page::read(&Path::new(folder).join(name).display().to_string())),
            );
        }
        assert!(pages.len() > 30, "the pages are elsewhere");
        pages
    }

    pub fn read(path: &str) -> Page {
        let (mut prose, mut blocks) = (String::new(), Vec::<Block>::new());
        // The indentation of the open block's fence.
        let mut open: Option<usize> = None;
        for (number, line) in read(path).lines().enumerate() {
            let inner = line.trim_start();
            match (open, inner.strip_prefix("```")) {
                (None, Some(info)) => {
                    open = Some(line.len() - inner.len());
                    blocks.push(Block {
                        page: path.to_owned(),
                        line: number + 1,
                        kind: info.to_owned(),
                        text: String::new(),
                    });
                }
                (Some(_), Some(_)) => open = None,
                (Some(indentation), None) => {
                    let text = &mut blocks.last_mut().expect("an open block").text;
                    *text += line.get(indentation..).unwrap_or_default();
                    text.push('\n');
                }
                (None, None) => prose += line,
            }
            prose.push('\n');
        }
        assert!(open.is_none(), "{path}: a block has no end");
        Page {
            path: path.to_owned(),
            prose,
            blocks,
        }
    }

    /// Returns each code span with its line. A span may be broken over two lines.
    pub fn spans(&self) -> Vec<(usize, String)> {
        let spans = Regex::new("(?s)``? ?(.+?) ?``?").expect("valid");
        self.paragraphs(&spans)
    }

    /// Returns the target of each link with its line.
    pub fn links(&self) -> Vec<(usize, String)> {
        let links = Regex::new(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)").expect("valid");
        self.paragraphs(&links)
    }

    /// Finds the first group of a pattern in each paragraph.
    fn paragraphs(&self, pattern: &Regex) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut line = 1;
        for paragraph in self.prose.split("\n\n") {
            for captures in pattern.captures_iter(paragraph) {
                let group = captures.iter().skip(1).flatten().next().expect("a group");
                let before = paragraph[..group.start()].matches('\n').count();
                let text = group.as_str().replace('\n', " ");
                found.push((line + before, text));
            }
            line += paragraph.matches('\n').count() + 2;
        }
        found
    }

    /// Returns what a fragment of a link may name: each heading as GitHub writes it.
    pub fn anchors(&self) -> BTreeSet<String> {
        let mut times = BTreeMap::<String, usize>::new();
        let headings = self.prose.lines().filter(|line| line.starts_with('#'));
        headings
            .map(|heading| {
                let anchor: String = heading
                    .trim_start_matches('#')
                    .trim()
                    .to_lowercase()
                    .chars()
                    .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                    .map(|c| if c == ' ' { '-' } else { c })
                    .collect();
                let times = times.entry(anchor.clone()).or_default();
                *times += 1;
                match *times {
                    1 => anchor,
                    more => format!("{anchor}-{}", more - 1),
                }
            })
            .collect()
    }

    /// Resolves a link's path, relative to this page, to a path in the repository.
    pub fn resolve(&self, link: &str) -> String {
        if link.is_empty() {
            return self.path.clone();
        }
        let folder = Path::new(&self.path).parent().expect("a file");
        let mut parts = Vec::new();
        for component in folder.join(link).components() {
            match component {
                Component::ParentDir => drop(parts.pop()),
                other => parts.push(other.as_os_str().to_owned()),
            }
        }
        let path: std::path::PathBuf = parts.iter().collect();
        path.display().to_string()
    }
}
