use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::proxy_protocol;

mod hostile;

/// Writes a header over TCP as a load balancer does.
fn written(sender: SocketAddr, receiver: SocketAddr, additions: &[u8]) -> Vec<u8> {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let (sender_ip, receiver_ip) = (bytes(sender.ip()), bytes(receiver.ip()));
    let family = if sender.is_ipv4() {
        TCP_OVER_IPV4
    } else {
        TCP_OVER_IPV6
    };
    let ports = [sender.port().to_be_bytes(), receiver.port().to_be_bytes()].concat();
    with(
        PROXY,
        family,
        &[&sender_ip[..], &receiver_ip, &ports, additions].concat(),
    )
}

fn with(version_and_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_and_command, family][..], &length, rest].concat()
}

/// Parses a header in the steps in which it arrives on a connection.
fn read(bytes: &[u8]) -> Result<Progress, ProxyHeaderError> {
    let mut begun = 0;
    loop {
        match parse(&bytes[..begun])? {
            Progress::Wants(more) if begun + more <= bytes.len() => begun += more,
            other => return Ok(other),
        }
    }
}

#[test]
fn local_command_ignores_the_addresses() {
    assert_eq!(
        read(&with(LOCAL, 0, b"")),
        Ok(Progress::Read(Source::Local, 0))
    );
    assert_eq!(
        read(&with(LOCAL, 0xff, b"abc")),
        Ok(Progress::Read(Source::Local, 3))
    );
}

#[test]
fn header_without_tcp_address_is_rejected() {
    for family in WITHOUT_ADDRESS {
        assert_eq!(
            read(&with(PROXY, family, &[0; 216])),
            Err(ProxyHeaderError::WithoutAddress),
            "{family:#x}"
        );
    }
    for family in [0x01, 0x10, 0x13, 0x20, 0x41, 0xff] {
        assert_eq!(
            read(&with(PROXY, family, &[0; 216])),
            Err(ProxyHeaderError::Family(family))
        );
    }
}

#[test]
fn each_invalid_header_has_its_own_error() {
    assert_eq!(
        read(&with(0x22, TCP_OVER_IPV4, &[0; 12])),
        Err(ProxyHeaderError::Command(2))
    );
    assert_eq!(
        read(&with(0x11, TCP_OVER_IPV4, &[0; 12])),
        Err(ProxyHeaderError::Version(1))
    );
    assert_eq!(
        read(&with(PROXY, TCP_OVER_IPV4, &[0; 11])),
        Err(ProxyHeaderError::TooShort)
    );
    assert_eq!(
        read(&with(PROXY, TCP_OVER_IPV6, &[0; 35])),
        Err(ProxyHeaderError::TooShort)
    );
    assert_eq!(read(b"PROXY UNKNOWN\r\n"), Err(ProxyHeaderError::Version1));
    assert_eq!(
        read(b"POST / HTTP/1.1\r\n"),
        Err(ProxyHeaderError::Signature)
    );
    assert_eq!(
        read(b"PRI * HTTP/2.0\r\n"),
        Err(ProxyHeaderError::Signature)
    );
}

#[test]
fn corpus_headers_parse_as_their_names_say() {
    let mut seen = 0;
    for (name, bytes) in crate::corpus::files("proxy_protocol") {
        hostile::check(&bytes);
        let kind = match read(&bytes) {
            Ok(Progress::Read(Source::Local, _)) => "local",
            Ok(Progress::Read(Source::Sender(_), _)) => "sender",
            Ok(Progress::Wants(_)) => "cut",
            Err(_) => "invalid",
        };
        assert_eq!(name.split("--").next(), Some(kind), "{name}");
        seen += 1;
    }
    assert!(seen >= 12, "the corpus was found");
}

fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let over_ipv4 = any::<([u8; 4], u16, [u8; 4], u16)>()
        .prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into()));
    let over_ipv6 = any::<([u8; 16], u16, [u8; 16], u16)>()
        .prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into()));
    prop_oneof![over_ipv4, over_ipv6]
}

proptest! {
    #[test]
    fn sender_address_survives_a_round_trip(
        (sender, receiver) in addresses(),
        additions in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let header = written(sender, receiver, &additions);
        prop_assert_eq!(read(&header), Ok(Progress::Read(Source::Sender(sender), additions.len())));
        hostile::check(&header);
    }

    #[test]
    fn parser_never_reads_beyond_the_header(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        hostile::check(&bytes);
        hostile::check(&[SIGNATURE, &bytes[..]].concat());
        hostile::check(&[SIGNATURE, &[PROXY, TCP_OVER_IPV6][..], &bytes].concat());
    }
}
