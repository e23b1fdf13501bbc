//! Reports about odd but honest HTTP.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc;

use crate::harness::frames::{DATA, END_HEADERS, END_STREAM, End, HEADERS, RawHttp2, block, frame};
use crate::harness::sender::chunks;
use crate::harness::*;

const MIB: usize = 1 << 20;

/// The size of a body that does not fit into the buffers between the gateway and an upstream.
const BODY: usize = 8 * MIB;

/// Report: several requests are sent before the first response is read. The first response said
/// that the connection is kept, and the connection was closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_all_served() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    let requests = [
        Event::new("evt_1").post(),
        Event::new("evt_2").post().chunked(10),
        Event::new("evt_3").post().chunked(1000),
        Event::sized("evt_4", 300_000).post(),
        Event::sized("evt_5", 300_000).post().chunked(70_000),
        Event::new("evt_6").post(),
    ];
    let bytes: Vec<_> = requests.iter().flat_map(Request::bytes).collect();
    client.write(&bytes).await;
    for id in ["evt_1", "evt_2", "evt_3", "evt_4", "evt_5", "evt_6"] {
        let response = client.read_response().await;
        response.assert(200, "delivered").assert_event_id(id);
    }
    // The connection is kept as promised.
    client
        .send(Event::new("evt_7"))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.count(), 7);
}

/// Whatever arrives together with the end of a request and does not verify ends the connection, with
/// a response that says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_forgery_ends_connection() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let genuine = |id: &str| Event::new(id).post().bytes();
    for (number, (behind, status)) in [
        (Event::new("evt_forged").forged().bytes(), 401),
        (Request::new("GET", "/elsewhere").bytes(), 404),
        (Request::new("GET", PATH).bytes(), 405),
        (b"no request\r\n\r\n".to_vec(), 400),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = gateway.connect().await;
        let bytes = [
            genuine(&format!("evt_{number}")),
            behind,
            genuine("evt_behind"),
        ];
        let first = client.send_raw(&bytes.concat()).await.expect("a response");
        first.assert(200, "delivered");
        let second = client.read_response().await;
        assert_eq!(second.status, status);
        second.assert_header("Connection", "close");
        client.wait_for_close().await;
    }
    assert!(upstream.requests_for("evt_behind").is_empty());
    assert_eq!(upstream.count(), 4);
}

/// Nothing behind a request whose framing is in doubt is served, not even a genuine event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_served_behind_doubtful_framing() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let behind = Event::new("evt_behind").post().bytes();
    let event = Event::new("evt_1");
    let length = event.body.len().to_string();
    let doubtful = [
        event.post().header("Transfer-Encoding", "chunked"),
        event.post().header("Content-Length", &length),
        event.post().chunked(10).header("Content-Length", &length),
        event.forged().chunked(10),
        event.post().method("GET"),
        event.post().header("Transfer_Encoding", "chunked"),
    ];
    for request in doubtful {
        let mut client = gateway.connect().await;
        let bytes = [request.bytes(), behind.clone()].concat();
        let response = client.send_raw(&bytes).await.expect("a response");
        assert!((400..500).contains(&response.status), "{response:?}");
        response.assert_header("Connection", "close");
        client.wait_for_close().await;
    }
    upstream.assert_untouched();
}

/// Report: an old HTTP library ends each body with CR LF (RFC 9112 §2.2). Its next request on the
/// connection was never answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_line_between_requests_is_skipped() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    let requests = [
        Event::new("evt_1").post(),
        Event::new("evt_2").post().chunked(10),
        Event::new("evt_3").post(),
    ];
    for request in requests {
        let bytes = [request.bytes(), b"\r\n".to_vec()].concat();
        let response = client.send_raw(&bytes).await.expect("a response");
        response.assert(200, "delivered");
    }
    for (id, before) in [("evt_4", ""), ("evt_5", "\r\n"), ("evt_6", "\r")] {
        client.write(before.as_bytes()).await;
        let rest = if before == "\r" { "\n" } else { "" };
        let bytes = [rest.as_bytes(), &Event::new(id).post().bytes()].concat();
        let response = client.send_raw(&bytes).await.expect("a response");
        response.assert(200, "delivered").assert_event_id(id);
    }
    assert_eq!(upstream.count(), 6);
    // One empty line is skipped, and only CR LF is one.
    for before in ["\r\n\r\n", "\n", "\r"] {
        let mut client = gateway.connect().await;
        client
            .send(Event::new("evt_1"))
            .await
            .assert(409, "duplicate");
        let bytes = [before.as_bytes(), &Event::new("evt_7").post().bytes()].concat();
        let response = client.send_raw(&bytes).await.expect("a response");
        response.assert(400, "malformed_request");
        client.wait_for_close().await;
    }
    assert_eq!(upstream.count(), 6);
}

/// An empty line is not the start of a request: the connection stays idle, and ends like an idle
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_line_starts_no_request() {
    let upstream = Upstream::ok();
    let limits = "{header_timeout: 100ms, idle_timeout: 1s}";
    let gateway = Gateway::start(Setup::from(Route::to(&upstream)).with("limits", limits)).await;
    let mut client = gateway.connect().await;
    let bytes = [Event::new("evt_1").post().bytes(), b"\r\n".to_vec()].concat();
    let response = client.send_raw(&bytes).await.expect("a response");
    response.assert(200, "delivered");
    client.wait_for_close().await;
}

/// Report: a raw space in a URL was let in, percent-encoded, so two readers of the request line saw
/// different targets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn target_with_raw_space_is_rejected() {
    let upstream = Upstream::ok();
    let space = Route::to(&upstream).with("forward_query", "true");
    let encoded = space.clone().named("b").with("path", "/w%20b");
    let gateway = Gateway::start(Setup::new([space, encoded])).await;
    for target in [
        format!("{PATH}?x=a b"),
        format!("{PATH}?x=1  "),
        format!(" {PATH}"),
        "/w b".into(),
        format!("http://hooks.test{PATH}?x=a b"),
        format!("{PATH}?x=a\tb"),
        format!("{PATH}?x=a\u{a0}b"),
        format!("{PATH}?x=\u{e9}"),
    ] {
        let mut client = gateway.connect().await;
        let request = Event::new("evt_1").post().at(&target);
        let response = client.try_send(request).await.expect("a response");
        response.assert_problem(400, "malformed_request");
        response.assert_header("Connection", "close");
    }
    upstream.assert_untouched();
    for (id, target) in [
        ("evt_2", format!("{PATH}?x=a%20b")),
        ("evt_3", "/w%20b".into()),
    ] {
        let request = Event::new(id).post().at(&target);
        gateway.send(request).await.assert(200, "delivered");
    }
}

/// Report: a sender resolves the absolute form of a name (`hooks.example.com.`) and sends it as
/// `Host`. It got 404.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absolute_name_finds_the_hosts_route() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream).with("host", "hooks.example.com");
    let gateway = Gateway::start(route).await;
    let mut http2 = gateway.connect_h2().await;
    for (number, host) in ["hooks.example.com.", "Hooks.Example.com.:8080"]
        .iter()
        .enumerate()
    {
        let event = |version| Event::new(&format!("evt_{number}_{version}"));
        let response = gateway.send(event(1).post().set("Host", host)).await;
        response.assert(200, "delivered");
        upstream
            .last()
            .assert_header("X-Forwarded-Host", "hooks.example.com");
        let response = http2.send(event(2).post().set("Host", host)).await;
        response.assert(200, "delivered");
    }
    for host in ["hooks.example.com..", ".hooks.example.com", "example.com."] {
        let response = gateway
            .send(Event::new("evt_1").post().set("Host", host))
            .await;
        response.assert(404, "unknown_route");
    }
}

/// A fragment never reaches the upstream: it is refused over HTTP/1.1, and dropped over HTTP/2, where
/// the library removes it before the gateway sees the target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragment_never_reaches_the_upstream() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream).with("forward_query", "true")).await;
    let target = format!("{PATH}?x=1#y");
    let event = Event::new("evt_1");
    gateway
        .send(event.post().at(&target))
        .await
        .assert(400, "malformed_request");
    upstream.assert_untouched();
    let signature = sign(SECRET, &event.body);
    let head = block([
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "hooks.test"),
        (":path", &target),
        ("x-vpn-signature", &signature),
    ]);
    let mut http2 = RawHttp2::connect(gateway.public_address()).await;
    let request = [
        frame(HEADERS, END_HEADERS, 1, &head),
        frame(DATA, END_STREAM, 1, &event.body),
    ];
    http2.write(&request.concat()).await;
    assert_eq!(http2.end().await, End::Answered(200));
    assert_eq!(upstream.last().target, "/receiver?x=1");
}

/// Report: an upstream that switches protocols left the sender waiting for the whole budget.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protocol_switch_is_refused_at_once() {
    for reply in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
    ] {
        let upstream = Upstream::replying([Reply::raw(reply).then_stall(), Reply::ok()]);
        let gateway = Gateway::start(Route::to(&upstream)).await;
        let upgrade = Event::new("evt_1")
            .post()
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket");
        let response = gateway.send(upgrade).await;
        response.assert(502, "upstream_rejected");
        for name in ["Upgrade", "Content-Length"] {
            let expected = (name == "Content-Length").then_some("0");
            assert_eq!(response.header(name), expected);
        }
        // The event is released, and the connection that speaks another protocol is not reused.
        let retry = gateway.send(Event::new("evt_1")).await;
        retry.assert(200, "delivered");
        assert_eq!(upstream.connections(), 2);
    }
}

/// Informational responses are skipped, also those that arrive long before the final one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn informational_responses_are_skipped() {
    let reply = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                 HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                 HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
    let upstream = Upstream::replying([Reply::raw(reply)]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let response = gateway.send(Event::new("evt_1")).await;
    response.assert(200, "delivered");
    assert!(!response.headers.has("Link"));
}

/// The behaviour of an upstream that answers as soon as it has a request's head.
#[derive(Clone, Copy, Debug)]
enum Then {
    Close,
    /// Reads nothing more and keeps the connection open.
    Hold,
    /// Reads the body.
    Read,
}

/// Starts an upstream that answers early. The receiver gets the size of each body that was read.
fn early(answer: &'static str, then: Then) -> (String, mpsc::UnboundedReceiver<usize>) {
    let socket = TcpSocket::new_v4().expect("a socket");
    // So small that most of a request waits at the gateway.
    socket
        .set_recv_buffer_size(1 << 16)
        .expect("a socket option");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a free port");
    let listener = socket.listen(16).expect("listen");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let (read, reads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            let body = loop {
                let mut part = [0; 1024];
                let count = stream.read(&mut part).await.expect("a head");
                bytes.extend_from_slice(&part[..count]);
                if let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
                    break bytes.split_off(end + 4);
                }
            };
            let head = String::from_utf8(bytes).expect("text").to_lowercase();
            let (_, length) = head.split_once("content-length: ").expect("a length");
            let (length, _) = length.split_once('\r').expect("a line");
            let length: usize = length.parse().expect("a number");
            stream.write_all(answer.as_bytes()).await.expect("written");
            match then {
                Then::Close => {}
                Then::Hold => open.push(stream),
                Then::Read => {
                    let mut rest = vec![0; length - body.len()];
                    // Slowly, so that the response is complete long before the request.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    let whole = stream.read_exact(&mut rest).await.is_ok();
                    let _ = read.send(if whole { length } else { 0 });
                    open.push(stream);
                }
            }
        }
    });
    (url, reads)
}

fn early_route(url: &str) -> Route {
    Route::to_url(url)
        .with("max_body", "32MiB")
        .with("budget", "5s")
}

/// Report: an upstream answers 413 or 401 before it reads the body. The sender got 502 or 504.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_refusal_is_passed_back() {
    for then in [Then::Close, Then::Hold, Then::Read] {
        for (answer, status) in [
            (
                "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig",
                413,
            ),
            (
                "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig",
                401,
            ),
        ] {
            let (url, _reads) = early(answer, then);
            let gateway = Gateway::start(early_route(&url)).await;
            let event = Event::sized("evt_1", BODY);
            let (response, took) = gateway.send_timed(event).await;
            response.assert(status, "upstream_rejected");
            assert_eq!(response.text(), "big", "{then:?}");
            assert!(took < Duration::from_secs(4), "{then:?}: {took:?}");
        }
    }
}

/// An upstream that acknowledges early may still read: it gets the whole body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_success_gets_the_whole_body() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
    let (url, mut reads) = early(answer, Then::Read);
    let gateway = Gateway::start(early_route(&url)).await;
    let event = Event::sized("evt_1", BODY);
    gateway.send(event).await.assert(200, "delivered");
    assert_eq!(within("the body is read", reads.recv()).await, Some(BODY));
}

/// Report: a 2xx whose body broke off behind its first MiB counted as delivered, and the sender's
/// retry was a duplicate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn success_that_breaks_off_is_not_a_success() {
    let part = "x".repeat(1_200_000);
    let head = |framing: &str| format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n");
    let length = head("Content-Length: 5000000") + &part;
    let coded = head("Transfer-Encoding: chunked") + &format!("{:x}\r\n{part}\r\n", part.len());
    let broken = coded.clone() + "this is no chunk\r\n";
    for (reply, status) in [
        (Reply::raw(length.clone()).then_stall(), 504),
        (Reply::raw(length).then_close(), 502),
        (Reply::raw(coded.clone()).then_stall(), 504),
        (Reply::raw(coded).then_close(), 502),
        (Reply::raw(broken).then_stall(), 502),
    ] {
        let upstream = Upstream::replying([reply, Reply::ok()]);
        let route = Route::to(&upstream)
            .with("budget", "2s")
            .with("budget_margin", "500ms");
        let gateway = Gateway::start(route).await;
        let first = gateway.send(Event::new("evt_1")).await;
        assert_eq!(first.status, status, "{first:?}");
        let retry = gateway.send(Event::new("evt_1")).await;
        retry.assert(200, "delivered");
        upstream
            .last()
            .assert_header("Hookstile-Possible-Duplicate", "true");
    }
}

/// A large response that is whole is a success, and its connection is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_success_is_delivered_without_its_body() {
    let body = vec![b'x'; 3 * MIB];
    let length = Reply::full(200, "X-App: fake\r\n", &body);
    let head = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let coded = Reply::raw([head, chunks(&body, MIB)].concat());
    let upstream = Upstream::replying([length, coded, Reply::ok()]);
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for (id, status) in [("evt_1", 200), ("evt_2", 201), ("evt_3", 200)] {
        let response = gateway.send(Event::new(id)).await;
        response.assert(status, "delivered");
    }
    assert_eq!(upstream.connections(), 1);
}

/// A queued event whose 2xx breaks off is delivered again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_success_that_breaks_off_is_retried() {
    let part = "x".repeat(1_200_000);
    let short = format!("HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n{part}");
    let upstream = Upstream::replying([Reply::raw(short).then_close(), Reply::ok()]);
    let route = Route::to(&upstream)
        .with("delivery", "queue")
        .with("retry", "{initial: 1ms, max_interval: 10ms}");
    let gateway = Gateway::start(route).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(202, "queued");
    upstream.wait_for_requests(2).await;
    upstream
        .last()
        .assert_header("Hookstile-Possible-Duplicate", "true");
}

/// Report: a provider asks by HEAD, OPTIONS or GET whether the endpoint exists, before it accepts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_are_answered_by_the_gateway() {
    let upstream = Upstream::ok();
    let probes = "{HEAD: 200, GET: {status: 204}, OPTIONS: {headers: \
                  {WebHook-Allowed-Origin: '*', WebHook-Allowed-Rate: '120'}}}";
    let route = Route::to(&upstream).with("probes", probes);
    let gateway = Gateway::start(Setup::new([route, Route::to(&upstream).named("b")])).await;
    let mut http2 = gateway.connect_h2().await;
    let mut http1 = gateway.connect().await;
    for (method, status) in [("HEAD", 200), ("GET", 204), ("OPTIONS", 200)] {
        let probe = Request::new(method, PATH).header("WebHook-Request-Origin", "app.example");
        for response in [http1.send(probe.clone()).await, http2.send(probe).await] {
            response.assert(status, "challenge");
            assert!(response.body.is_empty());
            let is_options = method == "OPTIONS";
            assert_eq!(
                (
                    response.header("Allow"),
                    response.header("WebHook-Allowed-Origin"),
                    response.header("WebHook-Allowed-Rate")
                ),
                if is_options {
                    (Some("POST, HEAD, GET, OPTIONS"), Some("*"), Some("120"))
                } else {
                    (None, None, None)
                }
            );
        }
    }
    for method in ["HEAD", "GET", "OPTIONS", "PUT"] {
        let other = Request::new(method, "/webhooks/b");
        let response = http2.send(other).await;
        response.assert(405, "method_not_allowed");
        response.assert_header("Allow", "POST");
    }
    let put = http1.send(Request::new("PUT", PATH)).await;
    put.assert(405, "method_not_allowed");
    put.assert_header("Allow", "POST, HEAD, GET, OPTIONS");
    upstream.assert_untouched();
    http1
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

/// A probe has no body: what another reader could take for the next request is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe_with_body_is_rejected() {
    let upstream = Upstream::ok();
    let probes = "{HEAD: 200, GET: 200, OPTIONS: 200}";
    let gateway = Gateway::start(Route::to(&upstream).with("probes", probes)).await;
    for method in ["GET", "OPTIONS"] {
        let probe = Event::new("evt_1").post().method(method);
        for probe in [probe.clone(), probe.clone().chunked(10)] {
            let mut client = gateway.connect().await;
            let response = client.send(probe).await;
            response.assert(400, "malformed_request");
            client.wait_for_close().await;
        }
        let response = gateway.connect_h2().await.send(probe).await;
        response.assert(400, "malformed_request");
    }
    upstream.assert_untouched();
}

/// Rules on the head apply to probes as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe_from_forbidden_address_is_rejected() {
    let upstream = Upstream::ok();
    let route = Route::to(&upstream)
        .with("probes", "{HEAD: 204}")
        .with("allow_from", "[192.0.2.0/24]");
    let gateway = Gateway::start(route).await;
    let response = gateway.send(Request::new("HEAD", PATH)).await;
    response.assert(403, "forbidden_address");
}

/// Report: Xero checks an endpoint with a right and a wrong signature, and wants 200 and 401 without
/// a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_responses_have_no_body() {
    let upstream = Upstream::replying([Reply::status(400)]);
    let route = Route::to(&upstream).with("empty_responses", "true");
    let queue = route
        .clone()
        .named("queue")
        .with("delivery", "queue")
        .with("accept_status", "200");
    let gateway = Gateway::start(Setup::new([route, queue])).await;
    let mut http1 = gateway.connect().await;
    let mut http2 = gateway.connect_h2().await;
    let queue = "/webhooks/queue";
    for (request, status, outcome) in [
        (Event::new("evt_1").post().at(queue), 200, "queued"),
        (Event::new("evt_1").post().at(queue), 409, "duplicate"),
        (
            Event::new("evt_1").forged().at(queue),
            401,
            "invalid_signature",
        ),
        (Event::new("evt_1").forged(), 401, "invalid_signature"),
        (Request::new("PUT", PATH), 405, "method_not_allowed"),
    ] {
        let id = if outcome == "queued" {
            "evt_2"
        } else {
            "evt_1"
        };
        let again = match outcome {
            "queued" => Event::new(id).post().at(queue),
            _ => request.clone(),
        };
        for response in [http1.send(request).await, http2.send(again).await] {
            response.assert(status, outcome);
            assert_eq!(response.header("Content-Type"), None);
            assert!(response.body.is_empty());
        }
    }
    let response = http1.send(Event::new("evt_3")).await;
    response.assert(400, "upstream_rejected");
    assert_eq!(response.text(), "upstream says 400");
}
