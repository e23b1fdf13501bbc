//! `hookstile verify` says why a captured request is not genuine, and what to change.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "canary-current-4711";
const OLD_SECRET: &str = "canary-old-0815";
const BODY: &str = r#"{"id":"evt_1","type":"user.created"}"#;

/// A folder with what an operator has: secrets, a configuration, and a capture of an event signed with `SECRET`.
struct Desk(TempDir);

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Said {
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

impl Desk {
    fn new() -> Self {
        let desk = Self(TempDir::new().expect("a temporary folder"));
        desk.write("key", SECRET);
        desk.write("old", OLD_SECRET);
        desk.write("body", BODY);
        desk.write(
            "hookstile.yaml",
            "routes:\n  - path: /hooks\n    name: hooks\n    provider: vpn-enterprise\n    \
             upstream: http://127.0.0.1:3000/\n    \
             secrets: [{file: key, name: current}, {file: old, name: previous, expires: 2020-01-01T00:00:00Z}]\n",
        );
        desk
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), content).expect("a writable folder");
    }

    fn run(&self, line: &str) -> Said {
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
        Said {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// The header lines of a sender with this secret.
    fn signed(&self, secret: &str) -> String {
        self.run(&format!(
            "sign --provider vpn-enterprise --secret-file {secret} --body body"
        ))
        .stdout
    }
}

#[test]
fn a_genuine_request_exits_with_0_and_names_its_secret() {
    let desk = Desk::new();
    desk.write("head", desk.signed("key"));
    let verify = "verify --headers head --body body";
    let said = desk.run(&format!(
        "{verify} --provider vpn-enterprise --secret-env OLD --secret-env CURRENT"
    ));
    said.assert(
        0,
        &[
            "genuine: signed with the secret `CURRENT`",
            "`evt_1`, of type `user.created`",
        ],
    );
    let said = desk.run(&format!(
        "{verify} --config hookstile.yaml --route hooks --json"
    ));
    let answer = said.assert(0, &[]).json();
    assert_eq!(
        (&answer["verified"], &answer["secret"]),
        (&json!(true), &json!("current")),
        "{answer}"
    );
    assert_eq!(
        answer["event"],
        json!({"id": "evt_1", "type": "user.created"}),
        "{answer}"
    );
}

#[test]
fn a_genuine_request_that_is_no_event_exits_with_1() {
    let desk = Desk::new();
    desk.write("body", "{}");
    desk.write("head", desk.signed("key"));
    let said =
        desk.run("verify --headers head --body body --provider vpn-enterprise --secret-file key");
    said.assert(
        1,
        &[
            "genuine: signed with the secret `key`",
            "invalid_event",
            "no ID",
        ],
    );
}

#[test]
fn raw_http_whose_body_got_a_newline_is_explained() {
    let desk = Desk::new();
    for end in ["\n", "\r\n"] {
        let head = format!(
            "POST /hooks HTTP/1.1\nHost: example.com\n{}",
            desk.signed("key")
        )
        .replace('\n', end);
        desk.write("captured", format!("{head}{end}{BODY}"));
        let verify = "verify --request captured --provider vpn-enterprise --secret-env CURRENT";
        desk.run(verify).assert(0, &["genuine"]);
        desk.write("captured", format!("{head}{end}{BODY}\n"));
        desk.run(verify).assert(
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
fn a_curl_command_is_read_as_curl_would_send_it() {
    let desk = Desk::new();
    let signed = desk.signed("key");
    let header = signed.trim_end();
    let verify = "verify --request captured --provider vpn-enterprise --secret-file key";
    for data in [
        format!("--data-raw '{BODY}'"),
        "-d @body".into(),
        format!("-d $'{BODY}'"),
    ] {
        desk.write(
            "captured",
            format!("curl https://example.com/hooks \\\n  -H '{header}' \\\n  {data}\n"),
        );
        desk.run(verify).assert(0, &["genuine"]);
    }
    desk.write("body", format!("{BODY}\n"));
    desk.write(
        "captured",
        format!("curl https://example.com/hooks -H '{header}' --data-binary @body"),
    );
    desk.run(verify).assert(1, &["no newline at its end"]);
    desk.write(
        "captured",
        format!("curl https://example.com/hooks \\\n -H '{header}' -F a=b"),
    );
    desk.run(verify).assert(2, &["captured: line 2", "-F"]);
}

#[test]
fn an_expired_secret_of_the_route_is_found() {
    let desk = Desk::new();
    desk.write("head", desk.signed("old"));
    let verify = "verify --headers head --body body --config hookstile.yaml --route hooks";
    desk.run(verify).assert(
        1,
        &[
            "with the secret `previous` instead, which expired at 2020-01-01T00:00:00Z",
            "rotation",
        ],
    );
    desk.run(&format!("{verify} --at 2019-06-01T00:00:00Z"))
        .assert(0, &["signed with the secret `previous`"]);
}

#[test]
fn json_names_every_change_and_what_to_do() {
    let desk = Desk::new();
    desk.write("head", desk.signed("old"));
    desk.write("body", format!("{BODY}\n"));
    let verify = "verify --headers head --body body --config hookstile.yaml --route hooks --json";
    let answer = desk.run(verify).assert(1, &[]).json();
    assert_eq!(
        (&answer["verified"], &answer["failure"]),
        (&json!(false), &json!("mismatch")),
        "{answer}"
    );
    assert_eq!(answer["secret"], Value::Null, "{answer}");
    assert!(
        answer["tried"].as_u64().is_some_and(|tried| tried > 10),
        "{answer}"
    );
    let changes = answer["explanations"][0]["changes"]
        .as_array()
        .expect("a list");
    let about: Vec<_> = changes
        .iter()
        .map(|change| change["what"].as_str().expect("a word"))
        .collect();
    assert_eq!(about, ["secret", "body"], "{answer}");
    assert!(
        changes
            .iter()
            .all(|change| change["how"].is_string() && change["advice"].is_string()),
        "{answer}"
    );
}

#[test]
fn a_wrong_secret_is_not_explained_away() {
    let desk = Desk::new();
    desk.write("head", desk.signed("old"));
    let said = desk
        .run("verify --headers head --body body --provider vpn-enterprise --secret-env CURRENT");
    said.assert(
        1,
        &[
            "nothing that was tried matches",
            "what to do: Copy the secret anew",
            "raw bytes",
        ],
    );
}

#[test]
fn what_the_sender_wrote_moves_no_terminal() {
    let desk = Desk::new();
    let url = "http://h/\u{1b}[2J\u{9b}1m";
    desk.write(
        "captured",
        format!("curl '{url}' -H 'X-VPN-Signature: \u{9b}x=y' -d '{BODY}'"),
    );
    desk.run("verify --request captured --provider vpn-enterprise --secret-env CURRENT")
        .assert(1, &["not genuine"]);
    desk.run("verify --request captured --provider square --secret-env CURRENT --json")
        .assert(1, &["\"verified\""]);
}

#[test]
fn what_cannot_be_judged_exits_with_2_and_a_bad_configuration_with_78() {
    let desk = Desk::new();
    desk.write("head", desk.signed("key"));
    desk.write("broken", "X-VPN-Signature\n");
    let cases = [
        (2, "verify", "--request"),
        (
            2,
            "verify --headers head --secret-env CURRENT",
            "--provider",
        ),
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
            2,
            "verify --request head --body body --provider vpn-enterprise --secret-env CURRENT",
            "--body",
        ),
        (
            2,
            "verify --headers head --config hookstile.yaml",
            "--route",
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
    for (code, line, said) in cases {
        desk.run(line).assert(code, &[said]);
    }
}
