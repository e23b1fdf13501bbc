//! Fake upstreams: scripted replies on a free port, and a record of every connection, byte, request
//! and attempt.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::history::Attempt;
use super::tls::Identity;
use super::wait::eventually;
use super::wire::{Headers, Kind, Message, Reader};

/// Holds a reply back until the test opens it.
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

/// The handling of one request by a fake upstream.
#[derive(Clone)]
pub struct Reply {
    gate: Option<Gate>,
    pause: Duration,
    bytes: Bytes,
    after: After,
}

#[derive(Clone, Copy, PartialEq)]
enum After {
    KeepAlive,
    Close,
    Stall,
}

impl Reply {
    /// Replies `200 OK` with the body `OK`.
    pub fn ok() -> Self {
        Self::full(200, "X-App: fake\r\n", b"OK")
    }

    /// Replies any status with a short body.
    pub fn status(status: u16) -> Self {
        Self::full(status, "", format!("upstream says {status}").as_bytes())
    }

    /// Replies a status, extra header lines (each ending in CRLF), and a body if the status allows
    /// one.
    pub fn full(status: u16, lines: &str, body: &[u8]) -> Self {
        if status < 200 || status == 204 || status == 304 {
            return Self::raw(format!("HTTP/1.1 {status} Scripted\r\n{lines}\r\n"));
        }
        let head = format!(
            "HTTP/1.1 {status} Scripted\r\n{lines}Content-Length: {}\r\n\r\n",
            body.len()
        );
        Self::raw([head.as_bytes(), body].concat())
    }

    /// Replies exactly these bytes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            gate: None,
            pause: Duration::ZERO,
            bytes: bytes.into().into(),
            after: After::KeepAlive,
        }
    }

    /// Reads the request and sends nothing until the other side hangs up.
    pub fn hang() -> Self {
        Self::raw([]).then_stall()
    }

    /// Reads the request and closes the connection without a reply.
    pub fn disconnect() -> Self {
        Self::raw([]).then_close()
    }

    pub fn after(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Waits this long before the reply.
    pub fn slowly(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Closes the connection after the reply, without announcing it.
    pub fn then_close(mut self) -> Self {
        self.after = After::Close;
        self
    }

    /// Leaves the reply unfinished and the connection open.
    pub fn then_stall(mut self) -> Self {
        self.after = After::Stall;
        self
    }

    /// Returns the status at the start of the reply's bytes, if any.
    fn status_code(&self) -> Option<u16> {
        let code = self.bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        str::from_utf8(code).ok()?.parse().ok()
    }

    /// Waits until the reply may be sent.
    async fn wait_until_due(&self) {
        if let Some(gate) = &self.gate {
            gate.opened().await;
        }
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
    }

    fn is_held_back(&self) -> bool {
        self.gate.is_some() || !self.pause.is_zero()
    }
}

/// The choice of the reply to a request.
enum Script {
    /// The first reply for the first request and so on; the last one for all that follow.
    InTurn(Vec<Reply>),
    /// A function of the request and of the number of the attempt at its event, from 1.
    Decided(Box<Decide>),
}

type Decide = dyn Fn(&Received, usize) -> Reply + Send + Sync;

impl Script {
    fn reply(&self, request: &Received, arrival: usize, attempt: usize) -> Reply {
        match self {
            Self::InTurn(replies) => replies
                .get(arrival)
                .or(replies.last())
                .expect("at least one reply")
                .clone(),
            Self::Decided(decide) => decide(request, attempt),
        }
    }
}

/// A request as it reached the upstream.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    /// The raw bytes of the head.
    pub head: Vec<u8>,
    /// The number of the connection, from 0.
    pub connection: usize,
    pub at: Instant,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    #[track_caller]
    pub fn assert_header(&self, name: &str, value: &str) {
        assert_eq!(
            self.headers.all(name),
            [value],
            "header {name} at the upstream"
        );
    }

    #[track_caller]
    pub fn assert_no_header(&self, name: &str) {
        assert!(
            !self.headers.has(name),
            "header {name} reached the upstream: {:?}",
            self.headers.all(name)
        );
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
            at: Instant::now(),
        }
    }
}

#[derive(Default)]
struct Record {
    connections: AtomicUsize,
    open: AtomicUsize,
    bytes: Arc<AtomicUsize>,
    failed_handshakes: AtomicUsize,
    arrivals: Mutex<Arrivals>,
}

#[derive(Default)]
struct Arrivals {
    requests: Vec<Received>,
    /// The end of each request: as many entries as requests, in the same order.
    ends: Vec<End>,
    /// The arrivals of each event, by its ID.
    of_event: HashMap<String, Vec<usize>>,
}

#[derive(Default)]
struct End {
    ended: Option<Instant>,
    status: Option<u16>,
    /// The connection of an attempt that has not ended: it shows whether the gateway has closed it.
    connection: Option<Arc<Socket>>,
}

impl Record {
    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().expect("no panic in the fake")
    }

    /// Records an attempt; returns the number of the arrival, from 0, and of the attempt at its
    /// event, from 1.
    fn begin_attempt(&self, request: Received, connection: &Arc<Socket>) -> (usize, usize) {
        let mut arrivals = self.arrivals();
        let Arrivals {
            requests,
            ends,
            of_event,
        } = &mut *arrivals;
        let same = of_event
            .entry(
                request
                    .header("Hookstile-Event-Id")
                    .unwrap_or_default()
                    .to_owned(),
            )
            .or_default();
        for earlier in same.iter() {
            // A gateway that gave up or was killed has closed its end before it starts another
            // attempt. A close that this task has not processed yet is no overlap.
            let end = &mut ends[*earlier];
            if end
                .connection
                .as_ref()
                .is_some_and(|connection| hung_up(connection))
            {
                *end = End {
                    ended: Some(request.at),
                    ..End::default()
                };
            }
        }
        same.push(requests.len());
        let attempt = same.len();
        requests.push(request);
        ends.push(End {
            connection: Some(Arc::clone(connection)),
            ..End::default()
        });
        (requests.len() - 1, attempt)
    }

    /// Records the end of the attempt. This precedes the reply's bytes, because the gateway may act
    /// on them at once.
    fn end_attempt(&self, arrival: usize) {
        let end = &mut self.arrivals().ends[arrival];
        end.connection = None;
        end.ended.get_or_insert_with(Instant::now);
    }

    fn record_status(&self, arrival: usize, status: Option<u16>) {
        self.arrivals().ends[arrival].status = status;
    }
}

/// Returns whether the other side has closed the connection, without waiting or consuming bytes.
fn hung_up(connection: &Socket) -> bool {
    match connection.peek(&mut [MaybeUninit::uninit()]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// An upstream under the test's control. It stops with its handle.
pub struct Upstream {
    address: SocketAddr,
    scheme: &'static str,
    record: Arc<Record>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// Replies `200 OK` to everything.
    pub fn ok() -> Self {
        Self::replying([Reply::ok()])
    }

    /// Replies to the first request with the first reply and so on; the last one for all that
    /// follow.
    pub fn replying(replies: impl Into<Vec<Reply>>) -> Self {
        Self::start(bind(), Script::InTurn(replies.into()), None)
    }

    /// Replies as the function decides from the request and the number of the attempt at its event,
    /// from 1.
    pub fn deciding(decide: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(bind(), Script::Decided(Box::new(decide)), None)
    }

    /// Replies `200 OK` to everything, on this address. Port 0 is any free one.
    pub fn at(address: impl Into<SocketAddr>) -> Self {
        let reply = Script::InTurn(vec![Reply::ok()]);
        Self::start(bind_to(address.into()), reply, None)
    }

    /// Replies in turn, behind TLS.
    pub fn tls(identity: Identity, replies: impl Into<Vec<Reply>>) -> Self {
        Self::start(bind(), Script::InTurn(replies.into()), Some(identity))
    }

    fn start(socket: TcpSocket, script: Script, identity: Option<Identity>) -> Self {
        let listener = socket.listen(1024).expect("listen");
        let address = listener.local_addr().expect("an address");
        let record = Arc::new(Record::default());
        let scheme = if identity.is_some() { "https" } else { "http" };
        let accepting = tokio::spawn(accept(listener, Arc::new(script), identity, record.clone()));
        Self {
            address,
            scheme,
            record,
            accepting,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL to which a route delivers events.
    pub fn url(&self) -> String {
        format!("{}://{}/receiver", self.scheme, self.address)
    }

    /// Returns the number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// Returns the number of connections that are open now.
    pub fn open(&self) -> usize {
        self.record.open.load(Ordering::SeqCst)
    }

    /// Returns the number of request bytes read so far, on all connections (behind TLS: decrypted
    /// ones).
    pub fn bytes(&self) -> usize {
        self.record.bytes.load(Ordering::SeqCst)
    }

    pub fn failed_handshakes(&self) -> usize {
        self.record.failed_handshakes.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> Vec<Received> {
        self.record.arrivals().requests.clone()
    }

    /// Returns the number of requests that have arrived.
    pub fn count(&self) -> usize {
        self.record.arrivals().requests.len()
    }

    /// Returns the requests with this event, in the order of arrival.
    pub fn requests_for(&self, id: &str) -> Vec<Received> {
        let arrivals = self.record.arrivals();
        arrivals
            .of_event
            .get(id)
            .into_iter()
            .flatten()
            .map(|arrival| arrivals.requests[*arrival].clone())
            .collect()
    }

    /// Returns every attempt so far, in the order of arrival.
    pub fn attempts(&self) -> Vec<Attempt> {
        let arrivals = self.record.arrivals();
        arrivals
            .requests
            .iter()
            .zip(&arrivals.ends)
            .map(|(request, end): (&Received, &End)| Attempt {
                id: request
                    .header("Hookstile-Event-Id")
                    .unwrap_or_default()
                    .to_owned(),
                body: request.body.clone(),
                began: request.at,
                ended: end.ended,
                status: end.status,
                marked: request.header("Hookstile-Possible-Duplicate") == Some("true"),
            })
            .collect()
    }

    /// Returns the highest number of attempts that were open at one time.
    pub fn most_concurrent(&self) -> usize {
        let attempts = self.attempts();
        attempts
            .iter()
            .map(|Attempt { began: moment, .. }| {
                attempts
                    .iter()
                    .filter(|other| other.began <= *moment)
                    .filter(|other| other.ended.is_none_or(|ended| ended > *moment))
                    .count()
            })
            .max()
            .unwrap_or(0)
    }

    pub fn last(&self) -> Received {
        self.requests()
            .pop()
            .expect("a request reached the upstream")
    }

    /// Returns the event IDs in the order of arrival.
    pub fn event_ids(&self) -> Vec<String> {
        self.requests()
            .iter()
            .map(|r: &Received| {
                r.header("Hookstile-Event-Id")
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    }

    pub async fn wait_for_requests(&self, count: usize) {
        eventually("the upstream receives the request", async || {
            self.count() >= count
        })
        .await;
    }

    #[track_caller]
    pub fn assert_untouched(&self) {
        assert_eq!(
            (self.connections(), self.bytes()),
            (0, 0),
            "connections and bytes at the upstream"
        );
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A reserved port that refuses connections until an upstream starts on it. No other process gets
/// it, except by asking for exactly this port.
pub struct ClosedPort(TcpSocket);

impl ClosedPort {
    pub fn new() -> Self {
        Self(bind())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    pub fn url(&self) -> String {
        format!("http://{}/receiver", self.address())
    }

    pub fn open(self, replies: impl Into<Vec<Reply>>) -> Upstream {
        Upstream::start(self.0, Script::InTurn(replies.into()), None)
    }
}

/// A listener whose backlog is full: connecting to it neither succeeds nor fails.
pub struct NeverAccepts {
    listener: TcpListener,
    queued: Vec<TcpStream>,
}

impl NeverAccepts {
    pub async fn new() -> Self {
        Self::at(([127, 0, 0, 1], 0)).await
    }

    pub async fn at(address: impl Into<SocketAddr>) -> Self {
        let listener = bind_to(address.into()).listen(0).expect("listen");
        let address = listener.local_addr().expect("an address");
        let mut queued = Vec::new();
        // The kernel takes one more than the backlog. When a connect does not return, the backlog
        // is full.
        while let Ok(Ok(stream)) = tokio::time::timeout(
            std::time::Duration::from_millis(300),
            TcpStream::connect(address),
        )
        .await
        {
            queued.push(stream);
            assert!(queued.len() < 64, "the backlog never fills");
        }
        Self { listener, queued }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    pub fn url(&self) -> String {
        format!("http://{}/receiver", self.address())
    }

    /// Starts accepting.
    pub fn accept(self) -> Upstream {
        let address = self.listener.local_addr().expect("an address");
        let record = Arc::new(Record::default());
        drop(self.queued); // or they would be the first to be served
        let accepting = tokio::spawn(accept(
            self.listener,
            Arc::new(Script::InTurn(vec![Reply::ok()])),
            None,
            record.clone(),
        ));
        Upstream {
            address,
            scheme: "http",
            record,
            accepting,
        }
    }
}

fn bind() -> TcpSocket {
    bind_to(SocketAddr::from(([127, 0, 0, 1], 0)))
}

fn bind_to(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .set_reuseaddr(true)
        .expect("a port that is reserved but may still be listened on");
    socket.bind(address).expect("a free port");
    socket
}

async fn accept(
    listener: TcpListener,
    script: Arc<Script>,
    identity: Option<Identity>,
    record: Arc<Record>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let number = record.connections.fetch_add(1, Ordering::SeqCst);
        record.open.fetch_add(1, Ordering::SeqCst);
        let (script, record, identity) = (script.clone(), record.clone(), identity.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let socket = stream
                .as_fd()
                .try_clone_to_owned()
                .expect("a file descriptor to spare");
            let connection = Connection {
                number,
                socket: Arc::new(socket.into()),
            };
            let _ = match identity {
                None => handle_connection(stream, connection, &script, &record).await,
                Some(identity) => match identity.accept(stream).await {
                    Ok(stream) => handle_connection(stream, connection, &script, &record).await,
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

struct Connection {
    number: usize,
    /// A second handle of the socket, so that another task can see whether it was closed.
    socket: Arc<Socket>,
}

async fn handle_connection<S>(
    mut stream: S,
    connection: Connection,
    script: &Script,
    record: &Record,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut reader = Reader::counting(record.bytes.clone());
    while let Some(message) = reader.message(&mut stream, Kind::Request).await? {
        let request = Received::new(message, connection.number);
        let (arrival, attempt) = record.begin_attempt(request.clone(), &connection.socket);
        let reply = script.reply(&request, arrival, attempt);
        if reply.is_held_back() {
            tokio::select! {
                () = reply.wait_until_due() => {}
                _ = reader.rest(&mut stream) => {
                    record.end_attempt(arrival);
                    return Ok(());
                }
            }
        }
        if reply.after == After::Stall {
            stream.write_all(&reply.bytes).await?;
            stream.flush().await?;
            reader.rest(&mut stream).await;
            record.end_attempt(arrival);
            return Ok(());
        }
        record.end_attempt(arrival);
        stream.write_all(&reply.bytes).await?;
        stream.flush().await?;
        record.record_status(arrival, reply.status_code());
        if reply.after == After::Close {
            let _ = stream.shutdown().await;
            return Ok(());
        }
    }
    Ok(())
}
