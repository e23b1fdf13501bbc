//! The scripts of the pages, run as they are written. Each page has a stage: a network namespace of
//! its own, so that the usual ports are free, with the program on its `PATH` and what its scripts
//! presuppose. `stages/PAGE.sh` prepares that; it is run before the first script of the page, and
//! again with the line of a script before that script, as `before LINE`.
//!
//! Commands may fail, but not as wrong usage does (exit status 2 or from 64 on). Numbers, times, IDs
//! and signatures are not compared, except for HTTP statuses.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;

use super::commands::commands;
use super::markdown::{Block, Page};
use super::{assert_none, read, root};
use crate::harness::programs::{is_root, program, tool};

/// Programs whose scripts are parsed only: they build, install, or speak with what is not here.
const NOT_RUN: [&str; 13] = [
    "apt-get",
    "brew",
    "cargo",
    "docker",
    "editor",
    "helm",
    "kill",
    "kubectl",
    "make",
    "node",
    "npm",
    "scripts/set-repository",
    "systemctl",
];
/// What stands on the pages for something that is not here, and its replacement.
const ELSEWHERE: [(&str, &str); 4] = [
    (
        "https://example.com/hooks",
        "http://127.0.0.1:8080/webhooks/stripe",
    ),
    ("/backup/", "$STAGE/backup/"),
    ("wh_…", "$webhook"),
    ("c0ffee…", "'\"$version\"'"), // between single quotes
];

/// What every stage has first.
const PRELUDE: &str = "tests/it/docs/stages/prelude.sh";

fn stage_of(page: &str) -> PathBuf {
    let name = page.rsplit('/').next().expect("a name").to_lowercase();
    let name = name.replace(".md", ".sh");
    root().join("tests/it/docs/stages").join(name)
}

/// Returns the blocks of a page that are run.
fn scripts(page: &Page) -> Vec<&Block> {
    let scripts = page.blocks.iter().filter(|block| block.kind == "sh");
    scripts
        .filter(|block| {
            let commands = commands(&block.text);
            !commands
                .iter()
                .any(|command| NOT_RUN.contains(&command[0].as_str()))
        })
        .collect()
}

/// Returns the output that a page shows for a script.
fn shown<'a>(page: &'a Page, script: &Block) -> Option<&'a Block> {
    let mut after = page
        .blocks
        .iter()
        .skip_while(|block| block.line != script.line);
    after.nth(1).filter(|block| block.kind == "text")
}

/// Returns a command that runs bash in network and process namespaces of its own.
fn namespaced() -> Option<Command> {
    let found = program("HOOKSTILE_UNSHARE", "unshare").filter(|unshare| {
        let mut probe = Command::new(unshare);
        probe.args(arguments()).arg("true");
        probe.output().is_ok_and(|output| output.status.success())
    });
    let unshare = tool("a network namespace", found, "the scripts of the pages")?;
    for (variable, name) in [("HOOKSTILE_IP", "ip"), ("HOOKSTILE_JQ", "jq")] {
        tool(name, program(variable, name), "the scripts of the pages")?;
    }
    let mut command = Command::new(unshare);
    command.args(arguments()).arg("bash");
    Some(command)
}

fn arguments() -> Vec<&'static str> {
    let mut arguments = vec!["--net", "--pid", "--fork", "--kill-child"];
    if !is_root() {
        arguments.push("--map-root-user");
    }
    arguments
}

/// Runs the scripts of a page, and compares what they print with what it shows.
fn run(path: &str) {
    let Some(mut bash) = namespaced() else {
        return;
    };
    let page = Page::read(path);
    let folder = tempfile::tempdir().expect("a folder");
    let stage = folder.path();
    std::fs::create_dir(stage.join("bin")).expect("a folder");
    let binary = env!("CARGO_BIN_EXE_hookstile");
    std::os::unix::fs::symlink(binary, stage.join("bin/hookstile")).expect("a link");
    for (number, block) in page.blocks.iter().enumerate() {
        if block.kind == "yaml" || block.kind == "json" {
            let name = format!("block-{number}.{}", block.kind);
            std::fs::write(stage.join(name), &block.text).expect("a writable folder");
        }
    }
    let scripts = scripts(&page);
    let mut all = format!("{}\n{}\nprepare\n", read(PRELUDE), read_stage(path));
    for script in &scripts {
        let mut text = script.text.clone();
        for (elsewhere, here) in ELSEWHERE {
            text = text.replace(elsewhere, here);
        }
        let line = script.line;
        std::fs::write(stage.join(format!("{line}.sh")), text).expect("a writable folder");
        let _ = writeln!(all, "script {line}");
    }
    all += "exit 0\n";
    let file = stage.join("all.sh");
    std::fs::write(&file, all).expect("a writable folder");
    let output = bash
        .arg(&file)
        .env("STAGE", stage)
        .env("HOME", stage)
        .current_dir(stage)
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{path}: {log}");
    let mut problems = Vec::new();
    for script in scripts {
        let of = |kind: &str| {
            let file = stage.join(format!("{}.{kind}", script.line));
            std::fs::read_to_string(file).unwrap_or_default()
        };
        let failures = of("failures");
        if !failures.is_empty() {
            problems.push(format!("{}:\n{failures}{}", script.place(), of("err")));
        }
        if let Some(shown) = shown(&page, script) {
            let came = of("out");
            // After several commands, what is shown is the end.
            let mut ends = vec![came.as_str()];
            if commands(&script.text).len() > 1 {
                ends.extend(came.match_indices('\n').map(|(end, _)| &came[end + 1..]));
            }
            if !ends.iter().any(|end| fits(&shown.text, end)) {
                problems.push(format!(
                    "{}: shown:\n{}\ncame:\n{}\nas it came:\n{came}{}",
                    shown.place(),
                    normal(&shown.text),
                    normal(&came),
                    of("err")
                ));
            }
        }
    }
    assert_none(&problems);
}

fn read_stage(path: &str) -> String {
    let stage = stage_of(path);
    let text = std::fs::read_to_string(&stage);
    text.unwrap_or_else(|error| panic!("{}: {error}", stage.display()))
}

/// Replaces what differs from run to run. HTTP statuses stay: at the beginning of a line, and in JSON.
fn normal(text: &str) -> String {
    let replaced = [
        (
            r"\d{4}-\d\d-\d\dT[\d:.]+Z|(\d{4}-\d\d-\d\d )?\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z)",
            "TIME",
        ),
        (r"[A-Za-z0-9+/]{42,}={0,2}|\b[0-9a-f]{32,}\b", "BYTES"),
        (r"\b(evt|msg|del|cap)_\w+", "ID"),
        (r"\d+(\.\d+)? ?(ms|s|min|m|h|days?|KiB|MiB|GiB)\b", "AMOUNT"),
        (r"\b(dead letter|waiting event)s?\b", "${1}s"),
        (r" {2,}", "  "),
    ];
    let replaced = replaced.map(|(pattern, by)| (Regex::new(pattern).expect("valid"), by));
    let number = Regex::new(r#"^\d{3} \w+  |"status":\d{3}|\d[\d.,]*%?"#).expect("valid");
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut line = line.trim_end().to_owned();
        for (pattern, by) in &replaced {
            line = pattern.replace_all(&line, *by).into_owned();
        }
        let line = number.replace_all(&line, |found: &regex::Captures| {
            let found = &found[0];
            let kept = found.ends_with(' ') || found.starts_with('"');
            if kept {
                found.to_owned()
            } else {
                "N".to_owned()
            }
        });
        lines.push(line.into_owned());
    }
    lines.join("\n")
}

/// Returns whether an output is as shown. `…` stands for any text on a line, alone for any lines.
fn fits(shown: &str, came: &str) -> bool {
    let shown = regex::escape(normal(shown).trim_end());
    let any_lines = Regex::new(r"(?m)\n…$").expect("valid");
    let shown = any_lines.replace_all(&shown, r"(?:\n[^\n]*)*");
    let pattern = format!("^{}$", shown.replace('…', "[^\n]*"));
    Regex::new(&pattern)
        .expect("valid")
        .is_match(normal(came).trim_end())
}

#[test]
fn every_script_has_a_stage() {
    let here = read("tests/it/docs/stage.rs");
    let mut problems = Vec::new();
    let mut staged = BTreeSet::from([root().join(PRELUDE)]);
    for page in Page::all() {
        if scripts(&page).is_empty() {
            continue;
        }
        staged.insert(stage_of(&page.path));
        if !here.contains(&format!("run(\"{}\")", page.path)) {
            problems.push(format!(
                "{}: its scripts are run by no test here",
                page.path
            ));
        }
    }
    let folder: &Path = &root().join("tests/it/docs/stages");
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if !staged.contains(&path) {
            problems.push(format!("{}: a stage without a script", path.display()));
        }
    }
    assert_none(&problems);
}

#[test]
fn other_output_does_not_fit() {
    let shown = "200 delivered  in 8.3 ms  event evt_1\n  {\"status\":409}\n…\nend";
    let came = "200 delivered  in 12 ms  event msg_7\n  {\"status\":409}\nmore\nend\n";
    assert!(fits(shown, came), "{}", normal(came));
    for (from, to) in [
        ("200", "202"),
        ("409", "401"),
        ("delivered", "sent"),
        ("end", "eng"),
    ] {
        assert!(!fits(shown, &came.replace(from, to)), "{from}");
    }
}

#[test]
fn readme_shows_what_happens() {
    run("README.md");
}

#[test]
fn tools_page_shows_what_happens() {
    run("docs/tools.md");
}

#[test]
fn troubleshooting_shows_what_happens() {
    run("docs/troubleshooting.md");
}

#[test]
fn deliveries_page_shows_what_happens() {
    run("docs/deliveries.md");
}

#[test]
fn operations_page_shows_what_happens() {
    run("docs/operations.md");
}

#[test]
fn problems_page_shows_what_happens() {
    run("docs/problems.md");
}

#[test]
fn rejections_page_shows_what_happens() {
    run("docs/rejections.md");
}

#[test]
fn api_page_shows_what_happens() {
    run("docs/admin-api.md");
}

#[test]
fn storage_page_shows_what_happens() {
    run("docs/storage.md");
}

#[test]
fn reload_shows_what_happens() {
    run("docs/upgrades.md");
}

#[test]
fn providers_page_shows_what_happens() {
    run("docs/providers.md");
}
