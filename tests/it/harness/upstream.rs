//! Fake receivers: scripted answers on a free port, and a record of every connection, byte, request and attempt.

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
        let head = format!(
            "HTTP/1.1 {status} Scripted\r\n{lines}Content-Length: {}\r\n\r\n",
            body.len()
        );
        Self::raw([head.as_bytes(), body].concat())
    }

    /// Exactly these bytes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            gate: None,
            pause: Duration::ZERO,
            bytes: bytes.into().into(),
            after: After::KeepAlive,
        }
    }

    /// Reads the request and says nothing, until the other side goes.
    pub fn hang() -> Self {
        Self::raw([]).then_stall()
    }

    /// Reads the request and closes without an answer.
    pub fn cut() -> Self {
        Self::raw([]).then_close()
    }

    pub fn after(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// Takes so long over it.
    pub fn slowly(mut self, pause: Duration) -> Self {
        self.pause = pause;
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

    /// The status that its bytes begin with, if any.
    fn code(&self) -> Option<u16> {
        let code = self.bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        str::from_utf8(code).ok()?.parse().ok()
    }

    /// Waits for what holds this answer back.
    async fn due(&self) {
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

/// Which reply a request gets.
enum Script {
    /// The first reply for the first request and so on; the last one for all that follow.
    InTurn(Vec<Reply>),
    /// What this says, told the request and which attempt at its event it is, from 1.
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
    /// How each of the requests ended: as many entries, in the same order.
    ends: Vec<End>,
    /// The arrivals of each event, by its ID.
    of_event: HashMap<String, Vec<usize>>,
}

#[derive(Default)]
struct End {
    ended: Option<Instant>,
    status: Option<u16>,
    /// The connection of an attempt that has not ended: it tells whether the gateway has let go of it.
    connection: Option<Arc<Socket>>,
}

impl Record {
    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().expect("no panic in the fake")
    }

    /// Notes an attempt; returns which arrival it is, from 0, and which at its event, from 1.
    fn begin(&self, request: Received, connection: &Arc<Socket>) -> (usize, usize) {
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
            // A gateway that gave up, or was killed, has closed its end before it could begin anew; that we have
            // not been woken to see it is no overlap.
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

    /// Notes that the attempt is over. This goes before the answer's bytes: the gateway may act on them at once.
    fn end(&self, arrival: usize) {
        let end = &mut self.arrivals().ends[arrival];
        end.connection = None;
        end.ended.get_or_insert_with(Instant::now);
    }

    fn answered(&self, arrival: usize, status: Option<u16>) {
        self.arrivals().ends[arrival].status = status;
    }
}

/// Whether the other side of a connection has closed it; does not wait, and takes nothing from it.
fn hung_up(connection: &Socket) -> bool {
    match connection.peek(&mut [MaybeUninit::uninit()]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
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
        Self::on(bind(), Script::InTurn(replies.into()), None)
    }

    /// Answers as the function says, which is told the request and which attempt at its event it is, from 1.
    pub fn deciding(decide: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::on(bind(), Script::Decided(Box::new(decide)), None)
    }

    /// The same behind TLS.
    pub fn tls(identity: Identity, replies: impl Into<Vec<Reply>>) -> Self {
        Self::on(bind(), Script::InTurn(replies.into()), Some(identity))
    }

    fn on(socket: TcpSocket, script: Script, identity: Option<Identity>) -> Self {
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
        self.record.arrivals().requests.clone()
    }

    /// How many requests have arrived.
    pub fn count(&self) -> usize {
        self.record.arrivals().requests.len()
    }

    /// The requests that brought this event, in the order of arrival.
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

    /// Every attempt so far, in the order of arrival.
    pub fn attempts(&self) -> Vec<Attempt> {
        let arrivals = self.record.arrivals();
        let attempt = |(request, end): (&Received, &End)| Attempt {
            id: request
                .header("Hookstile-Event-Id")
                .unwrap_or_default()
                .to_owned(),
            body: request.body.clone(),
            began: request.at,
            ended: end.ended,
            status: end.status,
            marked: request.header("Hookstile-Possible-Duplicate") == Some("true"),
        };
        arrivals
            .requests
            .iter()
            .zip(&arrivals.ends)
            .map(attempt)
            .collect()
    }

    /// The most attempts that were ever open at one time.
    pub fn most_at_once(&self) -> usize {
        let attempts = self.attempts();
        let open_at = |moment| {
            let open =
                |a: &&Attempt| a.began <= moment && a.ended.is_none_or(|ended| ended > moment);
            attempts.iter().filter(open).count()
        };
        attempts
            .iter()
            .map(|attempt| open_at(attempt.began))
            .max()
            .unwrap_or(0)
    }

    pub fn last(&self) -> Received {
        self.requests()
            .pop()
            .expect("a request reached the upstream")
    }

    /// The event IDs in the order of arrival.
    pub fn event_ids(&self) -> Vec<String> {
        let id = |r: &Received| {
            r.header("Hookstile-Event-Id")
                .unwrap_or_default()
                .to_owned()
        };
        self.requests().iter().map(id).collect()
    }

    pub async fn received(&self, count: usize) {
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

/// A port that refuses connections, until a receiver starts on it, or whoever asks for exactly this one: nobody else gets it.
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
        Upstream::on(self.0, Script::InTurn(replies.into()), None)
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

    pub fn url(&self) -> String {
        format!(
            "http://{}/receiver",
            self.listener.local_addr().expect("an address")
        )
    }

    /// Starts accepting after all.
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
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .set_reuseaddr(true)
        .expect("a port that another may listen on while we only hold it");
    socket
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("a free port");
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
                None => serve(stream, connection, &script, &record).await,
                Some(identity) => match identity.accept(stream).await {
                    Ok(stream) => serve(stream, connection, &script, &record).await,
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
    /// The same socket once more, so that another task can see whether it was closed.
    socket: Arc<Socket>,
}

async fn serve<S>(
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
        let (arrival, attempt) = record.begin(request.clone(), &connection.socket);
        let reply = script.reply(&request, arrival, attempt);
        if reply.is_held_back() {
            tokio::select! {
                () = reply.due() => {}
                _ = reader.rest(&mut stream) => {
                    record.end(arrival);
                    return Ok(());
                }
            }
        }
        if reply.after == After::Stall {
            stream.write_all(&reply.bytes).await?;
            stream.flush().await?;
            reader.rest(&mut stream).await;
            record.end(arrival);
            return Ok(());
        }
        record.end(arrival);
        stream.write_all(&reply.bytes).await?;
        stream.flush().await?;
        record.answered(arrival, reply.code());
        if reply.after == After::Close {
            let _ = stream.shutdown().await;
            return Ok(());
        }
    }
    Ok(())
}
