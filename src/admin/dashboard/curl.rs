//! A delivered request as a `curl` command, for trying it by hand.

use crate::admin::shape::headers::Header;
use crate::delivery::MASK;

/// The largest body that is part of the command, in bytes. A command line holds no more than
/// 128 KiB in one argument.
const BODY_BYTES_MAX: usize = 64 << 10;

/// The headers that `curl` makes itself.
const OWN_HEADERS: [&str; 3] = ["content-length", "host", "transfer-encoding"];

/// Returns the command that sends a request to the upstream. Masked headers are left out and named
/// in a comment, as is a body that a command line cannot hold.
pub(super) fn command(url: &str, headers: &[Header], body: &[u8]) -> String {
    let mut command = format!("curl --globoff -X POST {}", quoted(url));
    let mut masked = Vec::new();
    for header in headers {
        let is_own = OWN_HEADERS.contains(&&*header.name.to_ascii_lowercase());
        if header.value == MASK {
            masked.push(header.name.as_str());
        } else if !is_own {
            push_header(&mut command, &header.name, &header.value);
        }
    }
    if !headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("content-type"))
    {
        // Otherwise `curl` claims that the body is a form.
        command.push_str(" \\\n  -H 'Content-Type:'");
    }
    match std::str::from_utf8(body) {
        Ok(text) if body.len() <= BODY_BYTES_MAX && !text.contains('\0') => {
            command.push_str(" \\\n  --data-raw ");
            command.push_str(&quoted(text));
        }
        _ => {
            command.push_str(" \\\n  --data-binary @body");
            command
                .push_str("\n# The body is too large or not a text: save it as the file `body`.");
        }
    }
    if !masked.is_empty() {
        command.push_str("\n# Left out, because they may be credentials: ");
        command.push_str(&masked.join(", "));
        command.push('.');
    }
    command
}

fn push_header(command: &mut String, name: &str, value: &str) {
    // `curl` leaves out a header with a colon and no value.
    let field = if value.is_empty() {
        format!("{name};")
    } else {
        format!("{name}: {value}")
    };
    command.push_str(" \\\n  -H ");
    command.push_str(&quoted(&field));
}

/// Quotes a text for a POSIX shell, which reads nothing in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> Header {
        Header {
            name: name.into(),
            value: value.into(),
        }
    }

    #[test]
    fn shell_reads_nothing_that_a_sender_wrote() {
        let headers = [
            header("Content-Type", "application/json"),
            header("Content-Length", "9"),
            header("X-A", "'; touch pwned #"),
            header("X-Empty", ""),
            header("X-Signature", MASK),
        ];
        let expected = r#"curl --globoff -X POST 'http://127.0.0.1/hooks' \
  -H 'Content-Type: application/json' \
  -H 'X-A: '\''; touch pwned #' \
  -H 'X-Empty;' \
  --data-raw '{"a":"$(id) '\''"}'
# Left out, because they may be credentials: X-Signature."#;
        let body = br#"{"a":"$(id) '"}"#;
        assert_eq!(command("http://127.0.0.1/hooks", &headers, body), expected);
    }

    #[test]
    fn body_that_is_no_text_is_a_file() {
        for body in [&b"\xff"[..], b"a\0b", &b"a".repeat(BODY_BYTES_MAX + 1)] {
            let command = command("http://127.0.0.1/", &[], body);
            assert!(command.contains("--data-binary @body"), "{command}");
        }
    }
}
