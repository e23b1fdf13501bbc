//! One attempt at delivering a request to its upstream, within a deadline.
//!
//! Owns the connections and the three ends of an attempt: answered, never reached, or unknown.
//! Their consequences for the ledger and the sender are decided by `gateway`.

mod address;
mod addresses;
mod allowed;
mod excerpt;
mod failing;
mod failure;
mod forbidden;
mod idle;
mod race;
mod resolver;
mod target;
mod trust;
mod upload;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use pingora_core::Error as PingoraError;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _};
use pingora_http::ResponseHeader;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{timeout, timeout_at};

pub(crate) use address::Address;
pub(crate) use allowed::{AllowedUpstream, check_url};
pub(crate) use target::Target;
pub(crate) use trust::TrustedCa;

use crate::activity::FailedAttempt;
use crate::backoff::AttemptFailure;
use crate::cause::Cause;
use crate::cores;
use crate::delivery::OutboundRequest;
use crate::metrics::UpstreamResult;
use crate::store::AttemptRecord;
use address::UnixConnector;
use addresses::Addresses;
use failure::{ConnectError, ConnectProgress, connect_cause, response_cause};
use idle::IdleConnections;
use race::race;
use resolver::Resolver;
use upload::Upload;

/// The largest response body that is forwarded, in bytes. Responses to webhooks are short, and
/// senders do not read more than this.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// The number of informational (1xx) responses that are skipped before the final one.
const INFORMATIONAL_MAX: usize = 16;

/// The pause before a second try to connect to a sole address after the first one failed.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// The address that Pingora takes for a Unix socket, which has none.
const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The upstream of a route: its location and its addresses.
pub struct Upstream {
    target: Target,
    /// The route's own headers, which replace the sender's.
    headers: Vec<(HeaderName, HeaderValue)>,
    addresses: Addresses,
}

/// The connections to all upstreams, and the addresses of their names.
pub struct Client {
    connector: TransportConnector,
    idle: Arc<IdleConnections>,
    resolver: Resolver,
}

/// The end of an attempt, with its duration.
pub struct AttemptReport {
    pub end: AttemptEnd,
    pub duration: Duration,
    /// The cause for which it did not succeed; `None` after a 2xx.
    pub cause: Option<Cause>,
    /// The address that was tried, unless the attempt succeeded or came to none.
    pub address: Option<Address>,
}

/// The end of an attempt, as far as the gateway knows it.
#[derive(Debug)]
pub enum AttemptEnd {
    /// A whole response arrived.
    Answered(Response),
    /// Nothing was sent: the event was certainly not processed.
    NotReached(UpstreamError),
    /// The request was sent, at least in part, and no whole response arrived: the event may have
    /// been processed.
    Unknown(UpstreamError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamError {
    /// The deadline passed.
    TimedOut,
    /// The name could not be resolved, or no address could be connected to.
    Unreachable,
    /// The connection failed, or the response is not HTTP.
    Broken,
}

impl AttemptReport {
    /// Returns the result as the metrics count it.
    pub fn metric_result(&self) -> UpstreamResult {
        match &self.end {
            AttemptEnd::Answered(response) => match response.status().as_u16() {
                200..300 => UpstreamResult::Success,
                400..500 => UpstreamResult::ClientError,
                500.. => UpstreamResult::ServerError,
                _ => UpstreamResult::Redirection,
            },
            AttemptEnd::NotReached(UpstreamError::TimedOut)
            | AttemptEnd::Unknown(UpstreamError::TimedOut) => UpstreamResult::Timeout,
            AttemptEnd::NotReached(_) => UpstreamResult::ConnectError,
            AttemptEnd::Unknown(_) => UpstreamResult::Broken,
        }
    }

    /// Describes this attempt, which began at `at` and failed with this cause.
    pub fn to_failed_attempt(
        &self,
        cause: Cause,
        at: Timestamp,
        upstream: &Upstream,
    ) -> FailedAttempt {
        let status = match &self.end {
            AttemptEnd::Answered(response) => Some(response.status().as_u16()),
            AttemptEnd::NotReached(_) | AttemptEnd::Unknown(_) => None,
        };
        FailedAttempt {
            at,
            cause,
            status,
            address: self.address.as_ref().map(Address::to_string),
            upstream: upstream.url(),
        }
    }

    /// Returns the record of this attempt at `request`, which began at `at`. `keeps_body` keeps the
    /// first bytes of a response that is not 2xx, with the private values of the request masked.
    pub fn to_record(
        &self,
        at: Timestamp,
        request: &OutboundRequest,
        upstream: &Upstream,
        keeps_body: bool,
    ) -> AttemptRecord {
        let record = AttemptRecord {
            at,
            ms: u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX),
            status: None,
            error: None,
            cause: self.cause,
            address: self.address.as_ref().map(Address::to_string),
            response: None,
        };
        let AttemptEnd::Answered(response) = &self.end else {
            let is_unix = matches!(self.address, Some(Address::Unix(_)));
            let error = self
                .cause
                .map(|cause| cause.sentence_for(is_unix).to_owned());
            return AttemptRecord { error, ..record };
        };
        let kept = self.cause.map(|_| {
            let values = request.private_values(&upstream.headers);
            let mut kept = excerpt::record(response, &values);
            kept.body.take_if(|_| !keeps_body);
            kept
        });
        AttemptRecord {
            status: Some(response.status().as_u16()),
            response: kept,
            ..record
        }
    }
}

/// An upstream's response.
#[derive(Debug)]
pub struct Response {
    pub head: Box<ResponseHeader>,
    pub body: Bytes,
    /// `true` if the body was larger than 1 MiB and is therefore left empty.
    pub truncated: bool,
    /// The beginning of a body that is left empty, unless the status is 2xx.
    beginning: Bytes,
    /// The number of bytes of the body that were read.
    body_bytes: u64,
}

impl Upstream {
    /// Creates an upstream. `headers` are set on every request and replace the sender's.
    pub fn new(target: Target, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self {
            addresses: Addresses::new(&target),
            target,
            headers,
        }
    }

    /// Forbids connections to link-local addresses and to the metadata addresses of clouds, even if
    /// the name resolves to them.
    pub fn forbid_internal_addresses(&mut self) {
        self.addresses.forbid_internal_addresses();
    }

    /// Returns the upstream's URL, for people.
    pub fn url(&self) -> String {
        self.target.url()
    }
}

impl Response {
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Returns the failure that this response means, with its `Retry-After` counted from `now`.
    pub fn to_failure(&self, now: Timestamp) -> AttemptFailure {
        let retry_after = self
            .head
            .headers
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| parse_retry_after(text, now));
        AttemptFailure::Status {
            status: self.status().as_u16(),
            retry_after,
        }
    }
}

/// An attempt that is connected to its upstream and has sent nothing yet.
pub struct Connected<'a> {
    client: &'a Client,
    upstream: &'a Upstream,
    connection: Connection,
    started: Instant,
}

/// An open connection.
struct Connection {
    /// Boxed, because it is big and would be copied into every future on the way.
    peer: Box<HttpPeer>,
    stream: Stream,
    address: Address,
    /// The core that opened it, and whose runtime watches it.
    core: usize,
    /// `true` if it has answered a request before.
    reused: bool,
}

impl Connection {
    /// Returns whether it leads to this address of an upstream, over TLS to this name if it is TLS,
    /// with a certificate compared with these.
    fn is_to(&self, target: &Target, address: &Address) -> bool {
        self.address == *address
            && self.peer.is_tls() == target.tls
            && self.peer.group_key == certificates_key(target)
            && *self.peer.sni == *target.host
    }

    /// Returns whether the upstream has shown a certificate that is trusted now. A verified one is,
    /// for as long as the connection lasts.
    fn is_trusted_by(&self, target: &Target) -> bool {
        self.peer.verify_cert() || shows_own(target, &self.stream)
    }
}

/// Whether an idle connection may be used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pool {
    Use,
    Avoid,
}

/// The reason why an exchange brought no whole response.
enum ExchangeError {
    /// A pooled connection turned out to be closed before a byte of the response arrived.
    Stale,
    Failed(Cause),
}

impl From<Box<PingoraError>> for ExchangeError {
    fn from(error: Box<PingoraError>) -> Self {
        tracing::debug!(%error, "no whole response from the upstream");
        Self::Failed(response_cause(&error))
    }
}

impl Client {
    /// Creates a client that resolves names as the system does. `name_server` replaces the name
    /// servers of `/etc/resolv.conf`.
    pub fn new(name_server: Option<SocketAddr>) -> Self {
        Self {
            connector: TransportConnector::new(None),
            idle: IdleConnections::new(),
            resolver: Resolver::new(name_server),
        }
    }

    /// Connects to the upstream, by `deadline`. Nothing is sent yet, so a failure means that the
    /// attempt never reached it.
    ///
    /// # Errors
    /// The report of the attempt, which is over.
    pub async fn connect<'a>(
        &'a self,
        upstream: &'a Upstream,
        deadline: Instant,
    ) -> Result<Connected<'a>, AttemptReport> {
        let started = Instant::now();
        let progress = ConnectProgress::default();
        let opening = pin!(self.open(upstream, Pool::Use, &progress));
        let failure = match timeout_at(deadline.into(), opening).await {
            Ok(Ok(connection)) => {
                return Ok(Connected {
                    client: self,
                    upstream,
                    connection,
                    started,
                });
            }
            Ok(Err(failure)) => failure,
            Err(_) => {
                upstream.addresses.expire();
                progress.to_error(UpstreamError::TimedOut)
            }
        };
        Err(AttemptReport {
            end: AttemptEnd::NotReached(failure.error),
            duration: started.elapsed(),
            cause: Some(failure.cause),
            address: failure.address,
        })
    }

    /// Opens a connection, pooled or new, to one of the upstream's addresses. A failed connect has
    /// sent nothing.
    async fn open(
        &self,
        upstream: &Upstream,
        pool: Pool,
        progress: &ConnectProgress,
    ) -> Result<Connection, ConnectError> {
        let fresh = upstream.addresses.fresh(&self.resolver);
        if pool == Pool::Use
            && let Some(addresses) = &fresh
            && let Some(connection) = self.idle(upstream, addresses)
        {
            return Ok(connection);
        }
        // Boxed, because it is big and most requests need none of it.
        let opening = Box::pin(self.open_new(upstream, fresh, pool, progress));
        let opened = match upstream.target.connect_timeout {
            Some(limit) => timeout(limit, opening).await.ok().flatten(),
            None => opening.await,
        };
        opened.ok_or_else(|| {
            upstream.addresses.expire();
            progress.to_error(UpstreamError::Unreachable)
        })
    }

    /// Resolves the name unless its addresses are `fresh`, and connects. Several addresses race; a
    /// sole one is tried twice.
    async fn open_new(
        &self,
        upstream: &Upstream,
        fresh: Option<Arc<[Address]>>,
        pool: Pool,
        progress: &ConnectProgress,
    ) -> Option<Connection> {
        let addresses = match fresh {
            Some(addresses) => addresses,
            None => {
                progress.resolving();
                let resolved = upstream.addresses.resolve(&self.resolver).await;
                let resolved = resolved.map_err(|error| progress.unresolved(error)).ok()?;
                if pool == Pool::Use
                    && let Some(connection) = self.idle(upstream, &resolved)
                {
                    return Some(connection);
                }
                resolved
            }
        };
        match (&*addresses, upstream.addresses.failing()) {
            ([_, _, ..], Some(failing)) => {
                let connect = |address: Address| self.connect_to(upstream, address, progress);
                race(&addresses, failing, connect).await
            }
            (addresses, _) => {
                let Some(address) = addresses.first() else {
                    progress.none_allowed();
                    return None;
                };
                if let Some(connection) = self.connect_to(upstream, address.clone(), progress).await
                {
                    return Some(connection);
                }
                tokio::time::sleep(RECONNECT_AFTER).await;
                self.connect_to(upstream, address.clone(), progress).await
            }
        }
    }

    /// Returns an idle connection to one of the addresses.
    fn idle(&self, upstream: &Upstream, addresses: &[Address]) -> Option<Connection> {
        let connection = self.idle.take_open(&upstream.target, addresses)?;
        tracing::debug!(
            upstream = %upstream.target.authority,
            address = %connection.address,
            "idle connection to upstream chosen"
        );
        Some(connection)
    }

    /// Makes a new connection, TLS included, to one address. Where a trusted certificate may be the
    /// upstream's own, the handshake accepts any at first, and the connection is dropped unused
    /// unless it was that one. Then the usual verification has the last word.
    async fn connect_to(
        &self,
        upstream: &Upstream,
        address: Address,
        progress: &ConnectProgress,
    ) -> Option<Connection> {
        let target = &upstream.target;
        progress.connecting(&address);
        let verified = peer(target, &address);
        if let Some(own) = own_peer(target, &verified) {
            let connection = self
                .connect_peer(target, address.clone(), own, progress)
                .await?;
            if shows_own(target, &connection.stream) {
                return Some(connection);
            }
        }
        self.connect_peer(target, address, verified, progress).await
    }

    async fn connect_peer(
        &self,
        target: &Target,
        address: Address,
        peer: Box<HttpPeer>,
        progress: &ConnectProgress,
    ) -> Option<Connection> {
        match self.connector.new_stream(&*peer).await {
            Ok(stream) => {
                tracing::debug!(upstream = %target.authority, %address, "connected to upstream");
                Some(Connection {
                    peer,
                    stream,
                    address,
                    core: cores::number(),
                    reused: false,
                })
            }
            Err(error) => {
                let cause = connect_cause(&error);
                tracing::debug!(
                    upstream = %target.authority,
                    %address,
                    %cause,
                    %error,
                    "connect to upstream failed"
                );
                progress.failed(&address, cause);
                None
            }
        }
    }

    /// Sends a request and reads the response.
    ///
    /// Pingora's session only reads. For writing it would need the headers as a map, and it would
    /// flush the head before it takes the body.
    ///
    /// An upstream may answer before it has the whole request. Then the rest is written while the
    /// response is read. A response other than 2xx ends the exchange at once, because that upstream
    /// may never read the rest. After 2xx the rest is written first, because it may still.
    async fn send(
        &self,
        connection: Connection,
        head: Vec<u8>,
        body: &Bytes,
        on_sent: impl FnOnce(),
    ) -> Result<Response, ExchangeError> {
        let Connection {
            peer,
            stream,
            address,
            core,
            reused,
        } = connection;
        let (stream, is_sent) = Upload::new(stream, head, body.clone()).run().await;
        on_sent();
        // An upstream may respond and close without having read the body, so a failed write does
        // not end the exchange.
        let mut http = HttpSession::new_with_options(stream, &*peer);
        let mut informational = 0;
        match read_head(&mut http, &mut informational).await {
            Ok(()) => {}
            Err(error) if reused && informational == 0 && is_before_first_byte(&error) => {
                return Err(ExchangeError::Stale);
            }
            Err(error) => return Err(error.into()),
        }
        let response = read_response(&mut http).await?;
        if !is_sent {
            if response.status().is_success() {
                let _ = http.into_inner().flush().await;
            }
        } else if http.is_body_done() {
            http.respect_keepalive();
            if let Some(stream) = http.reuse().await {
                self.idle.keep(Connection {
                    peer,
                    stream,
                    address,
                    core,
                    reused: true,
                });
            }
        }
        Ok(response)
    }
}

impl Connected<'_> {
    /// Delivers `request` in one attempt that ends by `deadline`. `attempt` is its number, which
    /// the upstream sees. `on_sent` is called when the request is written, or writing it failed.
    ///
    /// The request is sent twice in one case only: a pooled connection turned out to be closed
    /// before any byte of the response. That does not prove that nothing arrived, so the second
    /// request is marked as a possible duplicate.
    pub async fn deliver(
        self,
        request: &OutboundRequest,
        attempt: u32,
        possible_duplicate: bool,
        deadline: Instant,
        on_sent: impl FnOnce(),
    ) -> AttemptReport {
        let started = self.started;
        let mut address = self.connection.address.clone();
        let reopening = ConnectProgress::default();
        let ended = {
            let exchange = pin!(self.exchange(
                request,
                attempt,
                possible_duplicate,
                &reopening,
                &mut address,
                on_sent,
            ));
            // Dropping the exchange closes its connection.
            timeout_at(deadline.into(), exchange).await
        };
        let duration = started.elapsed();
        let (error, cause, address) = match ended {
            Ok(Ok(response)) => {
                let is_success = response.status().is_success();
                return AttemptReport {
                    end: AttemptEnd::Answered(response),
                    duration,
                    cause: (!is_success).then_some(Cause::Status),
                    address: (!is_success).then_some(address),
                };
            }
            Ok(Err(failure)) => (failure.error, failure.cause, failure.address),
            Err(_) => {
                let (cause, address) = reopening
                    .cause()
                    .unwrap_or((Cause::ResponseTimeout, Some(address)));
                (UpstreamError::TimedOut, cause, address)
            }
        };
        AttemptReport {
            end: AttemptEnd::Unknown(error),
            duration,
            cause: Some(cause),
            address,
        }
    }

    /// Sends the request and reads the response. `address` is kept at the one that the exchange
    /// uses.
    async fn exchange(
        self,
        request: &OutboundRequest,
        attempt: u32,
        possible_duplicate: bool,
        reopening: &ConnectProgress,
        address: &mut Address,
        on_sent: impl FnOnce(),
    ) -> Result<Response, ConnectError> {
        let Self {
            client,
            upstream,
            connection,
            ..
        } = self;
        let Upstream {
            target, headers, ..
        } = upstream;
        let head = |possible_duplicate| {
            request.render_head(
                &target.path_and_query,
                &target.authority,
                headers,
                attempt,
                possible_duplicate,
            )
        };
        match client
            .send(
                connection,
                head(possible_duplicate),
                request.body(),
                on_sent,
            )
            .await
        {
            Ok(response) => return Ok(response),
            Err(ExchangeError::Failed(cause)) => return Err(broken(cause, address)),
            Err(ExchangeError::Stale) => {}
        }
        // A new connection cannot be stale.
        let connection = client.open(upstream, Pool::Avoid, reopening).await?;
        reopening.connected();
        *address = connection.address.clone();
        client
            .send(connection, head(true), request.body(), || ())
            .await
            .map_err(|error| match error {
                ExchangeError::Failed(cause) => broken(cause, address),
                ExchangeError::Stale => broken(Cause::Reset, address),
            })
    }
}

/// Returns the failure of an exchange whose connection broke, or whose response is not HTTP.
fn broken(cause: Cause, address: &Address) -> ConnectError {
    ConnectError {
        error: UpstreamError::Broken,
        cause,
        address: Some(address.clone()),
    }
}

/// Reads heads up to the first one that is not informational.
async fn read_head(
    session: &mut HttpSession,
    informational: &mut usize,
) -> Result<(), Box<PingoraError>> {
    while *informational < INFORMATIONAL_MAX {
        session.read_response().await?;
        let status = session.resp_header().map(|head| head.status);
        // 101 ends a request too: the gateway never asks for another protocol.
        if status.is_none_or(|status| {
            !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
        }) {
            return Ok(());
        }
        *informational += 1;
    }
    PingoraError::e_explain(
        pingora_core::ErrorType::InvalidHTTPHeader,
        "too many informational responses",
    )
}

/// Returns whether a connection failed before the first byte of a response. Pingora reports the
/// number of bytes only in the error's text.
fn is_before_first_byte(error: &PingoraError) -> bool {
    error
        .context
        .as_ref()
        .is_some_and(|context| context.as_str().ends_with("already read: 0"))
}

/// Reads the response behind its head. A 2xx counts only if it is whole, so its body is read to the
/// end even if it is too large to be kept; any other status says enough.
async fn read_response(session: &mut HttpSession) -> Result<Response, ExchangeError> {
    let head = session
        .resp_header()
        .ok_or(ExchangeError::Failed(Cause::BrokenResponse))?;
    let head = Box::new(head.clone());
    let (mut body, mut beginning) = (BytesMut::new(), Bytes::new());
    let (mut truncated, mut body_bytes) = (false, 0);
    // Behind 101 there is no body but another protocol, which the gateway has not asked for.
    while head.status != StatusCode::SWITCHING_PROTOCOLS
        && let Some(chunk) = session.read_body_ref().await?
    {
        body_bytes += chunk.len() as u64;
        truncated |= body.len() + chunk.len() > RESPONSE_BYTES_MAX;
        if !truncated {
            body.extend_from_slice(chunk);
        } else if head.status.is_success() {
            body = BytesMut::new();
        } else {
            body.extend_from_slice(&chunk[..chunk.len().min(excerpt::EXCERPT_READ)]);
            beginning = Bytes::copy_from_slice(&body[..body.len().min(excerpt::EXCERPT_READ)]);
            break;
        }
    }
    let body = if truncated {
        Bytes::new()
    } else {
        body.freeze()
    };
    Ok(Response {
        head,
        body,
        truncated,
        beginning,
        body_bytes,
    })
}

fn peer(target: &Target, address: &Address) -> Box<HttpPeer> {
    let inet = match address {
        Address::Inet(address) => *address,
        Address::Unix(_) => NO_ADDRESS,
    };
    // Takes an address: Pingora would resolve a name on this thread, and panic if that fails.
    let peer = HttpPeer::new(inet, target.tls, target.host.to_string());
    let mut peer = Box::new(peer);
    peer.options.ca = target.ca.as_ref().map(TrustedCa::authorities);
    peer.group_key = certificates_key(target);
    if let Address::Unix(path) = address {
        peer.options.custom_l4 = Some(Arc::new(UnixConnector(Arc::clone(path))));
    }
    peer
}

/// Returns a number that tells connections apart by the certificates that they are compared with.
fn certificates_key(target: &Target) -> u64 {
    target.ca.as_ref().map_or(0, TrustedCa::fingerprint)
}

/// Returns whether the upstream has shown a certificate that is trusted as its own, and still valid.
fn shows_own(target: &Target, stream: &Stream) -> bool {
    let shown = stream.get_ssl_digest();
    target
        .ca
        .as_ref()
        .zip(shown)
        .is_some_and(|(ca, shown)| ca.is_own(&shown.cert_digest, Timestamp::now()))
}

/// Returns the peer of a connection whose certificate is compared after the handshake, if one of
/// the trusted certificates may be the upstream's own.
fn own_peer(target: &Target, verified: &HttpPeer) -> Option<Box<HttpPeer>> {
    target.ca.as_ref().filter(|ca| ca.has_own())?;
    let mut own = Box::new(verified.clone());
    own.options.verify_cert = false;
    Some(own)
}

/// Parses `Retry-After`: seconds, or a date (RFC 9110 §10.2.3). A date in the past means no pause.
fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let parse = |text| parse_retry_after(text, now);
        assert_eq!(parse("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse(" 0 "), Some(Duration::ZERO));
        assert_eq!(
            parse("99999999999999999999999"),
            Some(Duration::from_secs(u64::MAX))
        );
        assert_eq!(
            parse("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::from_secs(37))
        );
        assert_eq!(parse("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        for wrong in ["", "soon", "-1", "1.5", "1 s"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
