//! The gateway's own session serves plain requests, and Pingora's all others: nothing that a sender
//! sees depends on which of the two it is, or on which was before.

use std::time::{Duration, Instant};

use crate::harness::*;

const KINDS: [&str; 7] = [
    "chunked",
    "expects 100",
    "absolute form",
    "another connection option",
    "upgrade",
    "HTTP/1.0",
    "empty line in front",
];

/// Returns an honest request that is not plain.
fn other(kind: &str, event: &Event) -> Vec<u8> {
    let request = event.post();
    match kind {
        "chunked" => request.chunked(10).bytes(),
        "expects 100" => request.header("Expect", "100-continue").bytes(),
        "absolute form" => request.at(&format!("http://hooks.test{PATH}")).bytes(),
        "another connection option" => request
            .header("Connection", "X-Other")
            .header("X-Other", "1")
            .bytes(),
        "upgrade" => request
            .header("Connection", "Upgrade")
            .header("Upgrade", "h2c")
            .bytes(),
        "HTTP/1.0" => {
            let request = request.header("Connection", "keep-alive").bytes();
            let request = String::from_utf8(request).expect("text");
            request.replacen("HTTP/1.1", "HTTP/1.0", 1).into_bytes()
        }
        "empty line in front" => [b"\r\n".to_vec(), request.bytes()].concat(),
        _ => unreachable!("a kind of request"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_request_may_follow_any_other() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for (number, kind) in KINDS.iter().enumerate() {
        let mut client = gateway.connect().await;
        for place in 0..4 {
            let id = format!("evt_{number}_{place}");
            let event = Event::new(&id);
            let request = if place % 2 == 0 {
                event.post().bytes()
            } else {
                other(kind, &event)
            };
            let response = client.send_raw(&request).await.expect("a response");
            response.assert(200, "delivered").assert_event_id(&id);
            response.assert_header("Connection", "keep-alive");
            assert_eq!(upstream.last().body, event.body, "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_any_kind_may_be_pipelined() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let (mut client, mut requests, mut ids) = (gateway.connect().await, Vec::new(), Vec::new());
    for (number, kind) in KINDS.iter().enumerate() {
        let plain = Event::sized(&format!("evt_plain_{number}"), 20_000 + number);
        let another = Event::new(&format!("evt_other_{number}"));
        requests.extend(plain.post().bytes());
        ids.push((format!("evt_plain_{number}"), plain.body));
        if *kind != "expects 100" {
            requests.extend(other(kind, &another));
            ids.push((format!("evt_other_{number}"), another.body));
        }
    }
    client.write(&requests).await;
    for (id, body) in ids {
        let response = client.read_response().await;
        response.assert(200, "delivered").assert_event_id(&id);
        assert_eq!(upstream.requests_for(&id)[0].body, body);
    }
}

/// What was read ahead of Pingora's session may hold a request, or the start of one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_behind_any_size_of_another_is_answered() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for size in (3_000..8_200).step_by(97) {
        let first = Event::sized(&format!("evt_first_{size}"), size);
        let second = Event::new(&format!("evt_second_{size}"));
        let requests = [
            other("another connection option", &first),
            second.post().bytes(),
        ];
        let mut client = gateway.connect().await;
        client.write(&requests.concat()).await;
        for (order, event) in [("first", first), ("second", second)] {
            client.read_response().await.assert(200, "delivered");
            let sent = &upstream.requests_for(&format!("evt_{order}_{size}"))[0];
            assert_eq!(sent.body, event.body, "{size}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_behind_a_large_rejected_one_loses_its_connection() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    // Together no more than one segment of the loopback device, which arrives as a whole.
    for size in [100, 9_000, 20_000] {
        let rejected = Event::sized("evt_1", size).forged().bytes();
        let mut client = gateway.connect().await;
        client.write(&[rejected.clone(), rejected].concat()).await;
        for _ in 0..2 {
            let response = client.read_response().await;
            response.assert_problem(401, "invalid_signature");
        }
        client.wait_for_close().await;
    }
}

/// The session reads a body up to its end, however it arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn body_in_any_pieces_is_forwarded_whole() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    for (number, (size, piece)) in [
        (1_000, 1_000_000),
        (100_000, 1_460),
        (100_000, 16_384),
        (900_000, 65_536),
        (900_000, 1_000_000),
    ]
    .into_iter()
    .enumerate()
    {
        let event = Event::sized(&format!("evt_{number}"), size);
        for part in event.post().bytes().chunks(piece) {
            client.write(part).await;
        }
        client.read_response().await.assert(200, "delivered");
        assert_eq!(upstream.last().body, event.body);
    }
}

/// The limits on a head hold on a kept connection, whichever session reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_head_is_answered_by_either_session() {
    let upstream = Upstream::ok();
    let limits = "{header_timeout: 1s, header_bytes: 4KiB}";
    let gateway = Gateway::start(Setup::from(Route::to(&upstream)).with("limits", limits)).await;
    let start = format!("POST {PATH} HTTP/1.1\r\nHost: hooks.test\r\nX-Long: ");
    let long = format!("{start}{}", "x".repeat(5_000));
    for (number, (head, status)) in [
        (start, 408),
        (long.clone(), 431),
        (format!("{long}\r\n\r\n"), 431),
        ("no request\r\n\r\n".into(), 400),
    ]
    .iter()
    .enumerate()
    {
        for on_pingora in [false, true] {
            let mut client = gateway.connect().await;
            let event = Event::new(&format!("evt_{number}_{on_pingora}"));
            let before = if on_pingora {
                event.post().chunked(10)
            } else {
                event.post()
            };
            client.send(before).await.assert(200, "delivered");
            let start = Instant::now();
            client.write(head.as_bytes()).await;
            let response = client.read_response().await;
            assert_eq!(response.status, *status, "{head}");
            response.assert_header("Connection", "close");
            client.wait_for_close().await;
            if *status == 408 {
                let elapsed = start.elapsed();
                assert!(elapsed > Duration::from_millis(900), "{elapsed:?}");
            }
        }
    }
}

/// A head that arrives slowly, but in time, is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_byte_by_byte_is_served() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    for id in ["evt_1", "evt_2"] {
        let request = Event::new(id).post().bytes();
        let response = client.trickle(&request, Duration::from_millis(1)).await;
        let response = response.expect("a response");
        response.assert(200, "delivered").assert_event_id(id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_is_announced_and_kept() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for (id, chunked) in [("evt_1", false), ("evt_2", true)] {
        let mut client = gateway.connect().await;
        let request = Event::new(id).post().header("Connection", "Close");
        let request = if chunked {
            request.chunked(10)
        } else {
            request
        };
        let bytes = [request.bytes(), Event::new("evt_behind").post().bytes()].concat();
        let response = client.send_raw(&bytes).await.expect("a response");
        response.assert(200, "delivered");
        response.assert_header("Connection", "close");
        client.wait_for_close().await;
    }
    assert!(upstream.requests_for("evt_behind").is_empty());
}
