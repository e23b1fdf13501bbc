//! Senders: signed events, requests as bytes, a keep-alive HTTP/1.1 client and an h2c client.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::gateway::{PATH, SECRET};
use super::tls::{Issued, Trust};
use super::wait::within;
use super::wire::{Headers, Kind, Message, Reader};

/// Returns the HMAC-SHA256 as lower-case hex.
pub fn hmac_hex(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any key length");
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// Returns the signature header's value as the provider writes it.
pub fn sign(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", hmac_hex(secret, body))
}

/// Returns the SHA-256 as hex. Bodies are compared by it, so that a failure does not print a
/// megabyte.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// An event of the provider.
#[derive(Clone)]
pub struct Event {
    pub body: Vec<u8>,
}

impl Event {
    pub fn new(id: &str) -> Self {
        Self::typed(id, "user.created")
    }

    pub fn typed(id: &str, event_type: &str) -> Self {
        Self::raw(format!(
            r#"{{"id":"{id}","type":"{event_type}","data":{{"n":1}}}}"#
        ))
    }

    pub fn raw(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into() }
    }

    /// Creates a JSON event of exactly this many bytes, without long repetitions.
    pub fn sized(id: &str, length: usize) -> Self {
        let start = format!(r#"{{"id":"{id}","type":"user.created","data":""#);
        let filler = (0..).map(|n: u32| b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26);
        let mut body = start.into_bytes();
        body.extend(filler.take(length - body.len() - 2));
        body.extend(b"\"}");
        Self { body }
    }

    /// Returns the request that a genuine provider sends for the event.
    pub fn post(&self) -> Request {
        self.signed_with(SECRET)
    }

    pub fn signed_with(&self, secret: &str) -> Request {
        Request::post(&self.body).header("X-VPN-Signature", &sign(secret, &self.body))
    }

    /// Returns the same request from a sender who does not know the secret.
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

    /// Replaces all fields of this name.
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

    /// Neither declares a length nor uses chunks: only the given fields are sent.
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
                head.extend(format!("Content-Length: {}\r\n", self.body.len()).bytes());
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

/// Encodes a body in chunks of this size, including the last chunk.
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

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    pub fn outcome(&self) -> &str {
        self.header("Hookstile-Outcome").unwrap_or("(no outcome)")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts the status and exactly one `Hookstile-Outcome` with this value.
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

    /// Asserts an error response of the gateway: RFC 9457, with this `code`.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str) -> &Self {
        self.assert(status, code);
        let content_type = self.header("Content-Type").unwrap_or_default();
        assert!(
            content_type.starts_with("application/problem+json"),
            "content type {content_type:?}"
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

    /// Asserts a `Retry-After` in whole seconds, at least one.
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

/// An HTTP/1.1 connection to the gateway.
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

    /// Connects from another address of this machine, such as 127.0.0.2.
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

    /// Connects with a receive buffer so small that a response can't stay there unread.
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

    /// Connects, or returns `None` if no process listens there.
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

    /// Upgrades the connection to TLS.
    ///
    /// # Errors
    /// Returns an error if the handshake fails.
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

/// A connection to a Unix socket.
impl Client<UnixStream> {
    /// Connects, or returns `None` if nobody listens there.
    pub async fn connect_unix(path: &Path) -> Option<Self> {
        let stream = within("connect", UnixStream::connect(path)).await.ok()?;
        Some(Self {
            stream,
            reader: Reader::default(),
        })
    }
}

/// A connection over TLS, made with a [`Trust`].
impl Client<TlsStream<TcpStream>> {
    /// # Errors
    /// Returns an error if the handshake fails.
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

    /// Returns the protocol that both sides negotiated.
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

    /// Hangs up without TLS' close notification.
    pub fn reset(self) {
        self.stream
            .into_inner()
            .0
            .set_zero_linger()
            .expect("a socket option");
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Client<S> {
    /// Turns the connection into an HTTP/2 one.
    pub async fn h2(self) -> H2Client {
        H2Client::over(self.stream).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Sends and reads at the same time, so that an early response is received and an unread body
    /// blocks nothing.
    pub async fn send(&mut self, request: impl Into<Request>) -> Response {
        let request = request.into();
        let kind = if request.method == "HEAD" {
            Kind::ResponseToHead
        } else {
            Kind::Response
        };
        self.exchange(&request.bytes(), kind)
            .await
            .expect("a response, not a closed connection")
    }

    /// Sends a request; returns `None` if the connection was closed instead.
    pub async fn try_send(&mut self, request: impl Into<Request>) -> Option<Response> {
        self.send_raw(&request.into().bytes()).await
    }

    /// Sends any bytes and reads one final response; returns `None` if the connection was closed
    /// instead.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Option<Response> {
        self.exchange(bytes, Kind::Response).await
    }

    /// Writes bytes and reads nothing. Writing to a closed connection does nothing.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = within("write", self.stream.write_all(bytes)).await;
    }

    /// Writes bytes and reads nothing. Returns `false` if the connection is closed.
    pub async fn write_some(&mut self, bytes: &[u8]) -> bool {
        within("write", self.stream.write_all(bytes)).await.is_ok()
    }

    /// Writes one byte at a time until all are written or a response begins; returns the response.
    pub async fn trickle(&mut self, bytes: &[u8], pause: Duration) -> Option<Response> {
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
        let response = async {
            tokio::select! {
                response = final_response(reader, &mut read, Kind::Response) => response,
                () = &mut writing => unreachable!("pends for ever"),
            }
        };
        within("a response to slow bytes", response).await
    }

    /// Reads the next response, which may be a `100 Continue`.
    pub async fn read_response(&mut self) -> Response {
        let message = within(
            "an answer",
            self.reader.message(&mut self.stream, Kind::Response),
        )
        .await;
        Response::new(
            message
                .expect("a complete response")
                .expect("a response, not a closed connection"),
        )
    }

    /// Waits until the gateway closes this connection; no more bytes may arrive on it.
    #[track_caller]
    pub fn wait_for_close(&mut self) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let rest = within(
                "the gateway closes the connection",
                self.reader.rest(&mut self.stream),
            )
            .await;
            assert!(
                rest.is_empty(),
                "more bytes on a connection that must close: {:?} ({at})",
                String::from_utf8_lossy(&rest)
            );
        }
    }

    /// Reads everything until the gateway closes this connection.
    pub async fn rest(&mut self) -> String {
        let rest = within(
            "the gateway closes the connection",
            self.reader.rest(&mut self.stream),
        )
        .await;
        String::from_utf8_lossy(&rest).into_owned()
    }

    async fn exchange(&mut self, bytes: &[u8], kind: Kind) -> Option<Response> {
        let (mut read, mut write) = tokio::io::split(&mut self.stream);
        let writing = async {
            let _ = write.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        let response = async {
            tokio::select! {
                response = final_response(&mut self.reader, &mut read, kind) => response,
                () = writing => unreachable!("pends for ever"),
            }
        };
        within("an answer", response).await
    }
}

async fn final_response<R>(reader: &mut Reader, from: &mut R, kind: Kind) -> Option<Response>
where
    R: tokio::io::AsyncRead + Unpin,
{
    loop {
        let response = Response::new(reader.message(from, kind).await.ok()??);
        if response.status >= 200 {
            return Some(response);
        }
    }
}

/// A cleartext HTTP/2 connection to the gateway, by prior knowledge.
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

    pub async fn send(&mut self, request: impl Into<Request>) -> Response {
        self.try_send(request, &[])
            .await
            .expect("a response, not a reset stream")
    }

    /// Sends a request with trailers; returns `None` if the stream was reset instead.
    pub async fn try_send(
        &mut self,
        request: impl Into<Request>,
        trailers: &[(&str, &str)],
    ) -> Option<Response> {
        let request = request.into();
        within("a response over HTTP/2", self.exchange(request, trailers))
            .await
            .ok()
    }

    /// Sends head and body, leaves the stream open, and returns the response that arrives
    /// nevertheless.
    pub async fn send_unfinished(&mut self, request: Request) -> Response {
        let sending = async {
            let mut sender = self.sender.clone().ready().await?;
            let (response_future, mut stream) = sender.send_request(h2_head(&request), false)?;
            stream.send_data(Bytes::from(request.body.clone()), false)?;
            receive(response_future).await
        };
        within("a response over HTTP/2", sending)
            .await
            .expect("a response, not a reset stream")
    }

    async fn exchange(
        &mut self,
        request: Request,
        trailers: &[(&str, &str)],
    ) -> Result<Response, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (response_future, mut stream) = sender.send_request(h2_head(&request), false)?;
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
        let ((), response) = tokio::join!(sending, receive(response_future));
        response
    }
}

async fn receive(response_future: h2::client::ResponseFuture) -> Result<Response, h2::Error> {
    let (head, mut content) = response_future.await?.into_parts();
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
    Ok(Response {
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
