//! The hostile corpus over HTTP/2, frame by frame: what is malformed, what would become another request on the way to an
//! HTTP/1.1 upstream, and floods. Each request is signed, so that nothing but the flaw can stop it.

use crate::harness::frames::*;
use crate::harness::*;

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A genuine event's fields, in the test's hands.
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

    /// Another value where the field stands.
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

    /// The whole request, on the first stream.
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

/// A request that is turned away by its path, and so costs nothing.
fn stray() -> Fields {
    Fields::new().set(":path", "/elsewhere")
}

/// Sends each case on a connection of its own: ended as said, not a byte at the upstream, nothing asked of the ledger, and
/// a connection that was open all the time is served on.
async fn assert_all_refused(cases: Vec<(&str, Vec<u8>)>, right: impl Fn(End) -> bool) {
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
        let mut frames = Frames::connect(gateway.data()).await;
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

/// A stream reset, the connection given up, or 400.
fn is_refusal(end: End) -> bool {
    end != End::Answered(200)
        && matches!(
            end,
            End::Reset(_) | End::GoAway(_) | End::Closed | End::Answered(400)
        )
}

fn is_the_connections_end(end: End) -> bool {
    matches!(end, End::GoAway(_) | End::Closed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_request_by_hand_is_delivered_as_one_canonical_request() {
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
        let mut frames = Frames::connect(gateway.data()).await;
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
async fn fields_that_would_be_another_request_over_http_1_are_refused() {
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
        ("a coding's twin", with("transfer_encoding", "chunked")),
        (
            "a tunnel by protocol",
            Fields::new()
                .set(":method", "CONNECT")
                .first(":protocol", "websocket")
                .request(),
        ),
    ];
    assert_all_refused(cases, is_refusal).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_over_http_2_that_only_resembles_the_routes_finds_none() {
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
    assert_all_refused(cases.collect(), |end| {
        is_refusal(end) || [End::Answered(404), End::Answered(405)].contains(&end)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_by_hand_count_for_nothing() {
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
    assert_all_refused(cases, |end| is_refusal(end) || end == End::Answered(401)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_breaks_the_protocol_ends_its_connection_and_no_other() {
    let fields = Fields::new();
    let open = stray().headers(1, 0);
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
    assert_all_refused(cases, is_the_connections_end).await;
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
            after_open(stray().headers(1, 0)),
        ),
        (
            "a window of nothing for a stream",
            after_open(frame(WINDOW_UPDATE, 0, 1, &[0; 4])),
        ),
    ];
    assert_all_refused(streams, |end| is_refusal(end) || end == End::Answered(404)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_the_preface_is_not_http_2() {
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
        let answer = gateway.connect().await.send_raw(&bytes).await;
        assert!(
            answer.as_ref().is_none_or(|answer| answer.status == 400),
            "{start:?}: {answer:?}"
        );
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_says_how_much_it_takes_over_http_2() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    const MAX_HEADER_LIST_SIZE: u16 = 6;
    let gateway = Gateway::start(
        Setup::from(Route::to(&Upstream::ok())).with("limits", "{header_bytes: 8KiB}"),
    )
    .await;
    let settings = Frames::connect(gateway.data()).await.settings().await;
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
        let mut frames = Frames::connect(gateway.data()).await;
        frames
            .write(
                &stray()
                    .with("x-large", &"x".repeat(large))
                    .headers(1, END_STREAM),
            )
            .await;
        assert_eq!(frames.end().await, end, "{large}");
    }
    let mut far_over = Frames::connect(gateway.data()).await;
    let (first, rest) = (stray().block(), block([("x-large", &*"x".repeat(16_000))]));
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

/// Floods a gateway, and says how it ended the connection, if it did. Memory stays where it was, the upstream hears
/// nothing, and a connection that was open all the time is served on.
async fn flooded(opening: &[u8], bytes: &[u8], times: usize) -> Option<End> {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut bystander = gateway.connect_h2().await;
    bystander
        .send(event().forged())
        .await
        .assert(401, "invalid_signature");
    let before = gateway.resident_bytes();
    let mut frames = Frames::connect(gateway.data()).await;
    frames.write(opening).await;
    let end = frames.flood(bytes, times).await;
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grew by {grown} bytes");
    upstream.assert_untouched();
    bystander.send(event()).await.assert(200, "delivered");
    gateway.metric_reaches("requests_in_flight", &[], 0.0).await;
    end
}

/// Frames for streams 1, 3, 5 and so on.
fn streams(count: u32, of: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|n| of(2 * n + 1)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_opened_and_reset_end_the_connection() {
    // CVE-2023-44487, rapid reset.
    let bytes = streams(20_000, |id| {
        [
            stray().headers(id, END_STREAM),
            frame(RST_STREAM, 0, id, &[0, 0, 0, 8]),
        ]
        .concat()
    });
    assert_eq!(
        flooded(&[], &bytes, 1).await,
        Some(End::GoAway(ENHANCE_YOUR_CALM))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_the_gateway_is_made_to_reset_end_the_connection() {
    // CVE-2025-8671, MadeYouReset: the reset is ours, the work is done all the same.
    let bytes = streams(20_000, |id| {
        [stray().headers(id, 0), frame(WINDOW_UPDATE, 0, id, &[0; 4])].concat()
    });
    let end = flooded(&[], &bytes, 1).await;
    assert!(
        matches!(end, Some(End::GoAway(ENHANCE_YOUR_CALM | PROTOCOL_ERROR))),
        "{end:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_streams_end_the_connection() {
    let bytes = streams(1_000, |id| {
        Fields::new()
            .with("connection", "close")
            .headers(id, END_STREAM)
    });
    let end = flooded(&[], &bytes, 1).await;
    assert!(end.is_some_and(is_the_connections_end), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_block_without_end_ends_the_connection() {
    // CVE-2024-27316 and its kin, the CONTINUATION flood.
    for block in [block([("x-a", "b")]), Vec::new()] {
        let end = flooded(
            &frame(HEADERS, 0, 1, &stray().block()),
            &frame(CONTINUATION, 0, 1, &block),
            100_000,
        )
        .await;
        assert!(end.is_some_and(is_the_connections_end), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_is_referred_to_again_and_again_takes_no_memory() {
    // The HPACK bomb: one entry of 4,000 bytes in the dynamic table, then references of one byte each.
    let mut entry = vec![0x40];
    entry.extend(&block([("x-a", &*"x".repeat(3_900))])[1..]);
    let opening = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &[stray().block(), entry].concat(),
    );
    let references = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        3,
        &[stray().block(), vec![0xbe; 10_000]].concat(),
    );
    let end = flooded(&opening, &references, 1).await;
    assert!(end.is_none_or(is_the_connections_end), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_frames_that_hold_nothing_end_the_connection() {
    // CVE-2019-9518.
    let open = Fields::new().headers(1, 0);
    for empty in [frame(DATA, 0, 1, &[]), frame(DATA, PADDED, 1, &[0])] {
        assert_eq!(
            flooded(&open, &empty.repeat(100), 2_000).await,
            Some(End::GoAway(ENHANCE_YOUR_CALM))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_ask_for_an_answer_each_take_no_memory() {
    // CVE-2019-9512 and -9515: pings and settings. A connection that is read from is served; nothing is heaped up.
    let windows = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let priorities = frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]);
    for bytes in [
        frame(PING, 0, 0, &[7; 8]),
        setting(3, 100),
        windows,
        priorities,
    ] {
        let end = flooded(&[], &bytes.repeat(1_000), 100).await;
        assert!(end.is_none_or(is_the_connections_end), "{end:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_not_heaped_up_and_the_connection_is_let_go() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("limits", "{idle_timeout: 1s}");
    let gateway = Gateway::start(setup).await;
    let before = gateway.resident_bytes();
    for ask in [frame(PING, 0, 0, &[7; 8]), setting(3, 100)] {
        let mut deaf = Frames::connect(gateway.data()).await;
        let bytes = ask.repeat(10_000);
        // Until the sockets are full, or all that there is, is written.
        let writing = async {
            for _ in 0..200 {
                deaf.write(&bytes).await;
            }
        };
        let _ = tokio::time::timeout(std::time::Duration::from_secs(1), writing).await;
        let grown = gateway.resident_bytes().saturating_sub(before);
        assert!(grown < 32 << 20, "grew by {grown} bytes");
        gateway.metric_reaches("connections", &[], 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_one_byte_holds_nothing_beyond_the_budget() {
    let upstream = Upstream::replying([Reply::full(200, "", &vec![b'x'; 500_000])]);
    let route = Route::to(&upstream)
        .with("budget", "2s")
        .with("budget_margin", "500ms");
    let gateway = Gateway::start(Setup::from(route).with("limits", "{idle_timeout: 1s}")).await;
    for window in [0, 1] {
        let mut frames = Frames::connect(gateway.data()).await;
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
        gateway.metrics_past("requests_in_flight", &[], 40.0).await;
        gateway.metric_reaches("requests_in_flight", &[], 0.0).await;
        frames.closed().await;
        gateway.metric_reaches("connections", &[], 0.0).await;
    }
}
