//! HTTP/2 streams and connections by the thousand.

use super::assert_harmless;
use crate::harness::frames::*;
use crate::harness::*;

const STREAMS: u32 = 100;

/// 1,024 heads of 32 KiB, with 36 KiB for their streams, are 68 MiB. Displaced ones are freed when their
/// core gives them their turn, so on a busy machine there are some times as many for a moment. That is far
/// below the bound of docs/memory.md (180 MiB for the streams, and 512 for bodies and heads).
const LARGE_HEADS_MIB: u64 = 320;

/// `SETTINGS_INITIAL_WINDOW_SIZE` (RFC 9113 §6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Returns the fields of a forged request with this content length and more fields.
fn forged<'a>(length: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", "hooks.test"),
        ("x-vpn-signature", FORGED),
        ("content-length", length),
    ];
    block(fields.into_iter().chain(more.iter().copied()))
}

const FORGED: &str = "sha256=0000000000000000000000000000000000000000000000000000000000000000";

/// Returns the frames of each stream, one after the other.
fn on_each_stream(frames: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..STREAMS).flat_map(|n| frames(1 + 2 * n)).collect()
}

/// Returns the start of a connection with these frames behind it.
fn connection(frames: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), frames].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_streams_stay_small() {
    let head = forged("1000", &[]);
    let frames = on_each_stream(|stream| {
        [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(DATA, 0, stream, b"x"),
        ]
        .concat()
    });
    assert_harmless("unfinished streams", &connection(&frames), 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_responses_take_little_memory() {
    let head = forged("1", &[]);
    let frames = on_each_stream(|stream| {
        [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(DATA, END_STREAM, stream, b"x"),
        ]
        .concat()
    });
    let bytes = [setting(INITIAL_WINDOW_SIZE, 0), frames].concat();
    assert_harmless("unread responses", &connection(&bytes), 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_heads_take_little_memory() {
    let value = "a".repeat(15_000);
    let head = forged("1000", &[("x-a", &value), ("x-b", &value)]);
    let (first, rest) = head.split_at(16_000);
    let frames = on_each_stream(|stream| {
        [
            frame(HEADERS, 0, stream, first),
            frame(CONTINUATION, END_HEADERS, stream, rest),
        ]
        .concat()
    });
    assert_harmless("large heads", &connection(&frames), LARGE_HEADS_MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_header_blocks_take_little_memory() {
    let head = forged("1000", &[("x-a", &"a".repeat(15_000))]);
    let frames = frame(HEADERS, 0, 1, &head);
    assert_harmless("unfinished header blocks", &connection(&frames), 128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_frames_take_little_memory() {
    let head = forged("1000", &[]);
    let frames = on_each_stream(|stream| {
        let data = frame(DATA, 0, stream, b"x").repeat(300);
        [frame(HEADERS, END_HEADERS, stream, &head), data].concat()
    });
    assert_harmless("frames of one byte", &connection(&frames), 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_streams_take_little_memory() {
    let head = forged("1000", &[]);
    let frames = on_each_stream(|stream| {
        [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
        .concat()
    });
    assert_harmless("reset streams", &connection(&frames), 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_pongs_take_little_memory() {
    let bytes = frame(PING, 0, 0, &[7; 8]).repeat(3000);
    assert_harmless("unread PONGs", &connection(&bytes), 64).await;
}
