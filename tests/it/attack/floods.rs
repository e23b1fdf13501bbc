//! Failures by the thousand, in every way that needs no secret, and the log lines they cause.

use std::net::SocketAddr;
use std::time::Instant;

use super::{scaled, two_routes, two_routes_over_tls};
use crate::harness::frames::PREFACE;
use crate::harness::*;

/// The lines per second that failures of one kind may write (`gateway::LogSampler`).
const LINES_PER_SECOND: u64 = 10;

/// The way a client leaves.
#[derive(Clone, Copy)]
enum Leave {
    Close,
    Reset,
    /// Waits for the response, and closes then.
    Read,
}

/// Connects many clients one after the other, each of which writes the same bytes and leaves.
/// Asserts that the flood has cost the log a bounded number of lines, and that the gateway goes on.
async fn assert_few_lines(
    flood: &str,
    gateway: &Gateway,
    to: SocketAddr,
    bytes: &[u8],
    leave: Leave,
) {
    let (before, began) = (gateway.output().lines().count(), Instant::now());
    for _ in 0..scaled(2000) {
        let Some(mut client) = Client::try_connect(to).await else {
            continue;
        };
        client.write_some(bytes).await;
        match leave {
            Leave::Close => drop(client),
            Leave::Reset => client.reset(),
            Leave::Read => drop(client.rest().await),
        }
    }
    // A request of another connection, which is answered after the flood.
    assert_eq!(gateway.admin_get("/healthz").await.status, 200, "{flood}");
    let lines = gateway.output().lines().count() - before;
    let most = 2 * LINES_PER_SECOND * (began.elapsed().as_secs() + 2);
    let lines = u64::try_from(lines).expect("a small number");
    assert!(lines <= most, "{flood}: {lines} lines");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_write_few_lines() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(two_routes(&upstream)).await;
    let forged = Event::new("evt_forged").forged();
    let close = |request: Request| request.header("Connection", "close").bytes();
    let floods = [
        ("forged", close(forged.clone()), Leave::Read),
        (
            "unknown path",
            close(forged.clone().at("/elsewhere")),
            Leave::Read,
        ),
        (
            "wrong method",
            close(forged.clone().method("PATCH")),
            Leave::Read,
        ),
        (
            "two hosts",
            close(forged.clone().header("Host", "b")),
            Leave::Read,
        ),
        (
            "no HTTP",
            b"\x16\x03\x01 hello\r\n\r\n".to_vec(),
            Leave::Read,
        ),
        (
            "half a head",
            b"POST / HTTP/1.1\r\nHost:".to_vec(),
            Leave::Reset,
        ),
        ("half a body", forged.bytes()[..250].to_vec(), Leave::Reset),
        ("no byte", Vec::new(), Leave::Reset),
        ("HTTP/2 and nothing", PREFACE.to_vec(), Leave::Reset),
        (
            "HTTP/2 and garbage",
            [PREFACE, &[b'x'; 200]].concat(),
            Leave::Close,
        ),
    ];
    for (flood, bytes, leave) in floods {
        assert_few_lines(flood, &gateway, gateway.public_address(), &bytes, leave).await;
    }
    gateway
        .send(Event::new("evt_after"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_tls_handshakes_write_few_lines() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(two_routes_over_tls(&upstream)).await;
    let floods = [
        ("cleartext", Event::new("evt").post().bytes(), Leave::Read),
        (
            "half a record",
            b"\x16\x03\x01\x02\x00\x01".to_vec(),
            Leave::Reset,
        ),
        (
            "an alert",
            b"\x15\x03\x03\x00\x02\x02\x28".to_vec(),
            Leave::Close,
        ),
        ("no byte", Vec::new(), Leave::Close),
    ];
    for (flood, bytes, leave) in floods {
        assert_few_lines(flood, &gateway, gateway.public_address(), &bytes, leave).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_proxy_headers_write_few_lines() {
    let upstream = Upstream::ok();
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    for trusted in ["[127.0.0.1/32]", "[192.0.2.1/32]"] {
        let setup = two_routes(&upstream)
            .with(
                "listen",
                r#"[{address: "127.0.0.1:0", proxy_protocol: true}]"#,
            )
            .with("trusted_proxies", trusted);
        let gateway = Gateway::start(setup).await;
        let floods = [
            ("none", Event::new("evt").post().bytes(), Leave::Read),
            ("half", signature[..9].to_vec(), Leave::Reset),
            (
                "a wrong version",
                [&signature[..], b"\x31\x11\0\0"].concat(),
                Leave::Read,
            ),
            (
                "an unknown family",
                [&signature[..], b"\x21\x00\0\0"].concat(),
                Leave::Read,
            ),
        ];
        for (flood, bytes, leave) in floods {
            let flood = format!("{flood} of {trusted}");
            assert_few_lines(&flood, &gateway, gateway.public_address(), &bytes, leave).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_admin_requests_write_few_lines() {
    let upstream = Upstream::ok();
    let setup = two_routes(&upstream)
        .with(
            "admin",
            r#"{address: "127.0.0.1:0", token: {env: ADMIN_TOKEN}}"#,
        )
        .env("ADMIN_TOKEN", "a-token-of-the-operator");
    let gateway = Gateway::start(setup).await;
    let admin = gateway.admin_address();
    let close = |request: Request| request.header("Connection", "close").bytes();
    let get = |path| Request::new("GET", path);
    let floods = [
        ("unknown path", close(get("/elsewhere")), Leave::Read),
        ("no token", close(get("/webhooks")), Leave::Read),
        (
            "another host",
            close(get("/webhooks").set("Host", "elsewhere.test")),
            Leave::Read,
        ),
        (
            "no HTTP",
            b"\x16\x03\x01 hello\r\n\r\n".to_vec(),
            Leave::Read,
        ),
        (
            "half a head",
            b"GET / HTTP/1.1\r\nHost:".to_vec(),
            Leave::Reset,
        ),
        ("no byte", Vec::new(), Leave::Reset),
    ];
    for (flood, bytes, leave) in floods {
        assert_few_lines(flood, &gateway, admin, &bytes, leave).await;
    }
}
