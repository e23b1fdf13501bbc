//! The closed set of causes for which a delivery attempt does not succeed. Attempt records,
//! metrics, the log, the API and the dashboard all use these codes. `upstream` determines them.

use std::fmt;

use serde::{Serialize, Serializer};

/// The cause for which an attempt did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Cause {
    /// A whole response arrived, and its status is not 2xx.
    Status,
    Refused,
    /// The network has no way to the address, or this machine can't open a connection.
    Unreachable,
    /// A name server answered that the name has no address.
    NoSuchHost,
    /// No name server answered, or none could be asked.
    DnsTimeout,
    /// Every address is one that upstreams named over the API must not have.
    AddressNotAllowed,
    ConnectTimeout,
    /// The certificate is past its validity, or before it.
    TlsExpired,
    TlsWrongName,
    /// The certificate is not signed by a trusted CA, or is revoked, or malformed.
    TlsUntrusted,
    /// The handshake failed for another reason than the certificate.
    TlsHandshake,
    /// Reserved: no token could be obtained for the upstream.
    AuthFailed,
    /// The connection ended before a whole response.
    Reset,
    BrokenResponse,
    ResponseTimeout,
    /// The head of the response is larger than the gateway reads.
    ResponseTooLarge,
}

impl Cause {
    /// Every cause, at the index of its own discriminant.
    pub const ALL: [Self; 16] = [
        Self::Status,
        Self::Refused,
        Self::Unreachable,
        Self::NoSuchHost,
        Self::DnsTimeout,
        Self::AddressNotAllowed,
        Self::ConnectTimeout,
        Self::TlsExpired,
        Self::TlsWrongName,
        Self::TlsUntrusted,
        Self::TlsHandshake,
        Self::AuthFailed,
        Self::Reset,
        Self::BrokenResponse,
        Self::ResponseTimeout,
        Self::ResponseTooLarge,
    ];

    /// Returns the cause as written in records, metrics, the log and the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoSuchHost => "no_such_host",
            Self::DnsTimeout => "dns_timeout",
            Self::AddressNotAllowed => "address_not_allowed",
            Self::ConnectTimeout => "connect_timeout",
            Self::TlsExpired => "tls_expired",
            Self::TlsWrongName => "tls_wrong_name",
            Self::TlsUntrusted => "tls_untrusted",
            Self::TlsHandshake => "tls_handshake",
            Self::AuthFailed => "auth_failed",
            Self::Reset => "reset",
            Self::BrokenResponse => "broken_response",
            Self::ResponseTimeout => "response_timeout",
            Self::ResponseTooLarge => "response_too_large",
        }
    }

    /// Returns the cause that is written so; `None` for one that this version does not know.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_str() == text)
    }

    /// Returns a sentence for people, without a capital letter and a full stop.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Status => "the upstream responds with a status other than 2xx",
            Self::Refused => "the upstream refuses connections",
            Self::Unreachable => "the network does not reach the upstream",
            Self::NoSuchHost => "the upstream's name has no address",
            Self::DnsTimeout => "no name server answers for the upstream's name",
            Self::AddressNotAllowed => "the upstream's address is not allowed",
            Self::ConnectTimeout => "the upstream does not accept a connection in time",
            Self::TlsExpired => "the upstream's certificate has expired or is not valid yet",
            Self::TlsWrongName => "the upstream's certificate is for another name",
            Self::TlsUntrusted => "the upstream's certificate is not trusted",
            Self::TlsHandshake => "the TLS handshake with the upstream fails",
            Self::AuthFailed => "there is no token for the upstream",
            Self::Reset => "the upstream closes the connection before its response is whole",
            Self::BrokenResponse => "the upstream's response is not valid HTTP",
            Self::ResponseTimeout => "the upstream does not respond in time",
            Self::ResponseTooLarge => "the upstream's response is too large",
        }
    }
}

impl Cause {
    /// Returns the sentence for an upstream on a Unix socket, if `is_unix`, or else the usual one.
    pub const fn sentence_for(self, is_unix: bool) -> &'static str {
        match self {
            Self::Refused if is_unix => "the upstream does not listen on its socket",
            Self::Unreachable if is_unix => {
                "the upstream's socket file does not exist, or may not be written to"
            }
            _ => self.sentence(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_cause_at_its_index() {
        for (number, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, number);
            assert_eq!(Cause::parse(cause.as_str()), Some(cause));
        }
        assert_eq!(Cause::ALL.len(), Cause::ResponseTooLarge as usize + 1);
        assert_eq!(Cause::parse("melted"), None);
    }
}
