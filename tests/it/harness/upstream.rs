//! Fake receivers: scripted answers on a free port, and a record of every connection, byte and request.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::patience::eventually;
use super::tls::Identity;
use super::wire::{Headers, Kind, Message, Reader};

/// Holds an answer back until the test opens it.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Gate {
    pub fn shut() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    pub fn open(&self) {
        self.0.close();
    }

    async fn opened(&self) {
        let _ = self.0.acquire().await;
    }
}

/// What a receiver does with one request.
#[derive(Clone)]
pub struct Reply {
    gate: Option<Gate>,
    bytes: Vec<u8>,
    after: After,
}

#[derive(Clone, Copy, PartialEq)]
enum After {
    KeepAlive,
    Close,
    Stall,
}

impl Reply {
    /// `200 OK` with the body `OK`.
    pub fn ok() -> Self {
        Self::full(200, "X-App: fake\r\n", b"OK")
    }

    /// Any status with a short body.
    pub fn status(status: u16) -> Self {
        Self::full(status, "", format!("upstream says {status}").as_bytes())
    }

    /// A status, extra header lines (each ending in CRLF) and a body where the status has one.
    pub fn full(status: u16, lines: &str, body: &[u8]) -> Self {
        if status < 200 || status == 204 || status == 304 {
            return Self::raw(format!("HTTP/1.1 {status} Scripted\r\n{lines}\r\n"));
        }
        let head = format!("HTTP/1.1 {status} Scripted\r\n{lines}Content-Length: {}\r\n\r\n", body.len());
        Self::raw([head.as_bytes(), body].concat())
    }

    /// Exactly these bytes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { gate: None, bytes: bytes.into(), after: After::KeepAlive }
    }

    /// Reads the request and says nothing, until the other side goes.
    pub fn hang() -> Self {
        Self { gate: None, bytes: Vec::new(), after: After::Stall }
    }

    /// Reads the request and closes without an answer.
    pub fn cut() -> Self {
        Self::raw([]).then_close()
    }

    pub fn after(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Closes the connection after the answer, without having said so.
    pub fn then_close(mut self) -> Self {
        self.after = After::Close;
        self
    }

    /// Leaves the answer as far as it is written, and the connection open.
    pub fn then_stall(mut self) -> Self {
        self.after = After::Stall;
        self
    }
}

/// One request as it reached a receiver.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    /// The head's bytes as they came.
    pub head: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    #[track_caller]
    pub fn assert_header(&self, name: &str, value: &str) {
        assert_eq!(self.headers.all(name), [value], "header {name} at the upstream");
    }

    #[track_caller]
    pub fn assert_no_header(&self, name: &str) {
        assert!(!self.headers.has(name), "header {name} reached the upstream: {:?}", self.headers.all(name));
    }

    fn new(message: Message, connection: usize) -> Self {
        let mut words = message.start.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        Self {
            method: word(),
            target: word(),
            headers: message.headers,
            body: message.body,
            head: message.head,
            connection,
        }
    }
}

#[derive(Default)]
struct Record {
    connections: AtomicUsize,
    open: AtomicUsize,
    bytes: Arc<AtomicUsize>,
    failed_handshakes: AtomicUsize,
    requests: Mutex<Vec<Received>>,
}

/// A receiver under the test's control. Stops with its handle.
pub struct Upstream {
    address: SocketAddr,
    scheme: &'static str,
    record: Arc<Record>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// Answers everything with `200 OK`.
    pub fn ok() -> Self {
        Self::replying([Reply::ok()])
    }

    /// Answers the first request with the first reply and so on; the last one for all that follow.
    pub fn replying(replies: impl Into<Vec<Reply>>) -> Self {
        Self::on(bind(), replies.into(), None)
    }

    /// The same behind TLS.
    pub fn tls(identity: Identity, replies: impl Into<Vec<Reply>>) -> Self {
        Self::on(bind(), replies.into(), Some(identity))
    }

    fn on(socket: TcpSocket, replies: Vec<Reply>, identity: Option<Identity>) -> Self {
        let listener = socket.listen(1024).expect("listen");
        let address = listener.local_addr().expect("an address");
        let record = Arc::new(Record::default());
        let scheme = if identity.is_some() { "https" } else { "http" };
        let accepting = tokio::spawn(accept(listener, Arc::new(replies), identity, record.clone()));
        Self { address, scheme, record, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address a route hands events over to.
    pub fn url(&self) -> String {
        format!("{}://{}/receiver", self.scheme, self.address)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.record.open.load(Ordering::SeqCst)
    }

    /// Request bytes read so far, on all connections (behind TLS: decrypted ones).
    pub fn bytes(&self) -> usize {
        self.record.bytes.load(Ordering::SeqCst)
    }

    pub fn failed_handshakes(&self) -> usize {
        self.record.failed_handshakes.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<Received> {
        self.record.requests.lock().expect("no panic in the fake").clone()
    }

    /// How many requests have arrived.
    pub fn count(&self) -> usize {
        self.record.requests.lock().expect("no panic in the fake").len()
    }

    pub fn last(&self) -> Received {
        self.requests().pop().expect("a request reached the upstream")
    }

    /// The event IDs in the order of arrival.
    pub fn event_ids(&self) -> Vec<String> {
        let id = |r: &Received| r.header("Hookgate-Event-Id").unwrap_or_default().to_owned();
        self.requests().iter().map(id).collect()
    }

    pub async fn received(&self, count: usize) {
        eventually("the upstream receives the request", async || self.count() >= count).await;
    }

    #[track_caller]
    pub fn assert_untouched(&self) {
        assert_eq!((self.connections(), self.bytes()), (0, 0), "connections and bytes at the upstream");
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A port that refuses connections and that nobody else can take, until a receiver starts on it.
pub struct ClosedPort(TcpSocket);

impl ClosedPort {
    pub fn new() -> Self {
        Self(bind())
    }

    pub fn url(&self) -> String {
        format!("http://{}/receiver", self.0.local_addr().expect("an address"))
    }

    pub fn open(self, replies: impl Into<Vec<Reply>>) -> Upstream {
        Upstream::on(self.0, replies.into(), None)
    }
}

/// A listener whose backlog is full: connecting to it neither succeeds nor fails.
pub struct NeverAccepts {
    listener: TcpListener,
    queued: Vec<TcpStream>,
}

impl NeverAccepts {
    pub async fn new() -> Self {
        let listener = bind().listen(0).expect("listen");
        let address = listener.local_addr().expect("an address");
        let mut queued = Vec::new();
        // The kernel takes one more than the backlog; when a connect does not come back, it is full.
        while let Ok(Ok(stream)) =
            tokio::time::timeout(std::time::Duration::from_millis(300), TcpStream::connect(address)).await
        {
            queued.push(stream);
            assert!(queued.len() < 64, "the backlog never fills");
        }
        Self { listener, queued }
    }

    pub fn url(&self) -> String {
        format!("http://{}/receiver", self.listener.local_addr().expect("an address"))
    }

    /// Starts accepting after all.
    pub fn accept(self) -> Upstream {
        let address = self.listener.local_addr().expect("an address");
        let record = Arc::new(Record::default());
        drop(self.queued); // or they would be the first to be served
        let accepting = tokio::spawn(accept(self.listener, Arc::new(vec![Reply::ok()]), None, record.clone()));
        Upstream { address, scheme: "http", record, accepting }
    }
}

fn bind() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    socket
}

async fn accept(listener: TcpListener, replies: Arc<Vec<Reply>>, identity: Option<Identity>, record: Arc<Record>) {
    while let Ok((stream, _)) = listener.accept().await {
        let number = record.connections.fetch_add(1, Ordering::SeqCst);
        record.open.fetch_add(1, Ordering::SeqCst);
        let (replies, record, identity) = (replies.clone(), record.clone(), identity.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let _ = match identity {
                None => serve(stream, number, &replies, &record).await,
                Some(identity) => match identity.accept(stream).await {
                    Ok(stream) => serve(stream, number, &replies, &record).await,
                    Err(error) => {
                        record.failed_handshakes.fetch_add(1, Ordering::SeqCst);
                        Err(error)
                    }
                },
            };
            record.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve<S>(mut stream: S, connection: usize, replies: &[Reply], record: &Record) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reader = Reader::counting(record.bytes.clone());
    while let Some(message) = reader.message(&mut stream, Kind::Request).await? {
        let number = {
            let mut requests = record.requests.lock().expect("no panic in the fake");
            requests.push(Received::new(message, connection));
            requests.len() - 1
        };
        let reply = replies.get(number).or(replies.last()).expect("at least one reply");
        if let Some(gate) = &reply.gate {
            tokio::select! {
                () = gate.opened() => {}
                _ = reader.rest(&mut stream) => return Ok(()),
            }
        }
        stream.write_all(&reply.bytes).await?;
        stream.flush().await?;
        match reply.after {
            After::KeepAlive => {}
            After::Close => {
                let _ = stream.shutdown().await;
                return Ok(());
            }
            After::Stall => {
                reader.rest(&mut stream).await;
                return Ok(());
            }
        }
    }
    Ok(())
}
