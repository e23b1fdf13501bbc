//! The tools beside the gateway: a sender, a receiver, completions and manual pages.

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
use crate::harness::command::{Run, documents, finish};
use crate::harness::process::Process;
use crate::harness::tls::Authority;
use crate::harness::upstream::ClosedPort;
use crate::harness::*;

/// Text for most, base64 for those that want that.
const TOOLS_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// The seed that is Discord's private key.
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
/// Providers without an ID, or with one that they don't sign.
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
    // No proxy is asked for what is on this machine.
    command.env("ALL_PROXY", "http://127.0.0.1:1");
    command
}

async fn hookstile(arguments: &[&str]) -> Run {
    let mut command = command();
    command.args(arguments);
    finish(command).await
}

/// `hookstile send` as this provider, with more arguments.
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

/// A gateway with a route for every provider, all to one upstream.
async fn gateway_for_all(upstream: &Upstream) -> Gateway {
    let route = |name: &str| {
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
    };
    let routes: Vec<_> = PRESETS.iter().map(|preset| route(preset.name)).collect();
    let setup = Setup::new(routes)
        .env("TOOLS_SECRET", TOOLS_SECRET)
        .env("DISCORD_PUBLIC_KEY", &public_key());
    Gateway::start(setup).await
}

fn url_of(gateway: &Gateway, name: &str) -> String {
    format!("http://{}/webhooks/{name}", gateway.data())
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
        Self::of(Process::spawn(&mut command)).await
    }

    async fn of(process: Process) -> Self {
        let line = process.says("listening on http://").await;
        let (_, address) = line.split_once("http://").expect("just seen");
        let address = address.parse().expect("an address");
        Self { process, address }
    }

    fn url(&self) -> String {
        format!("http://{}/caught?a=1", self.address)
    }

    /// Waits for its own end, which must be a good one.
    async fn ended(&self) -> String {
        let status = self.process.exited().await;
        assert_eq!(status.code(), Some(0), "{}", self.process.output());
        self.process.stdout()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_for_every_provider_is_delivered_as_it_was_sent() {
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
        let told = &run.json_lines()[0];
        assert_eq!(
            (&told["status"], &told["outcome"]),
            (&json!(200), &json!("delivered")),
            "{}",
            preset.name
        );
        let received = upstream.last();
        assert_eq!(
            told["sent"]["bytes"],
            received.body.len(),
            "{}",
            preset.name
        );
        received.assert_header("Hookstile-Route", preset.name);
        received.assert_header("Hookstile-Event-Type", preset.example_type);
        assert_eq!(
            told["event_id"].as_str(),
            received.header("Hookstile-Event-Id"),
            "{}",
            preset.name
        );
        for (name, value) in told["sent"]["headers"].as_object().expect("headers") {
            assert_eq!(
                received.header(name),
                value.as_str(),
                "{}: {name}",
                preset.name
            );
        }
        assert!(
            !(run.stdout + &run.stderr).contains("whsec_"),
            "the secret is not told"
        );
    }
    assert_eq!(upstream.count(), PRESETS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_provider_s_answer_tells_which_check_failed() {
    let upstream = Upstream::ok();
    let gateway = gateway_for_all(&upstream).await;
    let mut answers = BTreeSet::new();
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
            let mut answer = gateway.send(request).await;
            answer.assert_problem(401, "invalid_signature");
            answer
                .headers
                .0
                .retain(|(name, _)| !name.eq_ignore_ascii_case("Date"));
            answers.insert(format!("{answer:?}"));
        }
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_tampered_with_is_refused_for_every_provider() {
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
                let told = &run.json_lines()[0];
                assert_eq!(told["outcome"], "invalid_signature", "{name}, {how}");
            } else {
                run.assert(2);
                assert!(
                    run.stderr.contains("tamper") || run.stderr.contains("as genuine"),
                    "{}",
                    run.stderr
                );
            }
        }
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_tampered_with_and_is_accepted_is_a_failure() {
    let catch = Catch::start(&["--count", "1", "--status", "202"]).await;
    let run = send(&catch.url(), "github", &["--tamper", "signature"]).await;
    run.assert(1);
    assert!(run.stdout.starts_with("202  in "), "{}", run.stdout);
    catch.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_of_two_copies_is_a_duplicate() {
    let upstream = Upstream::ok();
    let gateway = gateway_for_all(&upstream).await;
    // As their providers want to hear it: 409, or 200.
    for (name, code, status) in [
        ("vpn-enterprise", 1, 409),
        ("stripe", 0, 200),
        ("github", 0, 200),
        ("zoom", 0, 200),
    ] {
        let run = send(&url_of(&gateway, name), name, &["--times", "2", "--json"]).await;
        run.assert(code);
        let told: Vec<_> = run
            .json_lines()
            .iter()
            .map(|told| (told["status"].clone(), told["outcome"].clone()))
            .collect();
        assert_eq!(
            told,
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
async fn a_file_is_sent_as_it_is_and_the_headers_as_they_are_given() {
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

    // What stands in the body can't be given besides.
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
async fn where_nobody_listens_it_says_so_and_fails() {
    let port = ClosedPort::new();
    let run = send(&port.url(), "github", &[]).await;
    run.assert(1);
    assert_eq!(run.stdout, "");
    let said = format!("hookstile: cannot send to {}: ", port.url());
    assert!(
        run.stderr.starts_with(&said) && run.stderr.contains("refused"),
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
async fn redirects_are_shown_and_not_followed() {
    let elsewhere = Upstream::ok();
    let location = format!("Location: {}\r\n", elsewhere.url());
    let upstream = Upstream::replying([Reply::full(307, &location, b"")]);
    let run = send(&upstream.url(), "github", &["--json"]).await;
    run.assert(1);
    assert_eq!(run.json_lines()[0]["status"], 307);
    elsewhere.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_is_spoken_to_whom_the_system_trusts() {
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
async fn what_is_caught_is_verified_and_nothing_is_refused() {
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
        let told = catch.ended().await;
        assert!(!catch.process.output().contains(TOOLS_SECRET));
        if json {
            let told = documents(&told);
            let verifications: Vec<_> = told
                .iter()
                .map(|told| told["verification"].clone())
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
                (&told[0]["method"], &told[0]["target"]),
                (&json!("POST"), &json!("/caught?a=1"))
            );
            let body: Value =
                serde_json::from_str(told[0]["body"].as_str().expect("a text")).expect("JSON");
            assert_eq!(body["id"], "evt_7");
            assert!(told[0]["headers"]["stripe-signature"].is_string());
        } else {
            assert!(
                told.contains("verified with TOOLS_SECRET, event evt_7 of type charge.refunded\n"),
                "{told}"
            );
            assert!(told.contains("\nNOT VERIFIED, stale: "), "{told}");
            assert!(told.contains("\nNOT VERIFIED, mismatch: "), "{told}");
            assert!(
                told.contains("\n    \"id\": \"evt_7\",\n"),
                "laid out: {told}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_provider_s_event_is_verified_by_the_receiver_too() {
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
        let told = &documents(&catch.ended().await)[0]["verification"];
        assert_eq!(told["verified"], true, "{}: {told}", preset.name);
        assert_eq!(
            told["event_type"], preset.example_type,
            "{}: {told}",
            preset.name
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_key_signs_and_its_public_key_verifies() {
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
        Catch::of(Process::spawn(&mut command)).await
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
    let told = documents(&catch.ended().await);
    let reasons: Vec<_> = told
        .iter()
        .map(|told| told["verification"]["reason"].clone())
        .collect();
    assert_eq!(reasons, [Value::Null, json!("mismatch")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_s_handshake_gets_the_answer_it_wants() {
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
    for (name, asked, status, answer) in cases {
        let file = folder.path().join(name);
        std::fs::write(&file, asked).expect("a writable folder");
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
        let told = &run.assert(0).json_lines()[0];
        assert_eq!(
            (&told["status"], &told["body"]),
            (&json!(status), &json!(answer)),
            "{name}"
        );
        let told = catch.ended().await;
        assert!(told.contains(", a handshake, answered\n"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_the_gateway_it_shows_what_the_gateway_adds() {
    let catch = Catch::start(&["--count", "1"]).await;
    let gateway = Gateway::start(Route::to_url(&catch.url())).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    let told = catch.ended().await;
    for header in [
        "hookstile-event-id: evt_1",
        "hookstile-event-type: user.created",
        "hookstile-route: hooks",
    ] {
        assert!(
            told.contains(&format!("\n  {header}\n")),
            "{header}: {told}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_from_outside_reaches_the_terminal_raw() {
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
                let mut answer = Vec::new();
                within("an answer", stream.read_to_end(&mut answer))
                    .await
                    .expect("an answer");
                assert!(answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
            }
        }
        catch.process.signal("TERM");
        let told = catch.ended().await;
        assert!(told.contains("31m"), "the bodies are shown: {told}");
        assert_eq!(
            told.chars().find(|c| c.is_control() && *c != '\n'),
            None,
            "{told:?}"
        );
        assert!(
            !told.lines().any(|line| line.starts_with("POST /spoofed")),
            "{told}"
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
async fn a_body_beyond_the_limit_is_refused_and_told() {
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
    // It may hang up before it has all of it.
    let _ = stream.write_all(&body).await;
    let mut answer = [0; 12];
    within("an answer", stream.read_exact(&mut answer))
        .await
        .expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert!(catch.ended().await.contains("\nthe body is over 32 MiB"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_without_a_secret_is_wrong_usage_and_so_is_a_secret_without_a_provider() {
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

/// The commands that the program's help lists.
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
async fn every_command_has_a_manual_page_with_examples() {
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
    let groups = ["help", "events", "deliveries"];
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
            "deliveries-tail",
        ]
        .map(str::to_owned),
    );
    for name in names {
        let page = page(&format!("hookstile-{name}.1"));
        assert!(page.contains("Examples:"), "{name} has examples");
    }
}
