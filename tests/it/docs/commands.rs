//! The commands in scripts and in code spans: the program knows each of its own, with all options,
//! and the Makefile each target. The arguments are those of the page; `--help` after them makes the
//! program parse them and do nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use regex::Regex;

use super::markdown::Page;
use super::{assert_none, read};

/// Options in code spans that are those of other programs.
const FOREIGN_OPTIONS: [&str; 1] = ["--renew-hook"]; // lego

/// Splits a script into its commands, and these into words, as a shell does. Comments, variables
/// before a command and redirections are left out; what a shell would replace stays as it is.
pub fn commands(script: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::<String>::new()];
    let mut word: Option<String> = None;
    let mut characters = script.chars().peekable();
    let mut redirected = false;
    let mut end_word = |word: &mut Option<String>, commands: &mut Vec<Vec<String>>, next: bool| {
        if let Some(word) = word.take() {
            if std::mem::take(&mut redirected) {
                return;
            }
            commands.last_mut().expect("one").push(word);
        }
        redirected = next;
    };
    while let Some(c) = characters.next() {
        match c {
            '\\' if characters.next_if_eq(&'\n').is_some() => {}
            '\\' => word.get_or_insert_default().extend(characters.next()),
            '\'' | '"' => {
                let word = word.get_or_insert_default();
                let mut depth = 0;
                for inner in characters.by_ref() {
                    match inner {
                        '(' if word.ends_with('$') => depth += 1,
                        ')' if depth > 0 => depth -= 1,
                        _ if inner == c && depth == 0 => break,
                        _ => {}
                    }
                    word.push(inner);
                }
            }
            '$' if characters.peek() == Some(&'(') => {
                let word = word.get_or_insert_default();
                word.push('$');
                for inner in characters.by_ref() {
                    word.push(inner);
                    if inner == ')' {
                        break;
                    }
                }
            }
            '#' if word.is_none() => while characters.next_if(|c| *c != '\n').is_some() {},
            '<' | '>' => end_word(&mut word, &mut commands, true),
            '\n' | ';' | '|' | '&' | '(' | ')' => {
                end_word(&mut word, &mut commands, false);
                commands.push(Vec::new());
            }
            _ if c.is_whitespace() => {
                if word.is_some() {
                    end_word(&mut word, &mut commands, false);
                }
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    end_word(&mut word, &mut commands, false);
    let variable = Regex::new("^[A-Z_]+=").expect("valid");
    for command in &mut commands {
        let variables = command.iter().take_while(|word| variable.is_match(word));
        let variables = variables.count();
        command.drain(..variables);
    }
    commands.retain(|command| !command.is_empty());
    commands
}

/// Returns the arguments for `hookstile` in a command, on this machine or in a container.
fn arguments(command: &[String]) -> Option<&[String]> {
    let named = |word: &String| word == "hookstile";
    match command.first()?.as_str() {
        "hookstile" => Some(&command[1..]),
        "sudo" => command.iter().position(named).map(|at| &command[at + 1..]),
        "docker" if command.iter().any(|word| word == "exec") => {
            let at = command.iter().rposition(named)?;
            Some(&command[at + 1..])
        }
        _ => None,
    }
}

/// Replaces what stands for a value by one. Returns `None` for a command that is not whole.
fn filled(arguments: &[String]) -> Vec<String> {
    let whole = arguments
        .iter()
        .take_while(|word| !word.contains('…'))
        .collect::<Vec<_>>();
    let mut filled = Vec::<String>::new();
    for word in whole {
        let before = filled.last().map_or("", String::as_str);
        let value = match (before, word.as_str()) {
            ("--provider", "NAME") => "github",
            ("--tamper", "HOW") => "body",
            ("--per-second" | "--count" | "--limit" | "--status" | "--times", "N") => "200",
            ("--since" | "--until" | "--at", "TIME") => "2h",
            ("--outcome", "OUTCOME") => "invalid_signature",
            (_, "COMMAND") => "check",
            (_, other) => other,
        };
        filled.push(value.to_owned());
    }
    // An option whose value was left out.
    if arguments.len() > filled.len() && filled.last().is_some_and(|word| word.starts_with("--")) {
        filled.pop();
    }
    filled
}

/// Has the program parse arguments; returns what it says against them.
fn parse(arguments: &[String]) -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_hookstile"))
        .args(arguments)
        .arg("--help")
        .output()
        .expect("it runs");
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Returns every script and code span with its place.
fn scripts() -> Vec<(String, String)> {
    let mut scripts = Vec::new();
    for page in Page::all() {
        let blocks = page.blocks.iter().filter(|block| block.kind == "sh");
        scripts.extend(blocks.map(|block| (block.place(), block.text.clone())));
        let spans = page.spans().into_iter();
        scripts.extend(spans.map(|(line, span)| (format!("{}:{line}", page.path), span)));
    }
    scripts
}

#[test]
fn program_knows_every_command_shown() {
    let mut seen = BTreeMap::new();
    for (place, script) in scripts() {
        for command in commands(&script) {
            if let Some(arguments) = arguments(&command) {
                seen.entry(filled(arguments)).or_insert(place.clone());
            }
        }
    }
    assert!(seen.len() > 60, "{}", seen.len());
    let problems: Vec<_> = seen
        .iter()
        .filter_map(|(arguments, place)| {
            let error = parse(arguments).err()?;
            Some(format!("{place}: {arguments:?}\n{error}"))
        })
        .collect();
    assert_none(&problems);
}

#[test]
fn makefile_has_every_target_shown() {
    let makefile = read("Makefile");
    let target = Regex::new("(?m)^([a-z-]+):").expect("valid");
    let targets: BTreeSet<_> = target
        .captures_iter(&makefile)
        .map(|found| found[1].to_owned())
        .collect();
    let mut problems = Vec::new();
    for (place, script) in scripts() {
        for command in commands(&script) {
            if command[0] != "make" {
                continue;
            }
            let named = command[1..].iter().filter(|word| !word.contains('='));
            for name in named.filter(|name| !targets.contains(*name)) {
                problems.push(format!("{place}: make {name}"));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn program_has_every_option_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = Command::new(env!("CARGO_BIN_EXE_hookstile"))
        .args(["man", "--dir"])
        .arg(folder.path())
        .output()
        .expect("it runs");
    assert!(pages.status.success());
    let option = Regex::new(r"^--[a-z][a-z-]+$").expect("valid");
    let known: String = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| {
            let page = std::fs::read_to_string(entry.expect("an entry").path());
            page.expect("a page").replace(r"\-", "-")
        })
        .collect();
    let mut problems = Vec::new();
    for page in Page::all() {
        for (line, span) in page.spans() {
            let first = span.split([' ', '=']).next().unwrap_or_default();
            if option.is_match(first)
                && !FOREIGN_OPTIONS.contains(&first)
                && !known.contains(&format!("{first}\\")) // followed by the font of its value
                && !known.contains(&format!("{first}\n"))
            {
                problems.push(format!("{}:{line}: {span}", page.path));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn scripts_are_split_as_a_shell_does() {
    let split = commands("A=1 b 'c d' >e f   # g\nh \"$(i | j)\" \\\n  k | l; m &\n(n x.y; o) 2>p");
    let expected: [&[&str]; 6] = [
        &["b", "c d", "f"],
        &["h", "$(i | j)", "k"],
        &["l"],
        &["m"],
        &["n", "x.y"],
        &["o"],
    ];
    assert_eq!(split[..6], expected.map(|words| words.to_vec()));
}
