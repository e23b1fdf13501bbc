//! The files for operators: Prometheus rules that load and fire when they should, a dashboard and
//! manifests that name only existing things, and the notifications that a supervisor waits for.

mod balancer; // HAProxy in front of several gateways
mod manifests;
mod release; // workflows, and what repeats the version // Kubernetes, compose, and the configurations they contain

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::programs::{program, tool};
use crate::harness::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const RULES: &str = "deploy/prometheus/hookstile.rules.yml";
const RULE_TESTS: &str = "deploy/prometheus/hookstile.rules.test.yml";
const DASHBOARD: &str = "deploy/grafana/hookstile.json";
/// The file that an autoscaler reads, and the adapter rule that exposes its metric.
const AUTOSCALER: [&str; 2] = [
    "deploy/helm/hookstile/templates/horizontalpodautoscaler.yaml",
    "deploy/prometheus/adapter.yml",
];

fn promtool(skipped: &str) -> Option<PathBuf> {
    tool(
        "promtool",
        program("HOOKSTILE_PROMTOOL", "promtool"),
        skipped,
    )
}

/// Runs promtool in the folder of the rules and asserts that it succeeds.
fn assert_promtool_passes(promtool: &Path, arguments: &[&str]) {
    let folder = root().join("deploy/prometheus");
    let output = Command::new(promtool)
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("promtool runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {arguments:?}:\n{text}");
}

#[test]
fn promtool_fires_every_alert_when_due() {
    let Some(promtool) = promtool("the check of the alert rules") else {
        return;
    };
    assert_promtool_passes(&promtool, &["check", "rules", "hookstile.rules.yml"]);
    assert_promtool_passes(&promtool, &["test", "rules", "hookstile.rules.test.yml"]);
}

/// Returns the values of a key, which stand one on a line in the rules.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|line| {
            line.trim()
                .trim_start_matches("- ")
                .strip_prefix(key)?
                .strip_prefix(": ")
        })
        .collect()
}

#[test]
fn every_alert_has_severity_runbook_and_tests() {
    let (rules, tests, operations) = (read(RULES), read(RULE_TESTS), read("docs/alerts.md"));
    let headings: BTreeSet<String> = operations
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|heading: &str| {
            heading
                .trim_start_matches('#')
                .trim()
                .to_lowercase()
                .replace(' ', "-")
        })
        .collect();
    let runbook = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/alerts.md#");
    let alerts = values(&rules, "alert");
    assert!(alerts.len() > 20, "{alerts:?}");
    for part in rules.split("- alert: ").skip(1) {
        let alert = part.lines().next().expect("a name");
        let has = |key| {
            values(part, key)
                .first()
                .copied()
                .unwrap_or_else(|| panic!("{alert} has no {key}"))
        };
        let severity = has("labels");
        assert!(
            [
                "{severity: critical}",
                "{severity: warning}",
                "{severity: info}"
            ]
            .contains(&severity),
            "{alert}: {severity}"
        );
        let _ = (has("summary"), has("description"));
        let heading = has("runbook_url")
            .strip_prefix(runbook)
            .expect("a heading of docs/alerts.md");
        assert!(
            headings.contains(heading),
            "{alert}: docs/alerts.md has no heading {heading:?}"
        );
        let case = tests
            .split("- name: ")
            .find(|case| case.lines().next() == Some(alert));
        let case = case.unwrap_or_else(|| panic!("{alert} has no test"));
        assert!(
            case.contains("exp_samples: []"),
            "{alert} has no test in which it is quiet"
        );
        let firing = format!(r#"labels: 'ALERTS{{alertname="{alert}", alertstate="firing""#);
        assert!(
            case.contains(&firing),
            "{alert} has no test in which it fires"
        );
    }
    for heading in operations
        .lines()
        .filter_map(|line| line.strip_prefix("### Hookstile"))
    {
        let alert = format!("Hookstile{heading}");
        assert!(
            alerts.contains(&alert.as_str()),
            "docs/alerts.md describes {alert}, which is not an alert"
        );
    }
}

/// Each code of a problem has an alert that exists, or a reason for none.
#[test]
fn every_problem_has_an_alert_or_a_reason() {
    let openapi: Value = serde_json::from_str(&read("docs/openapi.json")).expect("JSON");
    let problem = &openapi["components"]["schemas"]["GatewayProblem"];
    let codes = problem["properties"]["code"]["enum"]
        .as_array()
        .expect("the codes");
    assert!(codes.len() > 10, "{codes:?}");
    let (page, rules) = (read("docs/problems.md"), read(RULES));
    let alerts = values(&rules, "alert");
    for code in codes {
        let code = code.as_str().expect("a text");
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{code}` |")))
            .unwrap_or_else(|| panic!("docs/problems.md has no row for {code}"));
        let cell = row.trim_end_matches(" |").rsplit(" | ").next();
        let cell = cell.expect("an alert");
        if cell.starts_with("none: ") {
            continue;
        }
        let named: Vec<_> = cell
            .split(|character: char| !character.is_alphanumeric())
            .filter(|word| word.starts_with("Hookstile"))
            .collect();
        assert!(!named.is_empty(), "{code} has no alert, and no reason");
        for alert in named {
            assert!(alerts.contains(&alert), "{code}: there is no {alert}");
        }
    }
}

/// Returns every `PromQL` expression of the rules, including block scalars.
fn rule_expressions() -> Vec<String> {
    let rules = read(RULES);
    let mut found = Vec::new();
    let mut lines = rules.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(expression) = line.trim().strip_prefix("expr: ") else {
            continue;
        };
        if expression != "|" {
            found.push(expression.to_owned());
            continue;
        }
        let mut block = Vec::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("          ")) {
            block.push(line);
        }
        found.push(block.join("\n"));
    }
    found
}

/// Returns every `PromQL` expression of the dashboard, with Grafana's variables filled in.
fn dashboard_expressions() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    match value {
                        Value::String(expression) if key == "expr" => {
                            found.push(expression.clone());
                        }
                        value => collect(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let mut found = Vec::new();
    collect(&dashboard, &mut found);
    found
        .iter()
        .map(|expression| expression.replace("$__rate_interval", "5m"))
        .collect()
}

#[test]
fn dashboard_is_complete() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    assert!(
        dashboard["schemaVersion"]
            .as_u64()
            .is_some_and(|version| version >= 39)
    );
    let variables: Vec<_> = dashboard["templating"]["list"]
        .as_array()
        .expect("variables")
        .iter()
        .collect();
    assert!(
        variables
            .iter()
            .any(|variable| variable["type"] == "datasource")
    );
    assert!(variables.iter().any(|variable| variable["name"] == "route"));
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().expect("an ID"))
        .collect();
    assert_eq!(ids.len(), panels.len(), "no ID twice");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(
            panel["datasource"]["uid"], "${datasource}",
            "{}",
            panel["title"]
        );
        assert!(
            panel["targets"]
                .as_array()
                .is_some_and(|targets| !targets.is_empty()),
            "{}",
            panel["title"]
        );
    }
}

/// Every version of `promtool check rules` parses `PromQL`, so each expression becomes a rule.
#[test]
fn every_dashboard_expression_is_promql() {
    let Some(promtool) = promtool("the check of the dashboard's expressions") else {
        return;
    };
    let rules: Vec<_> = dashboard_expressions()
        .into_iter()
        .enumerate()
        .map(|(number, expression)| serde_json::json!({ "record": format!("panel:{number}"), "expr": expression }))
        .collect();
    assert!(rules.len() > 30);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dashboard.yml");
    // JSON is valid YAML.
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(&file, groups.to_string()).expect("a writable folder");
    assert_promtool_passes(
        &promtool,
        &["check", "rules", file.to_str().expect("UTF-8")],
    );
}

/// Returns the metrics and recorded series that an expression names.
fn names(expression: &str) -> Vec<String> {
    // Quoted text is a label's value, not a name.
    let unquoted: String = expression
        .split('"')
        .step_by(2)
        .collect::<Vec<_>>()
        .join(" ");
    let words = unquoted.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words
        .filter(|word: &&str| {
            word.starts_with("hookstile_")
                || word.starts_with("process_")
                || word.trim_matches(':').contains(':')
        })
        .map(str::to_owned)
        .collect()
}

/// Returns the metrics that a file of [`AUTOSCALER`] names, comments excluded.
fn autoscaler_metric(path: &str) -> String {
    let text = read(path);
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let words =
        lines.flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
    let metrics: BTreeSet<_> = words
        .filter(|word| word.starts_with("hookstile_"))
        .collect();
    assert!(!metrics.is_empty(), "{path}");
    metrics.into_iter().collect::<Vec<_>>().join(" ")
}

#[test]
fn adapter_exposes_autoscaler_metric() {
    let [wanted, shown] = AUTOSCALER.map(autoscaler_metric);
    assert_eq!(wanted, shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_named_metric_exists() {
    let rules = read(RULES);
    let recorded = values(&rules, "record");
    let reference = read("docs/metrics.md");
    let documented: BTreeSet<&str> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let exported = gateway.metrics().await.text;
    let expressions: Vec<_> = rule_expressions()
        .into_iter()
        .chain(dashboard_expressions())
        .collect();
    for expression in expressions.iter().chain(&AUTOSCALER.map(autoscaler_metric)) {
        for name in names(expression) {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix));
            let exists = documented.contains(family.unwrap_or(&name))
                || recorded.contains(&name.as_str())
                || name.starts_with("process_")
                    && exported
                        .lines()
                        .any(|line| line.starts_with(&format!("{name} ")));
            assert!(exists, "{name} does not exist, but {expression} uses it");
        }
    }
    // Not every metric has an alert, but an operator should see all of them.
    let shown: BTreeSet<_> = expressions
        .iter()
        .flat_map(|expression| names(expression))
        .collect();
    for name in documented {
        assert!(
            shown.iter().any(|shown| shown.starts_with(name)),
            "{name} is neither in the rules nor in the dashboard"
        );
    }
}

/// A supervisor's notification socket.
struct Supervisor {
    socket: UnixDatagram,
    heard: String,
}

impl Supervisor {
    fn listen(folder: &Path) -> Self {
        let socket = UnixDatagram::bind(folder.join("notify")).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        Self {
            socket,
            heard: String::new(),
        }
    }

    fn receive(&mut self) -> &str {
        let mut datagram = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut datagram) {
            self.heard += std::str::from_utf8(&datagram[..length]).expect("text");
        }
        &self.heard
    }

    /// Waits for a line, then discards everything received so far.
    async fn wait_for(&mut self, line: &str) -> String {
        eventually(format!("the supervisor receives {line}"), async || {
            self.receive().lines().any(|heard| heard.starts_with(line))
        })
        .await;
        std::mem::take(&mut self.heard)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn supervisor_is_notified_of_start_reload_and_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut supervisor = Supervisor::listen(folder.path());
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream))
        .with("shutdown", "{drain: 1s, grace: 20s}")
        .env(
            "NOTIFY_SOCKET",
            folder.path().join("notify").to_str().expect("UTF-8"),
        );
    let gateway = Gateway::start(setup.clone()).await;
    let started = supervisor.wait_for("READY=1").await;
    assert!(
        started.contains(&format!(
            "STATUS=serving on {}, admin on {}",
            gateway.public_address(),
            gateway.admin_address()
        )),
        "{started}"
    );
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");

    gateway.signal("HUP");
    let reloaded = supervisor.wait_for("READY=1").await;
    let usec = reloaded
        .lines()
        .find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(
        reloaded.starts_with("RELOADING=1\n")
            && usec.is_some_and(|usec| usec.parse::<u64>().is_ok()),
        "{reloaded}"
    );

    gateway.rewrite_text("routes: nonsense\n");
    gateway.signal("HUP");
    let refused = supervisor
        .wait_for("STATUS=serving with the old configuration")
        .await;
    assert!(refused.contains("READY=1\n"), "{refused}");

    gateway.signal("TERM");
    let stopping = supervisor.wait_for("STOPPING=1").await;
    // The drain, the grace period, and ten seconds for the store.
    assert!(
        stopping.contains("EXTEND_TIMEOUT_USEC=31000000\n"),
        "{stopping}"
    );
    assert_eq!(gateway.wait_for_exit().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_start_does_not_notify_supervisor() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut supervisor = Supervisor::listen(folder.path());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream))
        .with("listen", &format!("[{{address: \"{address}\"}}]"))
        .env(
            "NOTIFY_SOCKET",
            folder.path().join("notify").to_str().expect("UTF-8"),
        );
    let (code, text) = Gateway::refuses(setup).await;
    assert_eq!(code, Some(1));
    assert!(
        text.contains("another process is listening there"),
        "{text}"
    );
    assert_eq!(supervisor.receive(), "");
}
