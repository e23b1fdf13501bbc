//! The hostile corpus over HTTP/2, frame by frame: malformed frames, fields that would become
//! another request to an HTTP/1.1 upstream, and floods. Each request is signed, so that only the
//! flaw can stop it.

use crate::harness::frames::*;
use crate::harness::*;

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A genuine event's fields, which the test controls.
#[derive(Clone)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn new() -> Self {
        let signature = sign(SECRET, &event().body);
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", PATH),
            (":authority", "hooks.test"),
            ("x-vpn-signature", &signature),
        ];
        Self(
            fields
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
        )
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    fn first(mut self, name: &str, value: &str) -> Self {
        self.0.insert(0, (name.to_owned(), value.to_owned()));
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.retain(|(n, _)| n != name);
        self
    }

    /// Replaces the value of the field in place.
    fn set(mut self, name: &str, value: &str) -> Self {
        for field in self.0.iter_mut().filter(|(n, _)| n == name) {
            value.clone_into(&mut field.1);
        }
        self
    }

    fn block(&self) -> Vec<u8> {
        block(
            self.0
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        )
    }

    fn headers(&self, stream: u32, flags: u8) -> Vec<u8> {
        frame(HEADERS, flags | END_HEADERS, stream, &self.block())
    }

    /// Returns the whole request, on the first stream.
    fn request(&self) -> Vec<u8> {
        [
            self.headers(1, 0),
            frame(DATA, END_STREAM, 1, &event().body),
        ]
        .concat()
    }
}

fn event() -> Event {
    Event::new("evt_1")
}

/// Returns a request that is rejected by its path, and so costs nothing.
fn unknown_path_request() -> Fields {
    Fields::new().set(":path", "/elsewhere")
}

/// Sends each case on a connection of its own and asserts that it ends as expected, that no byte
/// reaches the upstream, that the ledger is not asked, and that a connection which was open
/// throughout still works.
async fn assert_all_rejected(cases: Vec<(&str, Vec<u8>)>, right: impl Fn(End) -> bool) {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(
        Route::to(&upstream)
            .with("budget", "3s")
            .with("budget_margin", "500ms"),
    )
    .await;
    let mut bystander = gateway.connect_h2().await;
    bystander
        .send(event().forged())
        .await
        .assert(401, "invalid_signature");
    let mut wrong = Vec::new();
    for (flaw, bytes) in cases {
        let mut frames = RawHttp2::connect(gateway.public_address()).await;
        frames.write(&bytes).await;
        let end = frames.end().await;
        if !right(end) {
            wrong.push(format!("{flaw}: {end:?}"));
        }
        if upstream.connections() > 0 {
            wrong.push(format!("{flaw}: touched the upstream"));
            break;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    upstream.assert_untouched();
    gateway
        .metrics()
        .await
        .assert_value("ledger_checks_total", &[("route", "hooks")], 0.0);
    bystander.send(event()).await.assert(200, "delivered");
    assert_eq!(upstream.event_ids(), ["evt_1"]);
}

/// Returns whether the stream was reset, the connection closed, or the status is 400.
fn is_rejection(end: End) -> bool {
    end != End::Answered(200)
        && matches!(
            end,
            End::Reset(_) | End::GoAway(_) | End::Closed | End::Answered(400)
        )
}

fn is_connection_end(end: End) -> bool {
    matches!(end, End::GoAway(_) | End::Closed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handmade_request_is_delivered_canonically() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let unknown = frame(0xfe, 0xff, 1, b"of no known type");
    for (n, before) in [
        Vec::new(),
        unknown,
        frame(PING, 0, 0, &[7; 8]),
        frame(PRIORITY, 0, 9, &[0, 0, 0, 3, 1]),
    ]
    .into_iter()
    .enumerate()
    {
        let event = Event::new(&format!("evt_{n}"));
        let fields = Fields::new().set("x-vpn-signature", &sign(SECRET, &event.body));
        let body = [
            frame(DATA, PADDED, 1, &[&[3], &event.body[..9], &[0; 3]].concat()),
            frame(DATA, 0, 1, &[]),
        ]
        .concat();
        let end = frame(DATA, END_STREAM, 1, &event.body[9..]);
        let mut frames = RawHttp2::connect(gateway.public_address()).await;
        let bytes = upstream.bytes();
        frames
            .write(&[before, fields.headers(1, 0), body, end].concat())
            .await;
        assert_eq!(frames.end().await, End::Answered(200), "{n}");
        let received = upstream.last();
        assert_eq!(
            (received.method.as_str(), received.target.as_str()),
            ("POST", "/receiver")
        );
        assert_eq!(received.body, event.body);
        received.assert_header("Content-Length", &event.body.len().to_string());
        assert_eq!(
            upstream.bytes() - bytes,
            received.head.len() + received.body.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_unsafe_over_http_1_are_rejected() {
    let with = |name: &str, value: &str| Fields::new().with(name, value).request();
    let set = |name: &str, value: &str| Fields::new().set(name, value).request();
    let cases = vec![
        (
            "CRLF in a value",
            with("x-a", "b\r\ntransfer-encoding: chunked"),
        ),
        ("LF in a value", with("x-a", "b\nx: y")),
        ("CR in a value", with("x-a", "b\rx: y")),
        ("NUL in a value", with("x-a", "b\0c")),
        ("a field in a name", with("x-a: b\r\nx", "y")),
        ("colon in a name", with("x:a", "b")),
        ("quote in a name", with("x\"a", "b")),
        ("space in a name", with("x a", "b")),
        ("LF in a name", with("x\na", "b")),
        ("upper case in a name", with("X-A", "b")),
        ("empty name", with("", "b")),
        ("transfer-encoding", with("transfer-encoding", "chunked")),
        ("connection", with("connection", "close")),
        (
            "connection names the signature",
            with("connection", "x-vpn-signature"),
        ),
        ("keep-alive", with("keep-alive", "1")),
        ("proxy-connection", with("proxy-connection", "close")),
        ("upgrade", with("upgrade", "websocket")),
        ("te other than trailers", with("te", "gzip")),
        ("space in the path", set(":path", "/a HTTP/1.1")),
        ("CRLF in the path", set(":path", &format!("{PATH}\r\nx: y"))),
        (
            "CRLF and a request in the path",
            set(
                ":path",
                &format!("{PATH} HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled"),
            ),
        ),
        ("LF in the path", set(":path", &format!("{PATH}\n"))),
        ("NUL in the path", set(":path", &format!("{PATH}\0"))),
        (
            "an encoded CRLF in the query",
            set(":path", &format!("{PATH}?a=%0d%0a")),
        ),
        ("DEL in the query", set(":path", &format!("{PATH}?a=\x7f"))),
        (
            "what is no ASCII in the query",
            set(":path", &format!("{PATH}?a=é")),
        ),
        ("empty path", set(":path", "")),
        (
            "absolute path",
            set(":path", &format!("http://other.test{PATH}")),
        ),
        ("a line as method", set(":method", "POST /admin HTTP/1.1")),
        ("CRLF in the method", set(":method", "POST\r\nx")),
        ("empty method", set(":method", "")),
        ("CRLF in the scheme", set(":scheme", "http\r\nx: y")),
        ("a host as scheme", set(":scheme", "http://other.test/?")),
        ("no method", Fields::new().without(":method").request()),
        ("no scheme", Fields::new().without(":scheme").request()),
        ("no path", Fields::new().without(":path").request()),
        (
            "no authority",
            Fields::new().without(":authority").request(),
        ),
        ("two paths", Fields::new().first(":path", PATH).request()),
        (
            "two methods",
            Fields::new().first(":method", "POST").request(),
        ),
        (
            "two authorities",
            Fields::new().first(":authority", "hooks.test").request(),
        ),
        (
            "a pseudo-header behind fields",
            Fields::new().without(":path").with(":path", PATH).request(),
        ),
        (
            "an unknown pseudo-header",
            Fields::new().first(":x", "y").request(),
        ),
        (
            "a response's pseudo-header",
            Fields::new().first(":status", "200").request(),
        ),
        ("another host", with("host", "other.test")),
        (
            "two hosts",
            Fields::new()
                .with("host", "hooks.test")
                .with("host", "hooks.test")
                .request(),
        ),
        ("user information", set(":authority", "user@hooks.test")),
        ("a path as authority", set(":authority", "hooks.test/x")),
        (
            "CRLF in the authority",
            set(":authority", "hooks.test\r\nx: y"),
        ),
        ("a length over the body's", with("content-length", "999")),
        ("a length under the body's", with("content-length", "2")),
        (
            "two lengths",
            Fields::new()
                .with("content-length", "2")
                .with("content-length", "3")
                .request(),
        ),
        ("a signed length", with("content-length", "+51")),
        ("a list of lengths", with("content-length", "51, 51")),
        ("the signature's twin", with("x_vpn_signature", "sha256=00")),
        (
            "the signature's dotted twin",
            with("x.vpn.signature", "sha256=00"),
        ),
        ("a coding's twin", with("transfer_encoding", "chunked")),
        ("a length's dotted twin", with("content.length", "51")),
        (
            "a tunnel by protocol",
            Fields::new()
                .set(":method", "CONNECT")
                .first(":protocol", "websocket")
                .request(),
        ),
    ];
    assert_all_rejected(cases, is_rejection).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookalike_http2_path_finds_no_route() {
    let set = |path: &str| Fields::new().set(":path", path).request();
    let paths = [
        "*",
        "webhooks",
        "//webhooks/vpn-enterprise",
        "/webhooks%2fvpn-enterprise",
        "/webhooks/vpn-enterprise/",
        "\\",
    ];
    let cases = paths.into_iter().map(|path| (path, set(path))).chain([(
        "a tunnel",
        Fields::new()
            .set(":method", "CONNECT")
            .without(":path")
            .without(":scheme")
            .request(),
    )]);
    assert_all_rejected(cases.collect(), |end| {
        is_rejection(end) || [End::Answered(404), End::Answered(405)].contains(&end)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handmade_trailers_are_ignored() {
    let signature = sign(SECRET, &event().body);
    let unsigned = Fields::new().without("x-vpn-signature");
    let trailed = |trailers: &[(&str, &str)], flags: u8| {
        let trailers = frame(
            HEADERS,
            END_HEADERS | flags,
            1,
            &block(trailers.iter().copied()),
        );
        [
            unsigned.headers(1, 0),
            frame(DATA, 0, 1, &event().body),
            trailers,
        ]
        .concat()
    };
    let cases = vec![
        (
            "the signature",
            trailed(&[("x-vpn-signature", &signature)], END_STREAM),
        ),
        ("a path", trailed(&[(":path", PATH)], END_STREAM)),
        (
            "trailers that do not end the stream",
            trailed(&[("x-a", "b")], 0),
        ),
    ];
    assert_all_rejected(cases, |end| is_rejection(end) || end == End::Answered(401)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_frame_closes_only_its_connection() {
    let fields = Fields::new();
    let open = unknown_path_request().headers(1, 0);
    let after_open = |bytes: Vec<u8>| [open.clone(), bytes].concat();
    let cases = vec![
        (
            "headers where settings belong",
            frame(HEADERS, END_HEADERS, 0, &fields.block()),
        ),
        ("headers on stream 0", fields.headers(0, END_STREAM)),
        ("data on stream 0", frame(DATA, 0, 0, b"x")),
        ("data on an idle stream", frame(DATA, 0, 1, b"x")),
        ("reset of an idle stream", frame(RST_STREAM, 0, 1, &[0; 4])),
        (
            "a window for an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        ),
        ("an even stream", fields.headers(2, 0)),
        (
            "a frame of 16 KiB and a byte",
            after_open(frame(DATA, 0, 1, &[0; 16_385])),
        ),
        (
            "a frame of 16 MiB",
            vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1],
        ),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        (
            "an acknowledgement with a setting",
            frame(SETTINGS, 1, 0, &[0; 6]),
        ),
        ("a window of 2^31", setting(4, 1 << 31)),
        ("frames of 100 bytes", setting(5, 100)),
        ("push switched to 2", setting(2, 2)),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8])),
        ("a window of nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "a window beyond 2^31",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ),
        (
            "a promise from a client",
            after_open(frame(
                PUSH_PROMISE,
                END_HEADERS,
                1,
                &[&[0, 0, 0, 2], &fields.block()[..]].concat(),
            )),
        ),
        (
            "continuation of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &fields.block()),
        ),
        (
            "data inside a header block",
            [
                frame(HEADERS, 0, 1, &fields.block()),
                frame(DATA, 0, 1, b"x"),
            ]
            .concat(),
        ),
        (
            "headers of another inside a block",
            [frame(HEADERS, 0, 1, &fields.block()), fields.headers(3, 0)].concat(),
        ),
        (
            "padding over the frame's length",
            after_open(frame(DATA, PADDED, 1, &[9, 0])),
        ),
        (
            "headers padded over their length",
            frame(HEADERS, PADDED | END_HEADERS, 1, &[200, 0]),
        ),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        ("index 0", frame(HEADERS, END_HEADERS, 1, &[0x80])),
        (
            "an index beyond the tables",
            frame(HEADERS, END_HEADERS, 1, &[0xff, 0x80, 0x80, 0x01]),
        ),
        (
            "an endless number",
            frame(HEADERS, END_HEADERS, 1, &[0xff; 40]),
        ),
        (
            "a string beyond the block",
            frame(HEADERS, END_HEADERS, 1, &[0, 0x7f, 0x20, b'x']),
        ),
        (
            "bad Huffman coding",
            frame(
                HEADERS,
                END_HEADERS,
                1,
                &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'x'],
            ),
        ),
        (
            "a table size over the limit",
            frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0x7f]),
        ),
    ];
    assert_all_rejected(cases, is_connection_end).await;
    let dependent = frame(
        HEADERS,
        END_HEADERS | END_STREAM | WITH_PRIORITY,
        1,
        &[&[0, 0, 0, 1, 9], &fields.block()[..]].concat(),
    );
    let streams = vec![
        ("a stream that depends on itself", dependent),
        (
            "a second head that does not end the stream",
            after_open(unknown_path_request().headers(1, 0)),
        ),
        (
            "a window of nothing for a stream",
            after_open(frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
        ),
    ];
    assert_all_rejected(streams, |end| {
        is_rejection(end) || end == End::Answered(404)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_preface_is_not_http2() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(Setup::from(Route::to(&upstream)).with("limits", "{header_timeout: 1s}"))
            .await;
    for start in [
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let bytes = [start.as_bytes(), &Fields::new().request()].concat();
        let response = gateway.connect().await.send_raw(&bytes).await;
        assert!(
            response
                .as_ref()
                .is_none_or(|response| response.status == 400),
            "{start:?}: {response:?}"
        );
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_announces_its_http2_limits() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    const MAX_HEADER_LIST_SIZE: u16 = 6;
    let gateway = Gateway::start(
        Setup::from(Route::to(&Upstream::ok())).with("limits", "{header_bytes: 8KiB}"),
    )
    .await;
    let settings = RawHttp2::connect(gateway.public_address())
        .await
        .settings()
        .await;
    for (setting, value) in [
        (MAX_CONCURRENT_STREAMS, 100),
        (MAX_HEADER_LIST_SIZE, 16_384),
    ] {
        assert!(
            settings.contains(&(setting, value)),
            "{setting} is not {value}: {settings:?}"
        );
    }
    for (large, end) in [
        (7_000, End::Answered(404)),
        (9_000, End::Answered(431)),
        (14_000, End::Answered(431)),
    ] {
        let mut frames = RawHttp2::connect(gateway.public_address()).await;
        frames
            .write(
                &unknown_path_request()
                    .with("x-large", &"x".repeat(large))
                    .headers(1, END_STREAM),
            )
            .await;
        assert_eq!(frames.end().await, end, "{large}");
    }
    let mut far_over = RawHttp2::connect(gateway.public_address()).await;
    let (first, rest) = (
        unknown_path_request().block(),
        block([("x-large", &*"x".repeat(16_000))]),
    );
    far_over
        .write(
            &[
                frame(HEADERS, END_STREAM, 1, &first),
                frame(CONTINUATION, END_HEADERS, 1, &rest),
            ]
            .concat(),
        )
        .await;
    assert_eq!(far_over.end().await, End::Answered(431));
}

/// Floods a gateway and returns how it ended the connection, if it did. Asserts that memory stays
/// flat, that the upstream receives nothing, and that a connection which was open throughout still
/// works.
async fn flood_gateway(opening: &[u8], bytes: &[u8], times: usize) -> Option<End> {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut bystander = gateway.connect_h2().await;
    bystander
        .send(event().forged())
        .await
        .assert(401, "invalid_signature");
    let before = gateway.resident_bytes();
    let mut frames = RawHttp2::connect(gateway.public_address()).await;
    frames.write(opening).await;
    let end = frames.flood(bytes, times).await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grew by {grown} bytes");
    upstream.assert_untouched();
    bystander.send(event()).await.assert(200, "delivered");
    gateway
        .wait_for_metric("requests_in_flight", &[], 0.0)
        .await;
    end
}

/// Returns frames for streams 1, 3, 5 and so on.
fn frames_on_streams(count: u32, frame_for: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|n| frame_for(2 * n + 1)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset_closes_connection() {
    // CVE-2023-44487, rapid reset.
    let bytes = frames_on_streams(20_000, |id| {
        [
            unknown_path_request().headers(id, END_STREAM),
            frame(RST_STREAM, 0, id, &[0, 0, 0, 8]),
        ]
        .concat()
    });
    assert_eq!(
        flood_gateway(&[], &bytes, 1).await,
        Some(End::GoAway(ENHANCE_YOUR_CALM))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forced_resets_close_connection() {
    // CVE-2025-8671, MadeYouReset: the gateway resets the stream, but the work has been done.
    let bytes = frames_on_streams(20_000, |id| {
        [
            unknown_path_request().headers(id, 0),
            frame(WINDOW_UPDATE, 0, id, &[0; 4]),
        ]
        .concat()
    });
    let end = flood_gateway(&[], &bytes, 1).await;
    assert!(
        matches!(end, Some(End::GoAway(ENHANCE_YOUR_CALM | PROTOCOL_ERROR))),
        "{end:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_streams_close_connection() {
    let bytes = frames_on_streams(1_000, |id| {
        Fields::new()
            .with("connection", "close")
            .headers(id, END_STREAM)
    });
    let end = flood_gateway(&[], &bytes, 1).await;
    assert!(end.is_some_and(is_connection_end), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_header_block_closes_connection() {
    // CVE-2024-27316 and related: the CONTINUATION flood.
    for block in [block([("x-a", "b")]), Vec::new()] {
        let end = flood_gateway(
            &frame(HEADERS, 0, 1, &unknown_path_request().block()),
            &frame(CONTINUATION, 0, 1, &block),
            100_000,
        )
        .await;
        assert!(end.is_some_and(is_connection_end), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_hpack_reference_takes_no_memory() {
    // The HPACK bomb: one entry of 4,000 bytes in the dynamic table, then references of one byte
    // each.
    let mut entry = vec![0x40];
    entry.extend(&block([("x-a", &*"x".repeat(3_900))])[1..]);
    let opening = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &[unknown_path_request().block(), entry].concat(),
    );
    let references = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        3,
        &[unknown_path_request().block(), vec![0xbe; 10_000]].concat(),
    );
    let end = flood_gateway(&opening, &references, 1).await;
    assert!(end.is_none_or(is_connection_end), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_data_frames_close_connection() {
    // CVE-2019-9518.
    let open = Fields::new().headers(1, 0);
    for empty in [frame(DATA, 0, 1, &[]), frame(DATA, PADDED, 1, &[0])] {
        assert_eq!(
            flood_gateway(&open, &empty.repeat(100), 2_000).await,
            Some(End::GoAway(ENHANCE_YOUR_CALM))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_needing_replies_take_no_memory() {
    // CVE-2019-9512 and CVE-2019-9515: pings and settings. The gateway serves a connection whose
    // replies are read, and must not queue them.
    let windows = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let priorities = frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]);
    for bytes in [
        frame(PING, 0, 0, &[7; 8]),
        setting(3, 100),
        windows,
        priorities,
    ] {
        let end = flood_gateway(&[], &bytes.repeat(1_000), 100).await;
        assert!(end.is_none_or(is_connection_end), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_responses_are_bounded_and_closed() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("limits", "{idle_timeout: 1s}");
    let gateway = Gateway::start(setup).await;
    let before = gateway.resident_bytes();
    for frame_with_reply in [frame(PING, 0, 0, &[7; 8]), setting(3, 100)] {
        let mut deaf = RawHttp2::connect(gateway.public_address()).await;
        let bytes = frame_with_reply.repeat(10_000);
        // Ends when the sockets are full or everything is written.
        let writing = async {
            for _ in 0..200 {
                deaf.write(&bytes).await;
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), writing).await;
        let grown = gateway.resident_bytes().saturating_sub(before);
        assert!(grown < 32 << 20, "grew by {grown} bytes");
        gateway.wait_for_metric("connections", &[], 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_window_is_held_to_budget() {
    let upstream = Upstream::replying([Reply::full(200, "", &vec![b'x'; 500_000])]);
    let route = Route::to(&upstream)
        .with("budget", "2s")
        .with("budget_margin", "500ms");
    let gateway = Gateway::start(Setup::from(route).with("limits", "{idle_timeout: 1s}")).await;
    for window in [0, 1] {
        let mut frames = RawHttp2::connect(gateway.public_address()).await;
        frames
            .write(
                &[
                    setting(4, window),
                    Fields::new().headers(1, 0),
                    frame(DATA, END_STREAM, 1, &event().body),
                ]
                .concat(),
            )
            .await;
        for id in 1..50 {
            let event = Event::new(&format!("evt_{window}_{id}"));
            let fields = Fields::new().set("x-vpn-signature", &sign(SECRET, &event.body));
            let id = 2 * id + 1;
            frames
                .write(
                    &[
                        fields.headers(id, 0),
                        frame(DATA, END_STREAM, id, &event.body),
                    ]
                    .concat(),
                )
                .await;
        }
        gateway
            .wait_for_metric_at_least("requests_in_flight", &[], 40.0)
            .await;
        gateway
            .wait_for_metric("requests_in_flight", &[], 0.0)
            .await;
        frames.wait_for_close().await;
        gateway.wait_for_metric("connections", &[], 0.0).await;
    }
}
