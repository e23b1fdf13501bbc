mod alike;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pingora_http::ResponseHeader;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::{Chunk, HeadRead, PlainSession};

const HEAD_BYTES: usize = 1024;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

const GET: &[u8] = b"GET /w HTTP/1.1\r\nHost: a\r\n\r\n";

/// Returns the number of requests of `sent` that the gateway's own session reads if they arrive at
/// once; they are read as Pingora reads them, however they arrive.
fn plain_requests(sent: &[u8]) -> usize {
    for step in [1, 7, 40, 200] {
        alike::check(sent, step);
    }
    alike::check(sent, 1 << 20)
}

fn read(session: &mut PlainSession) -> impl Future<Output = HeadRead> {
    session.read_head(HEAD_BYTES, HEAD_TIMEOUT)
}

/// Returns a session and the other end of its connection.
fn connected() -> (PlainSession, DuplexStream) {
    let (sender, connection) = duplex(1 << 20);
    (PlainSession::new(Box::new(connection)), sender)
}

#[test]
fn corpus_reads_alike_on_both_sessions() {
    let plain = [
        "in--plain",
        "in--no_body",
        "in--pipelined",
        "in--length_cut",
    ];
    for (name, sent) in crate::corpus::files("head") {
        let requests = plain_requests(&sent);
        if plain.contains(&&*name) {
            assert!(requests > 0, "{name} is plain");
        }
    }
    for sent in crate::corpus::files("found/head").values() {
        plain_requests(sent);
    }
}

#[test]
fn plain_request_is_read_by_the_gateway() {
    for (sent, requests) in [
        (GET.to_vec(), 1),
        (GET.repeat(3), 3),
        (
            b"POST /w HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
            1,
        ),
        (
            b"POST /w?a=b HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n".to_vec(),
            1,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(),
            1,
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n".to_vec(),
            1,
        ),
    ] {
        assert_eq!(plain_requests(&sent), requests, "{}", sent.escape_ascii());
    }
}

#[test]
fn other_request_is_left_to_pingora() {
    for line in [
        "GET / HTTP/1.0",
        "GET http://a/ HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "CONNECT a:80 HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "\r\nGET / HTTP/1.1",
        "PRI * HTTP/2.0",
    ] {
        let sent = format!("{line}\r\nHost: a\r\n\r\n");
        assert_eq!(plain_requests(sent.as_bytes()), 0, "{line}");
    }
    for fields in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: b@a\r\n",
        "Host: a\r\nTransfer-Encoding: chunked\r\n",
        "Host: a\r\nTransfer-Encoding: identity\r\n",
        "Host: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n",
        "Host: a\r\nContent-Length: 1, 1\r\n",
        "Host: a\r\nContent-Length: +1\r\n",
        "Host: a\r\nContent-Length: 01\r\n",
        "Host: a\r\nContent-Length: \r\n",
        "Host: a\r\nContent-Length: 1234567890123456789\r\n",
        "Host: a\r\nExpect: 100-continue\r\n",
        "Host: a\r\nUpgrade: h2c\r\n",
        "Host: a\r\nConnection: close, x\r\n",
        "Host: a\r\nConnection: close\r\nConnection: close\r\n",
        "Host: a\r\nA: b\r\n c\r\n",
        "Host: a\r\nA : b\r\n",
        "Host: a\r\nA: \0\r\n",
        "Host: a\rA: b\r\n",
    ] {
        let sent = format!("POST / HTTP/1.1\r\n{fields}\r\n1");
        assert_eq!(plain_requests(sent.as_bytes()), 0, "{fields:?}");
    }
    let many = "A: b\r\n".repeat(100);
    let sent = format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n");
    assert_eq!(plain_requests(sent.as_bytes()), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn requests_read_alike_on_both_sessions(
        requests in proptest::collection::vec(request(), 1..4),
        flaw in any::<prop::sample::Index>(),
        byte in select(&b"\r\n\0\t :,;#@%/0a\x7f\xe9"[..]),
        kind in 0..5_u8,
        step in 1..400_usize,
    ) {
        let mut sent = requests.concat();
        let at = flaw.index(sent.len());
        match kind {
            0 => sent[at] = byte,
            1 => sent.insert(at, byte),
            2 => drop(sent.remove(at)),
            3 => sent.truncate(at),
            _ => {}
        }
        alike::check(&sent, step);
        alike::check(&sent, sent.len());
    }
}

/// Returns requests that are plain, or nearly.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let line = select(vec![
        "POST /w HTTP/1.1",
        "POST /w HTTP/1.1",
        "POST /w?a=%20b HTTP/1.1",
        "GET //a/../b HTTP/1.1",
        "M-SEARCH /w HTTP/1.1",
        "POST /w HTTP/1.0",
        "POST http://a/w HTTP/1.1",
    ]);
    let field = select(vec![
        "Host: b",
        "X-Sig:  a b\t",
        "x-sig: c",
        "Content-Type: application/json",
        "CONTENT-length: 3",
        "Connection: close",
        "connection: keep-alive",
        "Connection: x-sig",
        "Transfer-Encoding: chunked",
        "Transfer_Encoding: chunked",
        "Expect: 100-continue",
        "Empty:",
        "Keep-Alive: timeout=5",
    ]);
    let fields = proptest::collection::vec(field, 0..4);
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    (line, fields, body).prop_map(|(line, fields, body)| {
        let mut request = format!("{line}\r\nHost: a\r\n");
        for field in fields {
            request += field;
            request += "\r\n";
        }
        let length = format!("Content-Length: {}\r\n\r\n", body.len());
        request += &length;
        [request.into_bytes(), body].concat()
    })
}

#[tokio::test]
async fn head_over_its_limit_is_left_to_pingora() {
    let (mut session, mut sender) = connected();
    let head = [b"GET /w HTTP/1.1\r\nA: ", &[b'a'; HEAD_BYTES][..]].concat();
    sender.write_all(&head).await.unwrap();
    assert_eq!(read(&mut session).await, HeadRead::Other);
    assert_eq!(session.unread(), head);
}

#[tokio::test(start_paused = true)]
async fn slow_head_is_left_to_pingora() {
    let (mut session, mut sender) = connected();
    sender.write_all(&GET[..5]).await.unwrap();
    assert!(session.wait_for_head().await);
    let began = tokio::time::Instant::now();
    assert_eq!(read(&mut session).await, HeadRead::Other);
    assert!(began.elapsed() > HEAD_TIMEOUT / 2);
    assert_eq!(session.unread(), &GET[..5]);
}

#[tokio::test]
async fn head_in_pieces_is_read() {
    let (mut session, mut sender) = connected();
    let (start, end) = GET.split_at(GET.len() / 2);
    sender.write_all(start).await.unwrap();
    assert!(session.wait_for_head().await);
    sender.write_all(end).await.unwrap();
    assert_eq!(read(&mut session).await, HeadRead::Plain);
    assert_eq!(session.raw_head(), GET);
}

#[tokio::test]
async fn body_is_read_up_to_its_end_only() {
    let (mut session, mut sender) = connected();
    let request = b"POST /w HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab";
    sender.write_all(request).await.unwrap();
    assert_eq!(read(&mut session).await, HeadRead::Plain);
    assert_eq!(session.room_wanted(), 6);
    let room = BytesMut::with_capacity(6);
    let first = session.read_request_body(room).await.unwrap();
    assert!(matches!(first, Some(Chunk::InRoom(read)) if read == "ab"));
    assert_eq!(session.room_wanted(), 4);
    sender.write_all(&[b"cdef", GET].concat()).await.unwrap();
    let room = BytesMut::with_capacity(100);
    let second = session.read_request_body(room).await.unwrap();
    assert_eq!(&*second.unwrap(), b"cdef");
    let end = session.read_request_body(BytesMut::new()).await.unwrap();
    assert!(end.is_none());
    assert!(session.finish());
    assert!(session.wait_for_head().await);
    assert_eq!(read(&mut session).await, HeadRead::Plain);
    assert_eq!(session.raw_head(), GET);
}

#[tokio::test]
async fn response_has_the_fields_of_pingora() {
    for (method, status, sent_body) in [("GET", 200, "{}"), ("HEAD", 200, ""), ("GET", 204, "")] {
        for close in [false, true] {
            let (mut session, mut sender) = connected();
            let request = format!("{method} /w HTTP/1.1\r\nHost: a\r\n\r\n");
            sender.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(read(&mut session).await, HeadRead::Plain);
            if close {
                session.close_after_response();
            }
            let mut head = ResponseHeader::build(status, None).unwrap();
            head.insert_header("X-case", "1").unwrap();
            head.insert_header("Content-Length", 2).unwrap();
            let pingora = pingora_response(&request, &head, close).await;
            let body = Bytes::from_static(b"{}");
            session.write_response(Box::new(head), body).await.unwrap();
            assert_eq!(session.finish(), !close);
            drop(session);
            let mut written = String::new();
            sender.read_to_string(&mut written).await.unwrap();
            assert_eq!(without_date(&written), without_date(&pingora));
            assert!(written.contains("\r\nDate: ") && written.ends_with(sent_body));
        }
    }
}

/// Returns what Pingora's session writes.
async fn pingora_response(request: &str, head: &ResponseHeader, close: bool) -> String {
    let (mut sender, connection) = duplex(1 << 20);
    let mut session = pingora_core::protocols::http::ServerSession::new_http1(Box::new(connection));
    sender.write_all(request.as_bytes()).await.unwrap();
    assert!(session.read_request().await.unwrap());
    if close {
        session.set_keepalive(None);
    }
    let head = Box::new(head.clone());
    session.write_response_header(head).await.unwrap();
    let body = Bytes::from_static(b"{}");
    session.write_response_body(body, true).await.unwrap();
    drop(session);
    let mut written = String::new();
    sender.read_to_string(&mut written).await.unwrap();
    written
}

/// Returns a response without the value of its Date, which may have gone on meanwhile.
fn without_date(response: &str) -> String {
    let lines = response.split_inclusive("\r\n");
    lines
        .map(|line| {
            if line.starts_with("Date: ") {
                "Date"
            } else {
                line
            }
        })
        .collect()
}

#[tokio::test]
async fn large_response_is_written_whole() {
    let (mut session, mut sender) = connected();
    sender.write_all(GET).await.unwrap();
    assert_eq!(read(&mut session).await, HeadRead::Plain);
    let body = Bytes::from(vec![b'x'; 300_000]);
    let mut head = ResponseHeader::build(200, None).unwrap();
    head.insert_header("Content-Length", body.len()).unwrap();
    let written = session.write_response(Box::new(head), body.clone());
    written.await.unwrap();
    drop(session);
    let mut written = Vec::new();
    sender.read_to_end(&mut written).await.unwrap();
    assert!(written.ends_with(&body) && written.starts_with(b"HTTP/1.1 200 OK\r\n"));
}
