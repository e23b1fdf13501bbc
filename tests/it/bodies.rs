//! Bodies of every size and framing arrive byte-identical; larger ones than the limit are rejected.

use crate::harness::sender::digest;
use crate::harness::*;

const LIMIT: usize = 1 << 20;
/// Sizes from the smallest JSON event to `max_body`, including those around Pingora's 64 KiB
/// buffer.
const SIZES: [usize; 7] = [64, 1024, 65_535, 65_536, 65_537, 300_001, LIMIT];

fn event(size: usize) -> Event {
    Event::sized(&format!("evt_{size}"), size)
}

/// Asserts that the last request at the upstream carries this body, framed once by the gateway.
#[track_caller]
fn assert_arrived(upstream: &Upstream, body: &[u8]) {
    let received = upstream.last();
    assert_eq!(
        (received.body.len(), digest(&received.body)),
        (body.len(), digest(body))
    );
    received.assert_header("Content-Length", &body.len().to_string());
    received.assert_no_header("Transfer-Encoding");
    received.assert_no_header("Expect");
}

async fn gateway_for(upstream: &Upstream) -> Gateway {
    Gateway::start(Route::to(upstream)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sized_body_arrives_intact() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    for size in SIZES {
        gateway.send(event(size)).await.assert(200, "delivered");
        assert_arrived(&upstream, &event(size).body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunked_body_arrives_intact() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    for (size, chunk) in SIZES
        .into_iter()
        .zip([1, 7, 65_535, 4096, 65_537, 100_000, LIMIT])
    {
        gateway
            .send(event(size).post().chunked(chunk))
            .await
            .assert(200, "delivered");
        assert_arrived(&upstream, &event(size).body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2c_body_arrives_intact() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    let mut client = gateway.connect_h2().await;
    for size in SIZES {
        client.send(event(size)).await.assert(200, "delivered");
        assert_arrived(&upstream, &event(size).body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_body_arrives() {
    let upstream = Upstream::ok();
    let scheme =
        r#"{header: X-VPN-Signature, algorithm: hmac-sha256, encoding: hex, prefix: "sha256="}"#;
    let envelope = "{id: {body_digest: true}, type: {header: X-Event-Type}}";
    let gateway = Gateway::start(
        Route::to(&upstream)
            .signature(scheme)
            .with("event", envelope),
    )
    .await;
    let typed = |body: &[u8]| Event::raw(body).post().header("X-Event-Type", "ping");
    gateway.send(typed(b"1")).await.assert(200, "delivered");
    assert_arrived(&upstream, b"1");
    gateway
        .send(typed(b"\xff").chunked(1))
        .await
        .assert(200, "delivered");
    assert_arrived(&upstream, b"\xff");
    gateway
        .connect_h2()
        .await
        .send(typed(b"2"))
        .await
        .assert(200, "delivered");
    assert_arrived(&upstream, b"2");
    gateway.send(typed(b"1")).await.assert(409, "duplicate");
    gateway.send(typed(b"")).await;
    assert_eq!(
        upstream
            .requests()
            .iter()
            .filter(|r| !r.body.is_empty())
            .count(),
        3
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_connection_carries_every_framing() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    let mut client = gateway.connect().await;
    for size in SIZES {
        client.send(event(size)).await.assert(200, "delivered");
        assert_arrived(&upstream, &event(size).body);
        let again = Event::sized(&format!("evt_c_{size}"), size);
        client
            .send(again.post().chunked(9_999))
            .await
            .assert(200, "delivered");
        assert_arrived(&upstream, &again.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_is_kept_after_reject() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    let mut client = gateway.connect().await;
    for (number, size) in [64, 1000, 65_536].into_iter().enumerate() {
        let event = Event::sized(&format!("evt_{number}"), size);
        client
            .send(event.forged())
            .await
            .assert(401, "invalid_signature");
        client
            .send(event.post().at("/webhooks/elsewhere"))
            .await
            .assert(404, "unknown_route");
        client
            .send(event.post().method("PUT"))
            .await
            .assert(405, "method_not_allowed");
        client.send(event.clone()).await.assert(200, "delivered");
        assert_arrived(&upstream, &event.body);
        client.send(event).await.assert(409, "duplicate");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_body_is_never_the_next_request() {
    // The rejected body spells a request. On a kept connection it must not become one.
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    let hidden = Event::new("evt_hidden").post().bytes();
    let mut client = gateway.connect().await;
    let carrier = Request::post(&hidden).at("/webhooks/elsewhere");
    client.send(carrier).await.assert(404, "unknown_route");
    let next = client.send_raw(&Event::new("evt_1").post().bytes()).await;
    assert!(next.is_none_or(|response| response.outcome() == "delivered"));
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    assert!(
        !upstream.event_ids().contains(&"evt_hidden".to_owned()),
        "{:?}",
        upstream.event_ids()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expect_100_is_answered_before_the_body() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    let mut client = gateway.connect().await;
    for size in [64, 65_537, LIMIT] {
        for (id, chunk) in [("length", None), ("chunked", Some(70_000))] {
            let request = Event::sized(&format!("evt_{id}_{size}"), size).post();
            let request = chunk.map_or(request.clone(), |chunk| request.chunked(chunk));
            expect_100(&mut client, request)
                .await
                .assert(200, "delivered");
            assert_arrived(
                &upstream,
                &Event::sized(&format!("evt_{id}_{size}"), size).body,
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expect_100_is_answered_on_kept_connection() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    for (id, first) in [
        ("accepted", Event::new("evt_first").post()),
        ("refused", Event::new("evt_first").forged()),
    ] {
        let mut client = gateway.connect().await;
        client.send(first).await;
        let event = Event::sized(&format!("evt_{id}"), 100_000);
        expect_100(&mut client, event.post())
            .await
            .assert(200, "delivered");
        assert_arrived(&upstream, &event.body);
    }
    let unsigned = Event::new("evt_forged").forged();
    expect_100(&mut gateway.connect().await, unsigned)
        .await
        .assert(401, "invalid_signature");
    assert_eq!(
        upstream.event_ids(),
        ["evt_first", "evt_accepted", "evt_refused"]
    );
}

/// Sends the head, waits for the `100 Continue`, then sends the body.
async fn expect_100(client: &mut Client, request: Request) -> Response {
    let request = request.header("Expect", "100-continue");
    client.write(&request.head_bytes()).await;
    assert_eq!(client.read_response().await.status, 100);
    client
        .send_raw(&request.body_bytes())
        .await
        .expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_head_gets_no_100() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    let event = Event::new("evt_1");
    let refused = [
        (404, "unknown_route", event.post().at("/webhooks/elsewhere")),
        (405, "method_not_allowed", event.post().method("PUT")),
        (
            413,
            "body_too_large",
            Event::sized("evt_1", LIMIT + 1).post(),
        ),
    ];
    for (status, outcome, request) in refused {
        let mut client = gateway.connect().await;
        client
            .write(&request.header("Expect", "100-continue").head_bytes())
            .await;
        client.read_response().await.assert(status, outcome);
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_body_is_rejected_and_closed() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    let event = Event::sized("evt_big", LIMIT + 1);
    for request in [
        event.post(),
        event.post().chunked(4096),
        event.post().chunked(LIMIT + 1),
        event.post().chunked(LIMIT),
    ] {
        let mut client = gateway.connect().await;
        client
            .send(request)
            .await
            .assert_problem(413, "body_too_large");
        client.wait_for_close().await;
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_length_is_rejected_before_body() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    for declared in ["1048577", "1073741824", "9223372036854775807"] {
        let mut client = gateway.connect().await;
        let head = Event::new("evt_1")
            .post()
            .unframed()
            .header("Content-Length", declared)
            .head_bytes();
        client.write(&head).await;
        client
            .read_response()
            .await
            .assert_problem(413, "body_too_large");
        client.wait_for_close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_h2c_body_is_rejected() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("max_body", "64KiB")).await;
    let mut client = gateway.connect_h2().await;
    let response = client.try_send(Event::sized("evt_big", 65_537), &[]).await;
    response.expect("an answer").assert(413, "body_too_large");
    upstream.assert_untouched();
    gateway
        .connect_h2()
        .await
        .send(Event::sized("evt_fits", 65_536))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_chunked_body_is_cut_at_limit() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("max_body", "16KiB")).await;
    let head = Event::new("evt_1").post().chunked(1).head_bytes();
    let mut client = gateway.connect().await;
    client.write(&head).await;
    let chunk = [&b"4000\r\n"[..], &[b'a'; 0x4000], b"\r\n"].concat();
    let endless = chunk.repeat(64);
    client
        .send_raw(&endless)
        .await
        .expect("an answer")
        .assert(413, "body_too_large");
    client.rest().await;
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_bodies_arrive_unchanged() {
    let upstream = Upstream::ok();
    let gateway = gateway_for(&upstream).await;
    let odd = [
        "{\"id\":\"evt_newline\",\"type\":\"t\"}\r\n",
        " \t{\"id\" : \"evt_space\" , \"type\" : \"t\"} ",
        "{\"type\":\"t\",\"z\":\"\\u00e9\\/\",\"id\":\"evt_escapes\"}",
        "{\"id\":\"evt_utf8\",\"type\":\"t\",\"data\":\"päivää 日本 🚀\"}",
        "{\"id\":\"evt_numbers\",\"type\":\"t\",\"n\":1.10e+2,\"big\":123456789012345678901234567890}",
    ];
    for body in odd {
        gateway
            .send(
                Event::raw(body)
                    .post()
                    .header("Content-Encoding", "identity"),
            )
            .await
            .assert(200, "delivered");
        assert_arrived(&upstream, body.as_bytes());
        upstream
            .last()
            .assert_header("Content-Encoding", "identity");
    }
}
