//! The hostile corpus over HTTP/1.1: requests that two parsers could read differently are rejected,
//! or forwarded as exactly one canonical request. Each carries a valid signature, so that only the
//! flaw can stop it.

use crate::harness::sender::chunks;
use crate::harness::upstream::Received;
use crate::harness::*;

/// A genuine event's request whose head lines and body bytes the test controls.
struct Raw {
    start: String,
    host: String,
    signature: String,
    rest: String,
    payload: Vec<u8>,
}

impl Raw {
    fn new(event: &Event) -> Self {
        Self {
            start: format!("POST {PATH} HTTP/1.1\r\n"),
            host: "Host: hooks.test\r\n".into(),
            signature: format!("X-VPN-Signature: {}\r\n", sign(SECRET, &event.body)),
            rest: format!("Content-Length: {}\r\n", event.body.len()),
            payload: event.body.clone(),
        }
    }

    fn start(mut self, line: &str) -> Self {
        self.start = format!("{line}\r\n");
        self
    }

    fn target(self, target: &str) -> Self {
        self.start(&format!("POST {target} HTTP/1.1"))
    }

    fn host(mut self, lines: &str) -> Self {
        self.host = lines.into();
        self
    }

    /// Replaces the `Content-Length` line.
    fn framed(mut self, lines: &str) -> Self {
        self.rest = lines.into();
        self
    }

    /// Adds header lines beside the `Content-Length`.
    fn with(mut self, lines: &str) -> Self {
        self.rest.push_str(lines);
        self
    }

    fn payload(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.payload = bytes.into();
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let head = [&self.start, &self.host, &self.signature, &self.rest, "\r\n"].concat();
        // Written as Latin-1, so that a test can put any byte into a head.
        let head = head
            .chars()
            .map(|c| u8::try_from(u32::from(c)).expect("Latin-1"));
        head.chain(self.payload.iter().copied()).collect()
    }
}

/// Sends each case on a connection of its own and asserts that it is rejected: one of these
/// statuses (0 is a connection closed without a response), no byte at the upstream, no ledger
/// lookup, and a gateway that keeps serving. If the framing is in doubt (400, 408, 431), the
/// connection ends after one response, so that the bytes that follow are not read as a request.
async fn assert_all_rejected(cases: Vec<(&str, Raw)>, statuses: &[u16]) {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(
        Route::to(&upstream)
            .with("budget", "3s")
            .with("budget_margin", "500ms"),
    )
    .await;
    let mut sent = Vec::new();
    for (flaw, raw) in cases {
        let (mut client, bytes) = (gateway.connect().await, raw.bytes());
        // Cases run concurrently, because the gateway keeps reading from a rejected sender for a
        // moment before it closes the connection.
        let sending = tokio::spawn(async move {
            let Some(response) = client.send_raw(&bytes).await else {
                return (0, String::new(), String::new());
            };
            let ends = [400, 408, 431].contains(&response.status);
            let more = if ends {
                client.rest().await
            } else {
                String::new()
            };
            (response.status, response.outcome().to_owned(), more)
        });
        sent.push((flaw, sending));
    }
    let mut wrong = Vec::new();
    for (flaw, sending) in sent {
        let (status, outcome, more) = sending
            .await
            .unwrap_or_else(|error| panic!("{flaw}: {error}"));
        if !statuses.contains(&status)
            || (status == 400 && outcome != "malformed_request")
            || !more.is_empty()
        {
            wrong.push(format!("{flaw}: {status} {outcome} {more}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "not one of {statuses:?}, or not the end: {wrong:#?}"
    );
    upstream.assert_untouched();
    gateway
        .metrics()
        .await
        .assert_value("ledger_checks_total", &[("route", "hooks")], 0.0);
    gateway
        .send(Event::new("evt_barrier"))
        .await
        .assert(200, "delivered");
    assert_eq!(upstream.event_ids(), ["evt_barrier"]);
}

/// Sends each case and asserts that it is accepted and forwarded as one canonical request, with
/// every byte accounted for.
async fn assert_all_accepted(cases: Vec<(&str, Event, Raw)>) {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let count = cases.len();
    for (shape, event, raw) in cases {
        let before = upstream.bytes();
        let response = gateway
            .connect()
            .await
            .send_raw(&raw.bytes())
            .await
            .expect("an answer");
        assert_eq!(
            (response.status, response.outcome()),
            (200, "delivered"),
            "{shape:?}"
        );
        assert_canonical(&upstream.last(), &event.body, shape);
        let received = upstream.last();
        assert_eq!(
            upstream.bytes() - before,
            received.head.len() + received.body.len(),
            "{shape:?}"
        );
    }
    assert_eq!(upstream.count(), count);
}

/// Asserts that the gateway wrote the request line, that each field is one plain line, and that the
/// only length is the body's.
#[track_caller]
fn assert_canonical(received: &Received, body: &[u8], shape: &str) {
    let head =
        std::str::from_utf8(&received.head).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
    assert!(
        head.starts_with("POST /receiver HTTP/1.1\r\n"),
        "{shape:?}: {head}"
    );
    assert!(
        !head
            .replace("\r\n", "")
            .contains(|c: char| c.is_ascii_control() && c != '\t'),
        "{shape:?}: {head}"
    );
    assert_eq!(received.body, body, "{shape:?}");
    received.assert_header("Content-Length", &body.len().to_string());
    received.assert_no_header("Transfer-Encoding");
    received.assert_no_header("Expect");
}

fn event() -> Event {
    Event::new("evt_1")
}

fn raw() -> Raw {
    Raw::new(&event())
}

fn chunked() -> Raw {
    raw()
        .framed("Transfer-Encoding: chunked\r\n")
        .payload(chunks(&event().body, 10))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn length_with_transfer_encoding_is_rejected() {
    let length = format!("Content-Length: {}\r\n", event().body.len());
    let coded = chunks(&event().body, 10);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: hooks.test\r\n\r\n";
    let cases = vec![
        (
            "CL.TE",
            chunked().framed(&format!("{length}Transfer-Encoding: chunked\r\n")),
        ),
        (
            "TE.CL",
            chunked().framed(&format!("Transfer-Encoding: chunked\r\n{length}")),
        ),
        (
            "CL of the coded body",
            chunked().framed(&format!(
                "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n",
                coded.len()
            )),
        ),
        (
            "CL 0 and TE",
            chunked().framed("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"),
        ),
        (
            "the classic TE.CL",
            chunked()
                .framed("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n")
                .payload(format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len())),
        ),
        (
            "CL.TE with a tail",
            chunked()
                .framed("Content-Length: 500\r\nTransfer-Encoding: chunked\r\n")
                .payload([coded.clone(), smuggled.into()].concat()),
        ),
    ];
    assert_all_rejected(cases, &[400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_chunked_transfer_encoding_is_accepted() {
    let te = |value: &str| chunked().framed(&format!("Transfer-Encoding: {value}\r\n"));
    let lines = |lines: &str| chunked().framed(lines);
    let cases = vec![
        ("gzip, chunked", te("gzip, chunked")),
        ("chunked, gzip", te("chunked, gzip")),
        ("chunked, chunked", te("chunked, chunked")),
        ("chunked, identity", te("chunked, identity")),
        ("identity", te("identity")),
        (",chunked", te(",chunked")),
        ("chunked,", te("chunked,")),
        ("xchunked", te("xchunked")),
        ("chunkedx", te("chunkedx")),
        ("chunked;q=1", te("chunked;q=1")),
        ("quoted", te("\"chunked\"")),
        ("VT before", te("\x0bchunked")),
        ("VT after", te("chunked\x0b")),
        (
            "two lines, identity last",
            lines("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
        ),
        (
            "two lines, identity first",
            lines("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        ),
        (
            "two lines, both chunked",
            lines("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        ),
        (
            "space before the colon",
            lines("Transfer-Encoding : chunked\r\n"),
        ),
        (
            "space before the name",
            lines(" Transfer-Encoding: chunked\r\n"),
        ),
        ("folded", lines("Transfer-Encoding:\r\n chunked\r\n")),
        (
            "HTTP/1.0",
            chunked().start(&format!("POST {PATH} HTTP/1.0")),
        ),
    ];
    assert_all_rejected(cases, &[400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misspelled_transfer_encoding_is_no_framing() {
    let cases = vec![(
        "underscore",
        chunked().framed("Transfer_Encoding: chunked\r\n"),
    )];
    assert_all_rejected(cases, &[400, 401]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_length_is_rejected() {
    let n = event().body.len();
    let cl = |value: String| raw().framed(&format!("Content-Length: {value}\r\n"));
    let cases = vec![
        (
            "two, different",
            cl(format!("{n}\r\nContent-Length: {}", n + 1)),
        ),
        (
            "two, different, right one last",
            cl(format!("{}\r\nContent-Length: {n}", n - 1)),
        ),
        ("two, equal", cl(format!("{n}\r\nContent-Length: {n}"))),
        ("list, equal", cl(format!("{n}, {n}"))),
        ("list, different", cl(format!("{n}, {}", n + 1))),
        ("zero before it", cl(format!("0{n}"))),
        ("plus", cl(format!("+{n}"))),
        ("minus", cl(format!("-{n}"))),
        ("minus zero", cl("-0".into())),
        ("hex", cl(format!("0x{n:x}"))),
        ("space inside", cl(format!("{} {}", n / 10, n % 10))),
        ("underscore inside", cl(format!("{}_{}", n / 10, n % 10))),
        ("fraction", cl(format!("{n}.0"))),
        ("empty", cl(String::new())),
        ("a word", cl("all".into())),
        (
            "space before the colon",
            raw().framed(&format!("Content-Length : {n}\r\n")),
        ),
        (
            "NUL in the name",
            raw().framed(&format!("Content\0-Length: {n}\r\n")),
        ),
        (
            "folded",
            raw().framed(&format!("Content-Length:\r\n {n}\r\n")),
        ),
    ];
    assert_all_rejected(cases, &[400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_length_is_rejected() {
    let cl = |value: &str| raw().framed(&format!("Content-Length: {value}\r\n"));
    let cases = vec![
        ("20 digits", cl("99999999999999999999")),
        ("2^64", cl("18446744073709551616")),
        (
            "2^64 + the right one",
            cl(&(18_446_744_073_709_551_616u128 + event().body.len() as u128).to_string()),
        ),
    ];
    assert_all_rejected(cases, &[400, 413]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_header_lines_are_rejected() {
    let cases = vec![
        ("bare LF after one field", raw().with("X-A: 1\nX-B: 2\r\n")),
        (
            "bare LF after the start line",
            raw().start(&format!("POST {PATH} HTTP/1.1\nX-A: 1")),
        ),
        (
            "bare CR in the start line",
            raw().target(&format!("{PATH}?a HTTP/1.1\rContent-Length: 1")),
        ),
        ("DEL in the query", raw().target(&format!("{PATH}?a\x7f"))),
        (
            "CR LF encoded in the query",
            raw().target(&format!("{PATH}?a%0d%0aX-A:%201")),
        ),
        ("bare CR in a value", raw().with("X-A: 1\rX-B: 2\r\n")),
        ("NUL in a value", raw().with("X-A: 1\x002\r\n")),
        ("folded", raw().with("X-A: 1\r\n 2\r\n")),
        (
            "folded first field",
            raw().host(" X-A: 1\r\nHost: hooks.test\r\n"),
        ),
        (
            "bare CR for every line's end",
            raw().host("Host: hooks.test\rX-A: 1\r\r"),
        ),
        (
            "an empty line first",
            raw().start(&format!("\r\nPOST {PATH} HTTP/1.1")),
        ),
        (
            "a bare LF first",
            raw().start(&format!("\nPOST {PATH} HTTP/1.1")),
        ),
        ("no colon", raw().with("X-A\r\n")),
        ("empty name", raw().with(": 1\r\n")),
        ("space before the colon", raw().with("X-A : 1\r\n")),
        ("space in the name", raw().with("X A: 1\r\n")),
        ("byte 0xff in the name", raw().with("X-\u{ff}: 1\r\n")),
        ("parenthesis in the name", raw().with("X-(A): 1\r\n")),
    ];
    assert_all_rejected(cases, &[400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_lf_head_is_rejected() {
    let upstream = Upstream::ok();
    let gateway =
        Gateway::start(Setup::from(Route::to(&upstream)).with("limits", "{header_timeout: 1s}"))
            .await;
    let text = String::from_utf8(raw().bytes())
        .expect("text")
        .replace("\r\n", "\n");
    let response = gateway
        .connect()
        .await
        .send_raw(text.as_bytes())
        .await
        .expect("an answer");
    // A strict parser never finds the end of this head.
    assert!([400, 408].contains(&response.status), "{response:?}");
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn non_http_1_start_line_is_rejected() {
    let cases = vec![
        ("HTTP/1.2", raw().start(&format!("POST {PATH} HTTP/1.2"))),
        ("HTTP/3.0", raw().start(&format!("POST {PATH} HTTP/3.0"))),
        ("HTTP/2.0", raw().start(&format!("POST {PATH} HTTP/2.0"))),
        ("HTTP/1.1x", raw().start(&format!("POST {PATH} HTTP/1.1x"))),
        ("lower case", raw().start(&format!("POST {PATH} http/1.1"))),
        ("no version", raw().start(&format!("POST {PATH}"))),
        (
            "HTTP/0.9",
            raw().start("GET /").host("").framed("").payload(""),
        ),
        ("no target", raw().start("POST HTTP/1.1")),
        ("one word", raw().start("POST")),
        ("two spaces", raw().start(&format!("POST  {PATH} HTTP/1.1"))),
        ("tab", raw().start(&format!("POST\t{PATH} HTTP/1.1"))),
        (
            "NUL in the version",
            raw().start(&format!("POST {PATH} HTTP/1.1\0")),
        ),
        (
            "control in the method",
            raw().start(&format!("PO\x01ST {PATH} HTTP/1.1")),
        ),
        ("TLS hello", raw().start("\x16\x03\x01\x02\x00\x01")),
    ];
    assert_all_rejected(cases, &[400, 505, 0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_one_plain_host_is_required() {
    let cases = vec![
        ("none", raw().host("")),
        (
            "two",
            raw().host("Host: hooks.test\r\nHost: other.test\r\n"),
        ),
        (
            "two equal",
            raw().host("Host: hooks.test\r\nHost: hooks.test\r\n"),
        ),
        ("empty", raw().host("Host: \r\n")),
        ("list", raw().host("Host: hooks.test, other.test\r\n")),
        ("user information", raw().host("Host: user@hooks.test\r\n")),
        ("path", raw().host("Host: hooks.test/path\r\n")),
        ("space", raw().host("Host: hooks test\r\n")),
        (
            "port that is no number",
            raw().host("Host: hooks.test:http\r\n"),
        ),
        (
            "another than the target's",
            raw().target(&format!("http://other.test{PATH}")),
        ),
    ];
    assert_all_rejected(cases, &[400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_header_cannot_remove_signature() {
    let cases = vec![
        (
            "names the signature",
            raw().with("Connection: X-VPN-Signature\r\n"),
        ),
        (
            "in other case",
            raw().with("Connection: keep-alive, x-vpn-signature\r\n"),
        ),
        (
            "names the length",
            raw().with("Connection: Content-Length\r\n"),
        ),
        ("names the host", raw().with("Connection: Host\r\n")),
        (
            "names the signature's twin",
            raw().with("Connection: X_VPN_Signature\r\n"),
        ),
        (
            "names the length's twin",
            raw().with("Connection: content.length\r\n"),
        ),
        (
            "names the type",
            raw().with("Connection: close, Content-Type\r\n"),
        ),
    ];
    assert_all_rejected(cases, &[400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookalike_signature_header_is_rejected() {
    // CGI-like receivers fold `_` into `-`, and some fold every other separator.
    let cases = vec![
        (
            "the twin alone",
            Raw {
                signature: raw().signature.replace('-', "_"),
                ..raw()
            },
        ),
        (
            "the signature's twin",
            raw().with("X_VPN_Signature: sha256=00\r\n"),
        ),
        ("half a twin", raw().with("x-vpn_signature: sha256=00\r\n")),
        (
            "the signature's dotted twin",
            raw().with("X.VPN.Signature: sha256=00\r\n"),
        ),
        (
            "the signature's twin with other separators",
            raw().with("X~VPN!Signature: sha256=00\r\n"),
        ),
        ("the length's twin", raw().with("Content_Length: 1\r\n")),
        (
            "the length's dotted twin",
            raw().with("Content.Length: 1\r\n"),
        ),
        (
            "the coding's dotted twin",
            raw().with("Transfer.Encoding: chunked\r\n"),
        ),
        (
            "the coding's twin",
            raw().with("Transfer_Encoding: chunked\r\n"),
        ),
    ];
    assert_all_rejected(cases, &[400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_expectation_is_rejected() {
    let cases = vec![
        ("unknown", raw().with("Expect: miracles\r\n")),
        (
            "unknown before the known",
            raw().with("Expect: y 100-continue\r\n"),
        ),
        ("folded", raw().with("Expect:\r\n 100-continue\r\n")),
    ];
    assert_all_rejected(cases, &[400, 417]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookalike_path_finds_no_route() {
    let targets = [
        "*",
        "/",
        "webhooks/vpn-enterprise",
        "//webhooks/vpn-enterprise",
        "/webhooks//vpn-enterprise",
        "/webhooks/vpn-enterprise/",
        "/Webhooks/vpn-enterprise",
        "/webhooks/VPN-Enterprise",
        "/webhooks/./vpn-enterprise",
        "/x/../webhooks/vpn-enterprise",
        "/webhooks/vpn-enterprise/..",
        "/webhooks/%2e/vpn-enterprise",
        "/webhooks%2fvpn-enterprise",
        "/%77ebhooks/vpn-enterprise",
        "/webhooks/vpn%2Denterprise",
        "/webhooks\\vpn-enterprise",
        "/webhooks/vpn-enterprise;x=1",
        "/webhooks/vpn-enterprise#x",
        "/webhooks/vpn-enterprise%00",
        "/webhooks/vpn-enterprise%20",
        "/webhooks/vpn-enterprise%0d%0aX-A:%201",
        "/webhooks/%c0%aevpn",
        "/webhooks/vpn-enterprise\u{e9}",
        "/webhooks/vpn-enterprise\x7f",
        "/webhooks/vpn-enterprise\x01",
        "/webhooks/vpn-enterprise x",
        "/webhooks/vpn-enterprise%2f..%2f",
        "/webhooks/vpn-enterprise%5c",
        "/webhooks/vpn-enterprise/%2e%2e/vpn-enterprise",
        "/webhooks/%e0%80%afvpn-enterprise",
        "http://x@hooks.test/webhooks/vpn-enterprise",
        "http:///webhooks/vpn-enterprise",
        "http:/webhooks/vpn-enterprise",
        "ftp://hooks.test/webhooks/vpn-enterprise",
    ];
    let cases = targets
        .into_iter()
        .map(|target| (target, raw().target(target)))
        .collect();
    assert_all_rejected(cases, &[400, 404]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn path_spelling_cannot_reach_other_route() {
    // Traefik's CVE-2025-66490: `%2F` and `..` bypassed the rule that guarded the other route.
    let (open, guarded) = (Upstream::ok(), Upstream::ok());
    let other = "[{env: WEBHOOK_SECRET_OLD}]";
    let routes = [
        Route::to(&guarded).named("a").with("secrets", other),
        Route::to(&open).named("b"),
        Route::to(&guarded)
            .with("name", "below")
            .with("path", "/webhooks/b/c")
            .with("secrets", other),
    ];
    let gateway = Gateway::start(Setup::new(routes)).await;
    let event = event();
    for target in [
        "/webhooks/b/../a",
        "/webhooks/b%2f..%2fa",
        "/webhooks/b/%2e%2e/a",
        "/webhooks/b;/../a",
        "/webhooks/b//c",
        "/webhooks/b%2fc",
        "/webhooks/b/./c",
        "/webhooks/b\\..\\a",
    ] {
        let response = gateway.send(event.post().at(target)).await;
        assert!(
            [400, 404].contains(&response.status),
            "{target}: {response:?}"
        );
    }
    open.assert_untouched();
    guarded.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_method_is_rejected_with_its_body() {
    let methods = ["GET", "PUT", "OPTIONS", "TRACE", "post", "Post", "PROPFIND"];
    let cases = methods
        .into_iter()
        .map(|method| (method, raw().start(&format!("{method} {PATH} HTTP/1.1"))))
        .collect();
    assert_all_rejected(cases, &[405]).await;
    let connect = vec![
        ("CONNECT", raw().start("CONNECT hooks.test:443 HTTP/1.1")),
        (
            "CONNECT to the path",
            raw().start(&format!("CONNECT {PATH} HTTP/1.1")),
        ),
    ];
    assert_all_rejected(connect, &[400, 404, 405, 0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unexpected_body_is_not_a_request() {
    // A proxy that expects no body with GET reads the body as the next request (RFC 9110 §9.3.1).
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let hidden = Event::new("evt_hidden").post().bytes();
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "DELETE"] {
        let raw = raw().start(&format!("{method} {PATH} HTTP/1.1"));
        let length = format!("Content-Length: {}\r\n", hidden.len());
        for raw in [
            raw.framed(&length).payload(hidden.clone()),
            chunked()
                .start(&format!("{method} {PATH} HTTP/1.1"))
                .payload(chunks(&hidden, 10)),
        ] {
            let mut client = gateway.connect().await;
            client.write(&raw.bytes()).await;
            client.write(&Event::new("evt_next").post().bytes()).await;
            let all = client.rest().await;
            assert!(all.starts_with("HTTP/1.1 405 "), "{method}: {all}");
            assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{method}: {all}");
        }
    }
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_with_body_needs_a_route_that_lists_get() {
    let upstream = Upstream::ok();
    let lists_get = Route::to(&upstream)
        .named("get")
        .with("methods", "[POST, GET]");
    let gateway = Gateway::start(Setup::new([Route::to(&upstream), lists_get])).await;
    let get = |id: &str| Event::new(id).post().method("GET");
    let mut http2 = gateway.connect_h2().await;
    for response in [
        gateway.send(get("evt_1")).await,
        http2.send(get("evt_1")).await,
    ] {
        response.assert_problem(405, "method_not_allowed");
    }
    upstream.assert_untouched();
    for response in [
        gateway.send(get("evt_2").at("/webhooks/get")).await,
        http2.send(get("evt_3").at("/webhooks/get")).await,
    ] {
        response.assert(200, "delivered");
    }
    assert_eq!(upstream.last().method, "GET");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_chunk_is_rejected() {
    let body = String::from_utf8(event().body).expect("text");
    let size = format!("{:x}", body.len());
    let coded = |first: String, rest: &str| chunked().payload(format!("{first}{body}{rest}"));
    let good = "\r\n0\r\n\r\n";
    let cases = vec![
        ("0x", coded(format!("0x{size}\r\n"), good)),
        ("plus", coded(format!("+{size}\r\n"), good)),
        ("minus", coded(format!("-{size}\r\n"), good)),
        ("space before", coded(format!(" {size}\r\n"), good)),
        ("NUL after", coded(format!("{size}\0\r\n"), good)),
        ("a list", coded(format!("{size},{size}\r\n"), good)),
        (
            "2^64 + the right one",
            coded(format!("1{size:0>16}\r\n"), good),
        ),
        (
            "underscore",
            coded(format!("{}_{}\r\n", &size[..1], &size[1..]), good),
        ),
        ("no digit", coded("Z\r\n".into(), good)),
        ("17 digits", coded(format!("1{size:0>16}\r\n"), good)),
        ("LF after the size", coded(format!("{size}\n"), good)),
        ("CR after the size", coded(format!("{size}\r"), good)),
        (
            "CR CR LF after the size",
            coded(format!("{size}\r\r\n"), good),
        ),
        (
            "LF after the data",
            coded(format!("{size}\r\n"), "\n0\r\n\r\n"),
        ),
        (
            "nothing after the data",
            coded(format!("{size}\r\n"), "0\r\n\r\n"),
        ),
        (
            "the last chunk inside the data",
            coded(format!("{size}\r\n"), "!!0\r\n\r\n"),
        ),
        (
            "more data than said",
            coded(format!("{size}\r\n"), "!!\r\n0\r\n\r\n"),
        ),
        (
            "CR in an extension",
            coded(format!("{size};a\rX\r\n"), good),
        ),
        (
            "an endless trailer",
            coded(
                format!("{size}\r\n"),
                &format!("\r\n0\r\nX: {}\r\n\r\n", "x".repeat(70_000)),
            ),
        ),
        (
            "an endless extension",
            coded(format!("{size};{}\r\n", "x".repeat(70_000)), good),
        ),
    ];
    assert_all_rejected(cases, &[400, 408]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_chunked_body_hides_no_request() {
    // Pingora reads a chunk without a size as the last one. A proxy in front may keep reading, so
    // the gateway rejects it instead of guessing.
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let mut client = gateway.connect().await;
    client.write(&chunked().payload("\r\n\r\n").bytes()).await;
    client
        .write(&Event::new("evt_smuggled").post().bytes())
        .await;
    let response = client.read_response().await;
    assert!([400, 401, 408].contains(&response.status), "{response:?}");
    client.wait_for_close().await;
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunk_extensions_change_no_byte() {
    // Pingora accepts these. The gateway frames the forwarded body itself, and the signature covers
    // its bytes.
    let numbered = |n: usize| Event::new(&format!("evt_{n}"));
    let endings = [
        "\r\n",
        " \r\n",
        "\t\r\n",
        ";\r\n",
        ";a=b\r\n",
        ";\n\r\n",
        "; a=\"\n0\"\r\n",
    ];
    assert_all_accepted(
        endings
            .into_iter()
            .enumerate()
            .map(|(n, ending): (usize, &'static str)| {
                let body = numbered(n).body;
                let coded = [
                    format!("{:x}{ending}", body.len()).as_bytes(),
                    &body,
                    b"\r\n0\r\n\r\n",
                ]
                .concat();
                (
                    ending,
                    numbered(n),
                    Raw::new(&numbered(n))
                        .framed("Transfer-Encoding: chunked\r\n")
                        .payload(coded),
                )
            })
            .collect(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_chunked_body_is_not_delivered() {
    let mut cut = chunked();
    cut.payload.truncate(cut.payload.len() - 5);
    let mut half_end = chunked();
    half_end.payload.truncate(half_end.payload.len() - 2);
    assert_all_rejected(
        vec![("no last chunk", cut), ("half a last chunk", half_end)],
        &[400, 408],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_are_ignored() {
    let signature = raw().signature;
    let mut in_trailer = chunked();
    in_trailer.payload.truncate(in_trailer.payload.len() - 2);
    in_trailer
        .payload
        .extend(format!("{signature}\r\n").bytes());
    in_trailer.signature = String::new();
    assert_all_rejected(vec![("signature in a trailer", in_trailer)], &[400, 401]).await;

    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for (number, trailer) in [
        "Content-Length: 99",
        "Host: other",
        "Transfer-Encoding: chunked",
        "Hookstile-Event-Id: x",
    ]
    .iter()
    .enumerate()
    {
        let event = Event::new(&format!("evt_{number}"));
        let mut raw = Raw::new(&event)
            .framed("Transfer-Encoding: chunked\r\n")
            .payload(chunks(&event.body, 10));
        raw.payload.truncate(raw.payload.len() - 2);
        raw.payload.extend(format!("{trailer}\r\n\r\n").bytes());
        let response = gateway
            .connect()
            .await
            .send_raw(&raw.bytes())
            .await
            .expect("an answer");
        assert!(
            [(200, "delivered"), (400, "malformed_request")]
                .contains(&(response.status, response.outcome())),
            "{trailer}: {response:?}"
        );
        if response.status == 200 {
            let received = upstream.last();
            assert_eq!(received.body, event.body, "{trailer}");
            received.assert_header("Content-Length", &event.body.len().to_string());
            received.assert_header("Hookstile-Event-Id", &format!("evt_{number}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2c_trailers_are_ignored() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    let event = event();
    let signature = sign(SECRET, &event.body);
    let unsigned = event.post().without("X-VPN-Signature");
    let response = gateway
        .connect_h2()
        .await
        .try_send(unsigned, &[("x-vpn-signature", &signature)])
        .await;
    assert!(response.is_none_or(|response| [400, 401].contains(&response.status)));
    upstream.assert_untouched();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_h2c_length_is_not_delivered() {
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for wrong in [event().body.len() - 1, event().body.len() + 1, 0] {
        let request = event().post().header("Content-Length", &wrong.to_string());
        let response = gateway.connect_h2().await.try_send(request, &[]).await;
        assert!(
            response
                .as_ref()
                .is_none_or(|response| response.status == 400),
            "{wrong}: {response:?}"
        );
    }
    upstream.assert_untouched();
    gateway
        .connect_h2()
        .await
        .send(event())
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_is_ignored() {
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: hooks.test\r\n\r\n";
    for upgrade in ["websocket", "h2c", "foo"] {
        let upstream = Upstream::ok();
        let gateway = Gateway::start(Route::to(&upstream)).await;
        let lines = format!(
            "Upgrade: {upgrade}\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n"
        );
        let raw = raw()
            .with(&lines)
            .payload([event().body, smuggled.into()].concat());
        let mut client = gateway.connect().await;
        let response = client.send_raw(&raw.bytes()).await.expect("an answer");
        assert!(
            [(200, "delivered"), (400, "malformed_request")]
                .contains(&(response.status, response.outcome())),
            "{response:?}"
        );
        let following = client.read_response().await;
        following.assert(404, "unknown_route");
        following.assert_header("Connection", "close");
        client.wait_for_close().await;
        assert!(
            upstream
                .requests()
                .iter()
                .all(|received| received.target == "/receiver" && !received.headers.has("Upgrade"))
        );
        assert!(upstream.count() <= 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_request_is_never_forwarded() {
    let smuggled = format!("POST {PATH} HTTP/1.1\r\nHost: hooks.test\r\nContent-Length: 0\r\n\r\n");
    let upstream = Upstream::ok();
    let gateway = Gateway::start(Route::to(&upstream)).await;
    for (number, framed) in [false, true].into_iter().enumerate() {
        let event = Event::new(&format!("evt_{number}"));
        let mut raw = Raw::new(&event);
        if framed {
            raw = raw
                .framed("Transfer-Encoding: chunked\r\n")
                .payload(chunks(&event.body, 10));
        }
        raw.payload.extend(smuggled.bytes());
        let mut client = gateway.connect().await;
        let response = client.send_raw(&raw.bytes()).await.expect("an answer");
        response.assert(200, "delivered");
        let following = client.read_response().await;
        following.assert(401, "invalid_signature");
        following.assert_header("Connection", "close");
        client.wait_for_close().await;
        assert_canonical(&upstream.last(), &event.body, "followed");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zero_length_body_excludes_its_tail() {
    let tail = "GET /smuggled HTTP/1.1\r\nHost: hooks.test\r\n\r\n";
    let cases = vec![
        ("CL.0", raw().framed("Content-Length: 0\r\n").payload(tail)),
        ("no length", raw().framed("").payload(tail)),
    ];
    assert_all_rejected(cases, &[400, 401]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_valid_requests_are_made_canonical() {
    let numbered = |n: usize| Event::new(&format!("evt_{n}"));
    let plain = |n: usize| Raw::new(&numbered(n));
    let chunked = |n: usize, te: &str| plain(n).framed(te).payload(chunks(&numbered(n).body, 10));
    let cases = vec![
        (
            "CHUNKED",
            numbered(0),
            chunked(0, "Transfer-Encoding: CHUNKED\r\n"),
        ),
        (
            "tab before chunked",
            numbered(1),
            chunked(1, "Transfer-Encoding:\tchunked\r\n"),
        ),
        (
            "space after chunked",
            numbered(2),
            chunked(2, "Transfer-Encoding: chunked \r\n"),
        ),
        (
            "no space after the colon",
            numbered(3),
            chunked(3, "transfer-encoding:chunked\r\n"),
        ),
        (
            "Host with a port",
            numbered(4),
            plain(4).host("Host: hooks.test:8080\r\n"),
        ),
        (
            "Host is IPv6",
            numbered(5),
            plain(5).host("Host: [::1]:8080\r\n"),
        ),
        (
            "absolute target",
            numbered(7),
            plain(7).target(&format!("http://hooks.test{PATH}")),
        ),
        (
            "empty query",
            numbered(6),
            plain(6).target(&format!("{PATH}?")),
        ),
        (
            "upper-case chunk size",
            numbered(8),
            plain(8)
                .framed("Transfer-Encoding: chunked\r\n")
                .payload(format!(
                    "{:X}\r\n{}\r\n0\r\n\r\n",
                    numbered(8).body.len(),
                    String::from_utf8_lossy(&numbered(8).body)
                )),
        ),
        (
            "zeros before a chunk size",
            numbered(9),
            plain(9)
                .framed("Transfer-Encoding: chunked\r\n")
                .payload(format!(
                    "000{:x}\r\n{}\r\n000\r\n\r\n",
                    numbered(9).body.len(),
                    String::from_utf8_lossy(&numbered(9).body)
                )),
        ),
    ];
    assert_all_accepted(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_header_fields_are_rejected() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).with("limits", "{header_bytes: 8KiB}");
    let gateway = Gateway::start(setup).await;
    let many = (0..400).fold(event().post(), |request, n| {
        request.header(&format!("X-{n}"), "1")
    });
    let bulky = (0..100).fold(event().post(), |request, n| {
        request.header(&format!("X-{n}"), &"x".repeat(200))
    });
    let cases = [
        (
            "one value over the limit",
            event().post().header("X-Large", &"x".repeat(9_000)),
        ),
        (
            "far over the limit",
            event().post().header("X-Large", &"x".repeat(2_000_000)),
        ),
        ("many fields", many),
        ("many bytes in many fields", bulky),
        (
            "a long target",
            event().post().at(&format!("{PATH}?{}", "x".repeat(9_000))),
        ),
        (
            "a long name",
            event().post().header(&"X".repeat(9_000), "1"),
        ),
    ];
    for (flaw, request) in cases {
        let response = gateway.send(request).await;
        assert_eq!(
            (response.status, response.outcome()),
            (431, "headers_too_large"),
            "{flaw}"
        );
    }
    upstream.assert_untouched();
    gateway
        .send(event().post().header("X-Fits", &"x".repeat(7_000)))
        .await
        .assert(200, "delivered");
}
