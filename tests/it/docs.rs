//! The documentation against the program: no page names a command, key, metric, path or heading that
//! does not exist, every example is valid, and every output that is shown is what comes out.
//!
//! Each fenced block says what it is, and each kind is held to something:
//!
//! | info string | what is held |
//! | --- | --- |
//! | `sh` | parsed: every `hookstile` line by the program, every target by the Makefile; run (`stage`), unless a program in it is not for a test |
//! | `text` | the output of the `sh` block before it |
//! | `yaml` | loaded by `hookstile check`; a fragment within a whole configuration |
//! | `json` | parsed |
//! | `promql` | its metrics exist |
//! | `figure` | nothing: a drawing, a formula; only on the pages in `FIGURES` |

mod commands; // the commands of a script, and whether the program knows them
mod examples; // configurations and JSON
mod markdown; // pages, blocks, code spans, links and headings
mod names; // keys, metrics, paths, variables and API calls in code spans
mod stage; // scripts that are run, and their output

use std::path::Path;

use markdown::Page;

const KINDS: [&str; 6] = ["sh", "text", "yaml", "json", "promql", "figure"];
const FIGURES: [&str; 3] = ["ARCHITECTURE.md", "docs/memory.md", "tests/sdk/README.md"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails with all places at once, so that one run shows what is to be done.
#[track_caller]
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_block_says_what_it_is() {
    let mut problems = Vec::new();
    for page in Page::all() {
        let mut before = "";
        for block in &page.blocks {
            let place = block.place();
            let kind = block.kind.as_str();
            if !KINDS.contains(&kind) {
                problems.push(format!("{place}: a block of unknown kind {kind:?}"));
            }
            if kind == "text" && before != "sh" {
                problems.push(format!("{place}: output, but of no `sh` block before it"));
            }
            if kind == "figure" && !FIGURES.contains(&page.path.as_str()) {
                problems.push(format!("{place}: a figure, but the page is not in FIGURES"));
            }
            before = kind;
        }
    }
    assert_none(&problems);
}

#[test]
fn every_link_and_anchor_resolves() {
    let pages = Page::all();
    let mut problems = Vec::new();
    for page in &pages {
        for (line, target) in page.links() {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = page.resolve(path);
            if !root().join(&path).exists() {
                problems.push(format!("{}:{line}: there is no {path}", page.path));
            } else if !anchor.is_empty() {
                let there = pages.iter().find(|page| page.path == path);
                if !there.is_some_and(|page| page.anchors().contains(anchor)) {
                    problems.push(format!("{}:{line}: no heading {target}", page.path));
                }
            }
        }
    }
    assert_none(&problems);
}
