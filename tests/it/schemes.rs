//! Signature schemes: custom ones, signatures in the body, several signatures in one header, and
//! the rules of every preset.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::clock::launcher_with_clock;
use crate::harness::wait::eventually;
use crate::harness::*;

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Returns the HMAC of `{time}.{body}`.
fn dotted(secret: &str, time: i64, body: &[u8]) -> String {
    hmac_hex(secret, &[format!("{time}.").as_bytes(), body].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_scheme_checks_fields_and_time() {
    let upstream = Upstream::ok();
    let scheme = r#"{header: X-Own, fields: {signature: v1, timestamp: t, separator: ","}, signed: "{timestamp}.{body}", timestamp: {tolerance: 60s}}"#;
    let gateway = Gateway::start(Route::to(&upstream).signature(scheme)).await;
    let event = Event::new("evt_1");
    let post = |value: &str| Request::post(&event.body).header("X-Own", value);
    let (at, good) = (now(), dotted(SECRET, now(), &event.body));
    let stale = |off: i64| {
        format!(
            "t={},v1={}",
            at + off,
            dotted(SECRET, at + off, &event.body)
        )
    };
    for (what, value) in [
        ("no time", format!("v1={good}")),
        ("two times", format!("t={at},t={at},v1={good}")),
        ("another time", format!("t={},v1={good}", at + 1)),
        ("no number", format!("t={at}x,v1={good}")),
        ("a sign", format!("t=+{at},v1={good}")),
        ("another field", format!("t={at},v0={good}")),
        ("no signature", format!("t={at},v1=")),
        ("too late", stale(-90)),
        ("too early", stale(90)),
    ] {
        let response = gateway.send(post(&value)).await;
        assert_eq!(
            (response.status, response.outcome()),
            (401, "invalid_signature"),
            "{what}: {value}"
        );
    }
    upstream.assert_untouched();
    gateway.metrics().await.assert_value(
        "signature_checks_total",
        &[("route", "hooks"), ("result", "stale")],
        2.0,
    );
    gateway
        .send(post(&format!(
            "t={at}, v0=00, v1={}, v1={good}",
            "0".repeat(64)
        )))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_candidates_are_checked_at_most() {
    let upstream = Upstream::ok();
    let scheme = "{header: X-Own, fields: {signature: v1}}";
    let gateway = Gateway::start(Route::to(&upstream).signature(scheme)).await;
    let list = |before: usize, event: &Event| {
        let wrong = format!("v1={},", "0".repeat(64)).repeat(before);
        Request::post(&event.body).header(
            "X-Own",
            &format!("{wrong}v1={}", hmac_hex(SECRET, &event.body)),
        )
    };
    gateway
        .send(list(15, &Event::new("evt_1")))
        .await
        .assert(200, "delivered");
    gateway
        .send(list(16, &Event::new("evt_2")))
        .await
        .assert_problem(401, "invalid_signature");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_leaves_no_gap_and_names_secret() {
    let upstream = Upstream::ok();
    let secrets = "[{env: WEBHOOK_SECRET, name: new}, {env: WEBHOOK_SECRET_OLD, name: old}]";
    let route = Route::to(&upstream)
        .with("provider", "stripe")
        .with("secrets", secrets);
    let gateway = Gateway::start(route).await;
    let send = async |id: &str, secrets: &[&str]| {
        let (event, at) = (Event::new(id), now());
        let signatures: Vec<_> = secrets
            .iter()
            .map(|key| format!("v1={}", dotted(key, at, &event.body)))
            .collect();
        let value = format!("t={at},{}", signatures.join(","));
        gateway
            .send(Request::post(&event.body).header("Stripe-Signature", &value))
            .await
            .assert(200, "delivered");
    };
    send("evt_1", &[OLD_SECRET]).await;
    send("evt_2", &[OLD_SECRET, SECRET]).await;
    send("evt_3", &[SECRET, OLD_SECRET]).await;
    send("evt_4", &[SECRET]).await;
    let metrics = gateway.metrics().await;
    metrics.assert_value(
        "signature_checks_total",
        &[("route", "hooks"), ("result", "ok"), ("secret", "new")],
        3.0,
    );
    metrics.assert_value(
        "signature_checks_total",
        &[("route", "hooks"), ("result", "ok"), ("secret", "old")],
        1.0,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orbvpn_signature_is_in_body_or_header() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "orbvpn")).await;
    let plain = |id: &str| {
        format!(
            r#"{{"id": "{id}", "type": "payment.completed", "timestamp": "2026-01-15T10:30:00Z"}}"#
        )
    };
    let inside = |id: &str, secret: &str| {
        let (body, tag) = (plain(id), hmac_hex(secret, plain(id).as_bytes()));
        format!(
            r#"{}, "signature": "sha256={tag}"}}"#,
            body.strip_suffix('}').unwrap()
        )
    };
    for (what, body) in [
        ("no signature", plain("evt_0")),
        ("another key", inside("evt_0", "not the secret")),
        (
            "another ID",
            inside("evt_0", SECRET).replace("evt_0", "evt_9"),
        ),
        (
            "more white space",
            inside("evt_0", SECRET).replace(", \"type", ",  \"type"),
        ),
        (
            "twice",
            inside("evt_0", SECRET).replace("{\"id", "{\"signature\": \"x\", \"id"),
        ),
        (
            "twin",
            inside("evt_0", SECRET).replace("{\"id", "{\"Signature\": \"x\", \"id"),
        ),
        (
            "escaped name",
            inside("evt_0", SECRET).replace("\"signature", "\"\\u0073ignature"),
        ),
        (
            "escaped value",
            inside("evt_0", SECRET).replace("sha256", "\\u0073ha256"),
        ),
        ("no JSON", inside("evt_0", SECRET) + "x"),
    ] {
        let response = gateway.send(Request::post(body.as_bytes())).await;
        assert_eq!(
            (response.status, response.outcome()),
            (401, "invalid_signature"),
            "{what}: {body}"
        );
    }
    upstream.assert_untouched();

    let body = inside("evt_1", SECRET);
    gateway
        .send(Request::post(body.as_bytes()))
        .await
        .assert(200, "delivered");
    assert_eq!(
        upstream.last().body,
        body.as_bytes(),
        "the signature member arrives as well"
    );
    for (header, id) in [("X-Signature", "evt_2"), ("X-Webhook-Signature", "evt_3")] {
        let body = plain(id);
        let post = |value: &str| Request::post(body.as_bytes()).header(header, value);
        gateway
            .send(post(&sign("not the secret", body.as_bytes())))
            .await
            .assert_problem(401, "invalid_signature");
        gateway
            .send(post(&sign(SECRET, body.as_bytes())))
            .await
            .assert(200, "delivered");
    }
    let body = plain("evt_4");
    let tag = STANDARD.encode(hex::decode(hmac_hex(SECRET, body.as_bytes())).unwrap());
    gateway
        .send(Request::post(body.as_bytes()).header("X-Webhook-Signature", &tag))
        .await
        .assert(200, "delivered");
    // If the header is present, it decides, even when it is wrong.
    let body = inside("evt_5", SECRET);
    let wrong = Request::post(body.as_bytes())
        .header("X-Signature", &sign("not the secret", body.as_bytes()));
    gateway
        .send(wrong)
        .await
        .assert_problem(401, "invalid_signature");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_signature_covers_compact_json() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(Route::to(&upstream).signature("{field: /meta/sig, canonical: json}")).await;
    let compact = r#"{"meta":{"v":1},"id":"evt_1","type":"a b"}"#;
    let sent = format!(
        "{{\n  \"meta\": {{\"v\": 1, \"sig\": \"{}\"}},\n  \"id\": \"evt_1\",\n  \"type\": \"a b\"\n}}\n",
        hmac_hex(SECRET, compact.as_bytes())
    );
    gateway
        .send(Request::post(sent.replace("a b", "ab").as_bytes()))
        .await
        .assert_problem(401, "invalid_signature");
    gateway
        .send(Request::post(sent.as_bytes()))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.last().body, sent.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_header_id_renews_body_only_with_mark() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "github")).await;
    let post = |delivery: &str, body: &[u8]| {
        let request = Request::post(body).header("X-Hub-Signature-256", &sign(SECRET, body));
        request
            .header("X-GitHub-Delivery", delivery)
            .header("X-GitHub-Event", "push")
    };
    gateway
        .send(post("one", b"{}"))
        .await
        .assert(200, "delivered")
        .assert_event_id("one");
    gateway
        .send(post("one", b"{}"))
        .await
        .assert(200, "duplicate");
    gateway
        .send(post("two", b"{}"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("Hookstile-Possible-Replay", "true");
    gateway
        .send(post("one", b"[]"))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Replay");
    upstream
        .last()
        .assert_header("Hookstile-Event-Type", "push");
    for (id, body) in [("one", b"{}"), ("two", b"{}"), ("one", b"[]")] {
        gateway.send(post(id, body)).await.assert(200, "duplicate");
    }
    assert_eq!(upstream.count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resigned_retry_is_a_duplicate() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "stripe")).await;
    let post = |at: i64, body: &[u8]| {
        let value = format!("t={at},v1={}", dotted(SECRET, at, body));
        Request::post(body).header("Stripe-Signature", &value)
    };
    let event = Event::new("evt_1");
    gateway
        .send(post(now(), &event.body))
        .await
        .assert(200, "delivered");
    gateway
        .send(post(now() - 60, &event.body))
        .await
        .assert(200, "duplicate");
    let other = br#"{"id":"evt_1","type":"user.created","data":{"n":2}}"#;
    gateway
        .send(post(now(), other))
        .await
        .assert(200, "payload_mismatch");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn url_scheme_needs_public_url() {
    let upstream = Upstream::ok();
    let (code, output) = Gateway::refuses(Route::to(&upstream).with("provider", "square")).await;
    assert_eq!(code, Some(78));
    assert!(output.contains("public_url"), "{output}");
    let url = "https://hooks.example.com/webhooks/square";
    let gateway = Gateway::start(
        Route::to(&upstream)
            .with("provider", "square")
            .with("public_url", url),
    )
    .await;
    let body = br#"{"event_id":"evt_1","type":"payment.created"}"#;
    let tag = |url: &str| {
        STANDARD.encode(hex::decode(hmac_hex(SECRET, &[url.as_bytes(), body].concat())).unwrap())
    };
    let post = |url: &str| Request::post(body).header("x-square-hmacsha256-signature", &tag(url));
    gateway
        .send(post("https://hooks.example.com/"))
        .await
        .assert_problem(401, "invalid_signature");
    gateway.send(post(url)).await.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_secret_is_rejected_and_not_shown() {
    let upstream = Upstream::ok();
    for (preset, says) in [("standard-webhooks", "not base64"), ("discord", "not hex")] {
        let setup = Setup::from(Route::to(&upstream).with("provider", preset))
            .env("WEBHOOK_SECRET", "!canary!");
        let (code, output) = Gateway::refuses(setup).await;
        assert_eq!(code, Some(78), "{output}");
        assert!(
            output.contains(says) && !output.contains("canary"),
            "{output}"
        );
    }
    let private = "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=";
    let setup = Setup::from(Route::to(&upstream).with("provider", "standard-webhooks"))
        .env("WEBHOOK_SECRET", private);
    let (code, output) = Gateway::refuses(setup).await;
    assert!(
        code == Some(78) && output.contains("private key"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orbvpn_timestamp_is_checked_only_if_configured() {
    let upstream = Upstream::ok();
    let post = |id: &str, at: &str| {
        let body = json!({"id": id, "type": "user.created", "timestamp": at})
            .to_string()
            .into_bytes();
        Request::post(&body).header("X-Signature", &sign(SECRET, &body))
    };
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "orbvpn")).await;
    gateway
        .send(post("evt_1", "2020-01-01T00:00:00Z"))
        .await
        .assert(200, "delivered");
    gateway
        .send(post("evt_2", "2026-01-02T03:04:05.678"))
        .await
        .assert(200, "delivered");
    let route = Route::to(&upstream)
        .with("provider", "orbvpn")
        .with("event", "{max_age: 1h}");
    let gateway = Gateway::start(route).await;
    gateway
        .send(post("evt_1", "2020-01-01T00:00:00Z"))
        .await
        .assert_problem(400, "invalid_event");
    gateway
        .send(post("evt_2", &jiff::Timestamp::now().to_string()))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_says_when_old_secret_is_unused() {
    let upstream = Upstream::ok();
    // At this rate, a day passes in about three seconds.
    let Some(launcher) = launcher_with_clock("+0 x30000") else {
        return;
    };
    let secrets = "[{env: WEBHOOK_SECRET, name: new}, {env: WEBHOOK_SECRET_OLD, name: old}]";
    let setup = Setup::from(Route::to(&upstream).with("secrets", secrets))
        .stopping_at_once()
        .launched_by(launcher);
    let mut gateway = Gateway::start(setup).await;
    gateway
        .send(Event::new("evt_0").signed_with(OLD_SECRET))
        .await
        .assert(200, "delivered");
    let number = AtomicUsize::new(0);
    // The new secret is used again and again; the check for unused secrets runs every five seconds.
    eventually("the log has the warning", async || {
        let event = Event::new(&format!("evt_{}", number.fetch_add(1, Ordering::Relaxed)));
        gateway.send(event.signed_with(SECRET)).await;
        gateway.lines().iter().any(|line: &Value| {
            line["secret"] == "old" && line["message"].to_string().contains("remove it once")
        })
    })
    .await;
    let lines = gateway.lines();
    assert!(
        !lines.iter().any(|line| line["secret"] == "new"
            && line["message"].to_string().contains("remove it once"))
    );
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsigned_body_parts_make_no_new_event() {
    let upstream = Upstream::ok();
    let event = "{id: {body_digest: true}, type: /type}";
    let gateway = Gateway::start(
        Route::to(&upstream)
            .signature("{field: /signature}")
            .with("event", event),
    )
    .await;
    let (plain, tag) = (
        r#""type":"a","n":1"#,
        hmac_hex(SECRET, br#"{"type":"a","n":1}"#),
    );
    let post = |body: &str| Request::post(body.as_bytes());
    gateway
        .send(post(&format!(r#"{{{plain},"signature":"{tag}"}}"#)))
        .await
        .assert(200, "delivered");
    for written_otherwise in [
        format!(r#"{{{plain},"signature":"{}"}}"#, tag.to_uppercase()),
        format!(r#"{{"signature":"{tag}",{plain}}}"#),
        format!(r#"{{{plain}, "signature" : "{tag}"}}"#),
    ] {
        gateway
            .send(post(&written_otherwise))
            .await
            .assert(409, "duplicate");
    }
    assert_eq!(upstream.count(), 1);
    let (code, output) = Gateway::refuses(
        Route::to(&upstream)
            .signature("{field: /signature}")
            .with("event", "{id: /signature}"),
    )
    .await;
    assert!(
        code == Some(78) && output.contains("which is the signature"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weak_public_key_is_rejected() {
    let upstream = Upstream::ok();
    let eights = "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a";
    for key in [
        &"0".repeat(64),
        &format!("01{}", "0".repeat(62)),
        &format!("ee{}7f", "f".repeat(60)),
        eights,
    ] {
        let setup = Setup::from(Route::to(&upstream).with("provider", "discord"))
            .env("WEBHOOK_SECRET", key);
        let (code, output) = Gateway::refuses(setup).await;
        assert!(
            code == Some(78) && output.contains("anyone can sign"),
            "{key}: {output}"
        );
    }
}
