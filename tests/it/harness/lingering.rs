//! Senders that a stop must not wait for: idle, incomplete, or not reading.

use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, RawHttp2, block, frame, setting};
use super::gateway::{Gateway, PATH, SECRET};
use super::sender::{Client, Event, sign};

/// `SETTINGS_INITIAL_WINDOW_SIZE` (RFC 9113 §6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Open connections of senders that read nothing. None of them answers a PING.
pub struct Lingering {
    _clients: Vec<Client>,
    _frames: Vec<RawHttp2>,
}

impl Lingering {
    /// The number of connections.
    pub const CONNECTIONS: f64 = 9.0;

    pub async fn connect(gateway: &Gateway) -> Self {
        let unfinished = Event::raw("x").post().unframed();
        let head = |name: &str, value: &str| unfinished.clone().header(name, value).head_bytes();
        let mut clients = Vec::new();
        for start in [
            Vec::new(),
            b"POST / HTTP/1.1\r\nHo".to_vec(),
            b"PRI * HTTP/2.0\r".to_vec(),
            [head("Content-Length", "100"), b"x".to_vec()].concat(),
            [head("Transfer-Encoding", "chunked"), b"1\r\nx\r\n".to_vec()].concat(),
            unfinished
                .clone()
                .header("Expect", "100-continue")
                .header("Content-Length", "100")
                .head_bytes(),
        ] {
            let mut client = gateway.connect().await;
            client.write(&start).await;
            clients.push(client);
        }
        let idle = RawHttp2::connect(gateway.public_address()).await;
        let mut incomplete = RawHttp2::connect(gateway.public_address()).await;
        let forged = [head_of(1, "sha256=00"), frame(DATA, 0, 1, b"x")].concat();
        incomplete.write(&forged).await;
        // A verified request whose response cannot be sent.
        let mut deaf = RawHttp2::connect(gateway.public_address()).await;
        let body = Event::new("evt_deaf").body;
        let request = [
            setting(INITIAL_WINDOW_SIZE, 0),
            head_of(1, &sign(SECRET, &body)),
            frame(DATA, END_STREAM, 1, &body),
        ];
        deaf.write(&request.concat()).await;
        Self {
            _clients: clients,
            _frames: vec![idle, incomplete, deaf],
        }
    }
}

fn head_of(stream: u32, signature: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", PATH),
        (":authority", "hooks.test"),
        ("x-vpn-signature", signature),
    ];
    frame(HEADERS, END_HEADERS, stream, &block(fields))
}
