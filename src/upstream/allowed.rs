//! Which upstreams a webhook made over the API may name. Whoever has the admin token must not reach more with it.

use std::net::IpAddr;

use http::Uri;

use super::resolve::is_forbidden;
use super::target::Target;

/// One entry of `admin.allowed_upstreams`: `http://127.0.0.1:3000/hooks/*`, `https://*.internal.example.com`.
///
/// Scheme and port must be the same. A `*.` before the host stands for one or more labels. The path is a beginning, of
/// whole segments; without one every path will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedUpstream {
    tls: bool,
    host: Box<str>,
    any_subdomain: bool,
    port: u16,
    path: Box<str>,
}

/// Why a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a URL, as in `https://*.internal.example.com` or `http://127.0.0.1:3000/hooks`")]
pub struct PatternError;

impl std::str::FromStr for AllowedUpstream {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let any_subdomain = text.contains("://*.");
        let target =
            Target::parse(&text.replacen("://*.", "://", 1), None).map_err(|_| PatternError)?;
        let path = target
            .path_and_query
            .trim_end_matches('*')
            .trim_end_matches('/');
        if target.host.contains('*') || path.contains(['*', '?']) {
            return Err(PatternError);
        }
        Ok(Self {
            tls: target.tls,
            host: lower(&target.host),
            any_subdomain,
            port: target.port,
            path: path.into(),
        })
    }
}

impl AllowedUpstream {
    fn allows(&self, target: &Target) -> bool {
        let host = lower(&target.host);
        let subdomain = host
            .strip_suffix(&*self.host)
            .is_some_and(|before| before.len() > 1 && before.ends_with('.'));
        let same_host = if self.any_subdomain {
            subdomain
        } else {
            host == self.host
        };
        let path = target.path_and_query.split('?').next().unwrap_or_default();
        let below = path
            .strip_prefix(&*self.path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.tls == target.tls
            && same_host
            && self.port == target.port
            && below
            && !path.contains("..")
    }
}

fn lower(host: &str) -> Box<str> {
    host.trim_end_matches('.').to_ascii_lowercase().into()
}

/// Why `url` may not be an upstream, if so. Names are looked at again whenever they are resolved.
pub fn check_url(url: &str, allowed: Option<&[AllowedUpstream]>) -> Option<String> {
    let target = match Target::parse(url, None) {
        Ok(target) => target,
        Err(error) => return Some(format!("`url`: {error}.")),
    };
    let host = lower(&target.host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let address = host.parse::<IpAddr>();
    // `0x7f.1`, `2130706433`: resolvers read them as addresses, people don't.
    let disguised = address.is_err() && last.starts_with(|first: char| first.is_ascii_digit());
    if address.is_ok_and(is_forbidden) || disguised || &*host == "metadata.google.internal" {
        return Some(
            "`url` is a link-local or a cloud's metadata address, which is never an upstream."
                .into(),
        );
    }
    // What a URL's parser and a resolver could read differently.
    if url.parse::<Uri>().is_err() || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("`url` holds characters that a URL does not.".into());
    }
    match allowed {
        Some(allowed) if !allowed.iter().any(|pattern| pattern.allows(&target)) => {
            Some("`url` is none of those that `admin.allowed_upstreams` allows.".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(pattern: &str, url: &str) -> bool {
        check_url(url, Some(&[pattern.parse().unwrap()])).is_none()
    }

    #[test]
    fn a_pattern_allows_its_own_scheme_host_port_and_path_and_what_is_below() {
        let pattern = "http://127.0.0.1:3000/hooks/*";
        for url in [
            "http://127.0.0.1:3000/hooks",
            "http://127.0.0.1:3000/hooks/a/b?c=d",
        ] {
            assert!(is_allowed(pattern, url), "{url}");
        }
        for url in [
            "https://127.0.0.1:3000/hooks",
            "http://127.0.0.1:3001/hooks",
            "http://127.0.0.1:3000/hooksters",
            "http://127.0.0.1:3000/",
            "http://127.0.0.1:3000/hooks/../admin",
            "http://localhost:3000/hooks",
        ] {
            assert!(!is_allowed(pattern, url), "{url}");
        }
    }

    #[test]
    fn a_star_stands_for_labels_before_the_host_and_nothing_else() {
        let pattern = "https://*.internal.example.com";
        for url in [
            "https://a.internal.example.com/x",
            "https://A.b.Internal.example.com./",
        ] {
            assert!(is_allowed(pattern, url), "{url}");
        }
        for url in [
            "https://internal.example.com/",
            "https://evilinternal.example.com/",
            "https://evil.test/.internal.example.com",
            "https://a.internal.example.com:8443/",
            "https://a.internal.example.com.evil.test/",
        ] {
            assert!(!is_allowed(pattern, url), "{url}");
        }
        for text in [
            "https://a*.example.com",
            "*",
            "ftp://x/",
            "https://*",
            "https://x/a*b",
        ] {
            assert_eq!(text.parse::<AllowedUpstream>(), Err(PatternError), "{text}");
        }
    }

    #[test]
    fn metadata_addresses_are_refused_however_they_are_written() {
        for url in [
            "http://169.254.169.254/latest",
            "http://[::ffff:169.254.169.254]/",
            "http://[fe80::1]/",
            "http://[fd00:ec2::254]/",
            "http://0xa9.254.169.254/",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "http://169.254.43518/",
            "http://metadata.google.internal/",
            "http://METADATA.google.internal./",
            "http://user@127.0.0.1/",
            "file:///etc/passwd",
        ] {
            assert!(check_url(url, None).is_some(), "{url}");
        }
        for url in [
            "http://127.0.0.1:3000/x",
            "https://app.example.com/",
            "http://[::1]:3000/",
        ] {
            assert_eq!(check_url(url, None), None, "{url}");
        }
    }
}
