//! The upstreams that a webhook made over the API may name. The admin token must not give access to
//! other ones.

use std::net::IpAddr;

use http::Uri;

use super::forbidden::is_forbidden;
use super::target::Target;

/// One entry of `admin.allowed_upstreams`, such as `http://127.0.0.1:3000/hooks/*` or
/// `https://*.internal.example.com`.
///
/// Scheme and port must be equal. A `*.` before the host matches one or more labels. The path is a
/// prefix of whole segments. Without a path, every path matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedUpstream {
    tls: bool,
    host: Box<str>,
    any_subdomain: bool,
    port: u16,
    path: Box<str>,
}

/// The error for a text that is not such a pattern.
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
        if target.host.contains('*') || path.contains(['*', '?']) || !is_normal(path) {
            return Err(PatternError);
        }
        Ok(Self {
            tls: target.tls,
            host: normalize(&target.host),
            any_subdomain,
            port: target.port,
            path: path.into(),
        })
    }
}

impl AllowedUpstream {
    fn allows(&self, target: &Target) -> bool {
        let host = normalize(&target.host);
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
        self.tls == target.tls && same_host && self.port == target.port && below && is_normal(path)
    }
}

/// Returns whether every receiver reads a path in the same way: it has no dot segment, and no `.`,
/// `/`, `\\` or `%` that only decoding shows. A path with any of these could lead elsewhere.
fn is_normal(path: &str) -> bool {
    let is_plain = |escape: &str| {
        let byte = escape
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_some_and(|byte| !byte.is_ascii_control() && !br"./\%".contains(&byte))
    };
    // Some receivers cut parameters (`;a=b`) off a segment before they resolve it.
    let is_dot_segment = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    !path.contains('\\')
        && path.split('%').skip(1).all(is_plain)
        && !path.split('/').any(is_dot_segment)
}

/// Names of clouds' metadata endpoints. Their addresses are forbidden as well, so this list only
/// makes the mistake known when the webhook is made.
const METADATA_NAMES: [&str; 8] = [
    "instance-data",
    "instance-data.ec2.internal",
    "metadata",
    "metadata.azure.internal",
    "metadata.google.internal",
    "metadata.oraclecloud.com",
    "metadata.tencentyun.com",
    "metadata.goog",
];

fn normalize(host: &str) -> Box<str> {
    host.trim_end_matches('.').to_ascii_lowercase().into()
}

/// Returns the problem if `url` may not be an upstream. The addresses of a name are checked again
/// whenever it is resolved.
pub(crate) fn check_url(url: &str, allowed: Option<&[AllowedUpstream]>) -> Option<String> {
    let target = match Target::parse(url, None) {
        Ok(target) => target,
        Err(error) => return Some(format!("`url`: {error}.")),
    };
    let host = normalize(&target.host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let address = host.parse::<IpAddr>();
    // Resolvers read `0x7f.1` and `2130706433` as addresses; people do not.
    let disguised = address.is_err() && last.starts_with(|first: char| first.is_ascii_digit());
    let forbidden = address.is_ok_and(is_forbidden) || METADATA_NAMES.contains(&&*host);
    if forbidden || disguised {
        return Some(
            "`url` is a link-local address or a cloud's metadata address, which is never allowed."
                .into(),
        );
    }
    // A URL parser and a resolver could read such characters differently.
    if url.parse::<Uri>().is_err() || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("`url` has characters that are not allowed in a URL.".into());
    }
    match allowed {
        Some(allowed) if !allowed.iter().any(|pattern| pattern.allows(&target)) => {
            Some("`url` is not among `admin.allowed_upstreams`.".into())
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
    fn pattern_allows_its_origin_and_the_paths_below() {
        let pattern = "http://127.0.0.1:3000/hooks/*";
        for url in [
            "http://127.0.0.1:3000/hooks",
            "http://127.0.0.1:3000/hooks/a/b?c=d",
            "http://127.0.0.1:3000/hooks/a..b/.well-known/%20c?d=/../e",
        ] {
            assert!(is_allowed(pattern, url), "{url}");
        }
        for url in [
            "https://127.0.0.1:3000/hooks",
            "http://127.0.0.1:3001/hooks",
            "http://127.0.0.1:3000/hooksters",
            "http://127.0.0.1:3000/",
            "http://127.0.0.1:3000/hooks/../admin",
            "http://127.0.0.1:3000/hooks/./a",
            "http://127.0.0.1:3000/hooks/..",
            "http://127.0.0.1:3000/hooks/..;/admin",
            "http://127.0.0.1:3000/hooks/%2e%2e/admin",
            "http://127.0.0.1:3000/hooks/.%2E/admin",
            "http://127.0.0.1:3000/hooks/%2e./admin",
            "http://127.0.0.1:3000/hooks%2f..%2fadmin",
            "http://127.0.0.1:3000/hooks/a%2Fb",
            "http://127.0.0.1:3000/hooks/%252e%252e/admin",
            "http://127.0.0.1:3000/hooks/..%5cadmin",
            "http://127.0.0.1:3000/hooks/%00",
            "http://127.0.0.1:3000/hooks/%2",
            "http://127.0.0.1:3000/hooks/%+2e",
            "http://localhost:3000/hooks",
        ] {
            assert!(!is_allowed(pattern, url), "{url}");
        }
    }

    #[test]
    fn star_matches_labels_before_the_host_only() {
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
            "https://x/a/../b",
            "https://x/a%2fb",
        ] {
            assert_eq!(text.parse::<AllowedUpstream>(), Err(PatternError), "{text}");
        }
    }

    #[test]
    fn metadata_addresses_are_rejected_in_any_notation() {
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
            "http://metadata/computeMetadata/v1/",
            "http://[64:ff9b::a9fe:a9fe]/",
            "http://[2002:a9fe:a9fe::1]/",
            "http://[::169.254.169.254]/",
            "http://0251.0376.0251.0376/",
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
