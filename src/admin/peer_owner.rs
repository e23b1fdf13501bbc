//! The owner of a local connection's other end. A listener without a token admits only connections
//! of the gateway's own user and of root.
//!
//! Linux lists each TCP socket with its user in `/proc/net/tcp` and `tcp6`. On other systems the
//! owner is unknown, and a token is needed.

use std::net::{IpAddr, SocketAddr};

use rustix::process::geteuid;

/// The tables of TCP sockets. A socket for IPv6 that is connected over IPv4 is in the second.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The inode of a socket that no process holds any more. Its user is not known: Linux shows 0.
const ORPHANED: &str = "0";

/// Returns whether `peer`, which is connected to `local`, belongs to the gateway's own user or to
/// root. Blocks for a short read, in which the kernel lists all sockets.
pub(super) fn is_trusted(peer: SocketAddr, local: SocketAddr) -> bool {
    TABLES
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .find_map(|table| owner(&table, peer, local))
        .is_some_and(|user| user == 0 || user == geteuid().as_raw())
}

/// Finds the user of the socket that is bound to `peer` and connected to `local`.
fn owner(table: &str, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let ends = [peer, local].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()));
    let ends = [ends.map(in_table), ends.map(mapped_in_table)];
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let socket = [fields.next()?, fields.next()?];
        if !ends.iter().any(|ends| socket == [&ends[0], &ends[1]]) {
            return None;
        }
        // State, queues, timer and retransmissions are in between.
        let (user, inode) = (fields.nth(4)?, fields.nth(1)?);
        (inode != ORPHANED).then(|| user.parse().ok())?
    })
}

/// Formats an address as the tables do: words of 32 bits in the processor's order, in hex.
fn in_table(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (words, _) = octets.as_chunks::<4>();
    let words = words
        .iter()
        .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)));
    format!(
        "{}:{:04X}",
        words.collect::<Vec<_>>().concat(),
        address.port()
    )
}

/// Formats an address as that of a socket for IPv6 which is connected over IPv4.
fn mapped_in_table(address: SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => in_table((ip.to_ipv6_mapped(), address.port()).into()),
        IpAddr::V6(_) => in_table(address),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn own_connection_is_trusted() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue; // This machine has no IPv6.
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            assert!(is_trusted(peer, server.local_addr().unwrap()), "{address}");
            drop(client);
            assert!(
                !is_trusted(peer, server.local_addr().unwrap()),
                "an orphaned socket has no owner"
            );
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn owner_is_read_from_the_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   \
                     uid  timeout inode\n   0: 0100007F:C350 0100007F:23DC 01 00000000:00000000 \
                     00:00000000 00000000  1000        0 4711 1 0 20 4 30 10 -1\n   1: \
                     0100007F:C351 0100007F:23DC 04 00000000:00000000 00:00000000 00000000     0\
                     \x20       0 0 1 0\n";
        let local = "127.0.0.1:9180".parse().unwrap();
        let owner_of = |peer: &str| owner(table, peer.parse().unwrap(), local);
        assert_eq!(owner_of("127.0.0.1:50000"), Some(1000));
        assert_eq!(owner_of("127.0.0.1:50001"), None, "orphaned");
        assert_eq!(owner_of("127.0.0.1:50002"), None, "not listed");
    }
}
