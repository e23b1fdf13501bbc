//! Provider handshakes: the gateway answers them once verified, and the upstream never receives
//! them.

use ring::signature::Ed25519KeyPair;
use serde_json::json;

use crate::harness::*;

fn slack(body: &[u8], secret: &str) -> Request {
    let time = jiff::Timestamp::now().as_second();
    let signature = hmac_hex(secret, &[format!("v0:{time}:").as_bytes(), body].concat());
    let request = Request::post(body).header("X-Slack-Request-Timestamp", &time.to_string());
    request.header("X-Slack-Signature", &format!("v0={signature}"))
}

fn zoom(body: &[u8], secret: &str) -> Request {
    let time = jiff::Timestamp::now().as_second();
    let signature = hmac_hex(secret, &[format!("v0:{time}:").as_bytes(), body].concat());
    let request = Request::post(body).header("x-zm-request-timestamp", &time.to_string());
    request.header("x-zm-signature", &format!("v0={signature}"))
}

const URL_VERIFICATION: &[u8] =
    br#"{"token":"Jhj5dZrVaK7ZwHHjRyZWjbDl","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}"#;
const CHALLENGE: &str = "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_url_verification_must_be_signed() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "slack")).await;
    gateway
        .send(slack(URL_VERIFICATION, "not the secret"))
        .await
        .assert_problem(401, "invalid_signature");
    gateway
        .send(Request::post(URL_VERIFICATION))
        .await
        .assert_problem(401, "invalid_signature");
    for _ in 0..2 {
        let response = gateway.send(slack(URL_VERIFICATION, SECRET)).await;
        response
            .assert(200, "challenge")
            .assert_header("Content-Type", "text/plain");
        assert_eq!(response.text(), CHALLENGE);
    }
    upstream.assert_untouched();
    gateway.metrics().await.assert_value(
        "requests_total",
        &[("route", "hooks"), ("outcome", "challenge")],
        2.0,
    );
    gateway
        .wait_for_request_log(json!({"outcome": "challenge", "status": 200}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookalike_handshake_is_an_event() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "slack")).await;
    let callback = br#"{"type":"event_callback","challenge":"x","event_id":"Ev1","event":{"type":"url_verification"}}"#;
    gateway
        .send(slack(callback, SECRET))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("Hookstile-Event-Type", "url_verification");
    // Without a challenge to answer, it is a message like any other without an ID.
    for no_challenge in [
        &br#"{"type":"url_verification"}"#[..],
        br#"{"type":"url_verification","challenge":7}"#,
        br#"{"type":"url_verification","challenge":"two\nlines"}"#,
    ] {
        gateway
            .send(slack(no_challenge, SECRET))
            .await
            .assert(200, "delivered");
    }
    let twins = br#"{"type":"url_verification","type":"event_callback","challenge":"x"}"#;
    gateway
        .send(slack(twins, SECRET))
        .await
        .assert_problem(400, "invalid_event");
    assert_eq!(upstream.count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_handshake_reaches_upstream() {
    let upstream = Upstream::replying([Reply::full(200, "", CHALLENGE.as_bytes())]);
    let route = Route::to(&upstream)
        .with("provider", "slack")
        .with("challenge", "forward");
    let gateway = Gateway::start(
        route
            .with("delivery", "queue")
            .with("events", "[app_mention]"),
    )
    .await;
    gateway
        .send(slack(URL_VERIFICATION, "not the secret"))
        .await
        .assert_problem(401, "invalid_signature");
    upstream.assert_untouched();
    for count in 1..=2 {
        // A handshake may be repeated: it is not an event and is in no ledger.
        let response = gateway.send(slack(URL_VERIFICATION, SECRET)).await;
        response.assert(200, "delivered");
        assert_eq!(response.text(), CHALLENGE);
        let received = upstream.last();
        assert_eq!(received.body, URL_VERIFICATION);
        received.assert_header("Hookstile-Event-Type", "url_verification");
        received.assert_no_header("Hookstile-Event-Id");
        assert_eq!(upstream.count(), count);
    }
}

/// RFC 8032 §7.1, test 1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discord_ping_must_be_signed() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("provider", "discord");
    let gateway = Gateway::start(Setup::from(route).env("WEBHOOK_SECRET", PUBLIC)).await;
    let signed = |body: &[u8], seed: &str| {
        let pair =
            Ed25519KeyPair::from_seed_unchecked(&hex::decode(seed).expect("hex")).expect("a seed");
        let time = jiff::Timestamp::now().as_second().to_string();
        let signature = hex::encode(pair.sign(&[time.as_bytes(), body].concat()));
        let request = Request::post(body).header("X-Signature-Timestamp", &time);
        request.header("X-Signature-Ed25519", &signature)
    };
    let ping = br#"{"version":1,"application_id":"1234560123453231555","type":0}"#;
    for _ in 0..2 {
        let response = gateway.send(signed(ping, SEED)).await;
        response.assert(204, "challenge");
        assert!(response.body.is_empty() && response.header("Content-Type").is_some());
    }
    // Discord sends such requests on purpose, and removes the endpoint if they are accepted.
    let other = SEED.replace('9', "8");
    gateway
        .send(signed(ping, &other))
        .await
        .assert_problem(401, "invalid_signature");
    upstream.assert_untouched();
    let event = br#"{"type":1,"event":{"type":"APPLICATION_AUTHORIZED","data":{}}}"#;
    gateway
        .send(signed(event, &other))
        .await
        .assert_problem(401, "invalid_signature");
    gateway
        .send(signed(event, SEED))
        .await
        .assert(200, "delivered");
    upstream
        .last()
        .assert_header("Hookstile-Event-Type", "APPLICATION_AUTHORIZED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zoom_validation_is_answered_with_matched_secret() {
    let upstream = Upstream::ok();
    let secrets = "[{env: WEBHOOK_SECRET, name: current}, {env: WEBHOOK_SECRET_OLD, name: old}]";
    let gateway = Gateway::start(
        Route::to(&upstream)
            .with("provider", "zoom")
            .with("secrets", secrets),
    )
    .await;
    let body = br#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event_ts":1654503849680,"event":"endpoint.url_validation"}"#;
    for secret in [SECRET, OLD_SECRET] {
        let response = gateway.send(zoom(body, secret)).await;
        response
            .assert(200, "challenge")
            .assert_header("Content-Type", "application/json");
        let proof = hmac_hex(secret, b"qgg8vlvZRS6UYooatFL8Aw");
        let expected = json!({"plainToken": "qgg8vlvZRS6UYooatFL8Aw", "encryptedToken": proof});
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&response.body).unwrap(),
            expected
        );
    }
    upstream.assert_untouched();
    let event = br#"{"payload":{"object":{}},"event_ts":1654503849680,"event":"meeting.started"}"#;
    gateway
        .send(zoom(event, SECRET))
        .await
        .assert(200, "delivered");
    gateway
        .send(zoom(event, SECRET))
        .await
        .assert(200, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn meta_get_needs_token_and_events_are_posted() {
    let upstream = Upstream::ok();
    let challenge = "{verify_token: {env: VERIFY_TOKEN}}";
    let route = Route::to(&upstream)
        .with("provider", "meta")
        .with("challenge", challenge);
    let gateway = Gateway::start(Setup::from(route).env("VERIFY_TOKEN", "meatyhamhock")).await;
    let get = |query: &str| gateway.send(Request::new("GET", &format!("{PATH}?{query}")));
    let response =
        get("hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock").await;
    response
        .assert(200, "challenge")
        .assert_header("X-Content-Type-Options", "nosniff");
    assert_eq!(response.text(), "1158201444");
    let wrong = get("hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyham").await;
    wrong.assert_problem(401, "invalid_signature");
    get("hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=meatyhamhock")
        .await
        .assert(405, "method_not_allowed");
    gateway
        .send(Request::new("GET", PATH))
        .await
        .assert(405, "method_not_allowed");
    let query = "hub.mode=subscribe&hub.challenge=1&hub.verify_token=meatyhamhock";
    let empty = Request::new("GET", &format!("{PATH}?{query}"));
    let full = Request::post(b"hidden")
        .method("GET")
        .at(&format!("{PATH}?{query}"));
    let mut http2 = gateway.connect_h2().await;
    http2.send(empty).await.assert(200, "challenge");
    http2
        .send(full.clone())
        .await
        .assert_problem(400, "malformed_request");
    http2
        .send(full.clone().without("Content-Length"))
        .await
        .assert_problem(400, "malformed_request");
    for with_body in [full.clone(), full.chunked(2)] {
        gateway
            .send(with_body)
            .await
            .assert_problem(400, "malformed_request");
    }
    upstream.assert_untouched();
    let body = br#"{"object":"whatsapp_business_account","entry":[{"id":"1"}]}"#;
    let event = Request::post(body).header("X-Hub-Signature-256", &sign(SECRET, body));
    gateway.send(event.clone()).await.assert(200, "delivered");
    gateway.send(event).await.assert(200, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn route_without_token_rejects_get() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("provider", "meta")).await;
    let query = "hub.mode=subscribe&hub.challenge=1&hub.verify_token=";
    gateway
        .send(Request::new("GET", &format!("{PATH}?{query}")))
        .await
        .assert(405, "method_not_allowed");
    upstream.assert_untouched();
}
