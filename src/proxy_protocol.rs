//! The PROXY protocol, version 2: the header by which a layer-4 load balancer passes on the
//! sender's address.
//!
//! Parses bytes into an address and knows no socket. Source: section 2.2 of
//! <https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>. Ignores the additions (TLVs) and
//! the `CRC32c` checksum among them: the protocol leaves both to the receiver, and TCP has a checksum.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of every header. No HTTP request and no TLS handshake begins with them.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Families without a TCP address: unspecified, UDP over IPv4 and IPv6, both kinds of Unix socket.
const WITHOUT_ADDRESS: [u8; 5] = [0x00, 0x12, 0x22, 0x31, 0x32];

/// Bytes of the source address, the destination address and their ports.
const IPV4_BYTES: usize = 12;
const IPV6_BYTES: usize = 36;

/// Bytes of the longest header that is parsed, its additions left out.
pub const BYTES_MAX: usize = 16 + IPV6_BYTES;

/// The state of reading a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The number of further bytes that belong to the header and are needed, from 1 to the rest of
    /// [`BYTES_MAX`].
    Wants(usize),
    /// The source, and the number of header bytes that follow and are to be skipped, up to 65,535.
    Read(Source, usize),
}

/// The origin of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The load balancer itself, as for a health check.
    Local,
    Sender(SocketAddr),
}

/// A reason why a connection's first bytes are no usable header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("the connection does not begin with a PROXY protocol header")]
    Signature,
    #[error("the header has version 1; configure the load balancer to send version 2")]
    Version1,
    #[error("the header has version {0}; only version 2 is supported")]
    Version(u8),
    #[error("the header has the unknown command {0}")]
    Command(u8),
    #[error("the header has the unknown family and protocol {0:#04x}")]
    Family(u8),
    /// The protocol allows falling back to the balancer's address. That address is trusted and the
    /// sender is not, so such a header is refused.
    #[error("the header has no TCP address of a sender")]
    WithoutAddress,
    #[error("the header is too short for its addresses")]
    TooShort,
}

/// Parses the part of a header that has arrived: its first bytes, and no more than were wanted.
///
/// # Errors
/// [`ProxyHeaderError`], as soon as the bytes cannot begin a usable header.
pub fn parse(begun: &[u8]) -> Result<Progress, ProxyHeaderError> {
    let Some((signature, rest)) = begun.split_first_chunk() else {
        return Ok(Progress::Wants(SIGNATURE.len() - begun.len()));
    };
    if signature != SIGNATURE {
        return Err(if signature.starts_with(b"PROXY ") {
            ProxyHeaderError::Version1
        } else {
            ProxyHeaderError::Signature
        });
    }
    let Some((&[version_and_command, family, high, low], addresses)) = rest.split_first_chunk()
    else {
        return Ok(Progress::Wants(4 - rest.len()));
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    match version_and_command {
        LOCAL => return Ok(Progress::Read(Source::Local, length)),
        PROXY => {}
        other if other >> 4 == 2 => return Err(ProxyHeaderError::Command(other & 0xf)),
        other => return Err(ProxyHeaderError::Version(other >> 4)),
    }
    let (needed, sender) = match family {
        TCP_OVER_IPV4 => (IPV4_BYTES, addresses.first_chunk().map(over_ipv4)),
        TCP_OVER_IPV6 => (IPV6_BYTES, addresses.first_chunk().map(over_ipv6)),
        other if WITHOUT_ADDRESS.contains(&other) => return Err(ProxyHeaderError::WithoutAddress),
        other => return Err(ProxyHeaderError::Family(other)),
    };
    let follow = length
        .checked_sub(needed)
        .ok_or(ProxyHeaderError::TooShort)?;
    Ok(match sender {
        Some(sender) => Progress::Read(Source::Sender(sender), follow),
        None => Progress::Wants(needed - addresses.len()),
    })
}

fn over_ipv4(&[a, b, c, d, _, _, _, _, high, low, _, _]: &[u8; IPV4_BYTES]) -> SocketAddr {
    (Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()
}

fn over_ipv6(addresses: &[u8; IPV6_BYTES]) -> SocketAddr {
    let mut source = [0; 16];
    source.copy_from_slice(&addresses[..16]);
    (
        Ipv6Addr::from(source),
        u16::from_be_bytes([addresses[32], addresses[33]]),
    )
        .into()
}

#[cfg(test)]
mod tests;
