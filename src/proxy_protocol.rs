//! The PROXY protocol, version 2: how a load balancer that looks at no more than TCP tells whose connection it passes on.
//!
//! From bytes to an address, without a socket, after section 2.2 of
//! <https://www.haproxy.org/download/1.8/doc/proxy-protocol.txt>. Additions (TLVs) are not looked at, nor is the checksum among
//! them (CRC32c): the protocol leaves both to the receiver, and TCP has a checksum of its own.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// What every header begins with. No request over HTTP does, and no TLS handshake.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Unspecified, UDP over either, and both kinds of Unix socket.
const WITHOUT_ADDRESS: [u8; 5] = [0x00, 0x12, 0x22, 0x31, 0x32];

/// Source, destination and their ports.
const IPV4_BYTES: usize = 12;
const IPV6_BYTES: usize = 36;

/// The bytes of a header that are looked at, at the most.
pub const BYTES_MAX: usize = 16 + IPV6_BYTES;

/// How far reading a header has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes more are needed, and are the header's: 1 to what is left of [`BYTES_MAX`].
    Wants(usize),
    /// So many bytes of the header, up to 65,535, follow those that were wanted, and say nothing to us.
    Read(Source, usize),
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The balancer itself, as for a health check.
    Local,
    Sender(SocketAddr),
}

/// Why what a connection begins with is no header that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("the connection begins with something else")]
    Signature,
    #[error("it is of version 1 of the protocol; have version 2 sent")]
    Version1,
    #[error("it is of version {0}; version 2 is known")]
    Version(u8),
    #[error("its command {0} is unknown")]
    Command(u8),
    #[error("its family and protocol {0:#04x} are unknown")]
    Family(u8),
    /// The protocol lets us take the balancer's address instead. That one is trusted, and the sender is not.
    #[error("it has no address of a sender over TCP")]
    WithoutAddress,
    #[error("it is too short for its addresses")]
    TooShort,
}

/// Reads a header as far as `begun` goes: its first bytes, and no more than were wanted so far.
///
/// # Errors
/// As soon as it is clear that it is none.
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
