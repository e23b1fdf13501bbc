//! Verification: nothing of an unverified request is forwarded or remembered.

use crate::harness::*;

/// Returns one request for the same event for every way a signature can be wrong.
fn unverified_requests(event: &Event) -> Vec<(&'static str, Request)> {
    let good = sign(SECRET, &event.body);
    let hex = good.strip_prefix("sha256=").expect("our own prefix");
    let other = sign(SECRET, b"another body");
    let with = |value: &str| event.post().set("X-VPN-Signature", value);
    vec![
        ("missing", event.post().without("X-VPN-Signature")),
        ("empty", with("")),
        ("prefix only", with("sha256=")),
        ("another key", event.forged()),
        ("another body's", with(&other)),
        (
            "one digit wrong",
            with(&format!(
                "sha256={}{}",
                &hex[..63],
                if hex.ends_with('0') { '1' } else { '0' }
            )),
        ),
        (
            "first digit wrong",
            with(&format!(
                "sha256={}{}",
                if hex.starts_with('0') { '1' } else { '0' },
                &hex[1..]
            )),
        ),
        ("one byte short", with(&format!("sha256={}", &hex[..62]))),
        ("one digit short", with(&format!("sha256={}", &hex[..63]))),
        ("half", with(&format!("sha256={}", &hex[..32]))),
        ("one byte long", with(&format!("{good}00"))),
        ("one digit long", with(&format!("{good}0"))),
        ("not hex", with(&format!("sha256={}zz", &hex[..62]))),
        (
            "base64 of zeros",
            with("sha256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ),
        ("another algorithm's prefix", with(&format!("sha1={hex}"))),
        ("prefix twice", with(&format!("sha256={good}"))),
        ("space inside", with(&format!("sha256= {hex}"))),
        ("in a list", with(&format!("{good}, {good}"))),
        ("in quotes", with(&format!("\"{good}\""))),
        (
            "given twice, equal",
            event.post().header("X-VPN-Signature", &good),
        ),
        (
            "given twice, good first",
            event.post().header("X-VPN-Signature", &other),
        ),
        (
            "given twice, good last",
            event.forged().header("X-VPN-Signature", &good),
        ),
        (
            "given twice, in two cases",
            event.post().header("x-vpn-signature", &good),
        ),
        (
            "under another name",
            event
                .post()
                .without("X-VPN-Signature")
                .header("X-Signature", &good),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unverified_request_never_connects() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let event = Event::new("evt_1");
    for (flaw, request) in unverified_requests(&event) {
        let response = gateway.send(request).await;
        assert_eq!(
            (response.status, response.outcome()),
            (401, "invalid_signature"),
            "signature {flaw}"
        );
        assert_eq!(
            (upstream.connections(), upstream.bytes()),
            (0, 0),
            "signature {flaw}: upstream touched"
        );
    }
    // A genuine event follows: it arrives on the upstream's first connection, so there was none
    // before.
    gateway.send(event).await.assert(200, "delivered");
    assert_eq!(
        (upstream.connections(), upstream.event_ids()),
        (1, vec!["evt_1".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unverified_h2c_request_never_connects() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect_h2().await;
    let event = Event::new("evt_1");
    for (flaw, request) in unverified_requests(&event) {
        let response = client.send(request).await;
        assert_eq!(
            (response.status, response.outcome()),
            (401, "invalid_signature"),
            "signature {flaw}"
        );
    }
    upstream.assert_untouched();
    client.send(event).await.assert(200, "delivered");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authentication_failures_look_identical() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut bodies = std::collections::BTreeSet::new();
    for (_, request) in unverified_requests(&Event::new("evt_1"))
        .into_iter()
        .chain(unverified_requests(&Event::new("evt_2")))
    {
        let response = gateway.send(request).await;
        response.assert_problem(401, "invalid_signature");
        assert!(
            response.header("Hookstile-Event-Id").is_none(),
            "the response omits an unverified ID"
        );
        bodies.insert(response.text());
    }
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_request_never_connects() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream)
        .with("events", "[user.created]")
        .with("max_body", "2KiB");
    let refused = Route::to(&upstream)
        .named("fenced")
        .with("allow_from", "[203.0.113.0/24]");
    let gateway = Gateway::start(Setup::new([route, refused])).await;
    let event = Event::new("evt_1");
    let cases = [
        (404, "unknown_route", event.post().at("/webhooks/elsewhere")),
        (404, "unknown_route", event.post().at("/")),
        (405, "method_not_allowed", event.post().method("PUT")),
        (
            403,
            "forbidden_address",
            event.post().at("/webhooks/fenced"),
        ),
        (413, "body_too_large", Event::sized("evt_1", 2049).post()),
        (400, "invalid_event", Event::raw("not json").post()),
        (
            400,
            "invalid_event",
            Event::raw(r#"{"type":"user.created"}"#).post(),
        ),
        (200, "ignored", Event::typed("evt_1", "user.deleted").post()),
        (400, "malformed_request", event.post().without("Host")),
    ];
    for (status, outcome, request) in cases {
        gateway.send(request).await.assert(status, outcome);
    }
    upstream.assert_untouched();
    gateway.send(event).await.assert(200, "delivered");
    assert_eq!((upstream.connections(), upstream.count()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_changed_bit_is_rejected() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    let event = Event::sized("evt_1", 300);
    for position in (0..event.body.len())
        .step_by(13)
        .chain([event.body.len() - 1])
    {
        let mut request = event.post();
        request.body[position] ^= 1;
        client.send(request).await.assert(401, "invalid_signature");
    }
    upstream.assert_untouched();
    client.send(event).await.assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signature_must_cover_raw_bytes() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let spaced = br#"{ "id": "evt_1", "type": "user.created" }"#;
    let compact = br#"{"id":"evt_1","type":"user.created"}"#;
    for (body, signed) in [(&spaced[..], &compact[..]), (compact, spaced)] {
        let request = Request::post(body).header("X-VPN-Signature", &sign(SECRET, signed));
        gateway.send(request).await.assert(401, "invalid_signature");
    }
    upstream.assert_untouched();
    gateway
        .send(Event::raw(spaced))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.last().body, spaced);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn valid_signature_passes_in_every_spelling() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let spell = |id: &str, spelling: fn(String) -> String| {
        let event = Event::new(id);
        event
            .post()
            .set("X-VPN-Signature", &spelling(hmac_hex(SECRET, &event.body)))
    };
    let spellings = [
        spell("prefix", |hex| format!("sha256={hex}")),
        spell("no prefix", |hex| hex),
        spell("upper case", |hex| format!("sha256={}", hex.to_uppercase())),
        spell("upper case, no prefix", |hex| hex.to_uppercase()),
    ];
    for request in spellings {
        gateway.send(request).await.assert(200, "delivered");
    }
    let event = Event::new("lower-case name");
    let request = event
        .post()
        .without("X-VPN-Signature")
        .header("x-vpn-signature", &sign(SECRET, &event.body));
    gateway.send(request).await.assert(200, "delivered");
    assert_eq!(upstream.count(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_copy_does_not_block_real_event() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for (_, forged) in unverified_requests(&Event::new("evt_victim")) {
        gateway.send(forged).await.assert(401, "invalid_signature");
    }
    gateway
        .send(Event::new("evt_victim"))
        .await
        .assert(200, "delivered");
    upstream.last().assert_header("Hookstile-Attempt", "1");
    upstream
        .last()
        .assert_no_header("Hookstile-Possible-Duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unverified_event_is_not_remembered() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    for number in 0..50 {
        client
            .send(Event::new(&format!("evt_{number}")).forged())
            .await
            .assert(401, "invalid_signature");
    }
    let metrics = gateway.metrics().await;
    metrics.assert_value("ledger_checks_total", &[("route", "hooks")], 0.0);
    metrics.assert_value("ledger_entries", &[], 0.0);
    metrics.assert_value(
        "signature_checks_total",
        &[("route", "hooks"), ("result", "mismatch")],
        50.0,
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_copy_of_completed_event_learns_nothing() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let known = Event::new("evt_known");
    gateway.send(known.clone()).await.assert(200, "delivered");
    let about_known = gateway.send(known.forged()).await;
    let about_unknown = gateway.send(Event::new("evt_never").forged()).await;
    about_known.assert(401, "invalid_signature");
    assert_eq!(about_known.body, about_unknown.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unverified_body_is_not_parsed() {
    // Unsigned requests with a body that is not JSON, and with an event type the route does not
    // accept: their responses do not differ.
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("events", "[user.created]")).await;
    for body in [
        &b"not json"[..],
        br#"{"id":"evt_1","type":"user.deleted"}"#,
        br#"{"id":1.5}"#,
        b"\xff\xfe",
        b"",
    ] {
        gateway
            .send(Event::raw(body).forged())
            .await
            .assert(401, "invalid_signature");
    }
    gateway
        .send(Event::raw("not json"))
        .await
        .assert(400, "invalid_event");
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_new_secret_are_accepted_and_named() {
    let upstream = Upstream::ok();
    let secrets = "[{env: WEBHOOK_SECRET, name: current}, {env: WEBHOOK_SECRET_OLD, name: old}]";
    let gateway = Gateway::start(Route::to(&upstream).with("secrets", secrets)).await;
    gateway
        .send(Event::new("evt_1").signed_with(OLD_SECRET))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_2").signed_with(SECRET))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_3").signed_with(OLD_SECRET))
        .await
        .assert(200, "delivered");
    gateway
        .send(Event::new("evt_4").signed_with("neither"))
        .await
        .assert(401, "invalid_signature");
    let metrics = gateway.metrics().await;
    let checks = |secret| {
        metrics.value(
            "signature_checks_total",
            &[("route", "hooks"), ("result", "ok"), ("secret", secret)],
        )
    };
    assert_eq!((checks("current"), checks("old")), (1.0, 2.0));
    assert_eq!(
        gateway
            .wait_for_request_log(serde_json::json!({"event_id": "evt_1"}))
            .await["secret"],
        "old"
    );
    assert_eq!(
        gateway
            .wait_for_request_log(serde_json::json!({"event_id": "evt_2"}))
            .await["secret"],
        "current"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_secret_gives_the_same_event() {
    let upstream = Upstream::ok();
    let secrets = "[{env: WEBHOOK_SECRET, name: current}, {env: WEBHOOK_SECRET_OLD, name: old}]";
    let gateway = Gateway::start(Route::to(&upstream).with("secrets", secrets)).await;
    let event = Event::new("evt_1");
    gateway
        .send(event.signed_with(OLD_SECRET))
        .await
        .assert(200, "delivered");
    gateway
        .send(event.signed_with(SECRET))
        .await
        .assert(409, "duplicate");
    assert_eq!(upstream.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_secret_is_rejected() {
    let upstream = Upstream::ok();
    let old = "{env: WEBHOOK_SECRET_OLD, name: old, expires: 2020-01-01T00:00:00Z}";
    let secrets = format!("[{{env: WEBHOOK_SECRET, name: current}}, {old}]");
    let gateway = Gateway::start(Route::to(&upstream).with("secrets", &secrets)).await;
    gateway
        .send(Event::new("evt_1").signed_with(OLD_SECRET))
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_file_loses_only_its_final_newline() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("secrets", "[{file: webhook.key}]");
    let gateway =
        Gateway::start(Setup::from(route).file("webhook.key", " whsec_ with spaces \n")).await;
    gateway
        .send(Event::new("evt_1").signed_with("whsec_ with spaces"))
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(Event::new("evt_1").signed_with(" whsec_ with spaces \n"))
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(Event::new("evt_1").signed_with(" whsec_ with spaces "))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whsec_prefix_is_part_of_key() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let stripped = SECRET
        .strip_prefix("whsec_")
        .expect("the test's own secret");
    gateway
        .send(Event::new("evt_1").signed_with(stripped))
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(Event::new("evt_1").signed_with(SECRET))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_opens_its_own_route_only() {
    let upstream = Upstream::ok();
    let one = Route::to(&upstream).named("one");
    let two = Route::to(&upstream)
        .named("two")
        .with("secrets", "[{env: WEBHOOK_SECRET_OLD}]");
    let gateway = Gateway::start(Setup::new([one, two])).await;
    let event = Event::new("evt_1");
    gateway
        .send(event.signed_with(SECRET).at("/webhooks/two"))
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(event.signed_with(OLD_SECRET).at("/webhooks/one"))
        .await
        .assert(401, "invalid_signature");
    upstream.assert_untouched();
    gateway
        .send(event.signed_with(OLD_SECRET).at("/webhooks/two"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_hex_scheme_uses_own_header_and_prefix() {
    let upstream = Upstream::ok();
    let scheme = r#"{header: X-Acme-Digest, algorithm: hmac-sha256, encoding: hex, prefix: "v1:"}"#;
    let route = Route::to(&upstream)
        .signature(scheme)
        .with("event", "{id: /id, type: /type}");
    let gateway = Gateway::start(route).await;
    let event = Event::new("evt_1");
    let hex = hmac_hex(SECRET, &event.body);
    let acme = |value: &str| Request::post(&event.body).header("X-Acme-Digest", value);
    gateway
        .send(event.post())
        .await
        .assert(401, "invalid_signature");
    gateway
        .send(acme(&format!("sha256={hex}")))
        .await
        .assert(401, "invalid_signature");
    upstream.assert_untouched();
    gateway
        .send(acme(&format!("v1:{hex}")))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("X-Acme-Digest", &format!("v1:{hex}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_base64_scheme_has_one_spelling() {
    let upstream = Upstream::ok();
    let scheme = "{header: X-Acme-Hmac, algorithm: hmac-sha256, encoding: base64}";
    let route = Route::to(&upstream)
        .signature(scheme)
        .with("event", "{id: /id, type: /type}");
    let gateway = Gateway::start(route).await;
    let event = Event::new("evt_1");
    let good = base64(&hex::decode(hmac_hex(SECRET, &event.body)).expect("our own hex"));
    let acme = |value: &str| Request::post(&event.body).header("X-Acme-Hmac", value);
    let spaced = format!("{} {}", &good[..20], &good[20..]);
    for bad in [
        &good[..40],
        &good[..42],
        &format!("{good}AAAA"),
        &spaced,
        &hmac_hex(SECRET, &event.body),
        "====",
    ] {
        gateway
            .send(acme(bad))
            .await
            .assert(401, "invalid_signature");
    }
    upstream.assert_untouched();
    gateway.send(acme(&good)).await.assert(200, "delivered");
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|three: &[u8]| {
            let bits = three
                .iter()
                .fold(0, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - three.len()));
            let digit = |n: usize| {
                if n <= three.len() {
                    ALPHABET[(bits >> (18 - 6 * n)) as usize & 63]
                } else {
                    b'='
                }
            };
            [0, 1, 2, 3].map(|n| char::from(digit(n)))
        })
        .collect()
}
