//! The rules of docs/semantics.md, Event envelope, one test each, and agreement with models of the
//! receivers' readers on everything else.

use std::{collections::HashSet, hash::Hasher, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;

use super::*;
use crate::event;

mod agreement;
mod properties;

const TYPED: &str = r#""type":"user.created""#;

fn pointer(text: &str) -> Pointer {
    text.parse().expect("a pointer")
}

fn spec() -> EnvelopeSpec {
    EnvelopeSpec {
        id: IdSource::Pointer(pointer("/id")),
        id_names: IdNames::Event,
        event_type: Source::Pointer(pointer("/type")),
        missing: MissingParts::default(),
        timestamp: None,
    }
}

fn timed(source: Source) -> EnvelopeSpec {
    EnvelopeSpec {
        timestamp: Some(TimestampSpec {
            source,
            max_age: None,
        }),
        ..spec()
    }
}

fn parse(body: impl AsRef<[u8]>) -> Result<Event, EnvelopeError> {
    spec().parse(body.as_ref(), &HeaderMap::new())
}

/// Parses an ID that is written as `value` in the body.
fn id(value: impl std::fmt::Display) -> Result<EventId, EnvelopeError> {
    parse(format!(r#"{{"id":{value},{TYPED}}}"#)).map(parsed_id)
}

fn parsed_id(event: Event) -> EventId {
    event.id.expect("an ID")
}

fn event_type(value: impl std::fmt::Display) -> Result<Box<str>, EnvelopeError> {
    parse(format!(r#"{{"id":"e","type":{value}}}"#)).map(|event| event.event_type)
}

fn time(value: &str) -> Result<i64, EnvelopeError> {
    let body = format!(r#"{{"id":"e",{TYPED},"at":{value}}}"#);
    let event = timed(Source::Pointer(pointer("/at"))).parse(body.as_bytes(), &HeaderMap::new())?;
    Ok(event.timestamp.expect("asked for").as_millisecond())
}

fn text(id: &str) -> EventId {
    EventId::Text(id.into())
}

fn integer(digits: &str) -> EventId {
    EventId::Integer(digits.into())
}

#[test]
fn parts_are_found_anywhere_in_the_body() {
    let spec = EnvelopeSpec {
        id: IdSource::Pointer(pointer("/events/1/id")),
        id_names: IdNames::Event,
        event_type: Source::Pointer(pointer("/events/1/m~1n/type")),
        missing: MissingParts::default(),
        timestamp: Some(TimestampSpec {
            source: Source::Pointer(pointer("/events/0")),
            max_age: None,
        }),
    };
    let body = br#" { "data" : [ { "id" : 1 } , -1.5e+3 , true ] , "events" : [ 1755857730 ,
        { "id" : "evt_\u00e9\n" , "m/n" : { "x" : [] , "type" : "a" } , "id2" : "evt_1" } ] } "#;
    assert_eq!(
        spec.parse(body, &HeaderMap::new()),
        Err(EnvelopeError::IdMalformed)
    );
    let body = String::from_utf8_lossy(body).replace(r"\n", "");
    let event = spec
        .parse(body.as_bytes(), &HeaderMap::new())
        .expect("an event");
    assert_eq!(event.id, Some(EventId::Text("evt_\u{e9}".into())));
    assert_eq!(&*event.event_type, "a");
    assert_eq!(event.timestamp, Timestamp::from_second(1_755_857_730).ok());
}

#[test]
fn id_may_be_the_whole_document() {
    let spec = EnvelopeSpec {
        id: IdSource::Pointer(pointer("")),
        id_names: IdNames::Event,
        event_type: Source::Header(HeaderName::from_static("x-type")),
        missing: MissingParts::default(),
        timestamp: None,
    };
    let headers = HeaderMap::from_iter([(
        HeaderName::from_static("x-type"),
        HeaderValue::from_static("ping"),
    )]);
    assert_eq!(
        spec.parse(b" \"evt\" ", &headers).map(parsed_id),
        Ok(text("evt"))
    );
    assert_eq!(spec.parse(b"[]", &headers), Err(EnvelopeError::IdMalformed));
}

#[test]
fn id_is_a_string_of_1_to_255_bytes() {
    assert_eq!(id(r#""evt_1""#), Ok(text("evt_1")));
    assert_eq!(id(r#""""#), Err(EnvelopeError::IdMalformed));
    for (unit, bytes) in [
        ("a", 1),
        ("\u{e9}", 2),
        (r"\u00e9", 2),
        (r"\ud83d\ude00", 4),
        ("\u{1f600}", 4),
    ] {
        let fits = 255 / bytes;
        assert!(id(format!("\"{}\"", unit.repeat(fits))).is_ok(), "{unit}");
        assert_eq!(
            id(format!("\"{}\"", unit.repeat(fits + 1))),
            Err(EnvelopeError::IdMalformed),
            "{unit}"
        );
    }
}

#[test]
fn id_rejects_control_characters() {
    for control in [
        r"\u0000", r"\n", r"\t", r"\u001f", "\u{7f}", r"\u007F", "\u{80}", "\u{9f}", r"\u0085",
    ] {
        assert_eq!(
            id(format!("\"a{control}b\"")),
            Err(EnvelopeError::IdMalformed),
            "{control:?}"
        );
    }
    assert_eq!(id("\"\u{a0}~ \""), Ok(text("\u{a0}~ ")));
}

#[test]
fn integer_id_keeps_its_digits_and_differs_from_text() {
    for digits in [
        "0",
        "1",
        "-5",
        "90071992547409931",
        "18446744073709551616",
        "-170141183460469231731687303715884105728",
    ] {
        assert_eq!(id(digits), Ok(integer(digits)));
        assert_eq!(id(format!("\"{digits}\"")), Ok(text(digits)));
    }
    assert_eq!(
        id("9".repeat(INTEGER_BYTES_MAX)),
        Ok(integer(&"9".repeat(INTEGER_BYTES_MAX)))
    );
}

#[test]
fn id_rejects_numbers_that_are_not_plain_integers() {
    for number in [
        "1.0",
        "1e0",
        "1E2",
        "-0",
        "0.5",
        &"9".repeat(INTEGER_BYTES_MAX + 1),
    ] {
        assert_eq!(id(number), Err(EnvelopeError::IdMalformed), "{number}");
    }
}

#[test]
fn id_rejects_other_json_types() {
    for value in [
        "null",
        "true",
        "false",
        "{}",
        "[]",
        r#"{"id":"a"}"#,
        r#"["a"]"#,
    ] {
        assert_eq!(id(value), Err(EnvelopeError::IdMalformed), "{value}");
    }
}

#[test]
fn event_type_is_a_string() {
    assert_eq!(event_type(r#""user.created""#), Ok("user.created".into()));
    for value in [
        "1",
        "null",
        "true",
        "{}",
        r#""""#,
        r#""a\u0000""#,
        &format!("\"{}\"", "a".repeat(256)),
    ] {
        assert_eq!(
            event_type(value),
            Err(EnvelopeError::TypeMalformed),
            "{value}"
        );
    }
}

#[test]
fn error_names_the_missing_part() {
    assert_eq!(parse(r#"{"type":"a"}"#), Err(EnvelopeError::IdMissing));
    assert_eq!(parse(r#"{"id":"a"}"#), Err(EnvelopeError::TypeMissing));
    assert_eq!(parse(r#""id""#), Err(EnvelopeError::IdMissing));
    let timed = timed(Source::Pointer(pointer("/at")));
    assert_eq!(
        timed.parse(br#"{"id":"a","type":"b"}"#, &HeaderMap::new()),
        Err(EnvelopeError::TimestampMissing)
    );
}

#[test]
fn duplicate_key_is_ambiguous() {
    assert_eq!(
        parse(r#"{"id":"a","id":"b","type":"t"}"#),
        Err(EnvelopeError::IdAmbiguous)
    );
    assert_eq!(
        parse(r#"{"id":"a","id":"a","type":"t"}"#),
        Err(EnvelopeError::IdAmbiguous)
    );
    assert_eq!(
        parse(r#"{"id":"a","type":"t","type":"u"}"#),
        Err(EnvelopeError::TypeAmbiguous)
    );
}

#[test]
fn key_twin_by_case_or_escape_is_ambiguous() {
    for twin in [
        "ID", "Id", "iD", r"\u0069d", r"\u0049D", r"i\u0064", "\u{131}d", "\u{130}d", r"\u0130D",
    ] {
        for body in [
            format!(r#"{{"id":"a",{TYPED},"{twin}":"b"}}"#),
            format!(r#"{{"{twin}":"b","id":"a",{TYPED}}}"#),
            format!(r#"{{"{twin}":"b","x":{{}},"{twin}":"b",{TYPED}}}"#),
        ] {
            assert_eq!(parse(&body), Err(EnvelopeError::IdAmbiguous), "{body}");
        }
    }
}

#[test]
fn key_twin_by_unicode_folding_is_ambiguous() {
    let spec = EnvelopeSpec {
        id: IdSource::Pointer(pointer("/message_id")),
        id_names: IdNames::Event,
        event_type: Source::Pointer(pointer("/kind")),
        missing: MissingParts::default(),
        timestamp: None,
    };
    let parse = |body: &str| spec.parse(body.as_bytes(), &HeaderMap::new());
    assert_eq!(
        parse("{\"message_id\":1,\"me\u{17f}\u{17f}age_id\":2,\"kind\":\"k\"}"),
        Err(EnvelopeError::IdAmbiguous)
    );
    assert_eq!(
        parse("{\"message_id\":1,\"kind\":\"k\",\"\u{212a}ind\":\"l\"}"),
        Err(EnvelopeError::TypeAmbiguous)
    );
    assert_eq!(
        parse(r#"{"message_id":1,"kind":"k","\u212AIND":"l"}"#),
        Err(EnvelopeError::TypeAmbiguous)
    );
    assert_eq!(
        parse("{\"message_id\":1,\"me\u{df}age_id\":2,\"kind\":\"k\"}"),
        Err(EnvelopeError::IdAmbiguous)
    );
}

#[test]
fn ambiguity_counts_on_every_level_of_the_path() {
    let spec = EnvelopeSpec {
        id: IdSource::Pointer(pointer("/event/id")),
        id_names: IdNames::Event,
        event_type: Source::Pointer(pointer("/event/type")),
        missing: MissingParts::default(),
        timestamp: None,
    };
    let parse = |body: &str| spec.parse(body.as_bytes(), &HeaderMap::new());
    assert!(
        parse(r#"{"event":{"id":"a","type":"t"},"id":"b","Id":"c","data":{"id":1,"id":2}}"#)
            .is_ok()
    );
    for body in [
        r#"{"event":{"id":"a","type":"t"},"event":{}}"#,
        r#"{"event":{"id":"a","type":"t"},"Event":null}"#,
        r#"{"EVENT":{"id":"a","type":"t"},"event":{"id":"a","type":"t"}}"#,
        r#"{"event":{"id":"a","type":"t","ID":"b"}}"#,
    ] {
        assert_eq!(parse(body), Err(EnvelopeError::IdAmbiguous), "{body}");
    }
}

#[test]
fn key_elsewhere_or_in_other_case_is_not_the_part() {
    assert_eq!(
        parse(r#"{"data":{"id":"a"},"type":"t"}"#),
        Err(EnvelopeError::IdMissing)
    );
    assert_eq!(
        parse(r#"{"ID":"a","type":"t"}"#),
        Err(EnvelopeError::IdMissing)
    );
    assert_eq!(
        parse(r#"{"i":"id","type":"t","x":"\"id\":1"}"#),
        Err(EnvelopeError::IdMissing)
    );
}

#[test]
fn escaped_key_is_found() {
    assert_eq!(
        parse(r#"{"\u0069\u0064":"a","typ\u0065":"t"}"#).map(parsed_id),
        Ok(text("a"))
    );
}

#[test]
fn body_must_be_one_json_text() {
    let event = format!(r#"{{"id":"a",{TYPED}}}"#);
    for body in [
        String::new(),
        " ".into(),
        format!("\u{feff}\u{feff}{event}"),
        format!(" \u{feff}{event}"),
        format!("{event}\u{feff}"),
        "\u{feff}".into(),
        format!("{event}{event}"),
        format!("{event},"),
        format!("{event}\0"),
        format!("\u{c}{event}"),
        event.replace('"', "'"),
        event[..event.len() - 1].into(),
        event.replace('}', ",}"),
        event.replace('{', "{,"),
        event.replace('}', ",\"x\":[1,]}"),
        event.replace('}', ",\"x\":[}]}"),
        event.replace('}', ",\"x\"}"),
        event.replace('}', ",\"x\":}"),
        event.replace('}', ",x:1}"),
        event.replace('}', ",\"x\":\"\t\"}"),
        event.replace('}', ",\"x\":\"\\x\"}"),
        event.replace('}', ",\"x\":\"\\u12\"}"),
        event.replace('}', ",\"x\":\"\\u+123\"}"),
        event.replace('}', "/**/}"),
    ] {
        assert_eq!(parse(&body), Err(EnvelopeError::NotJson), "{body:?}");
    }
}

#[test]
fn malformed_scalars_are_rejected_off_the_path_too() {
    for value in [
        "01",
        "-",
        "+1",
        ".5",
        "1.",
        "1.e1",
        "1e",
        "1e+",
        "--1",
        "0x1",
        "1_000",
        "nan",
        "NAN",
        "NaNs",
        "-NaN",
        "Inf",
        "+Infinity",
        "Infinity1",
        "--Infinity",
        "nul",
        "nulll",
        "True",
        "tru",
        "fals",
        "1e309x",
        "undefined",
    ] {
        assert_eq!(
            parse(format!(r#"{{"x":{value},"id":"a",{TYPED}}}"#)),
            Err(EnvelopeError::NotJson),
            "{value}"
        );
        assert_eq!(id(value), Err(EnvelopeError::NotJson), "{value}");
    }
    for value in [
        "0",
        "-0",
        "0.0e-0",
        "1E+2",
        "1e308",
        "1e-999",
        "0e999",
        "1e309",
        "-1e999999999999999999999",
        &"9".repeat(1_000),
        "NaN",
        "Infinity",
        "-Infinity",
        "null",
        "true",
        "false",
    ] {
        assert!(
            parse(format!(r#"{{"x":{value},"id":"a",{TYPED}}}"#)).is_ok(),
            "{value}"
        );
    }
}

#[test]
fn number_that_is_not_finite_is_no_part() {
    for value in ["NaN", "Infinity", "-Infinity", "1e309", "-1e309"] {
        assert_eq!(id(value), Err(EnvelopeError::IdMalformed), "{value}");
        assert_eq!(
            time(value),
            Err(EnvelopeError::TimestampMalformed),
            "{value}"
        );
    }
}

#[test]
fn byte_order_mark_is_skipped() {
    assert_eq!(
        parse(format!("\u{feff}{{\"id\":\"a\",{TYPED}}}")).map(parsed_id),
        Ok(text("a"))
    );
    assert_eq!(id("\"\u{feff}a\""), Ok(text("\u{feff}a")));
}

#[test]
fn unpaired_surrogate_refuses_only_the_part_it_is_in() {
    for half in [
        r"\ud83d",
        r"\ude00",
        r"\ud83dx",
        r"\ud83d\u0041",
        r"\ud83d\n",
        r"\ude00\ud83d",
        r"\ud83d\ud83d\ude00",
    ] {
        assert_eq!(
            id(format!("\"{half}\"")),
            Err(EnvelopeError::IdMalformed),
            "{half}"
        );
        assert_eq!(
            event_type(format!("\"{half}\"")),
            Err(EnvelopeError::TypeMalformed),
            "{half}"
        );
        assert!(time(&format!("\"{half}\"")).is_err(), "{half}");
        for member in [
            format!(r#""x":"{half}""#),
            format!(r#""{half}":1"#),
            format!(r#""id{half}":1"#),
        ] {
            assert_eq!(
                parse(format!(r#"{{"id":"a",{TYPED},{member}}}"#)).map(parsed_id),
                Ok(text("a")),
                "{member}"
            );
        }
    }
}

#[test]
fn invalid_utf8_is_rejected_everywhere() {
    for bytes in [
        &b"\xff"[..],
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\xf5\x80\x80\x80",
        b"\xc3",
    ] {
        for (before, after) in [
            ("{\"id\":\"a", "\"}"),
            ("{\"", "\":1}"),
            ("{\"data\":[\"", "\"]}"),
            ("{}", ""),
        ] {
            let body = [before.as_bytes(), bytes, after.as_bytes()].concat();
            assert_eq!(parse(&body), Err(EnvelopeError::InvalidUtf8), "{body:?}");
        }
    }
}

#[test]
fn nesting_off_the_path_has_no_bound() {
    let nested = |depth: usize, open: &str, close: &str| {
        let (open, close) = (open.repeat(depth), close.repeat(depth));
        parse(format!(r#"{{"x":{open}0{close},"id":"a",{TYPED}}}"#)).map(parsed_id)
    };
    for depth in [126, 127, 128, 129, 255, 256, 257, 258, 10_000, 1_000_000] {
        for (open, close) in [("[", "]"), (r#"{"id":"#, "}"), (r#"[[],{"":"#, "},1]")] {
            assert_eq!(nested(depth, open, close), Ok(text("a")), "{depth} {open}");
        }
    }
}

#[test]
fn grammar_is_checked_at_any_depth() {
    for depth in [126, 127, 128, 129, 256, 257, 100_000] {
        let (open, close) = (r#"[{"a":"#.repeat(depth / 2), "}]".repeat(depth / 2));
        let within = |text: &str| format!(r#"{{"id":"a",{TYPED},"x":{open}{text}{close}}}"#);
        assert!(parse(within("[[],{}]")).is_ok(), "{depth}");
        for text in ["", "]", "}", "[", "{", "[}", "{]", "[1,]", "{\"a\"}", "nul"] {
            assert_eq!(
                parse(within(text)),
                Err(EnvelopeError::NotJson),
                "{depth} {text}"
            );
        }
        let mixed = within("0").replacen("}]}]", "]}}]", 1);
        assert_eq!(parse(mixed), Err(EnvelopeError::NotJson), "{depth}");
    }
}

#[test]
fn every_depth_is_left_as_it_was_entered() {
    for depth in 0..600 {
        for (within, is_json) in [("[]", true), ("{}", true), ("[1,{}]", true), ("[}", false)] {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            let behind = r#","x":[],"y":{}"#;
            let body = format!(r#"{{"x":{open}{within}{close}{behind},"id":"a",{TYPED}}}"#);
            let expected = if is_json {
                Ok(text("a"))
            } else {
                Err(EnvelopeError::NotJson)
            };
            assert_eq!(parse(body).map(parsed_id), expected, "{depth} {within}");
            let unclosed = format!(r#"{{"id":"a",{TYPED},"x":{open}{within}}}"#);
            assert_eq!(parse(unclosed).is_ok(), is_json && depth == 0, "{depth}");
        }
    }
}

#[test]
fn part_is_found_behind_the_longest_pointer() {
    let spec = EnvelopeSpec {
        id: IdSource::Pointer(pointer(&"/0".repeat(Pointer::MAX_STEPS))),
        event_type: Source::Header(HeaderName::from_static("x-type")),
        timestamp: None,
        ..spec()
    };
    let headers = HeaderMap::from_iter([(
        HeaderName::from_static("x-type"),
        HeaderValue::from_static("ping"),
    )]);
    let on = |depth, within: &str| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        spec.parse(format!("{open}{within}{close}").as_bytes(), &headers)
    };
    let id_at = |depth, within: &str| on(depth, within).map(parsed_id);
    assert_eq!(id_at(Pointer::MAX_STEPS, "7"), Ok(integer("7")));
    assert!(on(Pointer::MAX_STEPS, "").is_ok_and(|event| event.is_batch));
    assert_eq!(id_at(128, "7"), Err(EnvelopeError::IdMalformed));
    assert_eq!(id_at(100_000, "7"), Err(EnvelopeError::IdMalformed));
}

#[test]
fn body_without_parts_may_be_anything() {
    let name = HeaderName::from_static("x-event");
    let spec = EnvelopeSpec {
        id: IdSource::BodyDigest,
        id_names: IdNames::Event,
        event_type: Source::Header(name.clone()),
        missing: MissingParts::default(),
        timestamp: None,
    };
    let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("push"))]);
    let event = spec.parse(b"a=1&b=\xff", &headers).expect("an event");
    assert_eq!((event.id, &*event.event_type), (None, "push"));
}

#[test]
fn header_id_is_visible_ascii_given_once() {
    let name = HeaderName::from_static("x-github-delivery");
    let spec = EnvelopeSpec {
        id: IdSource::Header(name.clone()),
        ..spec()
    };
    let parse = |values: &[&[u8]]| {
        let values = values.iter().map(|value| {
            (
                name.clone(),
                HeaderValue::from_bytes(value).expect("a value"),
            )
        });
        spec.parse(format!("{{{TYPED}}}").as_bytes(), &values.collect())
            .map(parsed_id)
    };
    assert_eq!(
        parse(&[b"72d3162e-cc78-11e3-81ab-4c9367dc0958"]),
        Ok(text("72d3162e-cc78-11e3-81ab-4c9367dc0958"))
    );
    assert_eq!(parse(&[b"42"]), Ok(text("42")));
    assert_eq!(parse(&[]), Err(EnvelopeError::IdMissing));
    assert_eq!(parse(&[b"a", b"a"]), Err(EnvelopeError::IdAmbiguous));
    for value in [
        &b""[..],
        b" a",
        b"a ",
        b"a b",
        b"a,b",
        b"a\tb",
        b"\xc3\xa9",
        b"\x80",
        &[b'a'; 256],
    ] {
        assert_eq!(
            parse(&[value]),
            Err(EnvelopeError::IdMalformed),
            "{value:?}"
        );
    }
}

#[test]
fn header_event_type_may_have_spaces() {
    let name = HeaderName::from_static("x-gitlab-event");
    let spec = EnvelopeSpec {
        id: IdSource::BodyDigest,
        id_names: IdNames::Event,
        event_type: Source::Header(name.clone()),
        missing: MissingParts::default(),
        timestamp: None,
    };
    let parse = |value: &'static str| {
        let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static(value))]);
        spec.parse(b"", &headers).map(|event| event.event_type)
    };
    for event_type in [
        "push",
        "Push Hook",
        "application/x-www-form-urlencoded; charset=utf-8",
    ] {
        assert_eq!(parse(event_type).as_deref(), Ok(event_type));
    }
    for value in [
        "",
        " ",
        "Push Hook ",
        " Push Hook",
        "Push,Hook",
        "Push\tHook",
    ] {
        assert_eq!(parse(value), Err(EnvelopeError::TypeMalformed), "{value:?}");
    }
}

#[test]
fn backslash_in_a_header_is_not_an_escape() {
    let name = HeaderName::from_static("x-id");
    let spec = EnvelopeSpec {
        id: IdSource::Header(name.clone()),
        ..spec()
    };
    let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(r"a\u0000"))]);
    assert_eq!(
        spec.parse(format!("{{{TYPED}}}").as_bytes(), &headers)
            .map(parsed_id),
        Ok(text(r"a\u0000"))
    );
}

#[test]
fn timestamp_is_rfc_3339() {
    for at in [
        "2026-08-22T10:15:30Z",
        "2026-08-22t10:15:30z",
        "2026-08-22T10:15:30.000000000Z",
        "2026-08-22T12:15:30+02:00",
        "2026-08-22T10:15:30-00:00",
        r"2026-08-22T10:15:30\u005a",
    ] {
        assert_eq!(time(&format!("\"{at}\"")), Ok(1_787_393_730_000), "{at}");
    }
    assert_eq!(time(r#""2026-08-22T10:15:30.5Z""#), Ok(1_787_393_730_500));
    for at in [
        "",
        "now",
        "2026-08-22",
        "2026-08-22T10:15:30",
        "2026-08-22T10:15Z",
        "2026-08-22 10:15:30Z",
        "20260822T101530Z",
        "2026-08-22T10:15:30.Z",
        "2026-08-22T10:15:30,5Z",
        "2026-08-22T10:15:30+02",
        "2026-08-22T10:15:30+0200",
        "2026-08-22T10:15:30Z[UTC]",
        "2026-13-22T10:15:30Z",
        "2026-02-30T10:15:30Z",
        "2026-08-22T24:00:00Z",
        "2026-08-22T10:15:30+25:61",
        " 2026-08-22T10:15:30Z",
        "2026-08-22T10:15:30\u{e9}",
    ] {
        assert_eq!(
            time(&format!("\"{at}\"")),
            Err(EnvelopeError::TimestampMalformed),
            "{at}"
        );
    }
}

#[test]
fn timestamp_is_unix_seconds_or_milliseconds_by_size() {
    for (number, milliseconds) in [
        ("0", 0),
        ("1787393730", 1_787_393_730_000),
        ("1787393730123", 1_787_393_730_123),
        ("99999999999", 99_999_999_999_000),
        ("100000000000", 100_000_000_000),
    ] {
        assert_eq!(time(number), Ok(milliseconds));
        assert_eq!(time(&format!("\"{number}\"")), Ok(milliseconds));
    }
    for number in [
        "-1",
        "-0",
        "1787393730.5",
        "1.787e9",
        "1787393730123456",
        "99999999999999999999",
        "null",
        "true",
        "[]",
    ] {
        assert_eq!(
            time(number),
            Err(EnvelopeError::TimestampMalformed),
            "{number}"
        );
    }
    assert_eq!(time(r#""-1""#), Err(EnvelopeError::TimestampMalformed));
    assert_eq!(time(r#""+1""#), Err(EnvelopeError::TimestampMalformed));
}

#[test]
fn timestamp_is_read_from_a_header() {
    let name = HeaderName::from_static("x-timestamp");
    let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("1787393730"))]);
    let event =
        timed(Source::Header(name)).parse(format!(r#"{{"id":"e",{TYPED}}}"#).as_bytes(), &headers);
    assert_eq!(
        event.map(|event| event.timestamp),
        Ok(Timestamp::from_second(1_787_393_730).ok())
    );
}

#[test]
fn event_is_stale_in_the_past_and_the_future() {
    let spec = TimestampSpec {
        source: Source::Pointer(pointer("/at")),
        max_age: Some(Duration::from_secs(300)),
    };
    let now = Timestamp::from_second(1_787_393_730).expect("in range");
    let fresh = |nanoseconds: i64| {
        spec.check_fresh(now + jiff::SignedDuration::from_nanos(nanoseconds), now)
    };
    assert_eq!(fresh(300_000_000_000), Ok(()));
    assert_eq!(fresh(-300_000_000_000), Ok(()));
    assert_eq!(fresh(300_000_000_001), Err(EnvelopeError::Stale));
    assert_eq!(fresh(-300_000_000_001), Err(EnvelopeError::Stale));
    assert_eq!(
        spec.check_fresh(Timestamp::MIN, Timestamp::MAX),
        Err(EnvelopeError::Stale)
    );
    let unset = TimestampSpec {
        max_age: None,
        ..spec
    };
    assert_eq!(unset.check_fresh(Timestamp::MIN, Timestamp::MAX), Ok(()));
}

#[test]
fn ids_feed_a_hasher_distinct_bytes() {
    #[derive(Default)]
    struct Bytes(Vec<u8>);
    impl Hasher for Bytes {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let ids = [
        EventId::Text("1".into()),
        EventId::Integer("1".into()),
        EventId::Text("12".into()),
        EventId::Text("body".into()),
    ];
    let fed: Vec<Vec<u8>> = ids
        .iter()
        .map(|id| {
            let mut bytes = Bytes::default();
            id.feed(&mut bytes);
            bytes.0
        })
        .collect();
    assert_eq!(
        fed[0], b"\x01\x01\0\0\0\0\0\0\x001",
        "stored keys depend on these bytes"
    );
    for (n, one) in fed.iter().enumerate() {
        assert!(
            fed.iter()
                .skip(n + 1)
                .all(|other| !other.starts_with(one) && !one.starts_with(other))
        );
    }
}

#[test]
fn reasons_are_distinct_words() {
    use EnvelopeError::*;
    let all = [
        InvalidUtf8,
        NotJson,
        IdMissing,
        IdAmbiguous,
        IdMalformed,
        TypeMissing,
        TypeAmbiguous,
        TypeMalformed,
        TimestampMissing,
        TimestampAmbiguous,
        TimestampMalformed,
        Stale,
    ];
    let reasons: HashSet<_> = all.map(EnvelopeError::reason).into_iter().collect();
    assert_eq!(reasons.len(), all.len());
    assert!(reasons.iter().all(|reason| {
        reason
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'8')
    }));
}

/// A file is named `<outcome>--<what it shows>.json`. With `timestamp` in the name, the envelope
/// has one at `/at`.
#[test]
fn corpus_body_has_the_outcome_in_its_name() {
    let corpus = crate::corpus::files("envelope");
    assert!(corpus.len() > 50, "the corpus was found");
    for (name, body) in corpus {
        let spec = if name.contains("timestamp") {
            timed(Source::Pointer(pointer("/at")))
        } else {
            spec()
        };
        let outcome = spec
            .parse(&body, &HeaderMap::new())
            .map_or_else(EnvelopeError::reason, |_| "ok");
        assert_eq!(Some(outcome), name.split("--").next(), "{name}");
        agreement::check(&body);
    }
}

#[test]
fn fuzz_finding_is_read_as_the_model_reads_it() {
    for body in crate::corpus::files("found/envelope").values() {
        agreement::check(body);
    }
}

#[test]
fn joined_ids_of_different_parts_differ() {
    let spec = EnvelopeSpec {
        id: IdSource::Joined([pointer("/a"), pointer("/b")].into()),
        ..spec()
    };
    let parse = |a: &str, b: &str| {
        let body = serde_json::json!({"a": a, "b": b, "type": "t"}).to_string();
        spec.parse(body.as_bytes(), &HeaderMap::new())
            .map(|event| event.id.expect("an ID").as_str().to_owned())
    };
    assert_eq!(parse("x", "y"), Ok("x|y".into()));
    let parts = ["x", "x|", "|x", r"x\", r"\x", "|", r"\", r"\|"];
    let pairs = parts.iter().flat_map(|a| parts.iter().map(move |b| (a, b)));
    let ids: HashSet<_> = pairs.map(|(a, b)| parse(a, b).unwrap()).collect();
    assert_eq!(ids.len(), parts.len() * parts.len());
    assert_eq!(parse("", "y"), Err(EnvelopeError::IdMalformed));
    let long = "x".repeat(TEXT_BYTES_MAX);
    assert_eq!(parse(&long, "y"), Err(EnvelopeError::IdMalformed));
}

#[test]
fn message_without_id_or_type_needs_a_rule() {
    let with = |id, event_type| EnvelopeSpec {
        missing: MissingParts { id, event_type },
        ..spec()
    };
    let strict = with(MissingId::Reject, None);
    let control = with(
        MissingId::BodyDigest,
        Some(FallbackType::Text("control".into())),
    );
    let elsewhere = with(
        MissingId::BodyDigest,
        Some(FallbackType::Pointer(pointer("/kind"))),
    );
    let parse = |spec: &EnvelopeSpec, body: &str| {
        spec.parse(body.as_bytes(), &HeaderMap::new())
            .map(|event| (event.id.is_some(), event.event_type.into_string()))
    };
    let body = r#"{"kind":"k"}"#;
    assert_eq!(parse(&strict, body), Err(EnvelopeError::IdMissing));
    assert_eq!(parse(&control, body), Ok((false, "control".into())));
    assert_eq!(parse(&elsewhere, body), Ok((false, "k".into())));
    assert_eq!(parse(&elsewhere, "{}"), Err(EnvelopeError::TypeMissing));
    let known = r#"{"id":"a","type":"t"}"#;
    assert_eq!(parse(&control, known), Ok((true, "t".into())));
    for (body, error) in [
        (r#"{"id":null,"type":"t"}"#, EnvelopeError::IdMalformed),
        (
            r#"{"id":"a","ID":"b","type":"t"}"#,
            EnvelopeError::IdAmbiguous,
        ),
        (r#"{"id":"a","type":1}"#, EnvelopeError::TypeMalformed),
    ] {
        assert_eq!(parse(&control, body), Err(error), "{body}");
    }
}

#[test]
fn array_is_a_batch_unless_its_parts_are_found() {
    let parse = |spec: &EnvelopeSpec, body: &str| spec.parse(body.as_bytes(), &HeaderMap::new());
    let batch = parse(&spec(), " [{\"id\":\"a\",\"type\":\"t\"}]").unwrap();
    assert_eq!(
        (batch.id, &*batch.event_type, batch.is_batch),
        (None, BATCH_TYPE, true)
    );
    for empty in ["[]", " [ ] "] {
        assert_eq!(parse(&spec(), empty), Err(EnvelopeError::IdMissing));
    }
    assert_eq!(parse(&spec(), "[1"), Err(EnvelopeError::NotJson));
    let first = EnvelopeSpec {
        id: IdSource::Pointer(pointer("/0/id")),
        event_type: Source::Pointer(pointer("/0/type")),
        ..spec()
    };
    let event = parse(&first, r#"[{"id":"a","type":"t"}]"#).unwrap();
    assert!(event.id.is_some() && !event.is_batch);
}
