//! The providers' own SDKs: the gateway accepts their signatures and rejects any change, and they
//! accept the signatures of `hookstile sign`. The drivers in `tests/sdk/` run them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::programs::{program, tool};
use crate::harness::sender::digest;
use crate::harness::*;

/// A driver and the SDKs that it runs.
struct Sdks {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Sdks {
    fn node() -> Option<Self> {
        let modules = std::env::var_os("HOOKSTILE_NODE_MODULES").map(PathBuf::from);
        let installed = modules.filter(|modules| modules.join("standardwebhooks").is_dir());
        tool(
            "HOOKSTILE_NODE_MODULES with the providers' SDKs",
            installed,
            "the SDKs of npm",
        )?;
        let node = tool("node", program("HOOKSTILE_NODE", "node"), "the SDKs of npm")?;
        Some(Self::start(&node, "driver.mjs"))
    }

    fn python() -> Option<Self> {
        let python = program("HOOKSTILE_PYTHON", "python3").filter(|python| {
            let probe = Command::new(python)
                .args(["-c", "import standardwebhooks"])
                .output();
            probe.is_ok_and(|probe| probe.status.success())
        });
        let python = tool(
            "HOOKSTILE_PYTHON with the providers' SDKs",
            python,
            "the SDKs of PyPI",
        )?;
        Some(Self::start(&python, "driver.py"))
    }

    fn start(interpreter: &Path, driver: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk");
        let mut command = Command::new(interpreter);
        command
            .arg(driver)
            .current_dir(folder)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("the driver starts");
        let (to, from) = (
            child.stdin.take().expect("piped"),
            child.stdout.take().expect("piped"),
        );
        Self {
            child,
            to,
            from: BufReader::new(from),
        }
    }

    fn call(&mut self, request: &Value) -> Value {
        writeln!(self.to, "{request}").expect("the driver reads");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("the driver answers");
        let response: Value =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        let answered = ["headers", "verified", "answer"]
            .iter()
            .any(|member| response.get(member).is_some());
        assert!(answered, "{request}: {response}");
        response
    }

    /// Returns the headers that the SDK adds to `body`.
    fn sign(
        &mut self,
        sdk: &str,
        secret: &str,
        timestamp: i64,
        body: &str,
    ) -> Vec<(String, String)> {
        let id = format!("msg_{timestamp}");
        let body = STANDARD.encode(body);
        let request = json!({"sdk": sdk, "op": "sign", "secret": secret, "id": id, "timestamp": timestamp, "body": body});
        let response = self.call(&request);
        let headers = response["headers"].as_object().expect("headers").iter();
        headers
            .map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()))
            .collect()
    }

    fn verifies(
        &mut self,
        sdk: &str,
        secret: &str,
        headers: &Value,
        body: &str,
        url: &str,
    ) -> bool {
        let body = STANDARD.encode(body);
        let request = json!({"sdk": sdk, "op": "verify", "secret": secret, "headers": headers, "body": body, "url": url});
        self.call(&request)["verified"]
            .as_bool()
            .expect("a verdict")
    }
}

impl Drop for Sdks {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
        .try_into()
        .expect("before the end")
}

const STANDARD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER_SECRET: &str = "whsec_b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90aGU=";

/// A preset and the SDKs that sign for it.
struct Sender {
    preset: &'static str,
    sdk: &'static str,
    secret: &'static str,
    /// Set if the signature covers the time.
    signs_time: bool,
    /// The name under which the signature covers the ID.
    id: Option<&'static str>,
}

const fn sender(
    preset: &'static str,
    sdk: &'static str,
    signs_time: bool,
    id: Option<&'static str>,
) -> Sender {
    Sender {
        preset,
        sdk,
        secret: STANDARD_SECRET,
        signs_time,
        id,
    }
}

const OF_NPM: [Sender; 4] = [
    sender("stripe", "stripe", true, None),
    sender("github", "@octokit/webhooks-methods", false, None),
    sender(
        "standard-webhooks",
        "standardwebhooks",
        true,
        Some("webhook-id"),
    ),
    sender("svix", "svix", true, Some("svix-id")),
];

const OF_PYPI: [Sender; 4] = [
    sender("stripe", "stripe", true, None),
    sender(
        "standard-webhooks",
        "standardwebhooks",
        true,
        Some("webhook-id"),
    ),
    sender("svix", "svix", true, Some("svix-id")),
    sender("slack", "slack_sdk", true, None),
];

/// Returns an event that any of these providers might send.
fn event(id: &str) -> String {
    let event = json!({
        "id": id, "object": "event", "event_id": id, "type": "user.created", "event": {"type": "app_mention"},
        "data": {"name": "Zoë 🚀", "price": 10.50, "slash": "a/b"},
    });
    event.to_string()
}

fn request(preset: &str, headers: &[(String, String)], body: &str) -> Request {
    let request = Request::post(body.as_bytes()).at(&format!("/webhooks/{preset}"));
    let request = headers.iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    });
    match preset {
        "github" => request
            .header("X-GitHub-Delivery", &digest(body.as_bytes()))
            .header("X-GitHub-Event", "push"),
        _ => request,
    }
}

async fn assert_only_signed_accepted(mut sdks: Sdks, senders: &[Sender]) {
    for sender in senders {
        assert_only_signed_accepted_by(&mut sdks, sender).await;
    }
}

async fn assert_only_signed_accepted_by(sdks: &mut Sdks, sender: &Sender) {
    let Sender {
        preset,
        sdk,
        secret,
        signs_time,
        id,
    } = *sender;
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).named(preset).with("provider", preset);
    let route = route.with("secrets", "[{env: SDK_SECRET, name: current}]");
    let gateway = Gateway::start(Setup::from(route).env("SDK_SECRET", STANDARD_SECRET)).await;
    let refuse = async |what: &str, request: Request| {
        let response = gateway.send(request).await;
        assert_eq!(
            (response.status, response.outcome()),
            (401, "invalid_signature"),
            "{preset}: {what}"
        );
    };

    let (now, body) = (unix_now(), event(&format!("evt_{preset}")));
    let headers = sdks.sign(sdk, secret, now, &body);
    let genuine = request(preset, &headers, &body);
    let with_body = |body: &str| request(preset, &headers, body);
    let parsed: Value = serde_json::from_str(&body).expect("JSON");
    refuse(
        "re-serialised",
        with_body(&serde_json::to_string_pretty(&parsed).expect("JSON")),
    )
    .await;
    refuse("an added newline", with_body(&format!("{body}\n"))).await;
    refuse("truncated", with_body(&body[..body.len() - 1])).await;
    refuse("another price", with_body(&body.replace("10.5", "0.5"))).await;
    refuse(
        "another key",
        request(preset, &sdks.sign(sdk, OTHER_SECRET, now, &body), &body),
    )
    .await;
    for (name, value) in &headers {
        let last = value.trim_end_matches('=').len() - 1;
        let other = if value.as_bytes()[last] == b'0' {
            '1'
        } else {
            '0'
        };
        let changed = format!("{}{other}{}", &value[..last], &value[last + 1..]);
        refuse(
            &format!("{name} changed"),
            genuine.clone().set(name, &changed),
        )
        .await;
        refuse(
            &format!("{name} cut short"),
            genuine.clone().set(name, &value[..value.len() - 5]),
        )
        .await;
        refuse(&format!("{name} empty"), genuine.clone().set(name, "")).await;
        refuse(&format!("{name} missing"), genuine.clone().without(name)).await;
        refuse(
            &format!("{name} twice"),
            genuine.clone().header(name, value),
        )
        .await;
    }
    if signs_time {
        for off in [-3600, -310, 310, 3600] {
            refuse(
                "stale",
                request(preset, &sdks.sign(sdk, secret, now + off, &body), &body),
            )
            .await;
        }
    }
    if let Some(id) = id {
        refuse("another ID", genuine.clone().set(id, "msg_of_another")).await;
    }
    upstream.assert_untouched();

    gateway.send(genuine.clone()).await.assert(200, "delivered");
    assert_eq!(
        digest(&upstream.last().body),
        digest(body.as_bytes()),
        "{preset}: byte for byte"
    );
    gateway.send(genuine).await.assert(200, "duplicate");
    assert_eq!(upstream.count(), 1, "{preset}: the replay is not forwarded");
    let metrics = gateway.metrics().await;
    metrics.assert_value(
        "signature_checks_total",
        &[("route", preset), ("result", "ok"), ("secret", "current")],
        2.0,
    );
    let stale = if signs_time { 4.0 } else { 0.0 };
    metrics.assert_value(
        "signature_checks_total",
        &[("route", preset), ("result", "stale")],
        stale,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn npm_sdk_signatures_verify() {
    let Some(sdks) = Sdks::node() else { return };
    assert_only_signed_accepted(sdks, &OF_NPM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zoom_validation_matches_its_sdk() {
    let Some(mut sdks) = Sdks::node() else { return };
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "zoom")).await;
    let body = r#"{"event":"endpoint.url_validation","payload":{"plainToken":"q9ibPhGeRZ6ayx5WTrXjRw"},"event_ts":1689061099652}"#;
    let headers = sign_headers("zoom", SECRET, body, "https://hooks.example.com");
    let request = json!({"sdk": "@zoom/rivet", "op": "answer", "secret": SECRET, "headers": headers, "body": STANDARD.encode(body)});
    let theirs = sdks.call(&request)["answer"].clone();
    let request = headers
        .as_object()
        .expect("headers")
        .iter()
        .fold(Request::post(body.as_bytes()), |request, (name, value)| {
            request.header(name, value.as_str().expect("text"))
        });
    let response = gateway.send(request).await;
    response.assert(200, "challenge");
    let parsed = |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON");
    assert_eq!(theirs["status"], json!(200));
    assert_eq!(
        parsed(&response.body),
        parsed(theirs["body"].as_str().expect("text").as_bytes())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pypi_sdk_signatures_verify() {
    let Some(sdks) = Sdks::python() else { return };
    assert_only_signed_accepted(sdks, &OF_PYPI).await;
}

/// Returns the headers that `hookstile sign` prints for `body`.
fn sign_headers(preset: &str, secret: &str, body: &str, url: &str) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("body.json");
    std::fs::write(&file, body).expect("a writable folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookstile"));
    command.args([
        "sign",
        "--provider",
        preset,
        "--secret-env",
        "SDK_SECRET",
        "--url",
        url,
        "--json",
        "--body",
    ]);
    let output = command
        .arg(&file)
        .env("SDK_SECRET", secret)
        .output()
        .expect("the binary runs");
    assert!(
        output.status.success(),
        "{preset}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Asserts that each SDK accepts a signature of `hookstile sign`. A case is a preset, the SDK that
/// verifies for it, and the secrets to sign and to verify with.
fn assert_sdks_accept(mut sdks: Sdks, verifiers: &[(&str, &str, &str, &str)]) {
    const URL: &str = "https://hooks.example.com/webhooks";
    let milliseconds = unix_now() * 1000;
    let body = json!({
        "id": "evt_1", "type": "user.created", "event": "meeting.started", "event_ts": milliseconds,
        "webhookTimestamp": milliseconds, "action": "create", "data": {}, "payload": {"object": {"topic": "Zoë"}},
    });
    let body = body.to_string();
    for (preset, sdk, signing, verifying) in verifiers {
        let mut headers = sign_headers(preset, signing, &body, URL);
        if *preset == "shopify" {
            for name in [
                "X-Shopify-Topic",
                "X-Shopify-Shop-Domain",
                "X-Shopify-API-Version",
                "X-Shopify-Webhook-Id",
            ] {
                headers[name] = json!("unstable");
            }
        }
        assert!(
            sdks.verifies(sdk, verifying, &headers, &body, URL),
            "{sdk} accepts it"
        );
        let changed = body.replace("evt_1", "evt_2");
        assert!(
            !sdks.verifies(sdk, verifying, &headers, &changed, URL),
            "{sdk} rejects a change"
        );
    }
}

const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
/// RFC 8032 §7.1, test 1.
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

#[test]
fn npm_sdks_accept_our_signatures() {
    let Some(sdks) = Sdks::node() else { return };
    let same = |preset, sdk| (preset, sdk, STANDARD_SECRET, STANDARD_SECRET);
    let verifiers = [
        same("stripe", "stripe"),
        same("github", "@octokit/webhooks-methods"),
        same("meta", "@octokit/webhooks-methods"),
        same("standard-webhooks", "standardwebhooks"),
        same("gitlab", "standardwebhooks"),
        same("svix", "svix"),
        same("shopify", "@shopify/shopify-api"),
        same("linear", "@linear/sdk"),
        same("paddle", "@paddle/paddle-node-sdk"),
        same("zoom", "@zoom/rivet"),
        ("discord", "discord-interactions", SEED, PUBLIC),
    ];
    assert_sdks_accept(sdks, &verifiers);
}

#[test]
fn pypi_sdks_accept_our_signatures() {
    let Some(sdks) = Sdks::python() else { return };
    let same = |preset, sdk| (preset, sdk, STANDARD_SECRET, STANDARD_SECRET);
    let verifiers = [
        same("stripe", "stripe"),
        same("standard-webhooks", "standardwebhooks"),
        same("svix", "svix"),
        same("slack", "slack_sdk"),
        same("square", "square"),
    ];
    assert_sdks_accept(sdks, &verifiers);
}
