//! The causes of failed attempts: what Pingora's errors mean, and how far connecting had come when
//! it failed or its deadline passed.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pingora_core::{Error as PingoraError, ErrorType};

use super::resolver::ResolveError;
use super::{Address, UpstreamError};
use crate::cause::Cause;

/// The failure to open a connection.
pub(super) struct ConnectError {
    pub error: UpstreamError,
    pub cause: Cause,
    /// The address that the cause is about, if there is one.
    pub address: Option<Address>,
}

/// The progress of opening a connection, which outlives the future that opens it: a deadline drops
/// that. Several addresses may be tried at once.
#[derive(Default)]
pub(super) struct ConnectProgress(Mutex<Progress>);

#[derive(Default)]
struct Progress {
    /// The step in progress: the cause if the deadline passes now.
    pending: Option<(Cause, Option<Address>)>,
    /// The failed address that says most about the upstream; of several, the last one.
    failed: Option<(Cause, Address)>,
}

impl ConnectProgress {
    /// Records that the upstream's name is looked up.
    pub(super) fn resolving(&self) {
        self.progress().pending = Some((Cause::DnsTimeout, None));
    }

    /// Records that the upstream's name could not be resolved.
    pub(super) fn unresolved(&self, error: ResolveError) {
        let cause = match error {
            ResolveError::NoSuchHost => Cause::NoSuchHost,
            ResolveError::NoAnswer => Cause::DnsTimeout,
        };
        self.progress().pending = Some((cause, None));
    }

    /// Records that no address is left that may be connected to.
    pub(super) fn none_allowed(&self) {
        self.progress().pending = Some((Cause::AddressNotAllowed, None));
    }

    /// Records that an address is being connected to, TLS included.
    pub(super) fn connecting(&self, address: &Address) {
        self.progress().pending = Some((Cause::ConnectTimeout, Some(address.clone())));
    }

    /// Records that an address could not be connected to.
    pub(super) fn failed(&self, address: &Address, cause: Cause) {
        let mut progress = self.progress();
        progress
            .pending
            .take_if(|(_, pending)| pending.as_ref() == Some(address));
        let known = progress.failed.as_ref().map(|(known, _)| *known);
        if known.is_none_or(|known| weight(cause) >= weight(known)) {
            progress.failed = Some((cause, address.clone()));
        }
    }

    /// Records that a connection is open.
    pub(super) fn connected(&self) {
        *self.progress() = Progress::default();
    }

    /// Returns the cause if connecting ends now without a connection, and the address that it is
    /// about; `None` if nothing has begun, or the connection is open.
    pub(super) fn cause(&self) -> Option<(Cause, Option<Address>)> {
        let progress = self.progress();
        let failed = progress.failed.clone();
        let failed = failed.map(|(cause, address)| (cause, Some(address)));
        match (failed, progress.pending.clone()) {
            (Some(failed), Some(pending)) if weight(failed.0) <= weight(pending.0) => Some(pending),
            (failed, pending) => failed.or(pending),
        }
    }

    /// Returns the failure if connecting ends now without a connection.
    pub(super) fn to_error(&self, error: UpstreamError) -> ConnectError {
        let (cause, address) = self.cause().unwrap_or((Cause::ConnectTimeout, None));
        ConnectError {
            error,
            cause,
            address,
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how much a cause says about the upstream. A host without IPv6 reaches none of its IPv6
/// addresses, which says nothing; a handshake that fails says that the host is there.
fn weight(cause: Cause) -> u8 {
    match cause {
        Cause::Unreachable => 0,
        Cause::ConnectTimeout => 1,
        Cause::Refused => 2,
        _ => 3,
    }
}

/// Returns why an address could not be connected to.
pub(super) fn connect_cause(error: &PingoraError) -> Cause {
    match error.etype() {
        ErrorType::ConnectRefused => Cause::Refused,
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Cause::ConnectTimeout,
        ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert | ErrorType::HandshakeError => {
            handshake_cause(error)
        }
        // No route, or an error of this machine: no port or no descriptor is left, a firewall
        // forbids it.
        _ => Cause::Unreachable,
    }
}

/// Returns why a TLS handshake failed. Pingora passes rustls' error on as text only, behind fixed
/// words and before any name from the certificate.
fn handshake_cause(error: &PingoraError) -> Cause {
    let text = error
        .context
        .as_ref()
        .map_or("", |context| context.as_str());
    let Some((_, problem)) = text.split_once("cause: invalid peer certificate: ") else {
        return Cause::TlsHandshake;
    };
    let begins = |starts: &[&str]| starts.iter().any(|start| problem.starts_with(start));
    if begins(&[
        "certificate expired",
        "Expired",
        "certificate not valid yet",
        "NotValidYet",
    ]) {
        Cause::TlsExpired
    } else if begins(&["certificate not valid for name", "NotValidForName"]) {
        Cause::TlsWrongName
    } else {
        Cause::TlsUntrusted
    }
}

/// Returns why no whole response could be read.
pub(super) fn response_cause(error: &PingoraError) -> Cause {
    match error.etype() {
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError => Cause::Reset,
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Cause::ResponseTimeout,
        ErrorType::InvalidHTTPHeader if is_head_too_large(error) => Cause::ResponseTooLarge,
        _ => Cause::BrokenResponse,
    }
}

/// Returns whether the head of a response is larger than Pingora reads: 1 MiB, or 256 headers. It
/// says so only in the error's text.
fn is_head_too_large(error: &PingoraError) -> bool {
    let context = error.context.as_ref();
    context.is_some_and(|context| context.as_str().starts_with("Response header larger than"))
        || error
            .cause
            .as_ref()
            .is_some_and(|cause| cause.to_string() == "too many headers")
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, Error as TlsError, pki_types};

    use super::*;

    /// Wraps an error of rustls as tokio-rustls and Pingora do.
    fn handshake_error(error: TlsError) -> PingoraError {
        let io = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
        let inner = PingoraError::because(ErrorType::TLSHandshakeFailure, "tls connect error", io);
        *PingoraError::explain(
            ErrorType::TLSHandshakeFailure,
            format!("TLS connect() failed: {inner}, SNI: a"),
        )
    }

    #[test]
    fn certificate_errors_have_their_causes() {
        let time = pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(9));
        let expected = pki_types::ServerName::try_from("a.test").unwrap();
        for (error, cause) in [
            (CertificateError::Expired, Cause::TlsExpired),
            (
                CertificateError::ExpiredContext {
                    time,
                    not_after: time,
                },
                Cause::TlsExpired,
            ),
            (
                CertificateError::NotValidYetContext {
                    time,
                    not_before: time,
                },
                Cause::TlsExpired,
            ),
            (CertificateError::NotValidForName, Cause::TlsWrongName),
            (
                CertificateError::NotValidForNameContext {
                    expected,
                    presented: vec!["cause: invalid peer certificate: Expired".into()],
                },
                Cause::TlsWrongName,
            ),
            (CertificateError::UnknownIssuer, Cause::TlsUntrusted),
            (CertificateError::BadSignature, Cause::TlsUntrusted),
        ] {
            let error = handshake_error(TlsError::InvalidCertificate(error));
            assert_eq!(connect_cause(&error), cause, "{error}");
        }
        let error = handshake_error(TlsError::NoApplicationProtocol);
        assert_eq!(connect_cause(&error), Cause::TlsHandshake);
    }

    #[test]
    fn best_informed_address_gives_the_cause() {
        let [a, b] =
            [1, 2].map(|port| Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], port))));
        let progress = ConnectProgress::default();
        assert_eq!(progress.cause(), None);
        progress.resolving();
        assert_eq!(progress.cause(), Some((Cause::DnsTimeout, None)));
        progress.connecting(&a);
        progress.connecting(&b);
        assert_eq!(
            progress.cause(),
            Some((Cause::ConnectTimeout, Some(b.clone())))
        );
        progress.failed(&a, Cause::Unreachable);
        assert_eq!(
            progress.cause(),
            Some((Cause::ConnectTimeout, Some(b.clone())))
        );
        progress.failed(&b, Cause::Refused);
        assert_eq!(progress.cause(), Some((Cause::Refused, Some(b.clone()))));
        progress.failed(&a, Cause::TlsExpired);
        progress.connecting(&b);
        assert_eq!(progress.cause(), Some((Cause::TlsExpired, Some(a.clone()))));
        progress.connected();
        assert_eq!(progress.cause(), None);
    }
}
