//! The command-line tools: `send`, `catch`, completions and manual pages.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hookstile::providers::PRESETS;
use hookstile::secret::Secret;
use jiff::Timestamp;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness;
use crate::harness::command::{Run, documents, finish, run_cli};
use crate::harness::process::Process;
use crate::harness::tls::Authority;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

/// A secret that is text for most providers and base64 for those that require it.
const TOOLS_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The seed of the private key for Discord.
const SEED: [u8; 32] = [7; 32];
const SQUARE_URL: &str = "https://hooks.test/as-entered-at-square";

const TAMPERS: [&str; 9] = [
    "body",
    "signature",
    "timestamp",
    "id",
    "stale",
    "future",
    "missing",
    "reserialise",
    "truncate",
];
/// Providers that sign the time.
const TIMED: [&str; 8] = [
    "stripe",
    "standard-webhooks",
    "svix",
    "slack",
    "gitlab",
    "paddle",
    "zoom",
    "discord",
];
/// Providers without an event ID, or with one that they don't sign.
const WITHOUT_SIGNED_ID: [&str; 6] = ["github", "shopify", "linear", "zoom", "meta", "discord"];

fn public_key() -> String {
    hex::encode(
        Ed25519KeyPair::from_seed_unchecked(&SEED)
            .expect("a seed")
            .public_key(),
    )
}

fn command() -> Command {
    let mut command = harness::command::command();
    command
        .env("TOOLS_SECRET", TOOLS_SECRET)
        .env("NOT_THE_SECRET", "whsec_bm90IHRoZSBzZWNyZXQ=");
    command
        .env("DISCORD_SEED", hex::encode(SEED))
        .env("DISCORD_PUBLIC_KEY", public_key());
    // Requests to this machine must not go through a proxy.
    command.env("ALL_PROXY", "http://127.0.0.1:1");
    command
}

async fn hookstile(arguments: &[&str]) -> Run {
    let mut command = command();
    command.args(arguments);
    finish(command).await
}

/// Runs `hookstile send` as this provider, with more arguments.
async fn send(url: &str, provider: &str, more: &[&str]) -> Run {
    let secret = if provider == "discord" {
        "DISCORD_SEED"
    } else {
        "TOOLS_SECRET"
    };
    let mut arguments = vec!["send", url, "--provider", provider, "--secret-env", secret];
    if provider == "square" {
        arguments.extend(["--url", SQUARE_URL]);
    }
    arguments.extend(more);
    hookstile(&arguments).await
}

/// Returns a route for this provider, with the secret that the provider can use.
fn route_for(upstream: &Upstream, name: &str) -> Route {
    let secret = if name == "discord" {
        "DISCORD_PUBLIC_KEY"
    } else {
        "TOOLS_SECRET"
    };
    let secrets = format!("[{{env: {secret}, name: current}}]");
    let route = Route::to(upstream)
        .named(name)
        .with("provider", name)
        .with("secrets", &secrets);
    if name == "square" {
        route.with("public_url", SQUARE_URL)
    } else {
        route
    }
}

/// Starts a gateway with a route for every provider, all to one upstream.
async fn gateway_for_all(upstream: &Upstream) -> Gateway {
    let routes: Vec<_> = PRESETS
        .iter()
        .map(|preset| route_for(upstream, preset.name))
        .collect();
    let setup = Setup::new(routes)
        .env("TOOLS_SECRET", TOOLS_SECRET)
        .env("DISCORD_PUBLIC_KEY", &public_key());
    Gateway::start(setup).await
}

fn url_of(gateway: &Gateway, name: &str) -> String {
    format!("http://{}/webhooks/{name}", gateway.public_address())
}

/// A running `hookstile catch`.
struct Catch {
    process: Process,
    address: SocketAddr,
}

impl Catch {
    async fn start(arguments: &[&str]) -> Self {
        let mut command = command();
        command
            .args(["catch", "--listen", "127.0.0.1:0"])
            .args(arguments);
        Self::from_process(Process::spawn(&mut command)).await
    }

    async fn from_process(process: Process) -> Self {
        let line = process.wait_for_output("listening on http://").await;
        let (_, address) = line.split_once("http://").expect("just seen");
        let address = address.parse().expect("an address");
        Self { process, address }
    }

    fn url(&self) -> String {
        format!("http://{}/caught?a=1", self.address)
    }

    /// Waits until the process exits, and asserts that it succeeded.
    async fn wait_for_exit(&self) -> String {
        let status = self.process.wait_for_exit().await;
        assert_eq!(status.code(), Some(0), "{}", self.process.output());
        self.process.stdout()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sent_event_is_delivered() {
    let upstream = Upstream::ok();
    let gateway = gateway_for_all(&upstream).await;
    for preset in PRESETS {
        let run = send(
            &url_of(&gateway, preset.name),
            preset.name,
            &["--json", "--verbose"],
        )
        .await;
        run.assert(0);
        let result = &run.json_lines()[0];
        assert_eq!(
            (&result["status"], &result["outcome"]),
            (&json!(200), &json!("delivered")),
            "{}",
            preset.name
        );
        let received = upstream.last();
        assert_eq!(
            result["sent"]["bytes"],
            received.body.len(),
            "{}",
            preset.name
        );
        received.assert_header("Hookstile-Route", preset.name);
        received.assert_header("Hookstile-Event-Type", preset.example_type);
        assert_eq!(
            result["event_id"].as_str(),
            received.header("Hookstile-Event-Id"),
            "{}",
            preset.name
        );
        for (name, value) in result["sent"]["headers"].as_object().expect("headers") {
            assert_eq!(
                received.header(name),
                value.as_str(),
                "{}: {name}",
                preset.name
            );
        }
        assert!(
            !(run.stdout + &run.stderr).contains("whsec_"),
            "the secret is not printed"
        );
    }
    assert_eq!(upstream.count(), PRESETS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_hides_which_check_failed() {
    let upstream = Upstream::ok();
    let gateway = gateway_for_all(&upstream).await;
    let mut responses = BTreeSet::new();
    for preset in PRESETS {
        let body = br#"{"id":"evt_1"}"#;
        let plain = || Request::post(body).at(&format!("/webhooks/{}", preset.name));
        let signed = |secret: &str, at: Timestamp| {
            let secret = Secret::new(secret).expect("not empty");
            let signed = (preset.scheme)()
                .sign(&secret, body, at, Some("msg_1"))
                .ok()?
                .to_headers();
            let pairs = signed
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()));
            Some(pairs.collect::<Vec<_>>())
        };
        let with = |pairs: Option<Vec<(String, String)>>| {
            pairs.map(|pairs| {
                pairs.iter().fold(plain(), |request, (name, value)| {
                    request.header(name, value)
                })
            })
        };
        let forged = signed("whsec_bm90IHRoZSBzZWNyZXQ=", Timestamp::now());
        let broken = forged.clone().map(|pairs| {
            pairs
                .into_iter()
                .map(|(name, _)| (name, "\"x".to_owned()))
                .collect()
        });
        let twice = forged.clone().map(|pairs| [pairs.clone(), pairs].concat());
        let timed = TIMED.contains(&preset.name);
        let stale = timed
            .then(|| signed(TOOLS_SECRET, Timestamp::UNIX_EPOCH))
            .flatten();
        for request in [
            Some(plain()),
            with(forged),
            with(broken),
            with(twice),
            with(stale),
        ]
        .into_iter()
        .flatten()
        {
            let mut response = gateway.send(request).await;
            response.assert_problem(401, "invalid_signature");
            response
                .headers
                .0
                .retain(|(name, _)| !name.eq_ignore_ascii_case("Date"));
            responses.insert(format!("{response:?}"));
        }
    }
    assert_eq!(responses.len(), 1, "{responses:#?}");
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tampered_event_is_rejected() {
    let upstream = Upstream::ok();
    let gateway = gateway_for_all(&upstream).await;
    let in_body = [("orbvpn", &["--in-body"][..])];
    for (name, more) in PRESETS
        .iter()
        .map(|preset| (preset.name, &[][..]))
        .chain(in_body)
    {
        for how in TAMPERS {
            let run = send(
                &url_of(&gateway, name),
                name,
                &[more, &["--tamper", how, "--json"]].concat(),
            )
            .await;
            let applies = match how {
                "timestamp" | "stale" | "future" => TIMED.contains(&name),
                "id" => !WITHOUT_SIGNED_ID.contains(&name),
                _ => true,
            };
            if applies {
                run.assert(0);
                let result = &run.json_lines()[0];
                assert_eq!(result["outcome"], "invalid_signature", "{name}, {how}");
            } else {
                run.assert(2);
                assert!(
                    run.stderr.contains("tamper") || run.stderr.contains("still genuine"),
                    "{}",
                    run.stderr
                );
            }
        }
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepted_tampered_event_is_a_failure() {
    let catch = Catch::start(&["--count", "1", "--status", "202"]).await;
    let run = send(&catch.url(), "github", &["--tamper", "signature"]).await;
    run.assert(1);
    assert!(run.stdout.starts_with("202  in "), "{}", run.stdout);
    catch.wait_for_exit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_copy_is_a_duplicate() {
    let upstream = Upstream::ok();
    let gateway = gateway_for_all(&upstream).await;
    // The status that the provider expects: 409 or 200.
    for (name, code, status) in [
        ("vpn-enterprise", 1, 409),
        ("stripe", 0, 200),
        ("github", 0, 200),
        ("zoom", 0, 200),
    ] {
        let run = send(&url_of(&gateway, name), name, &["--times", "2", "--json"]).await;
        run.assert(code);
        let result: Vec<_> = run
            .json_lines()
            .iter()
            .map(|result| (result["status"].clone(), result["outcome"].clone()))
            .collect();
        assert_eq!(
            result,
            [
                (json!(200), json!("delivered")),
                (json!(status), json!("duplicate"))
            ],
            "{name}"
        );
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_and_headers_are_sent_unchanged() {
    let upstream = Upstream::ok();
    let gateway = gateway_for_all(&upstream).await;
    let folder = tempfile::tempdir().expect("a folder");
    let body = b"{ \"n\": 1.00 }\n";
    let path = folder.path().join("push.json");
    std::fs::write(&path, body).expect("a writable folder");
    let path = path.to_str().expect("UTF-8");
    let more = [
        "--body",
        path,
        "--id",
        "7d3f",
        "--type",
        "issues",
        "--header",
        "X-Test: a",
        "--header",
        "x-test: b",
    ];
    send(&url_of(&gateway, "github"), "github", &more)
        .await
        .assert(0);
    let received = upstream.last();
    assert_eq!(received.body, body);
    assert_eq!(received.headers.all("X-Test"), ["a", "b"]);
    received.assert_header("X-GitHub-Delivery", "7d3f");
    received.assert_header("Hookstile-Event-Type", "issues");

    // Values that are part of the body can't be set separately.
    for more in [
        ["--body", path, "--id", "evt_1"],
        ["--body", path, "--type", "issues"],
    ] {
        send(&url_of(&gateway, "stripe"), "stripe", &more)
            .await
            .assert(2);
    }
    let in_body = [
        "--in-body",
        "--id",
        "evt_9",
        "--type",
        "user.login",
        "--at",
        "2026-01-15T10:30:00Z",
    ];
    send(&url_of(&gateway, "orbvpn"), "orbvpn", &in_body)
        .await
        .assert(0);
    let received = upstream.last();
    received.assert_header("Hookstile-Event-Id", "evt_9");
    let body: Value = serde_json::from_slice(&received.body).expect("JSON");
    assert_eq!(
        (&body["type"], &body["timestamp"]),
        (&json!("user.login"), &json!("2026-01-15T10:30:00.000Z"))
    );
    send(&url_of(&gateway, "github"), "github", &["--in-body"])
        .await
        .assert(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_listener_is_reported_and_fails() {
    let port = ClosedPort::new();
    let run = send(&port.url(), "github", &[]).await;
    run.assert(1);
    assert_eq!(run.stdout, "");
    let expected = format!("hookstile: cannot send to {}: ", port.url());
    assert!(
        run.stderr.starts_with(&expected) && run.stderr.contains("refused"),
        "{}",
        run.stderr
    );

    let hanging = Upstream::replying([Reply::hang()]);
    let run = send(&hanging.url(), "github", &["--timeout", "100ms"]).await;
    run.assert(1);
    assert!(run.stderr.contains("timeout"), "{}", run.stderr);
    for wrong in [
        ["ftp://localhost/", "github"],
        ["http://localhost/", "gitbuh"],
        ["http://a:b@localhost/", "github"],
    ] {
        send(wrong[0], wrong[1], &[]).await.assert(2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_are_shown_not_followed() {
    let elsewhere = Upstream::ok();
    let location = format!("Location: {}\r\n", elsewhere.url());
    let upstream = Upstream::replying([Reply::full(307, &location, b"")]);
    let run = send(&upstream.url(), "github", &["--json"]).await;
    run.assert(1);
    assert_eq!(run.json_lines()[0]["status"], 307);
    elsewhere.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_uses_system_trust() {
    let authority = Authority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, authority.pem()).expect("a writable folder");
    let upstream = Upstream::tls(authority.identity("127.0.0.1"), [Reply::ok()]);
    let send = |trusted: &Path| {
        let mut command = command();
        command.args([
            "send",
            &upstream.url(),
            "--provider",
            "github",
            "--secret-env",
            "TOOLS_SECRET",
        ]);
        command
            .env("SSL_CERT_FILE", trusted)
            .env_remove("SSL_CERT_DIR");
        finish(command)
    };
    send(&roots).await.assert(0);
    assert_eq!(upstream.count(), 1);
    let others = folder.path().join("others.pem");
    std::fs::write(&others, Authority::new().pem()).expect("a writable folder");
    let run = send(&others).await;
    run.assert(1);
    assert!(run.stderr.contains("certificate"), "{}", run.stderr);
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catch_verifies_but_never_rejects() {
    let verifying = [
        "--provider",
        "stripe",
        "--secret-env",
        "TOOLS_SECRET",
        "--count",
        "3",
    ];
    let stripe = ["--id", "evt_7", "--type", "charge.refunded"];
    for json in [false, true] {
        let catch =
            Catch::start(&[&verifying[..], if json { &["--json"] } else { &[] }].concat()).await;
        send(&catch.url(), "stripe", &stripe).await.assert(0);
        send(
            &catch.url(),
            "stripe",
            &[&stripe[..], &["--tamper", "stale"]].concat(),
        )
        .await
        .assert(1);
        let forged = [
            "send",
            &catch.url(),
            "--provider",
            "stripe",
            "--secret-env",
            "NOT_THE_SECRET",
        ];
        hookstile(&forged).await.assert(0);
        let result = catch.wait_for_exit().await;
        assert!(!catch.process.output().contains(TOOLS_SECRET));
        if json {
            let result = documents(&result);
            let verifications: Vec<_> = result
                .iter()
                .map(|result| result["verification"].clone())
                .collect();
            let refused = |reason| {
                json!({ "verified": false, "secret": null, "reason": reason, "event_id": null, "event_type": null,
                        "handshake": false })
            };
            let genuine = json!({ "verified": true, "secret": "TOOLS_SECRET", "reason": null, "event_id": "evt_7",
                                  "event_type": "charge.refunded", "handshake": false });
            assert_eq!(
                verifications,
                [genuine, refused("stale"), refused("mismatch")]
            );
            assert_eq!(
                (&result[0]["method"], &result[0]["target"]),
                (&json!("POST"), &json!("/caught?a=1"))
            );
            let body: Value =
                serde_json::from_str(result[0]["body"].as_str().expect("a text")).expect("JSON");
            assert_eq!(body["id"], "evt_7");
            assert!(result[0]["headers"]["stripe-signature"].is_string());
        } else {
            assert!(
                result
                    .contains("verified with TOOLS_SECRET, event evt_7 of type charge.refunded\n"),
                "{result}"
            );
            assert!(result.contains("\nNOT VERIFIED, stale: "), "{result}");
            assert!(result.contains("\nNOT VERIFIED, mismatch: "), "{result}");
            assert!(
                result.contains("\n    \"id\": \"evt_7\",\n"),
                "laid out: {result}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catch_verifies_every_provider() {
    for preset in PRESETS {
        let secret = if preset.name == "discord" {
            "DISCORD_PUBLIC_KEY"
        } else {
            "TOOLS_SECRET"
        };
        let mut arguments = vec![
            "--provider",
            preset.name,
            "--secret-env",
            secret,
            "--count",
            "1",
            "--json",
        ];
        if preset.name == "square" {
            arguments.extend(["--url", SQUARE_URL]);
        }
        let catch = Catch::start(&arguments).await;
        send(&catch.url(), preset.name, &[]).await.assert(0);
        let result = &documents(&catch.wait_for_exit().await)[0]["verification"];
        assert_eq!(result["verified"], true, "{}: {result}", preset.name);
        assert_eq!(
            result["event_type"], preset.example_type,
            "{}: {result}",
            preset.name
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_key_signs_and_public_key_verifies() {
    let [private, public] =
        [SEED.to_vec(), hex::decode(public_key()).expect("hex")].map(|key| BASE64.encode(key));
    let (private, public) = (format!("whsk_{private}"), format!("whpk_{public}"));
    let catch = {
        let mut command = command();
        command.args([
            "catch",
            "--listen",
            "127.0.0.1:0",
            "--provider",
            "standard-webhooks",
            "--secret-env",
            "KEY",
        ]);
        command.args(["--count", "2", "--json"]).env("KEY", &public);
        Catch::from_process(Process::spawn(&mut command)).await
    };
    let send = |key: &str, more: &[&str]| {
        let mut command = command();
        command.args([
            "send",
            &catch.url(),
            "--provider",
            "standard-webhooks",
            "--secret-env",
            "KEY",
        ]);
        command.args(more).env("KEY", key);
        finish(command)
    };
    send(&private, &[]).await.assert(0);
    send(&private, &["--tamper", "body"]).await.assert(1);
    let run = send(&public, &[]).await;
    run.assert(1);
    assert!(run.stderr.contains("private key"), "{}", run.stderr);
    let result = documents(&catch.wait_for_exit().await);
    let reasons: Vec<_> = result
        .iter()
        .map(|result| result["verification"]["reason"].clone())
        .collect();
    assert_eq!(reasons, [Value::Null, json!("mismatch")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catch_answers_provider_handshake() {
    let folder = tempfile::tempdir().expect("a folder");
    let proof = hmac_hex(TOOLS_SECRET, b"qgg8vlvZRS6UYooatFL8Aw");
    let cases = [
        (
            "slack",
            r#"{"type":"url_verification","challenge":"3eZbrw1a"}"#,
            200,
            "3eZbrw1a".to_owned(),
        ),
        (
            "zoom",
            r#"{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}"#,
            200,
            format!(r#"{{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"{proof}"}}"#),
        ),
        ("discord", r#"{"version":1,"type":0}"#, 204, String::new()),
    ];
    for (name, body, status, response) in cases {
        let file = folder.path().join(name);
        std::fs::write(&file, body).expect("a writable folder");
        let secret = if name == "discord" {
            "DISCORD_PUBLIC_KEY"
        } else {
            "TOOLS_SECRET"
        };
        let catch =
            Catch::start(&["--provider", name, "--secret-env", secret, "--count", "1"]).await;
        let run = send(
            &catch.url(),
            name,
            &["--json", "--body", file.to_str().expect("UTF-8")],
        )
        .await;
        let result = &run.assert(0).json_lines()[0];
        assert_eq!(
            (&result["status"], &result["body"]),
            (&json!(status), &json!(response)),
            "{name}"
        );
        let result = catch.wait_for_exit().await;
        assert!(result.contains(", a handshake, answered\n"), "{result}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn catch_shows_headers_added_by_gateway() {
    let catch = Catch::start(&["--count", "1"]).await;
    let gateway = Gateway::start(Route::to_url(&catch.url())).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let result = catch.wait_for_exit().await;
    for header in [
        "hookstile-event-id: evt_1",
        "hookstile-event-type: user.created",
        "hookstile-route: hooks",
    ] {
        assert!(
            result.contains(&format!("\n  {header}\n")),
            "{header}: {result}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_text_reaches_terminal_escaped() {
    let hostile = "\x1b[2J\x1b]0;owned\x07\r\x08\x7f\u{9b}31m\u{85}";
    let json = json!({ "a": "\u{9b}31m\u{7f}" }).to_string();
    let bodies = [
        hostile.as_bytes(),
        json.as_bytes(),
        b"\xff\x1b[2J",
        b"text\r\nPOST /spoofed  from me",
    ];
    let heads: [&[u8]; 4] = [
        b"/ HTTP/1.1\r\nX-Test: \xc2\x9b31m",
        b"/%1b\xc2\x9b HTTP/1.1",
        b"/ HTTP/1.1\r\nX-Test: \x9b",
        b"/ HTTP/1.1",
    ];
    for arguments in [
        &["--provider", "github", "--secret-env", "TOOLS_SECRET"][..],
        &["--json"],
    ] {
        let catch = Catch::start(arguments).await;
        for head in heads {
            for body in bodies {
                let rest = format!(
                    "\r\nHost: a\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let mut stream = TcpStream::connect(catch.address)
                    .await
                    .expect("a connection");
                let request = [b"POST ", head, rest.as_bytes(), body].concat();
                stream.write_all(&request).await.expect("written");
                let mut response = Vec::new();
                within("an answer", stream.read_to_end(&mut response))
                    .await
                    .expect("an answer");
                assert!(response.starts_with(b"HTTP/1.1 "), "{response:?}");
            }
        }
        catch.process.signal("TERM");
        let result = catch.wait_for_exit().await;
        assert!(result.contains("31m"), "the bodies are shown: {result}");
        assert_eq!(
            result.chars().find(|c| c.is_control() && *c != '\n'),
            None,
            "{result:?}"
        );
        assert!(
            !result.lines().any(|line| line.starts_with("POST /spoofed")),
            "{result}"
        );
    }
    let upstream = Upstream::replying([Reply::full(
        200,
        "Hookstile-Outcome: delivered\r\n",
        hostile.as_bytes(),
    )]);
    for more in [&[][..], &["--json"]] {
        let run = send(&upstream.url(), "github", more).await;
        assert_eq!(
            run.stdout.chars().find(|c| c.is_control() && *c != '\n'),
            None,
            "{:?}",
            run.stdout
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_body_is_rejected_and_reported() {
    let catch = Catch::start(&["--count", "1"]).await;
    let mut stream = TcpStream::connect(catch.address)
        .await
        .expect("a connection");
    let body = vec![b'a'; (32 << 20) + 1];
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    // `catch` may close the connection before it has read everything.
    let _ = stream.write_all(&body).await;
    let mut response = [0; 12];
    within("an answer", stream.read_exact(&mut response))
        .await
        .expect("an answer");
    assert_eq!(&response, b"HTTP/1.1 413");
    assert!(
        catch
            .wait_for_exit()
            .await
            .contains("\nthe body is over 32 MiB")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provider_and_secret_must_come_together() {
    let cases: [&[&str]; 5] = [
        &["catch", "--provider", "stripe"],
        &["catch", "--secret-env", "TOOLS_SECRET"],
        &[
            "catch",
            "--provider",
            "stripe",
            "--secret-env",
            "TOOLS_SECRET",
            "--secret-file",
            "x",
        ],
        &[
            "catch",
            "--provider",
            "square",
            "--secret-env",
            "TOOLS_SECRET",
        ],
        &["send", "http://127.0.0.1:1/", "--provider", "stripe"],
    ];
    for arguments in cases {
        hookstile(arguments).await.assert(2);
    }
    hookstile(&[
        "catch",
        "--provider",
        "stripe",
        "--secret-env",
        "HOOKSTILE_IT_UNSET",
    ])
    .await
    .assert(1);
}

/// Returns the commands that the program's help lists.
async fn commands() -> BTreeSet<String> {
    let help = hookstile(&["--help"]).await.stdout;
    let lines = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let names: BTreeSet<_> = lines
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert!(names.contains("send") && names.contains("catch"), "{help}");
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let run = hookstile(&["completions", shell]).await;
        let script = &run.assert(0).stdout;
        for name in commands().await {
            assert!(script.contains(&name), "{shell}: {name}");
        }
    }
    hookstile(&["completions", "tcsh"]).await.assert(2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_has_a_manual_page() {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("share/man1");
    hookstile(&["man", "--dir", pages.to_str().expect("UTF-8")])
        .await
        .assert(0);
    let page = |name: &str| {
        std::fs::read_to_string(pages.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert_eq!(
        page("hookstile.1"),
        hookstile(&["man"]).await.assert(0).stdout
    );
    let groups = ["help", "events", "rejections", "routes", "store"];
    let mut names: BTreeSet<_> = commands()
        .await
        .into_iter()
        .filter(|name| !groups.contains(&name.as_str()))
        .collect();
    names.extend(
        [
            "events-list",
            "events-show",
            "events-redeliver",
            "events-forget",
            "events-tail",
            "rejections-list",
            "rejections-tail",
            "routes-list",
            "routes-pause",
            "routes-resume",
            "routes-test",
            "routes-move",
            "store-check",
            "store-backup",
            "store-restore",
        ]
        .map(str::to_owned),
    );
    for name in names {
        let page = page(&format!("hookstile-{name}.1"));
        assert!(page.contains("Examples:"), "{name} has examples");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_escapes_marks_that_a_reader_cannot_see() {
    let marks = [
        '\u{61c}',
        '\u{200b}',
        '\u{200d}',
        '\u{200e}',
        '\u{200f}',
        '\u{202a}',
        '\u{202e}',
        '\u{2060}',
        '\u{2066}',
        '\u{2069}',
        '\u{feff}',
        '\u{ad}',
        '\u{e0041}',
    ];
    let text: String = marks.iter().flat_map(|mark| ['x', *mark]).collect();
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("retain", "{payloads: all}")).await;
    let event = Event::raw(
        json!({"id": format!("evt_1{text}"), "type": format!("t{text}"), "data": text}).to_string(),
    );
    gateway.send(event.clone()).await.assert(200, "delivered");
    let mut shown = Vec::new();
    let list = run_cli(&gateway, "events list --json").await;
    let id = list.json()["deliveries"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    shown.push(list.stdout);
    for line in [
        "events list".to_owned(),
        format!("events show {id}"),
        format!("events show {id} --json"),
    ] {
        let run = run_cli(&gateway, &line).await;
        run.assert(0);
        shown.push(run.stdout);
    }
    for arguments in [&["--count", "1"][..], &["--count", "1", "--json"]] {
        let catch = Catch::start(arguments).await;
        let mut client = Client::connect(catch.address).await;
        client.send(event.post()).await;
        shown.push(catch.wait_for_exit().await);
    }
    for output in shown {
        assert!(
            output.contains("202e") && !output.contains(&marks[..]),
            "{output:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_in_place_of_a_variable_is_not_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hookstile.yaml");
    let config = file.to_str().expect("UTF-8");
    for secret in [
        "whsec_canary4711",
        "canary4711canary4711",
        "CANARY4711CANARY4711",
        "canary",
    ] {
        let route =
            Route::to_url("http://127.0.0.1:9/").with("secrets", &format!("[{{env: {secret}}}]"));
        let admin = format!("{{token: {{env: {secret}}}}}");
        std::fs::write(&file, Setup::from(route).with("admin", &admin).yaml()).expect("a file");
        let arguments = [
            &["check", "--config", config][..],
            &["check", "--json", "--config", config],
            &["run", "--config", config],
            &[
                "sign",
                "--provider",
                "github",
                "--secret-env",
                secret,
                "--body",
                config,
            ],
            &[
                "verify",
                "--provider",
                "github",
                "--secret-env",
                secret,
                "--body",
                config,
            ],
        ];
        for arguments in arguments {
            let run = hookstile(arguments).await;
            let output = format!("{}{}", run.stdout, run.stderr);
            assert!(run.code != Some(0), "{arguments:?}: {output}");
            assert!(!output.contains(secret), "{arguments:?}: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_warns_of_short_secrets_and_succeeds() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hookstile.yaml");
    let route = Route::to_url("http://127.0.0.1:9/").with("secrets", "[{file: secret}]");
    let admin = "{token: {file: secret}}";
    std::fs::write(&file, Setup::from(route).with("admin", admin).yaml()).expect("a file");
    for (secret, warnings) in [("fifteen_letters", 2), ("sixteen__letters", 0)] {
        std::fs::write(folder.path().join("secret"), secret).expect("a file");
        let run = hookstile(&["check", "--config", file.to_str().expect("UTF-8")]).await;
        let output = format!("{}{}", run.assert(0).stdout, run.stderr);
        assert_eq!(
            output.matches("shorter than 16").count(),
            warnings,
            "{output}"
        );
        assert!(!output.contains(secret), "{output}");
    }
}
