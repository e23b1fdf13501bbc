//! How the system is told to resolve names: `/etc/hosts` and `/etc/resolv.conf`, read as
//! `getaddrinfo` reads them. Both are read again with each look-up, so a change needs no restart.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The number of bytes of either file that are read. Some hosts files block thousands of names.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The number of name servers that are asked, as by glibc.
const NAME_SERVERS_MAX: usize = 3;

/// The number of search domains that are tried. glibc has no bound; Kubernetes allows 32.
const SEARCH_MAX: usize = 32;

/// The number of addresses that a hosts file may give a name.
const HOSTS_ADDRESSES_MAX: usize = 32;

/// The settings of `resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) name_servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    /// The number of times that each name server is asked.
    pub(super) attempts: usize,
    pub(super) timeout: Duration,
    pub(super) edns: bool,
}

impl ResolvConf {
    /// Reads the system's file. Without one, the name server is the local host's, as for
    /// `getaddrinfo`.
    pub(super) fn read() -> Self {
        Self::parse(&read(RESOLV_CONF).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let (parsed, errors) = resolv_conf::Config::parse_with_errors(text.as_bytes());
        for error in errors {
            tracing::debug!(%error, "{RESOLV_CONF}: line ignored");
        }
        let name_servers = parsed.get_nameservers_or_local();
        let search = parsed.get_last_search_or_domain();
        Self {
            name_servers: name_servers
                .iter()
                .take(NAME_SERVERS_MAX)
                .map(IpAddr::from)
                .collect(),
            search: search
                .filter(|domain| !matches!(domain.as_str(), "." | "--" | ""))
                .take(SEARCH_MAX)
                .map(|domain| domain.trim_end_matches('.').to_owned())
                .collect(),
            ndots: usize::try_from(parsed.ndots).unwrap_or(usize::MAX),
            attempts: usize::try_from(parsed.attempts).map_or(1, |attempts| attempts.clamp(1, 5)),
            timeout: Duration::from_secs(u64::from(parsed.timeout.clamp(1, 30))),
            edns: parsed.edns0,
        }
    }

    /// Returns the absolute names that a host may stand for, in the order in which they are tried.
    /// A host with fewer dots than `ndots` is tried in the search domains first.
    pub(super) fn candidates(&self, host: &str) -> Vec<String> {
        if host.ends_with('.') {
            return vec![host.to_owned()];
        }
        let searched = self.search.iter().map(|domain| format!("{host}.{domain}."));
        let absolute = format!("{host}.");
        if host.matches('.').count() >= self.ndots {
            std::iter::once(absolute).chain(searched).collect()
        } else {
            searched.chain(std::iter::once(absolute)).collect()
        }
    }
}

/// Returns the addresses of a host that need no name server: those in the hosts file, and those of
/// `localhost` and the names below it, which are always loopback addresses (RFC 6761 §6.3).
pub(super) fn local_addresses(host: &str) -> Vec<IpAddr> {
    let host = host.trim_end_matches('.');
    let listed = hosts_entries(&read(HOSTS).unwrap_or_default(), host);
    let last_label = host.rsplit('.').next().unwrap_or_default();
    if listed.is_empty() && last_label.eq_ignore_ascii_case("localhost") {
        return vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
    }
    listed
}

/// Returns the addresses that a hosts file lists for a name.
fn hosts_entries(text: &str, host: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for line in text.lines() {
        if addresses.len() == HOSTS_ADDRESSES_MAX {
            break;
        }
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        let names_host = words.any(|name| name.trim_end_matches('.').eq_ignore_ascii_case(host));
        if names_host && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Reads a file of the system on this thread. Both are small, local, and read once in a look-up;
/// the threads for blocking calls belong to the store.
fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_domains_apply_to_names_with_few_dots() {
        let kubernetes = ResolvConf::parse(
            "nameserver 10.96.0.10\n\
             search shop.svc.cluster.local svc.cluster.local cluster.local\n\
             options ndots:5\n",
        );
        assert_eq!(
            kubernetes.candidates("orders.billing"),
            [
                "orders.billing.shop.svc.cluster.local.",
                "orders.billing.svc.cluster.local.",
                "orders.billing.cluster.local.",
                "orders.billing.",
            ]
        );
        assert_eq!(
            kubernetes.candidates("app.example.com."),
            ["app.example.com."]
        );
        let plain = ResolvConf::parse("search example.com\n");
        assert_eq!(plain.candidates("app"), ["app.example.com.", "app."]);
        assert_eq!(
            plain.candidates("app.test"),
            ["app.test.", "app.test.example.com."]
        );
    }

    #[test]
    fn resolv_conf_is_read_as_glibc_does() {
        let conf = ResolvConf::parse(
            "domain old.example\nsearch new.example. .\nnameserver 192.0.2.1\nwhat is this\n\
             nameserver 2001:db8::1\noptions timeout:3 attempts:9 edns0\n",
        );
        assert_eq!(
            conf.name_servers,
            ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
        assert_eq!(conf.candidates("app"), ["app.new.example.", "app."]);
        assert_eq!((conf.attempts, conf.edns), (5, true));
        assert_eq!(conf.timeout, Duration::from_secs(3));
        let absent = ResolvConf::parse("");
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(absent.name_servers.contains(&local));
        assert_eq!(absent.candidates("app"), ["app."]);
    }

    #[test]
    fn hosts_file_lists_several_addresses_of_a_name() {
        let text = "127.0.0.1 localhost app.test # app.other\n\n# 10.0.0.1 app.test\n\
                    ::1\tApp.Test\nnot-an-address app.test\n127.0.0.1 app.test\n";
        let addresses = hosts_entries(text, "app.test");
        assert_eq!(
            addresses,
            ["127.0.0.1", "::1"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
        assert!(hosts_entries(text, "app.other").is_empty());
    }

    #[test]
    fn localhost_never_needs_a_name_server() {
        for host in ["localhost", "localhost.", "LOCALHOST", "app.localhost"] {
            let addresses = local_addresses(host);
            assert!(addresses.iter().any(IpAddr::is_loopback), "{host}");
        }
        assert!(local_addresses("localhost.example").is_empty());
    }
}
