//! What makes a release: the workflows of the hosted CI, the image's files and the package's metadata.
//! `make release-check` builds and runs what these only describe.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::{read, root};
use crate::harness::programs::{program, tool};

const WORKFLOWS: [&str; 3] = ["advisories", "ci", "release"];
const COMPOSE: [&str; 2] = [
    "deploy/docker/one/compose.yaml",
    "deploy/docker/replicas/compose.yaml",
];

fn workflow(name: &str) -> String {
    format!(".github/workflows/{name}.yml")
}

/// Runs a program that lies beside the Python of the tests, unless it is not installed.
fn run(name: &str, arguments: &[&str]) {
    let beside = program("HOOKSTILE_PYTHON", "python3").map(|python| python.with_file_name(name));
    let beside = beside.filter(|path: &PathBuf| path.is_file());
    let what = format!("{name} beside HOOKSTILE_PYTHON");
    let Some(found) = tool(&what, beside, "the files that it checks") else {
        return;
    };
    let output = Command::new(found)
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}:\n{text}");
}

#[test]
fn workflows_fit_their_schema() {
    let files = WORKFLOWS.map(workflow);
    let mut arguments = vec!["--builtin-schema", "vendor.github-workflows"];
    arguments.extend(files.iter().map(String::as_str));
    run("check-jsonschema", &arguments);
}

/// zizmor finds injected text, credentials that stay, permissions that are not needed, and actions
/// that are not pinned.
#[test]
fn workflows_pass_a_security_audit() {
    run("zizmor", &["--offline", "--no-progress", ".github"]);
}

#[test]
fn compose_files_fit_their_schema() {
    let mut arguments = vec!["--builtin-schema", "vendor.compose-spec"];
    arguments.extend(COMPOSE);
    run("check-jsonschema", &arguments);
}

#[test]
fn workflows_build_the_declared_rust() {
    let channel = read("rust-toolchain.toml");
    let channel = channel
        .split('"')
        .nth(1)
        .expect("the channel in quotes comes first");
    let ci = read(&workflow("ci"));
    let declared = env!("CARGO_PKG_RUST_VERSION");
    assert!(ci.contains(&format!("rust: [\"{channel}\", \"{declared}\", beta]")));
    let (release, _) = channel
        .rsplit_once('.')
        .expect("a version of three numbers");
    let image = read("deploy/docker/Dockerfile");
    assert!(image.contains(&format!("FROM rust:{release}-slim-bookworm AS build\n")));
}

/// A dependency that asks for a newer Rust would make `rust-version` untrue.
#[test]
fn dependencies_build_with_oldest_rust() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--offline", "--format-version=1"])
        // What other platforms need may not be here.
        .arg(format!(
            "--filter-platform={}-unknown-linux-gnu",
            std::env::consts::ARCH
        ))
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let numbers = |version: &str| -> Vec<u64> {
        let numbers = version
            .split('.')
            .map(|number| number.parse().expect("a number"));
        numbers.chain([0, 0]).take(3).collect()
    };
    let oldest = numbers(env!("CARGO_PKG_RUST_VERSION"));
    let newer: Vec<_> = packages
        .iter()
        .filter(|package| {
            let asked = package["rust_version"].as_str();
            asked.is_some_and(|asked| numbers(asked) > oldest)
        })
        .map(|package| format!("{} {}", package["name"], package["rust_version"]))
        .collect();
    assert!(packages.len() > 100 && newer.is_empty(), "{newer:?}");
}

#[test]
fn changelog_has_this_version() {
    let notes = Command::new(root().join("scripts/release-notes"))
        .arg(env!("CARGO_PKG_VERSION"))
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&notes.stdout);
    assert!(
        notes.status.success(),
        "{}",
        String::from_utf8_lossy(&notes.stderr)
    );
    assert!(
        text.starts_with("### ") || text.starts_with(char::is_alphabetic),
        "{text}"
    );
    assert!(
        !text.contains("\n## ") && !text.contains("]: http"),
        "{text}"
    );
    let changelog = read("CHANGELOG.md");
    assert!(changelog.contains("\n## [Unreleased]\n"));
    for name in ["Unreleased", env!("CARGO_PKG_VERSION")] {
        let link = format!("\n[{name}]: {}/", env!("CARGO_PKG_REPOSITORY"));
        assert!(changelog.contains(&link), "{link}");
    }
}

/// Whatever repeats the version or the address of the repository agrees with `Cargo.toml`.
#[test]
fn image_names_version_and_source() {
    let image = read("deploy/docker/Dockerfile");
    for (label, value) in [
        ("version", env!("CARGO_PKG_VERSION")),
        ("source", env!("CARGO_PKG_REPOSITORY")),
        ("description", env!("CARGO_PKG_DESCRIPTION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
    ] {
        let line = format!("org.opencontainers.image.{label}=\"{value}\"");
        assert!(image.contains(&line), "{line}");
    }
    for path in COMPOSE {
        assert!(read(path).contains("dockerfile: deploy/docker/Dockerfile"));
    }
}

/// Returns the words between the parentheses of an array in a script.
fn words(script: &str, array: &str) -> Vec<String> {
    let text = read(script);
    let start = format!("\n{array}=(");
    let (_, rest) = text.split_once(&start).expect("the array");
    let (words, _) = rest.split_once(')').expect("its end");
    words.split_whitespace().map(str::to_owned).collect()
}

/// The page names the versions that `make postgres` tests.
#[test]
fn supported_postgres_is_tested() {
    let pinned = words("scripts/install", "postgres");
    let majors: Vec<u32> = pinned
        .iter()
        .map(|version| version.split('.').next()?.parse().ok())
        .collect::<Option<_>>()
        .expect("numbers");
    let (first, last) = (majors[0], majors[majors.len() - 1]);
    assert_eq!(majors, (first..=last).collect::<Vec<_>>());
    let supported = format!("PostgreSQL {first} to {last}");
    assert!(read("docs/replicas.md").contains(&supported), "{supported}");
}

#[test]
fn make_postgres_runs_all_its_tests() {
    let mut using = Vec::new();
    for folder in [
        "tests/it",
        "tests/it/deploy",
        "tests/it/reported",
        "tests/it/attack",
    ] {
        for entry in std::fs::read_dir(root().join(folder)).expect("a folder") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if !text.contains(concat!("Postgres::", "start")) {
                continue;
            }
            let module = path.strip_prefix(root().join("tests/it")).expect("below");
            let module = module
                .with_extension("")
                .to_string_lossy()
                .replace('/', "::");
            using.push(module);
        }
    }
    using.sort();
    assert_eq!(using, words("scripts/postgres", "groups"));
}

#[test]
fn version_names_commit_and_target() {
    let version = |option| {
        let output = Command::new(env!("CARGO_BIN_EXE_hookstile"))
            .arg(option)
            .output();
        String::from_utf8(output.expect("it runs").stdout).expect("UTF-8")
    };
    let short = format!("hookstile {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(version("-V"), format!("{short}\n"));
    let long = version("--version");
    let build = long.trim_end().strip_prefix(&format!("{short} (commit "));
    let (commit, target) = build
        .and_then(|build| build.strip_suffix(')')?.split_once(", "))
        .unwrap_or_else(|| panic!("{long}"));
    assert!(commit == "unknown" || commit.len() == 12, "{long}");
    assert!(
        target.ends_with("-linux-gnu") || target.ends_with("-linux-musl"),
        "{long}"
    );
}
