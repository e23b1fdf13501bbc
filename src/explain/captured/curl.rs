//! Parses a curl command into the request that it would send.
//!
//! Source: curl's manual page. An option that is not known, or whose effect on the request is not
//! supported, is an error: a guessed request explains nothing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST, RANGE, REFERER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::http1::{add_header, add_header_line};
use super::shell::{Word, words};
use super::{CapturedError, Files};
use crate::explain::Request;

/// Options with an argument that does not change what the receiver gets, or changes nothing that
/// is signed.
const SKIPPED: &[&str] = &[
    "-c",
    "--cookie-jar",
    "-C",
    "--continue-at",
    "-D",
    "--dump-header",
    "-E",
    "--cert",
    "-m",
    "--max-time",
    "-o",
    "--output",
    "-U",
    "--proxy-user",
    "-w",
    "--write-out",
    "-x",
    "--proxy",
    "-y",
    "--speed-time",
    "-Y",
    "--speed-limit",
    "--cacert",
    "--capath",
    "--cert-type",
    "--ciphers",
    "--connect-timeout",
    "--connect-to",
    "--create-file-mode",
    "--curves",
    "--dns-servers",
    "--doh-url",
    "--happy-eyeballs-timeout-ms",
    "--interface",
    "--keepalive-time",
    "--key",
    "--key-type",
    "--limit-rate",
    "--local-port",
    "--max-filesize",
    "--max-redirs",
    "--noproxy",
    "--output-dir",
    "--pass",
    "--pinnedpubkey",
    "--preproxy",
    "--proto",
    "--proto-default",
    "--proto-redir",
    "--proxy-header",
    "--rate",
    "--resolve",
    "--retry",
    "--retry-delay",
    "--retry-max-time",
    "--socks4",
    "--socks4a",
    "--socks5",
    "--socks5-hostname",
    "--stderr",
    "--tls-max",
    "--tls13-ciphers",
    "--trace",
    "--trace-ascii",
    "--trace-config",
    "--unix-socket",
    "--abstract-unix-socket",
];

/// Options without an argument that do not change what the receiver gets, or change nothing that
/// is signed. curl also takes the long ones with `--no-`.
const FLAGS: &[&str] = &[
    "-#",
    "--progress-bar",
    "-0",
    "--http1.0",
    "-1",
    "--tlsv1",
    "-2",
    "--sslv2",
    "-3",
    "--sslv3",
    "-4",
    "--ipv4",
    "-6",
    "--ipv6",
    "-f",
    "--fail",
    "-g",
    "--globoff",
    "-i",
    "--include",
    "-j",
    "--junk-session-cookies",
    "-k",
    "--insecure",
    "-L",
    "--location",
    "-N",
    "--buffer",
    "-n",
    "--netrc",
    "-O",
    "--remote-name",
    "-J",
    "--remote-header-name",
    "-q",
    "--disable",
    "-R",
    "--remote-time",
    "-S",
    "--show-error",
    "-s",
    "--silent",
    "-v",
    "--verbose",
    "-Z",
    "--parallel",
    "--alpn",
    "--ca-native",
    "--cert-status",
    "--compressed",
    "--create-dirs",
    "--disallow-username-in-url",
    "--fail-early",
    "--fail-with-body",
    "--false-start",
    "--http0.9",
    "--http1.1",
    "--http2",
    "--http2-prior-knowledge",
    "--http3",
    "--http3-only",
    "--keepalive",
    "--location-trusted",
    "--netrc-optional",
    "--npn",
    "--parallel-immediate",
    "--path-as-is",
    "--post301",
    "--post302",
    "--post303",
    "--progress-meter",
    "--proxy-insecure",
    "--raw",
    "--remote-name-all",
    "--remove-on-error",
    "--retry-all-errors",
    "--retry-connrefused",
    "--sessionid",
    "--skip-existing",
    "--ssl",
    "--ssl-no-revoke",
    "--ssl-reqd",
    "--styled-output",
    "--suppress-connect-headers",
    "--tcp-fastopen",
    "--tcp-nodelay",
    "--tlsv1.0",
    "--tlsv1.1",
    "--tlsv1.2",
    "--tlsv1.3",
    "--tr-encoding",
    "--trace-ids",
    "--trace-time",
    "--xattr",
];

/// Options whose effect on the request is not supported, each with its error.
const UNSUPPORTED: &[(&str, &str)] = &[
    (
        "-F",
        "a form of parts (`-F`) has a random boundary: save the bytes that were sent",
    ),
    (
        "--form",
        "a form of parts (`--form`) has a random boundary: save the bytes that were sent",
    ),
    (
        "--form-string",
        "a form of parts has a random boundary: save the bytes that were sent",
    ),
    (
        "--data-urlencode",
        "`--data-urlencode` is not supported: give the body with `--data-raw`, encoded",
    ),
    (
        "-T",
        "an upload (`-T`) is not supported: give the body with `--data-binary`",
    ),
    (
        "--upload-file",
        "an upload (`--upload-file`) is not supported: give the body with `--data-binary`",
    ),
    (
        "-G",
        "with `-G` the data goes into the URL, so there is no body",
    ),
    (
        "--get",
        "with `--get` the data goes into the URL, so there is no body",
    ),
    (
        "-K",
        "a file of options (`-K`) is not supported: write the options out",
    ),
    (
        "--config",
        "a file of options (`--config`) is not supported: write the options out",
    ),
    ("-I", "`-I` asks for the headers alone, so there is no body"),
    (
        "--head",
        "`--head` asks for the headers alone, so there is no body",
    ),
    (
        "--next",
        "several requests in one command (`--next`) are not supported: give one of them",
    ),
    (
        "-:",
        "several requests in one command (`-:`) are not supported: give one of them",
    ),
];

/// Options that change the request, beside those with data.
const APPLIED: &[&str] = &[
    "-A",
    "--user-agent",
    "-b",
    "--cookie",
    "-e",
    "--referer",
    "-H",
    "--header",
    "-r",
    "--range",
    "-u",
    "--user",
    "--oauth2-bearer",
    "--url",
    "-X",
    "--request",
];

/// The way in which an option's data becomes the body.
#[derive(Clone, Copy)]
enum DataMode {
    /// `-d`: strips CR, LF and NUL bytes from a file.
    Stripped,
    /// `--data-binary`, `--json`: uses a file unchanged.
    Binary,
    /// `--data-raw`: `@` has no meaning.
    Raw,
}

/// Returns the command and its line, if `text` is a curl command, with or without a prompt.
pub(super) fn command(text: &[u8]) -> Option<(&[u8], usize)> {
    let command = text.trim_ascii_start();
    let command = command
        .strip_prefix(b"$ ")
        .unwrap_or(command)
        .trim_ascii_start();
    let rest = command.strip_prefix(b"curl")?;
    let ends = rest
        .first()
        .is_none_or(|byte| byte.is_ascii_whitespace() || *byte == b'\\');
    let before = &text[..text.len() - command.len()];
    ends.then(|| (command, before.split(|&byte| byte == b'\n').count()))
}

/// Parses a command. Returns its method and the request.
pub(super) fn parse(
    command: &[u8],
    line: usize,
    files: &mut Files<'_>,
) -> Result<(String, Request), CapturedError> {
    if command.windows(2).any(|pair| pair == b"^\"") {
        return Err(CapturedError::new(
            line,
            "this is a command for Windows' `cmd`: copy it as cURL for bash instead",
        ));
    }
    let mut curl = Curl {
        method: None,
        request: Request::default(),
        data: None,
        json: false,
        host: None,
        files,
    };
    let mut words = words(command, line)?.into_iter().skip(1);
    let mut only_urls = false;
    while let Some(word) = words.next() {
        let line = word.line;
        let at = |problem: String| CapturedError::new(line, problem);
        let text = text(&word)?;
        if only_urls || !text.starts_with('-') || text == "-" {
            curl.set_url(text);
            continue;
        }
        if text == "--" {
            only_urls = true;
            continue;
        }
        for (option, attached) in options(text) {
            if let Some((_, problem)) = UNSUPPORTED.iter().find(|(name, _)| *name == option) {
                return Err(at((*problem).into()));
            }
            if is_flag(&option) {
                continue;
            }
            if !takes_argument(&option) {
                return Err(at(format!(
                    "curl's option `{option}` is not known here: leave it out if it does not \
                     change the request, else save the bytes that were sent"
                )));
            }
            let argument = match attached {
                Some(argument) => Word {
                    bytes: argument.as_bytes().to_vec(),
                    line,
                },
                None => words
                    .next()
                    .ok_or_else(|| at(format!("`{option}` has no argument")))?,
            };
            curl.apply_option(&option, &argument).map_err(at)?;
        }
    }
    Ok(curl.finish())
}

fn text(word: &Word) -> Result<&str, CapturedError> {
    std::str::from_utf8(&word.bytes)
        .map_err(|_| CapturedError::new(word.line, "an option or URL is not UTF-8"))
}

/// Splits a word into its options, each with the attached argument: `-sSd@file` is three options.
fn options(word: &str) -> Vec<(String, Option<&str>)> {
    if word.starts_with("--") {
        return vec![(word.to_owned(), None)];
    }
    let mut options = Vec::new();
    for (at, letter) in word.char_indices().skip(1) {
        let option = format!("-{letter}");
        let rest = &word[at + letter.len_utf8()..];
        if takes_argument(&option) {
            options.push((option, (!rest.is_empty()).then_some(rest)));
            break;
        }
        options.push((option, None));
    }
    options
}

fn takes_argument(option: &str) -> bool {
    data_mode(option).is_some() || APPLIED.contains(&option) || SKIPPED.contains(&option)
}

fn is_flag(option: &str) -> bool {
    let positive = option.strip_prefix("--no-").map(|name| format!("--{name}"));
    FLAGS.contains(&option) || positive.is_some_and(|name| FLAGS.contains(&&*name))
}

fn data_mode(option: &str) -> Option<DataMode> {
    match option {
        "-d" | "--data" | "--data-ascii" => Some(DataMode::Stripped),
        "--data-binary" | "--json" => Some(DataMode::Binary),
        "--data-raw" => Some(DataMode::Raw),
        _ => None,
    }
}

struct Curl<'f, 'a> {
    method: Option<String>,
    request: Request,
    data: Option<Vec<u8>>,
    json: bool,
    /// The host of the URL.
    host: Option<String>,
    files: &'f mut Files<'a>,
}

impl Curl<'_, '_> {
    fn apply_option(&mut self, option: &str, argument: &Word) -> Result<(), String> {
        if let Some(data) = data_mode(option) {
            let is_json = option == "--json";
            self.json |= is_json;
            let bytes = self.data_bytes(data, &argument.bytes)?;
            match &mut self.data {
                None => self.data = Some(bytes),
                Some(data) => {
                    if !is_json {
                        data.push(b'&');
                    }
                    data.extend(bytes);
                }
            }
            return Ok(());
        }
        match option {
            "-H" | "--header" => self.add_header(&argument.bytes),
            "--url" => {
                self.set_url(&String::from_utf8_lossy(&argument.bytes));
                Ok(())
            }
            "-X" | "--request" => {
                self.method = Some(String::from_utf8_lossy(&argument.bytes).into_owned());
                Ok(())
            }
            "-A" | "--user-agent" => self.set_header(&USER_AGENT, &argument.bytes),
            "-e" | "--referer" => self.set_header(&REFERER, &argument.bytes),
            "-r" | "--range" => self.set_header(&RANGE, &[b"bytes=", &argument.bytes[..]].concat()),
            // Without `=`, it names a file of cookies.
            "-b" | "--cookie" if argument.bytes.contains(&b'=') => {
                self.set_header(&COOKIE, &argument.bytes)
            }
            "-u" | "--user" => {
                let value = format!("Basic {}", BASE64.encode(&argument.bytes));
                self.set_header(&AUTHORIZATION, value.as_bytes())
            }
            "--oauth2-bearer" => {
                let value = [b"Bearer ", &argument.bytes[..]].concat();
                self.set_header(&AUTHORIZATION, &value)
            }
            _ => Ok(()),
        }
    }

    fn set_header(&mut self, name: &HeaderName, value: &[u8]) -> Result<(), String> {
        add_header(name.as_str().as_bytes(), value, &mut self.request.headers)
    }

    fn data_bytes(&mut self, data: DataMode, argument: &[u8]) -> Result<Vec<u8>, String> {
        let file = match (data, argument.strip_prefix(b"@")) {
            (DataMode::Raw, _) | (_, None) => return Ok(argument.to_vec()),
            (_, Some(file)) => file,
        };
        let mut content = self.read_file(file)?;
        if let DataMode::Stripped = data {
            content.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
        }
        Ok(content)
    }

    fn read_file(&mut self, name: &[u8]) -> Result<Vec<u8>, String> {
        let name = std::str::from_utf8(name).map_err(|_| "a file's name is not UTF-8")?;
        (self.files)(name)
    }

    /// Adds headers: `Name: value`, `Name;` with an empty value, `Name:` without effect, or `@file`
    /// with one per line.
    fn add_header(&mut self, argument: &[u8]) -> Result<(), String> {
        if let Some(file) = argument.strip_prefix(b"@") {
            let content = self.read_file(file)?;
            let lines = content.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
            return lines
                .filter(|line| !line.is_empty())
                .try_for_each(|line| add_header_line(line, &mut self.request.headers));
        }
        let colon = argument.contains(&b':');
        match argument.strip_suffix(b";") {
            Some(name) if !colon => return add_header(name, b"", &mut self.request.headers),
            _ => {}
        }
        let removes = argument
            .trim_ascii_end()
            .strip_suffix(b":")
            .is_some_and(|name| !name.contains(&b':'));
        if removes {
            return Ok(());
        }
        add_header_line(argument, &mut self.request.headers)
    }

    fn set_url(&mut self, url: &str) {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (host, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let slash = if target.starts_with('/') { "" } else { "/" };
        self.request.target = Some(format!(
            "{slash}{}",
            target.split('#').next().unwrap_or_default()
        ));
        let host = host.rsplit('@').next().unwrap_or_default();
        self.host = Some(host.to_owned());
    }

    fn default_header(&mut self, name: http::HeaderName, value: &str) {
        let headers: &mut HeaderMap = &mut self.request.headers;
        if let Ok(value) = HeaderValue::from_str(value)
            && !headers.contains_key(&name)
        {
            headers.insert(name, value);
        }
    }

    fn finish(mut self) -> (String, Request) {
        if let Some(host) = self.host.take() {
            self.default_header(HOST, &host);
        }
        if self.data.is_some() {
            let form = "application/x-www-form-urlencoded";
            self.default_header(
                CONTENT_TYPE,
                if self.json { "application/json" } else { form },
            );
        }
        let usual = if self.data.is_some() { "POST" } else { "GET" };
        let request = Request {
            body: Bytes::from(self.data.unwrap_or_default()),
            ..self.request
        };
        (self.method.unwrap_or_else(|| usual.into()), request)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Request, CapturedError> {
        let mut files = |name: &str| match name {
            "body" => Ok(b"{\r\n}\n".to_vec()),
            "head" => Ok(b"A: 1\r\nB: 2\r\n".to_vec()),
            _ => Err(format!("cannot read {name}")),
        };
        Request::parse(text.as_bytes(), &mut files)
    }

    #[test]
    fn data_options_make_the_body_curl_sends() {
        let cases: &[(&str, &[u8])] = &[
            ("curl http://x/ -d '{\"a\":1}'", b"{\"a\":1}"),
            ("$ curl -sSd '{}' x", b"{}"),
            ("curl -d@body x", b"{}"),
            ("curl --data @body x", b"{}"),
            ("curl --data-binary @body x", b"{\r\n}\n"),
            ("curl --data-raw @body x", b"@body"),
            ("curl --data-raw $'{\\n}' x", b"{\n}"),
            ("curl -d a -d b x", b"a&b"),
            ("curl --json '{' --json '}' x", b"{}"),
            ("curl --compressed -X POST -o out -d a x -d b", b"a&b"),
            ("curl x", b""),
        ];
        for (text, body) in cases {
            assert_eq!(read(text).unwrap().body, *body, "{text}");
        }
    }

    #[test]
    fn headers_host_and_target_match_curl() {
        let request = read(
            "curl \\\n -H 'X-Sig: a=b' -H \"Y:\" -HZ\\; -H @head 'https://u:p@h:1/p?q=1#f' -d ''",
        )
        .unwrap();
        let shown: Vec<_> = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        let mut expected = vec![
            ("x-sig", "a=b"),
            ("z", ""),
            ("a", "1"),
            ("b", "2"),
            ("host", "h:1"),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        expected.sort_unstable();
        let mut shown = shown;
        shown.sort_unstable();
        assert_eq!(shown, expected);
        assert_eq!(request.target.as_deref(), Some("/p?q=1"));
    }

    #[test]
    fn unsupported_body_options_are_errors() {
        for text in [
            "curl \\\n -F a=b",
            "curl x \\\n --data-urlencode a",
            "curl \\\n -d @none",
            "curl \\\n -sG",
            "\ncurl -F a",
            "curl \\\n -d",
        ] {
            assert_eq!(read(text).unwrap_err().line, 2, "{text}");
        }
    }

    #[test]
    fn unknown_options_are_refused_by_name() {
        for (text, option) in [
            ("curl --frobnicate x", "`--frobnicate`"),
            ("curl -sW x", "`-W`"),
            ("curl --url-query a=b x", "`--url-query`"),
            ("curl --data-raww '{}' x", "`--data-raww`"),
            ("curl --no-frobnicate x", "`--no-frobnicate`"),
            ("curl -d '{}' --next -d '[]' x", "`--next`"),
            ("curl -I x", "`-I`"),
            ("curl ^\"http://x/^\" ^\n -d a", "cmd"),
        ] {
            let problem = read(text).unwrap_err().problem;
            assert!(problem.contains(option), "{text}: {problem}");
        }
        for text in [
            "curl --compressed --no-progress-meter -sSvkLi --http2 --tlsv1.2 x",
            "curl -m 5 --retry 3 -ofile --resolve a:1:b x",
        ] {
            assert!(read(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn options_set_their_headers() {
        let request = read("curl -A me -b a=1 -e r -u a:b -b jar -X PUT x").unwrap();
        let header = |name| request.headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("user-agent"), "me");
        assert_eq!(header("cookie"), "a=1");
        assert_eq!(header("referer"), "r");
        assert_eq!(header("authorization"), "Basic YTpi");
    }

    proptest! {
        #[test]
        fn parser_never_panics_on_text(
            text in r#"(curl|POST /|A: b|-d|-H|@body|['"\\$ \n:;@{}a-]|\\u|\PC){0,40}"#,
        ) {
            let _ = read(&text);
            let _ = read(&format!("curl {text}"));
            let _ = Request::parse_head(text.as_bytes());
        }

        #[test]
        fn parser_never_panics_on_bytes(bytes: Vec<u8>) {
            let mut none = |_: &str| Err(String::new());
            let _ = Request::parse(&bytes, &mut none);
            let _ = Request::parse(&[b"curl ", &bytes[..]].concat(), &mut none);
            let _ = Request::parse_head(&bytes);
        }
    }
}
