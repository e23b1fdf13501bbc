//! Holds the gateway's own session to Pingora's: what it reads, Pingora reads the same from the same
//! bytes, up to the same byte.
//!
//! Shared by the unit tests and the fuzz target, and so uses the public interface only.

use std::io::Cursor;
use std::time::Duration;

use bytes::BytesMut;
use pingora_core::protocols::http::ServerSession;
use tokio::io::{AsyncWriteExt as _, duplex};

use super::{HeadRead, PlainSession};

/// The most bytes of a head.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// No head takes that long, since all bytes are there.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Returns how many requests the gateway's own session reads from a connection on which `sent`
/// arrives, at most `step` bytes with each read. Panics if Pingora's session reads otherwise.
pub(super) fn check(sent: &[u8], step: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime").block_on(async {
        let (mut sender, connection) = duplex(step.max(1));
        let all = sent.to_vec();
        // The connection ends behind the last byte.
        tokio::spawn(async move { sender.write_all(&all).await });
        let mut session = PlainSession::new(Box::new(connection));
        let (mut requests, mut begin) = (0, 0);
        loop {
            let request = &sent[begin..];
            match session.read_head(HEADER_BYTES_MAX, HEAD_TIMEOUT).await {
                HeadRead::Plain => {}
                HeadRead::Other => {
                    let unread = session.unread();
                    assert!(request.starts_with(unread), "every byte is left to Pingora");
                    return requests;
                }
                HeadRead::Ended => return requests,
            }
            requests += 1;
            let Some(size) = read_alike(&mut session, request).await else {
                return requests;
            };
            begin += size;
        }
    })
}

/// Reads on the request whose head `session` has read, which is the first of `sent`. Returns its
/// size if it is complete and another may follow.
async fn read_alike(session: &mut PlainSession, sent: &[u8]) -> Option<usize> {
    let mut pingora = ServerSession::new_http1(Box::new(Cursor::new(sent.to_vec())));
    pingora.set_read_timeout(None);
    pingora.set_pipelining_enabled(true);
    pingora.set_close_on_response_before_downstream_finish(false);
    let read = pingora.read_request().await;
    assert!(matches!(read, Ok(true)), "Pingora does not read it");
    let (ours, theirs) = (session.req_header(), pingora.req_header());
    assert_eq!(ours.method, theirs.method);
    assert_eq!(ours.uri, theirs.uri);
    assert_eq!(ours.raw_path(), theirs.raw_path());
    assert_eq!(ours.version, theirs.version);
    assert_eq!(ours.headers, theirs.headers);
    let ours = ours.case_header_iter();
    let ours: Vec<_> = ours.map(|(name, _)| name.as_slice()).collect();
    let theirs = theirs.case_header_iter();
    let theirs: Vec<_> = theirs.map(|(name, _)| name.as_slice()).collect();
    assert_eq!(ours, theirs, "names are spelled otherwise");
    let raw = pingora
        .as_http1()
        .expect("HTTP/1.1")
        .get_headers_raw_bytes();
    assert_eq!(session.raw_head(), &raw);
    assert_eq!(raw, sent[..raw.len()], "the head is not the first one");

    let (mut body, mut same) = (Vec::new(), Vec::new());
    let is_whole = loop {
        match session.read_request_body(BytesMut::new()).await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    let is_whole_there = loop {
        match pingora.read_request_body().await {
            Ok(Some(chunk)) => same.extend_from_slice(&chunk),
            Ok(None) => break true,
            Err(_) => break false,
        }
    };
    assert_eq!(is_whole, is_whole_there, "one of them misses the end");
    assert_eq!(body, same, "another body");
    if !is_whole {
        return None;
    }
    let size = raw.len() + body.len();
    assert_eq!(body, sent[raw.len()..size], "the body follows the head");
    let is_kept = session.finish();
    let reusable = pingora.finish().await.expect("the end of the request");
    assert_eq!(is_kept, reusable.is_some(), "only one of them goes on");
    assert!(
        sent[size..].starts_with(session.unread()),
        "other bytes behind it"
    );
    is_kept.then_some(size)
}
