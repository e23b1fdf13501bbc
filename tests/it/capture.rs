//! Rejected requests are explained by the gateway, captured whole for operators, and read by
//! `hookstile verify` in every form in which people save them.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::harness::command::{Run, command, finish, run_cli};
use crate::harness::process::Process;
use crate::harness::wait::eventually;
use crate::harness::*;

const TOKEN: &str = "capture_it_token_90c3";
const READ_TOKEN: &str = "capture_it_read_token_11d8";

/// A route with a secret that expired a day ago.
fn rotated(upstream: &Upstream) -> Route {
    let yesterday = Timestamp::now() - SignedDuration::from_hours(30);
    let old = format!("{{env: WEBHOOK_SECRET_OLD, name: previous, expires: {yesterday:.0}}}");
    Route::to(upstream).with(
        "secrets",
        &format!("[{{env: WEBHOOK_SECRET, name: current}}, {old}]"),
    )
}

fn guarded(routes: impl Into<Vec<Route>>) -> Setup {
    Setup::new(routes)
        .with(
            "admin",
            r#"{address: "127.0.0.1:0", token: {env: ADMIN}, read_token: {env: READ}}"#,
        )
        .env("ADMIN", TOKEN)
        .env("READ", READ_TOKEN)
}

async fn admin(gateway: &Gateway, path: &str, token: Option<&str>) -> Response {
    let request = Request::new("GET", path).set("Host", "localhost");
    let request = match token {
        Some(token) => request.header("Authorization", &format!("Bearer {token}")),
        None => request,
    };
    Client::connect(gateway.admin_address())
        .await
        .send(request)
        .await
}

async fn run(gateway: &Gateway, arguments: &[&str]) -> Run {
    let mut command = command();
    command
        .current_dir(gateway.directory())
        .args(arguments)
        .env("HOOKSTILE_ADMIN_TOKEN", TOKEN)
        .env("WEBHOOK_SECRET", SECRET)
        .env("WEBHOOK_SECRET_OLD", OLD_SECRET)
        .env("ADMIN", TOKEN)
        .env("READ", READ_TOKEN);
    finish(command).await
}

async fn capture(gateway: &Gateway, arguments: &[&str]) -> Run {
    let address = format!("--admin=http://{}", gateway.admin_address());
    run(gateway, &[&["capture", &address], arguments].concat()).await
}

async fn verify(gateway: &Gateway, file: &str, content: &str, arguments: &[&str]) -> Run {
    fs::write(gateway.directory().join(file), content).expect("a writable folder");
    let config = gateway.config();
    let config = config.to_str().expect("UTF-8");
    let verify = ["verify", "--request", file, "--config", config];
    run(gateway, &[&verify, arguments].concat()).await
}

fn said(run: &Run) -> String {
    let all = format!("{}{}", run.stdout, run.stderr);
    assert!(!all.contains(SECRET) && !all.contains(OLD_SECRET), "{all}");
    all
}

/// Waits for the explanation of the newest rejection.
async fn explanation(gateway: &Gateway) -> String {
    let newest = async || gateway.api("/rejections").await["rejections"][0].clone();
    eventually("the rejection is explained", async || {
        newest().await["explanation"].is_string()
    })
    .await;
    let text = newest().await["explanation"].clone();
    text.as_str().expect("just seen").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_says_what_would_have_matched() {
    let upstream = Upstream::ok();
    let event = Event::new("evt_1");
    let spaced: &[u8] = br#"{"id": "evt_1", "type": "user.created"}"#;
    let compact: &[u8] = br#"{"id":"evt_1","type":"user.created"}"#;
    let signature = |body: &[u8]| sign(SECRET, body);
    let cases = [
        (
            event.signed_with(OLD_SECRET),
            "it is signed with the secret `previous`, which expired yesterday",
        ),
        (
            Request::post(&[compact, b"\n"].concat())
                .header("X-VPN-Signature", &signature(compact)),
            "the body was changed on the way: a newline was added at its end (secret `current`)",
        ),
        (
            Request::post(spaced).header("X-VPN-Signature", &signature(compact)),
            "the body was changed on the way: its JSON was parsed and written again",
        ),
        (
            Request::post(compact).header("X-Hub-Signature-256", &signature(compact)),
            "the header X-VPN-Signature is missing; it is signed as `github` signs",
        ),
        (
            event.signed_with("whsec_somebody_elses_secret"),
            "no active secret produces it: it is signed with another secret, or the body was",
        ),
    ];
    for (request, expected) in cases {
        let gateway = Gateway::start(rotated(&upstream)).await;
        gateway.send(request).await.assert(401, "invalid_signature");
        let text = explanation(&gateway).await;
        assert!(text.contains(expected), "{expected}: {text}");
        let shown = run_cli(&gateway, "rejections list").await.stdout;
        assert!(shown.contains(&format!("why: {text}")), "{shown}");
        let logged = |line: &Value| line["explanation"] == text.as_str();
        eventually("it is logged", async || gateway.lines().iter().any(logged)).await;
        assert!(!gateway.output().contains(OLD_SECRET));
    }
    assert_eq!(upstream.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_has_one_explanation_a_minute() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(rotated(&upstream)).await;
    let mut sender = gateway.connect().await;
    for number in 0..300 {
        let forged = Event::new(&format!("evt_{number}")).forged();
        sender.send(forged).await.assert(401, "invalid_signature");
    }
    let explained = async || {
        let document = gateway.api("/rejections?limit=100").await;
        let all = document["rejections"].as_array().expect("a list").clone();
        all.iter()
            .filter(|one| one["explanation"].is_string())
            .count()
    };
    eventually("one is explained", async || explained().await == 1).await;
    gateway
        .send(Event::new("evt_old").signed_with(OLD_SECRET))
        .await
        .assert(401, "invalid_signature");
    let lines = gateway.lines();
    let logged = lines.iter().filter(|line| line["explanation"].is_string());
    assert_eq!((explained().await, logged.count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captured_request_verifies_as_rejected() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(guarded([
        rotated(&upstream).with("capture", "{requests: 3, for: 1h}"),
        Route::to(&upstream).named("other"),
    ]))
    .await;
    let body = "{\"id\":\"evt_1\",\"type\":\"user.created\"}\n";
    let request = Request::post(body.as_bytes())
        .at(&format!("{PATH}?a=1"))
        .header("X-VPN-Signature", &sign(SECRET, body.trim_end().as_bytes()))
        .header("X-Mixed-Case", "é");
    for request in [request.clone(), request.chunked(7)] {
        gateway.send(request).await.assert(401, "invalid_signature");
        let raw = capture(&gateway, &["--route", "hooks"]).await;
        assert_eq!(raw.code, Some(0), "{}", raw.stderr);
        let first = format!("POST {PATH}?a=1 HTTP/1.1\r\nHookstile-Received-At: 2");
        assert!(raw.stdout.starts_with(&first), "{}", raw.stdout);
        assert!(
            raw.stdout.ends_with(&format!("\r\n\r\n{body}")),
            "{}",
            raw.stdout
        );
        assert!(raw.stdout.contains("X-Mixed-Case: é\r\n"), "{}", raw.stdout);
        let json = capture(&gateway, &["--route", "hooks", "--json"]).await;
        let document = &json.json_lines()[0];
        assert_eq!(
            (&document["outcome"], &document["body"]),
            (&json!("invalid_signature"), &json!(body)),
            "{document}"
        );
        let id = document["id"].as_str().expect("an ID");
        let listed = admin(&gateway, "/rejections", Some(TOKEN)).await;
        assert!(listed.text().contains(id), "{}", listed.text());
        let by_id = capture(&gateway, &[id]).await;
        assert_eq!(by_id.stdout, raw.stdout);
        // The path selects the route.
        for saved in [&raw.stdout, &json.stdout] {
            let verified = verify(&gateway, "captured", saved, &[]).await;
            let text = said(&verified);
            assert_eq!(verified.code, Some(1), "{text}");
            assert!(text.contains("no newline at its end"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_events_are_captured_too() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(guarded([Route::to(&upstream).with("capture", "{}")])).await;
    gateway
        .send(Event::raw("{}").post())
        .await
        .assert(400, "invalid_event");
    gateway
        .send(Event::new("evt_1").post())
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_1").post())
        .await
        .assert(409, "duplicate");
    let all = capture(&gateway, &["--count", "100", "--json"]).await;
    let outcomes: Vec<_> = all
        .json_lines()
        .iter()
        .map(|one| one["outcome"].clone())
        .collect();
    assert_eq!(outcomes, ["invalid_event"], "{}", all.stdout);
    let none = capture(&gateway, &["--outcome", "invalid_signature"]).await;
    assert_eq!((none.code, none.stdout.as_str()), (Some(1), ""));
    let several = capture(&gateway, &["--count", "2"]).await;
    assert_eq!(several.code, Some(2), "{}", several.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captures_are_bounded() {
    let upstream = Upstream::ok();
    let capture_key = "{requests: 5, bytes: 20KiB, for: 1h}";
    let gateway = Gateway::start(Route::to(&upstream).with("capture", capture_key)).await;
    let mut sender = gateway.connect().await;
    for number in 0..20 {
        let forged = Event::new(&format!("evt_{number}")).forged();
        sender.send(forged).await.assert(401, "invalid_signature");
    }
    let count = async || gateway.api("/captures").await["total"].clone();
    assert_eq!(count().await, 5);
    for number in 0..3 {
        let forged = Event::sized(&format!("evt_large_{number}"), 9000).forged();
        sender.send(forged).await.assert(401, "invalid_signature");
    }
    assert_eq!(count().await, 2);
    let forged = Event::sized("evt_huge", 30_000).forged();
    sender.send(forged).await.assert(401, "invalid_signature");
    let document = gateway.api("/webhooks/wh_hooks/captures").await;
    assert_eq!(
        document["webhooks"][0],
        json!({
            "webhook_id": "wh_hooks", "route": "hooks", "requests": 5, "bytes": 20 << 10,
            "for_seconds": 3600, "too_large": 1,
        })
    );
    // A route that no longer captures forgets what it has.
    gateway.rewrite(Route::to(&upstream));
    gateway.signal("HUP");
    eventually("they are forgotten", async || count().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capture_needs_the_admin_token_and_is_audited() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(guarded([Route::to(&upstream).with("capture", "{}")])).await;
    let forged = Event::new("evt_canary").forged();
    gateway.send(forged).await.assert(401, "invalid_signature");
    let listed = admin(&gateway, "/captures", Some(READ_TOKEN)).await;
    let document: Value = serde_json::from_slice(&listed.body).expect("JSON");
    assert!(!listed.text().contains("evt_canary"), "{}", listed.text());
    let id = document["captures"][0]["id"].as_str().expect("an ID");
    let path = format!("/captures/{id}");
    for (token, status) in [
        (None, 401),
        (Some("wrong"), 401),
        (Some(READ_TOKEN), 403),
        (Some(TOKEN), 200),
    ] {
        let response = admin(&gateway, &path, token).await;
        assert_eq!(response.status, status, "{}", response.text());
        assert_eq!(response.text().contains("evt_canary"), status == 200);
    }
    assert_eq!(
        admin(&gateway, "/captures/cap_0", Some(TOKEN)).await.status,
        404
    );
    let query = format!(r#"{{ capture(id: "{id}") {{ body }} captures {{ total }} }}"#);
    for (token, code) in [(READ_TOKEN, json!("read_only")), (TOKEN, Value::Null)] {
        let request = Request::post(json!({"query": &query}).to_string().as_bytes())
            .at("/graphql")
            .set("Host", "localhost")
            .header("Authorization", &format!("Bearer {token}"));
        let mut client = Client::connect(gateway.admin_address()).await;
        let response = client.send(request).await;
        let document: Value = serde_json::from_slice(&response.body).expect("JSON");
        assert_eq!(document["errors"][0]["extensions"]["code"], code);
        assert_eq!(response.text().contains("evt_canary"), code.is_null());
        assert_eq!(document["data"]["captures"]["total"], 1);
    }
    let subject = format!("{id} of hooks");
    eventually(
        "the fetches over REST and GraphQL are audited",
        async || {
            let lines = gateway.lines();
            let fetches = lines
                .iter()
                .filter(|line| line["subject"] == subject.as_str());
            fetches.count() == 2
        },
    )
    .await;
    for outcome in ["read_only", "done", "unknown_capture"] {
        let audited = |line: &Value| line["message"] == "audit" && line["outcome"] == outcome;
        eventually(format!("{outcome} is audited"), async || {
            gateway.lines().iter().any(audited)
        })
        .await;
    }
    assert!(!gateway.output().contains("evt_canary"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capture_names_the_line_to_add() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(guarded([Route::to(&upstream)])).await;
    let cases: [&[&str]; 3] = [&[], &["--route", "hooks"], &["--wait"]];
    for arguments in cases {
        let output = capture(&gateway, arguments).await;
        assert_eq!(output.code, Some(1), "{}", output.stderr);
        assert!(
            output.stderr.contains("capture: {requests: 20}"),
            "{}",
            output.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn capture_waits_for_the_next_request() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(guarded([Route::to(&upstream).with("capture", "{}")])).await;
    let forged = |id: &str| Event::new(id).forged();
    gateway
        .send(forged("evt_old"))
        .await
        .assert(401, "invalid_signature");
    let mut command = command();
    command
        .current_dir(gateway.directory())
        .args(["capture", "--wait", "--output", "saved.http"])
        .arg(format!("--admin=http://{}", gateway.admin_address()))
        .env("HOOKSTILE_ADMIN_TOKEN", TOKEN);
    let process = Process::spawn(&mut command);
    process
        .wait_for_output("waiting for a rejected request")
        .await;
    gateway
        .send(forged("evt_new"))
        .await
        .assert(401, "invalid_signature");
    assert_eq!(process.wait_for_exit().await.code(), Some(0));
    let saved = gateway.directory().join("saved.http");
    let text = fs::read_to_string(&saved).expect("a saved request");
    assert!(
        text.contains("evt_new") && !text.contains("evt_old"),
        "{text}"
    );
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(saved).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_of_catch_verifies() {
    let gateway = Gateway::start(Route::to(&Upstream::ok())).await;
    for json in [false, true] {
        for body in [
            "{\"id\":\"evt_1\",\"type\":\"user.created\"}",
            "{\"id\": \"evt_1\", \"type\": \"user.created\"}\n",
        ] {
            let mut command = command();
            command.args(["catch", "--listen", "127.0.0.1:0", "--count", "2"]);
            if json {
                command.arg("--json");
            }
            let process = Process::spawn(&mut command);
            let line = process.wait_for_output("listening on http://").await;
            let (_, address) = line.split_once("http://").expect("just seen");
            let mut client = Client::connect(address.parse().expect("an address")).await;
            let event = Event::raw(body);
            client.send(event.post().at("/elsewhere")).await;
            client.send(event.post()).await;
            assert_eq!(process.wait_for_exit().await.code(), Some(0));
            let caught = process.stdout();
            let verified = verify(&gateway, "caught", &caught, &[]).await;
            let text = said(&verified);
            assert_eq!(verified.code, Some(0), "{text}\n{caught}");
            let verified = verify(&gateway, "caught", &caught, &["--entry", "3"]).await;
            assert_eq!(verified.code, Some(2), "{}", said(&verified));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_reads_curl_and_browser_captures() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Setup::new([
        Route::to(&upstream),
        Route::to(&upstream).named("other"),
    ]))
    .await;
    let body = r#"{"id":"evt_1","type":"user.created"}"#;
    let signature = sign(SECRET, body.as_bytes());
    let length = body.len();
    fs::write(gateway.directory().join("body"), body).expect("a writable folder");
    let verbose = format!(
        "*   Trying 127.0.0.1:80...\n> POST {PATH} HTTP/1.1\r\n> Host: h\r\n> X-VPN-Signature: \
         {signature}\r\n> Content-Length: {length}\r\n> \r\n}} [{length} bytes data]\n< HTTP/1.1 401 \
         Unauthorized\r\n< \r\n"
    );
    let output = verify(&gateway, "verbose", &verbose, &["--body", "body"]).await;
    assert_eq!(output.code, Some(0), "{}", said(&output));
    let output = verify(&gateway, "verbose", &verbose, &[]).await;
    assert_eq!(output.code, Some(2), "{}", said(&output));
    assert!(output.stderr.contains("`curl -v` does not print the body"));

    let entry = |method: &str, path: &str, text: &str| {
        json!({"startedDateTime": "2026-01-15T10:30:00.000Z", "request": {
            "method": method, "url": format!("https://h{path}"), "bodySize": text.len(),
            "headers": [{"name": "X-VPN-Signature", "value": signature}],
            "postData": {"mimeType": "application/json", "text": text},
        }})
    };
    let har =
        |entries: &[Value]| json!({"log": {"version": "1.2", "entries": entries}}).to_string();
    let one = har(&[entry("GET", "/app.js", ""), entry("POST", PATH, body)]);
    let output = verify(&gateway, "one.har", &one, &[]).await;
    assert_eq!(output.code, Some(0), "{}", said(&output));
    let two = har(&[entry("POST", PATH, body), entry("POST", PATH, "{}")]);
    let output = verify(&gateway, "two.har", &two, &[]).await;
    assert_eq!(output.code, Some(2), "{}", said(&output));
    assert!(said(&output).contains(&format!("2: POST {PATH} (2 bytes)")));
    let output = verify(&gateway, "two.har", &two, &["--entry", "1"]).await;
    assert_eq!(output.code, Some(0), "{}", said(&output));

    let curl = format!("curl -sS https://h{PATH} -H 'X-VPN-Signature: {signature}' -d '{body}'");
    let output = verify(&gateway, "curl", &curl, &[]).await;
    assert_eq!(output.code, Some(0), "{}", said(&output));
    let output = verify(&gateway, "curl", &format!("{curl} --frobnicate"), &[]).await;
    assert_eq!(output.code, Some(2), "{}", said(&output));
    assert!(said(&output).contains("`--frobnicate`"));

    let elsewhere = curl.replace(PATH, "/elsewhere");
    let output = verify(&gateway, "curl", &elsewhere, &[]).await;
    assert_eq!(output.code, Some(2), "{}", said(&output));
    assert!(said(&output).contains("hooks (/webhooks/vpn-enterprise), other (/webhooks/other)"));
    let output = verify(&gateway, "curl", &elsewhere, &["--route", "hooks"]).await;
    assert_eq!(output.code, Some(0), "{}", said(&output));
}
