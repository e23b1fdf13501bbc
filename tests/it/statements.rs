//! The SQL of the shared store, from its sources: `docs/statements.sql` lists all of it, so that each
//! change of a statement is seen, and what a statement may not do is held.
//!
//! `HOOKSTILE_REGENERATE=1 cargo test --test it -- statements::` rewrites the file.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use regex::Regex;

/// The words with which a statement, or a part of one that is put together, begins.
const BEGINNINGS: &str = r"^(--|ALTER|ANALYZE|BEGIN|COMMIT|CREATE|DELETE|INSERT|LOCK|ROLLBACK|SELECT|SET|SHOW|UPDATE|WITH) ?";

/// Returns the files of the engine without its tests, each with its SQL.
fn statements() -> Vec<(String, Vec<String>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let entries = fs::read_dir(root.join("postgres")).expect("a folder");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|kind| kind == "rs"));
    files.retain(|path| !path.ends_with("tests.rs"));
    files.push(root.join("postgres.rs"));
    files.sort();
    let is_sql = Regex::new(BEGINNINGS).expect("valid");
    let with_sql = files.iter().map(|path| {
        let code = fs::read_to_string(path).expect("a file");
        let code = code.split("\n#[cfg(test)]").next().unwrap_or_default();
        let found = literals(code)
            .into_iter()
            .map(|text| text.trim().to_owned());
        let found: Vec<_> = found.filter(|text| is_sql.is_match(text)).collect();
        let name = path
            .strip_prefix(root.parent().expect("src"))
            .expect("below it");
        (format!("src/{}", name.display()), found)
    });
    with_sql.filter(|(_, found)| !found.is_empty()).collect()
}

/// Returns the string literals of Rust code, without comments.
fn literals(code: &str) -> Vec<String> {
    let token = Regex::new(r#"(?s)//[^\n]*|'(?:\\.|[^\\'])'|"((?:\\.|[^\\"])*)""#).expect("valid");
    let continued = Regex::new(r"\\\n\s*").expect("valid");
    let found = token.captures_iter(code).filter_map(|found| found.get(1));
    found
        .map(|text| {
            continued
                .replace_all(text.as_str(), "")
                .replace("\\\"", "\"")
        })
        .collect()
}

/// Returns the tables that a statement writes, with repetitions.
fn written_tables(statement: &str) -> Vec<String> {
    let write =
        Regex::new(r"(?:INSERT INTO|DELETE FROM|\bUPDATE) hookstile\.(\w+)").expect("valid");
    let found = write.captures_iter(statement);
    found.map(|found| found[1].to_owned()).collect()
}

#[test]
fn documentation_lists_every_statement() {
    let mut now = String::from(
        "-- The SQL of a store in PostgreSQL, by the file of the program that has it. A name in braces is\n\
         -- filled in by the program; parts are put together. This file is generated\n\
         -- (HOOKSTILE_REGENERATE=1 cargo test --test it -- statements::).\n",
    );
    for (file, statements) in statements() {
        let _ = write!(now, "\n-- {file}\n");
        for statement in statements {
            let _ = write!(now, "\n{statement};\n");
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/statements.sql");
    if std::env::var_os("HOOKSTILE_REGENERATE").is_some() {
        fs::write(&path, &now).expect("a writable file");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == now,
        "docs/statements.sql is not current; `HOOKSTILE_REGENERATE=1 cargo test --test it -- \
         statements::` rewrites it"
    );
}

#[test]
fn no_statement_writes_a_table_twice() {
    let mut seen = 0;
    for (file, statements) in statements() {
        for statement in statements {
            for part in statement.split(';') {
                let mut tables = written_tables(part);
                seen += tables.len();
                let all = tables.len();
                tables.sort();
                tables.dedup();
                assert_eq!(tables.len(), all, "{file}: {part}");
            }
        }
    }
    assert!(seen > 40, "only {seen} writes were found");
}

#[test]
fn literals_of_code_are_found() {
    let code = "let a = \"SELECT \\\"x\\\"\"; // \"no\"\nlet b = '\"'; let c = \"one \\\n   two\";";
    assert_eq!(literals(code), ["SELECT \"x\"", "one two"]);
}
