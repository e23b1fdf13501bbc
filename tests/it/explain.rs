//! `hookstile verify` explains why a captured request is not genuine, and how to fix it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "canary-current-4711";
const OLD_SECRET: &str = "canary-old-0815";
const BODY: &str = r#"{"id":"evt_1","type":"user.created"}"#;

/// A folder with an operator's files: secrets, a configuration, and a capture of an event signed
/// with `SECRET`.
struct Workspace(TempDir);

struct CommandOutput {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl CommandOutput {
    #[track_caller]
    fn assert(self, code: i32, parts: &[&str]) -> Self {
        let all = format!("{}{}", self.stdout, self.stderr);
        assert_eq!(self.code, Some(code), "{all}");
        for part in parts {
            assert!(all.contains(part), "{part:?} in: {all}");
        }
        for secret in [SECRET, OLD_SECRET] {
            assert!(
                !all.contains(secret) && !all.contains(&hex::encode(secret)),
                "a secret is shown: {all}"
            );
        }
        assert!(!all.chars().any(|c| c.is_control() && c != '\n'), "{all:?}");
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

impl Workspace {
    fn new() -> Self {
        let workspace = Self(TempDir::new().expect("a temporary folder"));
        workspace.write("key", SECRET);
        workspace.write("old", OLD_SECRET);
        workspace.write("body", BODY);
        workspace.write(
            "hookstile.yaml",
            "routes:\n  - path: /hooks\n    name: hooks\n    provider: vpn-enterprise\n    \
             upstream: http://127.0.0.1:3000/\n    \
             secrets: [{file: key, name: current}, {file: old, name: previous, expires: 2020-01-01T00:00:00Z}]\n",
        );
        workspace
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), content).expect("a writable folder");
    }

    fn run(&self, line: &str) -> CommandOutput {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookstile"));
        command
            .args(line.split(' '))
            .current_dir(self.path())
            .env("CURRENT", SECRET)
            .env("OLD", OLD_SECRET);
        let output = command
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        CommandOutput {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Returns the header lines of a sender with this secret.
    fn signed(&self, secret: &str) -> String {
        self.run(&format!(
            "sign --provider vpn-enterprise --secret-file {secret} --body body"
        ))
        .stdout
    }
}

#[test]
fn genuine_request_exits_0_and_names_secret() {
    let workspace = Workspace::new();
    workspace.write("head", workspace.signed("key"));
    let verify = "verify --headers head --body body";
    let output = workspace.run(&format!(
        "{verify} --provider vpn-enterprise --secret-env OLD --secret-env CURRENT"
    ));
    output.assert(
        0,
        &[
            "genuine: signed with the secret `CURRENT`",
            "`evt_1`, of type `user.created`",
        ],
    );
    let output = workspace.run(&format!(
        "{verify} --config hookstile.yaml --route hooks --json"
    ));
    let response = output.assert(0, &[]).json();
    assert_eq!(
        (&response["verified"], &response["secret"]),
        (&json!(true), &json!("current")),
        "{response}"
    );
    assert_eq!(
        response["event"],
        json!({"id": "evt_1", "type": "user.created"}),
        "{response}"
    );
}

#[test]
fn genuine_request_without_event_exits_1() {
    let workspace = Workspace::new();
    workspace.write("body", "{}");
    workspace.write("head", workspace.signed("key"));
    let output = workspace
        .run("verify --headers head --body body --provider vpn-enterprise --secret-file key");
    output.assert(
        1,
        &[
            "genuine: signed with the secret `key`",
            "invalid_event",
            "no ID",
        ],
    );
}

#[test]
fn raw_http_with_added_newline_is_explained() {
    let workspace = Workspace::new();
    for end in ["\n", "\r\n"] {
        let head = format!(
            "POST /hooks HTTP/1.1\nHost: example.com\n{}",
            workspace.signed("key")
        )
        .replace('\n', end);
        workspace.write("captured", format!("{head}{end}{BODY}"));
        let verify = "verify --request captured --provider vpn-enterprise --secret-env CURRENT";
        workspace.run(verify).assert(0, &["genuine"]);
        workspace.write("captured", format!("{head}{end}{BODY}\n"));
        workspace.run(verify).assert(
            1,
            &[
                "not genuine: the signature in X-VPN-Signature",
                "(mismatch)",
                "no newline at its end",
            ],
        );
    }
}

#[test]
fn curl_command_is_parsed_as_curl_sends_it() {
    let workspace = Workspace::new();
    let signed = workspace.signed("key");
    let header = signed.trim_end();
    let verify = "verify --request captured --provider vpn-enterprise --secret-file key";
    for data in [
        format!("--data-raw '{BODY}'"),
        "-d @body".into(),
        format!("-d $'{BODY}'"),
    ] {
        workspace.write(
            "captured",
            format!("curl https://example.com/hooks \\\n  -H '{header}' \\\n  {data}\n"),
        );
        workspace.run(verify).assert(0, &["genuine"]);
    }
    workspace.write("body", format!("{BODY}\n"));
    workspace.write(
        "captured",
        format!("curl https://example.com/hooks -H '{header}' --data-binary @body"),
    );
    workspace.run(verify).assert(1, &["no newline at its end"]);
    workspace.write(
        "captured",
        format!("curl https://example.com/hooks \\\n -H '{header}' -F a=b"),
    );
    workspace.run(verify).assert(2, &["captured: line 2", "-F"]);
}

#[test]
fn expired_secret_is_found() {
    let workspace = Workspace::new();
    workspace.write("head", workspace.signed("old"));
    let verify = "verify --headers head --body body --config hookstile.yaml --route hooks";
    workspace.run(verify).assert(
        1,
        &[
            "with the secret `previous` instead, which expired at 2020-01-01T00:00:00Z",
            "rotation",
        ],
    );
    workspace
        .run(&format!("{verify} --at 2019-06-01T00:00:00Z"))
        .assert(0, &["signed with the secret `previous`"]);
}

#[test]
fn json_lists_every_change_and_fix() {
    let workspace = Workspace::new();
    workspace.write("head", workspace.signed("old"));
    workspace.write("body", format!("{BODY}\n"));
    let verify = "verify --headers head --body body --config hookstile.yaml --route hooks --json";
    let response = workspace.run(verify).assert(1, &[]).json();
    assert_eq!(
        (&response["verified"], &response["failure"]),
        (&json!(false), &json!("mismatch")),
        "{response}"
    );
    assert_eq!(response["secret"], Value::Null, "{response}");
    assert!(
        response["tried"].as_u64().is_some_and(|tried| tried > 10),
        "{response}"
    );
    let changes = response["explanations"][0]["changes"]
        .as_array()
        .expect("a list");
    let about: Vec<_> = changes
        .iter()
        .map(|change| change["what"].as_str().expect("a word"))
        .collect();
    assert_eq!(about, ["secret", "body"], "{response}");
    assert!(
        changes
            .iter()
            .all(|change| change["how"].is_string() && change["advice"].is_string()),
        "{response}"
    );
}

#[test]
fn wrong_secret_is_not_explained_away() {
    let workspace = Workspace::new();
    workspace.write("head", workspace.signed("old"));
    let output = workspace
        .run("verify --headers head --body body --provider vpn-enterprise --secret-env CURRENT");
    output.assert(
        1,
        &[
            "nothing that was tried matches",
            "what to do: Copy the secret again",
            "raw bytes",
        ],
    );
}

#[test]
fn missing_header_is_not_blamed_on_secrets() {
    let workspace = Workspace::new();
    workspace.write("head", "X-Trace: 1\nStripe-Signature: t=1,v1=00\n");
    let verify = "verify --headers head --body body --config hookstile.yaml --route hooks";
    let output = workspace.run(verify).assert(
        1,
        &[
            "the header X-VPN-Signature is missing (missing)",
            "the request has `stripe-signature`, in which `stripe` signs",
            "what to do: Send this request to a route whose `provider` is `stripe`",
        ],
    );
    assert!(!output.stdout.contains("secret"), "{}", output.stdout);
    let document = workspace.run(&format!("{verify} --json"));
    let document = document.assert(1, &[]).json();
    assert_eq!(document["failure"], "missing", "{document}");
    assert_eq!(document["advice"].as_array().map(Vec::len), Some(2));
    workspace.write("head", "X-Trace: 1\n");
    workspace
        .run(verify)
        .assert(1, &["Check that the sender signs its requests"]);
}

#[test]
fn sender_text_cannot_control_terminal() {
    let workspace = Workspace::new();
    let url = "http://h/\u{1b}[2J\u{9b}1m";
    workspace.write(
        "captured",
        format!("curl '{url}' -H 'X-VPN-Signature: \u{9b}x=y' -d '{BODY}'"),
    );
    workspace
        .run("verify --request captured --provider vpn-enterprise --secret-env CURRENT")
        .assert(1, &["not genuine"]);
    workspace
        .run("verify --request captured --provider square --secret-env CURRENT --json")
        .assert(1, &["\"verified\""]);
}

#[test]
fn unusable_capture_exits_2_bad_config_78() {
    let workspace = Workspace::new();
    workspace.write("head", workspace.signed("key"));
    workspace.write("broken", "X-VPN-Signature\n");
    let cases = [
        (2, "verify", "--request"),
        // hookstile.yaml has one route.
        (0, "verify --headers head --body body", "genuine"),
        (
            2,
            "verify --headers head --body body --provider vpn-enterprise",
            "--secret-env",
        ),
        (
            2,
            "verify --headers head --body body --provider vpn-enterprise --secret-env UNSET",
            "UNSET is not set",
        ),
        (
            2,
            "verify --headers none --body body --provider vpn-enterprise --secret-env CURRENT",
            "cannot read none",
        ),
        (
            2,
            "verify --headers broken --body body --provider vpn-enterprise --secret-env CURRENT",
            "line 1",
        ),
        (
            2,
            "verify --request head --provider vpn-enterprise --secret-env CURRENT",
            "no blank line",
        ),
        (
            0,
            "verify --request head --body body --provider vpn-enterprise --secret-env CURRENT",
            "genuine",
        ),
        (
            1,
            "verify --headers head --config hookstile.yaml",
            "not genuine",
        ),
        (
            78,
            "verify --headers head --body body --config hookstile.yaml --route other",
            "no route has the name `other`",
        ),
        (
            78,
            "verify --headers head --body body --config none.yaml --route hooks",
            "none.yaml",
        ),
    ];
    for (code, line, output) in cases {
        workspace.run(line).assert(code, &[output]);
    }
}
