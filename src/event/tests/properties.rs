//! Generated bodies: JSON in every style, JSON with damage, and noise in JSON's alphabet.

use proptest::{collection::vec, prelude::*, sample};

use super::agreement;

/// Bytes that are significant to a JSON parser.
const SIGNIFICANT: &[u8] = b"\"\\{}[]:,0-.eE \n\x00\x7f\xff\xc3";

/// Values that some receivers refuse, and an object with twins.
const ODD: &[&str] = &[
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1E+400",
    r#"{"id":1,"ID":2,"id":3}"#,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn accepted_json_is_read_alike_by_all_receivers(text in json()) {
        agreement::check(text.as_bytes());
    }

    #[test]
    fn event_with_odd_members_is_read_alike(members in vec(member(), 0..6), start in start()) {
        let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}:{value}")).collect();
        agreement::check(format!("{start}{{{}}}", members.join(",")).as_bytes());
    }

    #[test]
    fn odd_member_elsewhere_never_refuses_an_event(
        members in vec(("[b-hj-su-z]{1,8}", odd()), 0..6),
        start in start(),
        at in any::<sample::Index>(),
    ) {
        let mut all: Vec<_> = members
            .iter()
            .map(|(key, value)| format!("\"{key}\":{value}"))
            .collect();
        all.insert(at.index(all.len() + 1), r#""id":"a""#.into());
        all.insert(at.index(all.len() + 1), r#""type":"t""#.into());
        let body = format!("{start}{{{}}}", all.join(","));
        let event = super::parse(&body).map(super::parsed_id);
        prop_assert_eq!(event, Ok(super::text("a")), "{}", body);
    }

    #[test]
    fn damaged_json_is_read_alike_by_all_receivers(
        text in json(),
        damage in vec(
            (any::<sample::Index>(), 0..5_u8, any::<u8>(), sample::select(SIGNIFICANT)),
            1..4,
        ),
    ) {
        let mut body = text.into_bytes();
        for (index, kind, any, significant) in damage {
            let at = index.index(body.len() + 1);
            match kind {
                0 => body.insert(at, significant),
                1 if at < body.len() => body[at] = significant,
                2 if at < body.len() => body[at] = any,
                3 if at < body.len() => { body.remove(at); }
                _ => body.truncate(at),
            }
        }
        agreement::check(&body);
    }

    #[test]
    fn noise_is_read_alike_by_all_receivers(
        pieces in vec(sample::select(&[
            "{", "}", "[", "]", ",", ":", "\"", "\\", "\"id\":", "\"ID\":", "\"type\":",
            "\"event\":{", "1", "0", "-", ".", "e", "\"a\"", "null", "true", " ", "\n", "\\u0069", "\\ud800", "\u{e9}", "\0",
            "NaN", "Infinity", "\u{feff}", "\"\u{130}d\":",
        ][..]), 0..24),
    ) {
        agreement::check(pieces.concat().as_bytes());
    }
}

/// Generates members that a pointer of [`agreement`] looks for, or a twin, with a plain or an odd
/// value.
fn member() -> impl Strategy<Value = (String, String)> {
    let value = prop_oneof![
        4 => Just("\"a\"".to_owned()),
        2 => Just("1".to_owned()),
        1 => string(),
        1 => odd(),
        1 => key().prop_map(|key| format!("{{{key}:\"a\"}}")),
    ];
    (key(), value)
}

/// Generates values that some receivers read and others do not.
fn odd() -> impl Strategy<Value = String> {
    prop_oneof![
        sample::select(ODD).prop_map(String::from),
        (
            string(),
            sample::select(&["d800", "DBFF", "dc00", "dfff"][..]),
            string()
        )
            .prop_map(|(before, half, after)| {
                let (before, after) = (&before[..before.len() - 1], &after[1..]);
                format!("{before}\\u{half}{after}")
            }),
        (1..300_usize).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth)),
        (1..300_usize).prop_map(|depth| r#"[{"id":"#.repeat(depth) + "0" + &"}]".repeat(depth)),
    ]
}

/// Generates what may stand before a text.
fn start() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(""), 1 => Just("\u{feff}"), 1 => Just("\u{feff} \n")]
}

/// Generates JSON texts with random white space and escapes.
fn json() -> impl Strategy<Value = String> {
    let other =
        sample::select(&["null", "true", "false", "{}", "[]", "[ ]"][..]).prop_map(String::from);
    let leaf = prop_oneof![4 => string(), 2 => number(), 1 => other, 1 => odd()];
    let value = leaf.prop_recursive(4, 48, 6, |value| {
        prop_oneof![
            vec((space(), value.clone(), space()), 0..5).prop_map(|elements| {
                format!(
                    "[{}]",
                    elements
                        .into_iter()
                        .map(|(a, value, b)| a + &value + &b)
                        .collect::<Vec<_>>()
                        .join(",")
                )
            }),
            vec((space(), key(), space(), value, space()), 0..6).prop_map(|members| {
                let members = members
                    .into_iter()
                    .map(|(a, key, b, value, c)| format!("{a}{key}{b}:{c}{value}{a}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    });
    (start(), space(), value, space())
        .prop_map(|(start, before, value, after)| format!("{start}{before}{value}{after}"))
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(String::new()), 1 => "[ \n\r\t]{1,3}", 1 => Just(" ".repeat(70))]
}

/// Generates keys: often one that a pointer of [`agreement`] looks for, or a near miss.
fn key() -> impl Strategy<Value = String> {
    let names = sample::select(
        &[
            "id",
            "ID",
            "Id",
            "\u{131}d",
            "type",
            "TYPE",
            "at",
            "aT",
            "event",
            "Event",
            "data",
            "k",
            "\u{212a}",
            "s",
            "\u{17f}",
            "",
            "a/b",
            "A/B",
            "0",
            "\u{130}d",
            "message_id",
            "me\u{17f}sage_\u{130}d",
            "me\u{df}age_id",
            "kind",
            "\u{212a}ind",
            "timestamp",
            "time\u{fb06}amp",
            "t\u{131}mestamp",
        ][..],
    );
    prop_oneof![
        6 => (names, vec(any::<u8>(), 8)).prop_map(|(name, styles)| quoted(name, &styles)),
        1 => string(),
    ]
}

fn string() -> impl Strategy<Value = String> {
    let text = prop_oneof![
        4 => "[a-z_]{0,12}",
        2 => any::<String>(),
        1 => "[ -~]{50,300}",
        1 => Just("2026-08-22T10:15:30Z".to_owned()),
    ];
    (text, vec(any::<u8>(), 8)).prop_map(|(text, styles)| quoted(&text, &styles))
}

/// Quotes a text. Escapes what must be escaped, and other characters as `styles` says.
fn quoted(text: &str, styles: &[u8]) -> String {
    let mut out = String::from("\"");
    for (n, char) in text.chars().enumerate() {
        match (char, styles[n % styles.len()]) {
            ('"' | '\\' | '/', 0..128) => out.extend(['\\', char]),
            ('\n', 0..128) => out.push_str("\\n"),
            ('\0'..' ' | '"' | '\\', _) | (_, 0..32) => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let hex = format!("{unit:04x}");
                    out.push_str("\\u");
                    out.push_str(&if n % 2 == 0 { hex } else { hex.to_uppercase() });
                }
            }
            _ => out.push(char),
        }
    }
    out.push('"');
    out
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        (0..2_000_000_000_000_u64).prop_map(|n| n.to_string()),
        "-?(0|[1-9][0-9]{0,45})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?",
    ]
}
