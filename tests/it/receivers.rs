//! Receivers written as the provider documents them accept the forwarded events, and their code
//! agrees with the gateway about which signatures are valid. They are in `tests/receivers/`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::process::Process;
use crate::harness::programs::{program, tool};
use crate::harness::*;

fn receivers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/receivers")
}

/// Returns `node`, with the modules of `HOOKSTILE_NODE_MODULES` if that is set.
fn node(arguments: &[&str]) -> Option<Command> {
    let mut command = Command::new(program("HOOKSTILE_NODE", "node")?);
    if let Some(modules) = std::env::var_os("HOOKSTILE_NODE_MODULES") {
        command.env("NODE_PATH", modules);
    }
    command
        .args(arguments)
        .current_dir(receivers())
        .env("WEBHOOK_SECRET", SECRET)
        .env("PORT", "0");
    Some(command)
}

/// Returns the Python of `HOOKSTILE_PYTHON` (a virtual environment works) or `python3`.
fn python(arguments: &[&str]) -> Option<Command> {
    let mut command = Command::new(program("HOOKSTILE_PYTHON", "python3")?);
    command
        .args(arguments)
        .current_dir(receivers())
        .env("WEBHOOK_SECRET", SECRET)
        .env("PORT", "0");
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    Some(command)
}

/// Returns the command if this probe succeeds.
fn usable(what: &str, probe: Option<Command>, command: Option<Command>) -> Option<Command> {
    let works = probe.is_some_and(|mut probe| {
        probe
            .stdin(Stdio::null())
            .output()
            .is_ok_and(|output| output.status.success())
    });
    tool(
        what,
        works.then(PathBuf::new),
        "the provider's own receiver",
    )
    .and(command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn express_receiver_accepts_forwarded_events() {
    let probe = node(&["-e", "require.resolve('express')"]);
    let Some(mut command) = usable("node with express", probe, node(&["express.js"])) else {
        return;
    };
    assert_accepts_forwarded(Process::spawn(&mut command)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flask_receiver_accepts_forwarded_events() {
    let probe = python(&["-c", "import flask"]);
    let Some(mut command) = usable("python3 with flask", probe, python(&["flask_app.py"])) else {
        return;
    };
    assert_accepts_forwarded(Process::spawn(&mut command)).await;
}

async fn assert_accepts_forwarded(receiver: Process) {
    let Some(curl) = tool("curl", program("HOOKSTILE_CURL", "curl"), "sending by curl") else {
        return;
    };
    let Some(openssl) = tool(
        "openssl",
        program("HOOKSTILE_OPENSSL", "openssl"),
        "signing by openssl",
    ) else {
        return;
    };
    let address = receiver
        .wait_for_output("listening on ")
        .await
        .replace("listening on ", "");
    let url = format!("http://{address}{PATH}");
    let gateway = Gateway::start(Route::to_url(&url)).await;
    let endpoint = format!("http://{}{PATH}", gateway.public_address());
    let file = gateway.directory().join("event.json");
    let send = |url: &str, body: &str, signature: &str| {
        std::fs::write(&file, body).expect("a writable folder");
        let mut command = Command::new(&curl);
        command.args([
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "20",
            "-w",
            " %{http_code}",
            "-H",
            "Content-Type: application/json",
            "-H",
        ]);
        command
            .arg(format!("X-VPN-Signature: {signature}"))
            .arg("--data-binary")
            .arg(format!("@{}", file.display()));
        String::from_utf8(command.arg(url).output().expect("curl runs").stdout).expect("text")
    };
    let sign = |body: &str| {
        std::fs::write(&file, body).expect("a writable folder");
        let output = Command::new(&openssl)
            .args(["dgst", "-sha256", "-hmac", SECRET])
            .arg(&file)
            .output()
            .expect("openssl runs");
        let text = String::from_utf8(output.stdout).expect("text");
        format!(
            "sha256={}",
            text.trim().rsplit("= ").next().expect("a digest")
        )
    };
    let bodies = [
        (
            "user.created",
            r#"{"id":"evt_1","type":"user.created","data":{"email":"päivi@example.com"}}"#,
        ),
        (
            "billing.invoice.paid",
            "{\n  \"id\": \"evt_2\",\n  \"type\": \"billing.invoice.paid\",\n  \"amount\": 10.00\n}\n",
        ),
        (
            "vpn.connected",
            r#"{"id":"evt_3","type":"vpn.connected","data":{"note":"\u00e9 \/ 🚀"}}"#,
        ),
    ];
    for (number, (kind, body)) in bodies.into_iter().enumerate() {
        let signature = sign(body);
        assert!(
            send(&url, &format!("{body} "), &signature).ends_with(" 401"),
            "the receiver verifies signatures itself"
        );
        assert!(
            send(&endpoint, &format!("{body} "), &signature).ends_with(" 401"),
            "the gateway rejects a tampered event"
        );
        assert_eq!(send(&endpoint, body, &signature), "OK 200", "{kind}");
        assert!(
            send(&endpoint, body, &signature).ends_with(" 409"),
            "the gateway rejects a replayed event"
        );
        receiver
            .wait_for_output(&format!("event {kind} evt_{}", number + 1))
            .await;
    }
    let taken = receiver
        .output()
        .lines()
        .filter(|line| line.starts_with("event "))
        .count();
    assert_eq!(
        taken,
        bodies.len(),
        "each event arrives once: {}",
        receiver.output()
    );
}

/// The verdicts of the gateway, the Node receiver and the Python receiver on a header. The
/// receivers' code decides what must pass. Where it is stricter about spelling, or crashes, the
/// gateway's verdict is the documented one.
type Verdicts = [&'static str; 3];
const GENUINE: Verdicts = ["accept", "accept", "accept"];
const FORGED: Verdicts = ["refuse", "refuse", "refuse"];
/// The receivers compare hex as text, so they reject upper case. The gateway accepts hex in either
/// case (docs/semantics.md, Signature).
const UPPER_CASE: Verdicts = ["accept", "refuse", "refuse"];
/// `timingSafeEqual` throws on unequal lengths, which Express turns into a 500.
const WRONG_LENGTH: Verdicts = ["refuse", "throw", "refuse"];
/// Neither sample checks that the header exists; `compare_digest` accepts only ASCII.
const UNUSABLE: Verdicts = ["refuse", "throw", "throw"];

fn corpus() -> Vec<(Vec<u8>, Option<String>, Verdicts)> {
    let large = vec![b'x'; 70_000];
    let bodies: [&[u8]; 9] = [
        br#"{"id":"evt_1","type":"user.created"}"#,
        b"{}",
        b"",
        b"\n",
        b"\0",
        b"\xff\xfe\x80",
        "päivää 🚀".as_bytes(),
        b"{\r\n\t\"id\" : 1 }\r\n",
        &large,
    ];
    let mut corpus = Vec::new();
    for body in bodies {
        let hex = hmac_hex(SECRET, body);
        let other = hmac_hex(OLD_SECRET, body);
        let headers = [
            (format!("sha256={hex}"), GENUINE),
            (hex.clone(), GENUINE),
            (format!("sha256={}", hex.to_uppercase()), UPPER_CASE),
            (hex.to_uppercase(), UPPER_CASE),
            (format!("sha256={other}"), FORGED),
            (other, FORGED),
            ("z".repeat(64), FORGED),
            ("0".repeat(64), FORGED),
            (
                format!("sha256={}", hmac_hex(SECRET, b"another body")),
                FORGED,
            ),
            (format!("sha256={}", &hex[..32]), WRONG_LENGTH),
            (format!("sha256={}", &hex[..63]), WRONG_LENGTH),
            (format!("sha256={hex}0"), WRONG_LENGTH),
            (format!("sha256=sha256={hex}"), WRONG_LENGTH),
            (format!("SHA256={hex}"), WRONG_LENGTH),
            (format!("sha1={hex}"), WRONG_LENGTH),
            (format!("{hex}, {hex}"), WRONG_LENGTH),
            ("sha256=".into(), WRONG_LENGTH),
            (String::new(), WRONG_LENGTH),
            ("\u{e9}".repeat(64), UNUSABLE),
        ];
        corpus.extend(
            headers
                .into_iter()
                .map(|(header, verdicts)| (body.to_vec(), Some(header), verdicts)),
        );
        corpus.push((body.to_vec(), None, UNUSABLE));
    }
    corpus
}

/// Returns the verdict of a receiver's function on each case.
fn verdicts_of(mut command: Command) -> Vec<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the verifier starts");
    let mut lines = String::new();
    for (body, header, _) in corpus() {
        lines.push_str(&json!({"body": hex::encode(body), "header": header}).to_string());
        lines.push('\n');
    }
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(lines.as_bytes())
        .expect("the verifier reads its input");
    let output = child.wait_with_output().expect("the verifier exits");
    String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn assert_verdicts(verifier: usize, verdicts: &[String]) {
    let corpus = corpus();
    assert_eq!(verdicts.len(), corpus.len(), "one verdict per case");
    for ((body, header, expected), verdict) in corpus.iter().zip(verdicts) {
        let body = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!(
            verdict, expected[verifier],
            "body {body:?}, header {header:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_judges_corpus_as_documented() {
    let upstream = Upstream::ok();
    let envelope = "{id: {body_digest: true}, type: {header: X-Event-Type}}";
    let gateway = Gateway::start(Route::to(&upstream).with("event", envelope)).await;
    let mut verdicts = Vec::new();
    for (body, header, _) in corpus() {
        let request = Request::post(&body).header("X-Event-Type", "t");
        let request = header.iter().fold(request, |request, header| {
            request.header("X-VPN-Signature", header)
        });
        let response = gateway.send(request).await;
        verdicts.push(match (response.status, response.outcome()) {
            (200, "delivered") | (409, "duplicate") => "accept".to_owned(),
            (401, "invalid_signature") | (400, "malformed_request") => "refuse".to_owned(),
            other => format!("{other:?}"),
        });
    }
    assert_verdicts(0, &verdicts);
}

#[test]
fn provider_node_code_agrees_with_corpus() {
    let Some(command) = usable("node", node(&["-e", ""]), node(&["corpus.js"])) else {
        return;
    };
    assert_verdicts(1, &verdicts_of(command));
}

#[test]
fn provider_python_code_agrees_with_corpus() {
    let Some(command) = usable("python3", python(&["-c", ""]), python(&["corpus.py"])) else {
        return;
    };
    assert_verdicts(2, &verdicts_of(command));
}
