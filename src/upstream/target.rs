//! The location of an upstream: a parsed URL, with nothing resolved yet.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::trust::TrustedCa;

/// An upstream's host, port and path. The path comes from the configuration, and no request changes
/// it.
#[derive(Clone)]
pub struct Target {
    pub tls: bool,
    /// A name or an address literal; an IPv6 literal without brackets.
    pub host: Box<str>,
    pub port: u16,
    /// The value of the `Host` header: the host, and the port unless it is the scheme's default.
    pub authority: Box<str>,
    /// The path, which begins with `/`, and the query if there is one.
    pub path_and_query: Box<str>,
    /// The CA certificates that the upstream's certificate must be signed with. `None` trusts the
    /// system's.
    pub ca: Option<TrustedCa>,
    /// The Unix socket to connect to, in place of the host and the port.
    pub socket: Option<Arc<Path>>,
    /// The longest time from the look-up of the name to a connection, TLS included. `None` leaves it
    /// to the budget.
    pub connect_timeout: Option<Duration>,
}

/// The reason why a text is not an upstream's URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("not a URL; write http://host:port/path or https://host/path")]
    NotAUrl,
    #[error("the scheme must be http or https")]
    Scheme,
    #[error("for a Unix socket, write `url: http://localhost/path` and `socket: /run/app.sock`")]
    UnixSocket,
    #[error("an upstream's URL must not have user information; use `headers:`")]
    UserInformation,
    #[error("a fragment (`#…`) is never sent; leave it out")]
    Fragment,
}

impl Target {
    /// Parses an absolute `http` or `https` URL. An absent path is `/`.
    ///
    /// # Errors
    /// [`UrlError`], whose text never quotes the URL.
    pub fn parse(url: &str, connect_timeout: Option<Duration>) -> Result<Self, UrlError> {
        if url.contains('#') {
            return Err(UrlError::Fragment);
        }
        if is_unix_socket(url) {
            return Err(UrlError::UnixSocket);
        }
        let uri: http::Uri = url.parse().map_err(|_| UrlError::NotAUrl)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(UrlError::NotAUrl);
        };
        let (tls, default_port) = match scheme {
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return Err(UrlError::Scheme),
        };
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInformation);
        }
        let bracketed = authority.host();
        let host = bracketed
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(bracketed);
        let explicit_port = authority.as_str().len() > bracketed.len();
        let port = match authority.port_u16() {
            Some(0) => return Err(UrlError::NotAUrl),
            Some(port) => port,
            None if explicit_port => return Err(UrlError::NotAUrl),
            None => default_port,
        };
        if host.is_empty() {
            return Err(UrlError::NotAUrl);
        }
        // `to_string` adds the path to a query without one.
        let path_and_query = uri
            .path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string);
        Ok(Self {
            tls,
            host: host.into(),
            port,
            authority: if port == default_port {
                bracketed.into()
            } else {
                format!("{bracketed}:{port}").into()
            },
            path_and_query: path_and_query.into(),
            ca: None,
            socket: None,
            connect_timeout,
        })
    }

    /// Returns the URL in its normal form.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.path_and_query)
    }
}

/// Returns whether a text is the location of a Unix socket, as other programs write it.
fn is_unix_socket(url: &str) -> bool {
    let path = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .unwrap_or(url);
    ["unix:", "unix+http:", "http+unix:", "https+unix:"]
        .iter()
        .any(|scheme| {
            path.starts_with(scheme) && !path[scheme.len()..].starts_with(char::is_numeric)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Target, UrlError> {
        Target::parse(url, None)
    }

    #[test]
    fn url_is_parsed_into_its_parts() {
        let cases = [
            (
                "http://127.0.0.1:3000/hooks",
                false,
                "127.0.0.1",
                3000,
                "127.0.0.1:3000",
                "/hooks",
            ),
            (
                "https://app.example.com",
                true,
                "app.example.com",
                443,
                "app.example.com",
                "/",
            ),
            (
                "https://app.example.com:443/a?b=c",
                true,
                "app.example.com",
                443,
                "app.example.com",
                "/a?b=c",
            ),
            ("http://unix:80/", false, "unix", 80, "unix", "/"),
            ("http://app?x=1", false, "app", 80, "app", "/?x=1"),
            (
                "http://[::1]:8080/x",
                false,
                "::1",
                8080,
                "[::1]:8080",
                "/x",
            ),
        ];
        for (url, tls, host, port, authority, path) in cases {
            let target = parse(url).unwrap();
            assert_eq!(
                (target.tls, &*target.host, target.port),
                (tls, host, port),
                "{url}"
            );
            assert_eq!(
                (&*target.authority, &*target.path_and_query),
                (authority, path),
                "{url}"
            );
            let scheme = if tls { "https" } else { "http" };
            assert_eq!(target.url(), format!("{scheme}://{authority}{path}"));
        }
    }

    #[test]
    fn invalid_upstream_url_is_rejected() {
        for (url, error) in [
            ("127.0.0.1:3000", UrlError::NotAUrl),
            ("/just/a/path", UrlError::NotAUrl),
            ("ftp://host/", UrlError::Scheme),
            ("unix:/run/app.sock", UrlError::UnixSocket),
            ("unix:///run/app.sock", UrlError::UnixSocket),
            ("http://unix:/run/app.sock:/hook", UrlError::UnixSocket),
            ("http+unix://%2Frun%2Fapp.sock/hook", UrlError::UnixSocket),
            ("http://user:pass@host/", UrlError::UserInformation),
            ("http://host/#top", UrlError::Fragment),
            ("http://host:99999/", UrlError::NotAUrl),
            ("http://host:/", UrlError::NotAUrl),
            ("http://host:0/", UrlError::NotAUrl),
        ] {
            assert_eq!(parse(url).err(), Some(error), "{url}");
        }
    }
}
