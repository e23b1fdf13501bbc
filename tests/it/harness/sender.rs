//! Senders: signed events, requests as bytes, a kept-alive HTTP/1.1 client and an h2c client.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

use super::gateway::{PATH, SECRET};
use super::patience::within;
use super::tls::{Issued, Trust};
use super::wire::{Headers, Kind, Message, Reader};

/// HMAC-SHA256 as lower-case hex.
pub fn hmac_hex(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key length");
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// The signature header's value as the provider writes it.
pub fn sign(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", hmac_hex(secret, body))
}

/// SHA-256 as hex: bodies are compared by it, so that a failure does not print a megabyte.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// What a provider has to tell.
#[derive(Clone)]
pub struct Event {
    pub body: Vec<u8>,
}

impl Event {
    pub fn new(id: &str) -> Self {
        Self::typed(id, "user.created")
    }

    pub fn typed(id: &str, kind: &str) -> Self {
        Self::raw(format!(
            r#"{{"id":"{id}","type":"{kind}","data":{{"n":1}}}}"#
        ))
    }

    pub fn raw(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into() }
    }

    /// A JSON event of exactly so many bytes, none of them like its neighbours for long.
    pub fn sized(id: &str, length: usize) -> Self {
        let start = format!(r#"{{"id":"{id}","type":"user.created","data":""#);
        let filler = (0..).map(|n: u32| b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26);
        let mut body = start.into_bytes();
        body.extend(filler.take(length - body.len() - 2));
        body.extend(b"\"}");
        Self { body }
    }

    /// The request a genuine provider makes of it.
    pub fn post(&self) -> Request {
        self.signed_with(SECRET)
    }

    pub fn signed_with(&self, secret: &str) -> Request {
        Request::post(&self.body).header("X-VPN-Signature", &sign(secret, &self.body))
    }

    /// The same request by somebody who does not know the secret.
    pub fn forged(&self) -> Request {
        self.signed_with("not the secret")
    }
}

#[derive(Clone, Copy)]
enum Framing {
    Length,
    Chunks(usize),
    None,
}

/// A request, down to its bytes.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    framing: Framing,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        let headers = vec![("Host".to_owned(), "hooks.test".to_owned())];
        Self {
            method: method.into(),
            target: target.into(),
            headers,
            body: Vec::new(),
            framing: Framing::None,
        }
    }

    pub fn post(body: &[u8]) -> Self {
        let request = Self::new("POST", PATH).header("Content-Type", "application/json");
        Self {
            body: body.to_vec(),
            framing: Framing::Length,
            ..request
        }
    }

    /// Adds a field; the same name may be added twice.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// Puts the field in the place of any other of this name.
    pub fn set(self, name: &str, value: &str) -> Self {
        self.without(name).header(name, value)
    }

    pub fn at(mut self, target: &str) -> Self {
        self.target = target.into();
        self
    }

    pub fn method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    /// Sends the body in chunks of this size instead of declaring its length.
    pub fn chunked(mut self, size: usize) -> Self {
        self.framing = Framing::Chunks(size);
        self
    }

    /// Neither declares a length nor chunks: the fields given are all there is.
    pub fn unframed(mut self) -> Self {
        self.framing = Framing::None;
        self
    }

    pub fn head_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            head.extend(format!("{name}: {value}\r\n").bytes());
        }
        match self.framing {
            Framing::Length => {
                head.extend(format!("Content-Length: {}\r\n", self.body.len()).bytes())
            }
            Framing::Chunks(_) => head.extend(b"Transfer-Encoding: chunked\r\n"),
            Framing::None => {}
        }
        head.extend(b"\r\n");
        head
    }

    pub fn body_bytes(&self) -> Vec<u8> {
        match self.framing {
            Framing::Chunks(size) => chunks(&self.body, size),
            _ => self.body.clone(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head_bytes(), self.body_bytes()].concat()
    }
}

impl From<Event> for Request {
    fn from(event: Event) -> Self {
        event.post()
    }
}

/// A body in the chunked coding, last chunk included.
pub fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let mut coded = Vec::new();
    for chunk in body.chunks(size) {
        coded.extend(format!("{:x}\r\n", chunk.len()).bytes());
        coded.extend(chunk);
        coded.extend(b"\r\n");
    }
    coded.extend(b"0\r\n\r\n");
    coded
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    pub fn outcome(&self) -> &str {
        self.header("Hookstile-Outcome").unwrap_or("(no outcome)")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The status, and exactly one `Hookstile-Outcome` with this value.
    #[track_caller]
    pub fn assert(&self, status: u16, outcome: &str) -> &Self {
        assert_eq!(
            (self.status, self.outcome()),
            (status, outcome),
            "{self:?}: {}",
            self.text()
        );
        assert_eq!(
            self.headers.all("Hookstile-Outcome").len(),
            1,
            "one outcome: {self:?}"
        );
        self
    }

    /// An error the gateway made: RFC 9457, with our `code`.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str) -> &Self {
        self.assert(status, code);
        let kind = self.header("Content-Type").unwrap_or_default();
        assert!(
            kind.starts_with("application/problem+json"),
            "content type {kind:?}"
        );
        let problem: Value = serde_json::from_slice(&self.body).expect("a problem is JSON");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        for member in ["type", "title", "detail"] {
            assert!(
                problem[member]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{member} in {problem}"
            );
        }
        self
    }

    #[track_caller]
    pub fn assert_event_id(&self, id: &str) -> &Self {
        assert_eq!(self.headers.all("Hookstile-Event-Id"), [id], "{self:?}");
        self
    }

    #[track_caller]
    pub fn assert_header(&self, name: &str, value: &str) -> &Self {
        assert_eq!(self.headers.all(name), [value], "{self:?}");
        self
    }

    /// `Retry-After` in whole seconds, at least one.
    #[track_caller]
    pub fn assert_retry_after(&self) -> &Self {
        let seconds = self
            .header("Retry-After")
            .and_then(|value| value.parse::<u64>().ok());
        assert!(
            seconds.is_some_and(|seconds| seconds >= 1),
            "Retry-After: {self:?}"
        );
        self
    }

    fn new(message: Message) -> Self {
        let status = message
            .start
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {:?}", message.start));
        Self {
            status,
            headers: message.headers,
            body: message.body,
        }
    }
}

/// One HTTP/1.1 connection to the gateway.
pub struct Client<S = TcpStream> {
    stream: S,
    reader: Reader,
}

impl Client {
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = within("connect", TcpStream::connect(to))
            .await
            .expect("the gateway accepts");
        stream.set_nodelay(true).expect("a socket option");
        Self {
            stream,
            reader: Reader::default(),
        }
    }

    /// From another address of this machine, such as 127.0.0.2.
    pub async fn connect_from(from: IpAddr, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind((from, 0).into())
            .expect("an address of this machine");
        let stream = within("connect", socket.connect(to))
            .await
            .expect("the gateway accepts");
        Self {
            stream,
            reader: Reader::default(),
        }
    }

    /// With room for so few bytes that an answer can't lie there unread.
    pub async fn connect_narrow(to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a socket option");
        let stream = within("connect", socket.connect(to))
            .await
            .expect("the gateway accepts");
        Self {
            stream,
            reader: Reader::default(),
        }
    }

    /// `None` when nobody listens there.
    pub async fn try_connect(to: SocketAddr) -> Option<Self> {
        let stream = within("connect", TcpStream::connect(to)).await.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self {
            stream,
            reader: Reader::default(),
        })
    }

    /// Hangs up as a crashed sender does.
    pub fn reset(self) {
        self.stream.set_zero_linger().expect("a socket option");
    }

    /// The same connection under TLS.
    ///
    /// # Errors
    /// When there was no handshake.
    pub async fn secure(
        self,
        trust: &Trust,
        name: &str,
        protocols: &[&str],
    ) -> io::Result<Client<TlsStream<TcpStream>>> {
        let stream = within(
            "a TLS handshake",
            trust.connect(self.stream, name, protocols),
        )
        .await?;
        Ok(Client {
            stream,
            reader: Reader::default(),
        })
    }
}

/// A connection that is a [`Trust`]'s.
impl Client<TlsStream<TcpStream>> {
    /// # Errors
    /// When there was no handshake.
    pub async fn connect_tls(
        to: SocketAddr,
        trust: &Trust,
        name: &str,
        protocols: &[&str],
    ) -> io::Result<Self> {
        Client::connect(to)
            .await
            .secure(trust, name, protocols)
            .await
    }

    /// What both sides have agreed to speak.
    pub fn protocol(&self) -> Option<String> {
        self.stream
            .get_ref()
            .1
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned())
    }

    pub fn was_shown(&self, issued: &Issued) -> bool {
        let shown = self
            .stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first);
        shown.is_some_and(|shown| shown.as_ref() == issued.der)
    }

    /// Hangs up without TLS' farewell.
    pub fn reset(self) {
        self.stream
            .into_inner()
            .0
            .set_zero_linger()
            .expect("a socket option");
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Client<S> {
    /// The same connection for HTTP/2.
    pub async fn h2(self) -> H2Client {
        H2Client::over(self.stream).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Sends and reads at the same time: an early answer is seen, and a body that nobody reads blocks nothing.
    pub async fn send(&mut self, request: impl Into<Request>) -> Answer {
        let request = request.into();
        let kind = if request.method == "HEAD" {
            Kind::ResponseToHead
        } else {
            Kind::Response
        };
        self.exchange(&request.bytes(), kind)
            .await
            .expect("an answer, not a closed connection")
    }

    /// `None` when the connection was closed instead.
    pub async fn try_send(&mut self, request: impl Into<Request>) -> Option<Answer> {
        self.send_raw(&request.into().bytes()).await
    }

    /// Sends bytes, whatever they are, and reads one final answer; `None` when the connection was closed instead.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Option<Answer> {
        self.exchange(bytes, Kind::Response).await
    }

    /// Writes bytes and reads nothing. A connection that is closed already swallows them.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = within("write", self.stream.write_all(bytes)).await;
    }

    /// Writes bytes and reads nothing. `false` when the connection is closed.
    pub async fn write_some(&mut self, bytes: &[u8]) -> bool {
        within("write", self.stream.write_all(bytes)).await.is_ok()
    }

    /// Writes one byte at a time until all are written or the other side answers, and returns the answer.
    pub async fn trickle(&mut self, bytes: &[u8], pause: Duration) -> Option<Answer> {
        let (mut read, mut write) = tokio::io::split(&mut self.stream);
        let reader = &mut self.reader;
        let mut writing = std::pin::pin!(async {
            for byte in bytes {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(pause).await;
            }
            std::future::pending::<()>().await;
        });
        let answer = async {
            tokio::select! {
                answer = final_answer(reader, &mut read, Kind::Response) => answer,
                () = &mut writing => unreachable!("pends for ever"),
            }
        };
        within("an answer to a trickle", answer).await
    }

    /// The next answer, a `100 Continue` included.
    pub async fn answer(&mut self) -> Answer {
        let message = within(
            "an answer",
            self.reader.message(&mut self.stream, Kind::Response),
        )
        .await;
        Answer::new(
            message
                .expect("a whole answer")
                .expect("an answer, not a closed connection"),
        )
    }

    /// Waits for the gateway to close this connection; nothing more may come on it.
    #[track_caller]
    pub fn closed(&mut self) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let rest = within(
                "the gateway closes the connection",
                self.reader.rest(&mut self.stream),
            )
            .await;
            assert!(
                rest.is_empty(),
                "more on a connection to be closed: {:?} ({at})",
                String::from_utf8_lossy(&rest)
            );
        }
    }

    /// Everything that still comes until the gateway closes this connection.
    pub async fn rest(&mut self) -> String {
        let rest = within(
            "the gateway closes the connection",
            self.reader.rest(&mut self.stream),
        )
        .await;
        String::from_utf8_lossy(&rest).into_owned()
    }

    async fn exchange(&mut self, bytes: &[u8], kind: Kind) -> Option<Answer> {
        let (mut read, mut write) = tokio::io::split(&mut self.stream);
        let writing = async {
            let _ = write.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        let answer = async {
            tokio::select! {
                answer = final_answer(&mut self.reader, &mut read, kind) => answer,
                () = writing => unreachable!("pends for ever"),
            }
        };
        within("an answer", answer).await
    }
}

async fn final_answer<R>(reader: &mut Reader, from: &mut R, kind: Kind) -> Option<Answer>
where
    R: tokio::io::AsyncRead + Unpin,
{
    loop {
        let answer = Answer::new(reader.message(from, kind).await.ok()??);
        if answer.status >= 200 {
            return Some(answer);
        }
    }
}

/// One cleartext HTTP/2 connection to the gateway, by prior knowledge.
#[derive(Clone)]
pub struct H2Client {
    sender: h2::client::SendRequest<Bytes>,
}

impl H2Client {
    pub async fn connect(to: SocketAddr) -> Self {
        Self::over(
            within("connect", TcpStream::connect(to))
                .await
                .expect("the gateway accepts"),
        )
        .await
    }

    async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Self {
        let handshake = within("HTTP/2 handshake", h2::client::handshake(stream)).await;
        let (sender, connection) = handshake.expect("the gateway speaks HTTP/2");
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { sender }
    }

    pub async fn send(&mut self, request: impl Into<Request>) -> Answer {
        self.try_send(request, &[])
            .await
            .expect("an answer, not a reset stream")
    }

    /// Sends a request with trailers; `None` when the stream was reset instead of answered.
    pub async fn try_send(
        &mut self,
        request: impl Into<Request>,
        trailers: &[(&str, &str)],
    ) -> Option<Answer> {
        let request = request.into();
        within("an answer over HTTP/2", self.exchange(request, trailers))
            .await
            .ok()
    }

    /// Sends head and body and leaves the stream open; the answer that comes all the same.
    pub async fn send_unfinished(&mut self, request: Request) -> Answer {
        let sending = async {
            let mut sender = self.sender.clone().ready().await?;
            let (response, mut stream) = sender.send_request(h2_head(&request), false)?;
            stream.send_data(Bytes::from(request.body.clone()), false)?;
            receive(response).await
        };
        within("an answer over HTTP/2", sending)
            .await
            .expect("an answer, not a reset stream")
    }

    async fn exchange(
        &mut self,
        request: Request,
        trailers: &[(&str, &str)],
    ) -> Result<Answer, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(h2_head(&request), false)?;
        let mut body = Bytes::from(request.body);
        let sending = async move {
            while !body.is_empty() {
                stream.reserve_capacity(body.len());
                let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await
                else {
                    return;
                };
                let _ = stream.send_data(body.split_to(room.min(body.len())), false);
            }
            if trailers.is_empty() {
                let _ = stream.send_data(Bytes::new(), true);
            } else {
                let _ = stream.send_trailers(h2_fields(trailers.iter().copied()));
            }
        };
        let ((), answer) = tokio::join!(sending, receive(response));
        answer
    }
}

async fn receive(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut content) = response.await?.into_parts();
    let mut body = Vec::new();
    while let Some(data) = content.data().await {
        let data = data?;
        content.flow_control().release_capacity(data.len())?;
        body.extend(data);
    }
    let text =
        |value: &http::HeaderValue| value.as_bytes().iter().copied().map(char::from).collect();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: Headers(headers),
        body,
    })
}

fn h2_head(request: &Request) -> http::Request<()> {
    let host = request
        .headers
        .iter()
        .find(|(name, _)| name == "Host")
        .map_or("hooks.test", |(_, value)| value);
    let mut head = http::Request::new(());
    *head.version_mut() = http::Version::HTTP_2;
    *head.method_mut() = request.method.parse().expect("a method");
    *head.uri_mut() = format!("http://{host}{}", request.target)
        .parse()
        .expect("a target");
    let fields = request.headers.iter().filter(|(name, _)| name != "Host");
    *head.headers_mut() = h2_fields(fields.map(|(name, value)| (name.as_str(), value.as_str())));
    head
}

fn h2_fields<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> http::HeaderMap {
    let mut map = http::HeaderMap::new();
    for (name, value) in fields {
        let name = http::HeaderName::from_bytes(name.as_bytes()).expect("a field name");
        map.append(name, value.parse().expect("a field value"));
    }
    map
}
