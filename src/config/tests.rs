//! Tests of what a configuration means, of the reports on broken ones, and that the committed
//! copies are current.
//!
//! `cases/NAME.yaml` is a configuration and `cases/NAME.txt` the report on it, word for word.
//! `HOOKSTILE_REGENERATE=1 cargo test --lib config` rewrites the reports, the schema and the
//! reference.

use std::fs;
use std::path::PathBuf;

use http::{Method, StatusCode};
use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::backoff::{Backoff, PermanentFailure};
use crate::diagnostic::Severity;
use crate::ledger::InFlightPolicy;
use crate::route::{DeliveryMode, OnDuplicate};
use crate::store::{Durability, EmbeddedSettings, Payloads, Retain, Settings};

const MINIMAL: &str = include_str!("../../config/minimal.yaml");
const EXAMPLE: &str = include_str!("../../config/hookstile.yaml");

/// 2026-06-01T00:00:00Z
const NOW: i64 = 1_780_272_000;

fn addresses(config: &Config) -> Vec<String> {
    config
        .listen
        .iter()
        .map(|listen| listen.address.to_string())
        .collect()
}

fn report_json(report: &Report) -> Json {
    serde_json::json!(report.located().collect::<Vec<_>>())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn cases() -> PathBuf {
    root().join("src/config/cases")
}

fn env(name: &str) -> Option<String> {
    match name {
        "WEBHOOK_SECRET" => Some("canary-webhook-secret".into()),
        "OTHER_SECRET" => Some("canary-other-secret".into()),
        "OWN_SYSTEM_SECRET" => Some("whsec_Y2FuYXJ5LW93bg==".into()),
        "META_APP_SECRET" => Some("canary-meta-secret".into()),
        "META_VERIFY_TOKEN" => Some("canary-verify-token".into()),
        "SQUARE_SIGNATURE_KEY" => Some("canary-square-secret".into()),
        "INSIDE_SECRET" => Some("canary-inside-secret".into()),
        "HOOKSTILE_ADMIN_TOKEN" => Some("canary-admin-token".into()),
        // base64 of 32 bytes: a key of Standard Webhooks.
        "HOOKSTILE_NOTIFY_SECRET" => {
            Some("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=".into())
        }
        "HOOKSTILE_READ_TOKEN" => Some("canary-read-token".into()),
        "APP_AUTHORIZATION" => Some("Bearer canary-of-the-application".into()),
        "EMPTY" => Some(String::new()),
        "STAGE" => Some("canary-stage".into()),
        "PORT" => Some("3000".into()),
        "PADDED" => Some("canary-padded\n".into()),
        "MARKED" => Some("\u{feff}canary-marked-secret".into()),
        "INVISIBLE" => Some("canary-\u{200b}invisible-secret".into()),
        "WIDE" => Some("c\0a\0n\0a\0r\0y\0-\0w\0i\0d\0e\0".into()),
        _ => None,
    }
}

fn parse_in(folder: &Path, source: &str) -> Result<Loaded, Report> {
    let sources = Sources {
        folder,
        env: &env,
        now: Timestamp::from_second(NOW).unwrap(),
        unreadable: UnreadableSecret::Refuse,
        strict_start: facts::STRICT_START.default,
        route_files: &[],
        files: &[],
    };
    parse("hookstile.yaml".into(), source.into(), &sources)
}

fn parse_text(source: &str) -> Result<Loaded, Report> {
    parse_in(Path::new("src/config/cases"), source)
}

fn config(source: &str) -> Config {
    parse_text(source)
        .unwrap_or_else(|report| panic!("{report:?}"))
        .config
}

/// Returns a configuration with one route that has `keys` besides the required ones.
fn with_keys(keys: &str) -> String {
    format!(
        "routes: [{{path: /hook, secrets: [{{env: WEBHOOK_SECRET}}], \
         upstream: \"http://127.0.0.1:3000/\", {keys}}}]"
    )
}

fn route(keys: &str) -> crate::route::Route {
    config(&with_keys(keys)).routes.remove(0)
}

/// Compares with a committed file, or writes it if `HOOKSTILE_REGENERATE` is set.
fn assert_current(path: &Path, now: &str) {
    if std::env::var_os("HOOKSTILE_REGENERATE").is_some() {
        fs::write(path, now).unwrap();
    }
    let committed = fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == now,
        "{} is not current; `HOOKSTILE_REGENERATE=1 cargo test --lib config` rewrites it. \
         Now:\n{now}",
        path.display()
    );
}

#[test]
fn reports_match_the_committed_cases() {
    let mut names: Vec<_> = fs::read_dir(cases())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    names.sort();
    assert!(names.len() > 10, "{names:?}");
    for path in names {
        let report = match parse_text(&fs::read_to_string(&path).unwrap()) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        };
        assert!(
            !report.to_text(true).contains("canary")
                && !report_json(&report).to_string().contains("canary")
        );
        assert!(!format!("{report:?}").contains("canary"));
        assert_current(&path.with_extension("txt"), &report.to_text(false));
    }
}

#[test]
fn json_has_every_problem() {
    let report = parse_text("routes:\n  - {path: /ä, name: a, nam: b}\n")
        .err()
        .unwrap();
    let problems = report_json(&report);
    let lines = problems.as_array().unwrap();
    assert_eq!(
        lines.len(),
        report.count(Severity::Error) + report.count(Severity::Warning)
    );
    let unknown = lines
        .iter()
        .find(|line| line["message"] == "unknown key `nam`")
        .unwrap();
    assert_eq!(unknown["severity"], "error");
    assert_eq!(unknown["file"], "hookstile.yaml");
    assert_eq!(
        (&unknown["line"], &unknown["column"]),
        (&2.into(), &25.into())
    );
    assert_eq!(unknown["label"], "did you mean `name`?");
}

#[test]
fn minimal_configuration_is_valid() {
    let loaded = parse_text(MINIMAL).unwrap_or_else(|report| panic!("{report:?}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(addresses(&loaded.config), ["127.0.0.1:8080"]);
    assert_eq!(
        loaded.config.admin.address,
        "127.0.0.1:9180".parse().unwrap()
    );
    assert!(loaded.config.admin.token.is_none());
    let [route] = &loaded.config.routes[..] else {
        panic!("one route")
    };
    assert_eq!(&*route.name, "webhooks-vpn-enterprise");
    assert_eq!(&*route.path, "/webhooks/vpn-enterprise");
    assert_eq!(route.methods, [Method::POST]);
    assert_eq!(route.budget.total, Duration::from_secs(10));
    assert_eq!(route.budget.margin, Duration::from_millis(500));
    assert_eq!(route.max_body, 1 << 20);
    assert_eq!(route.replay.window, Duration::from_secs(96 * 3600));
    assert_eq!(route.replay.on_duplicate, OnDuplicate::Reject);
    assert_eq!(route.replay.in_flight, InFlightPolicy::Wait);
    assert_eq!(route.delivery_mode, DeliveryMode::Proxy);
}

#[test]
fn example_has_no_warnings() {
    let loaded = parse_text(EXAMPLE).unwrap_or_else(|report| panic!("{report:?}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let billing = &loaded.config.routes[0];
    assert_eq!(&*billing.name, "billing");
    assert_eq!(billing.host.as_deref(), Some("hooks.example.com"));
    assert!(billing.events.accepts("user.created") && !billing.events.accepts("database.created"));
    let last = loaded.config.routes.last().unwrap();
    assert_eq!(&*last.name, "webhooks-own-system");
}

/// Returns the example with the keys that are commented out because they need a file.
fn whole_example() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) || key.starts_with("  ") => {
            format!("{key}\n")
        }
        _ => format!("{line}\n"),
    };
    EXAMPLE.lines().map(line).collect()
}

/// Writes a file of `routes.d` with one route.
fn write_routes(folder: &Path, file: &str, path: &str, variable: &str) {
    let routes = folder.join("routes.d");
    fs::create_dir_all(&routes).unwrap();
    let route = format!(
        "- path: {path}\n  secrets: [{{env: {variable}}}]\n  upstream: http://127.0.0.1:3000/\n"
    );
    fs::write(routes.join(file), route).unwrap();
}

#[test]
fn routes_of_other_files_are_added_in_order() {
    let folder = tempfile::tempdir().unwrap();
    write_routes(folder.path(), "b.yaml", "/b", "WEBHOOK_SECRET");
    write_routes(folder.path(), "a.yaml", "/${STAGE}/a", "OTHER_SECRET");
    write_routes(folder.path(), ".hidden.yaml", "/hidden", "WEBHOOK_SECRET");
    fs::create_dir(folder.path().join("routes.d/folder.yaml")).unwrap();
    fs::write(
        folder.path().join("routes.d/own.key"),
        "canary-of-the-folder",
    )
    .unwrap();
    let c = "- {path: /c, secrets: [{file: own.key}], upstream: \"http://127.0.0.1:3000/\"}\n";
    fs::write(folder.path().join("routes.d/c.yaml"), c).unwrap();
    let patterns = "routes_from: [\"routes.d/[bc].yaml\", \"./routes.d/*.yaml\"]\n\
                    defaults: {budget: 3s}\n";
    let loaded = parse_in(folder.path(), patterns).unwrap_or_else(|report| panic!("{report}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let routes = &loaded.config.routes;
    let paths: Vec<_> = routes.iter().map(|route| &*route.path).collect();
    assert_eq!(paths, ["/canary-stage/a", "/b", "/c"]);
    assert!(
        routes
            .iter()
            .all(|route| route.budget.total == Duration::from_secs(3))
    );
    let files = &loaded.config.files.route_files;
    assert_eq!(files[1].folder(), folder.path().join("./routes.d"));
    assert!(!files.iter().any(RouteFiles::is_changed));
    write_routes(folder.path(), "d.yaml", "/d", "WEBHOOK_SECRET");
    let changed: Vec<_> = files.iter().map(RouteFiles::is_changed).collect();
    assert_eq!(changed, [false, true]);
    // Their keys are of no interest for the way to the admin listener.
    let file = folder.path().join("hookstile.yaml");
    fs::write(&file, patterns).unwrap();
    fs::write(folder.path().join("routes.d/e.yaml"), "- [").unwrap();
    assert!(admin_endpoint(&file, &env, false).is_ok());
    assert!(load(&file, &env).is_err());
}

#[test]
fn problems_of_other_files_name_both() {
    let folder = tempfile::tempdir().unwrap();
    write_routes(folder.path(), "a.yaml", "/hook", "OTHER_SECRET");
    let source = with_keys("name: x") + "\nroutes_from: [routes.d/*]\n";
    let report = parse_in(folder.path(), &source).err().unwrap();
    let file = folder.path().join("routes.d/a.yaml").display().to_string();
    let summary = report.errors().next().unwrap();
    assert!(
        summary.starts_with(&format!("{file}:1:9: another route"))
            && summary.contains("the first route: hookstile.yaml:1:17"),
        "{summary}"
    );
    let json = report_json(&report)[0].clone();
    assert_eq!(json["file"], file);
    assert_eq!(json["also"]["file"], "hookstile.yaml");
}

#[test]
fn example_with_commented_keys_has_no_warnings() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("old.key"), "canary-old-secret\n").unwrap();
    for file in ["ca.pem", "tls.crt", "tls.key"] {
        fs::copy(cases().join(file), folder.path().join(file)).unwrap();
    }
    write_routes(
        folder.path(),
        "a.yaml",
        "/webhooks/of-a-team",
        "OTHER_SECRET",
    );
    let loaded =
        parse_in(folder.path(), &whole_example()).unwrap_or_else(|report| panic!("{report:?}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let names: Vec<_> = loaded.config.routes[0]
        .verifier
        .secret_names()
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["current", "old"]);
}

#[test]
fn example_has_every_key() {
    fn keys(schema: &Json, found: &mut Vec<String>) {
        match schema {
            Json::Object(object) => {
                if let Some(Json::Object(properties)) = object.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                object.values().for_each(|value| keys(value, found));
            }
            Json::Array(items) => items.iter().for_each(|item| keys(item, found)),
            _ => {}
        }
    }
    let mut all = Vec::new();
    keys(
        &serde_json::from_str(&schema::json_schema()).unwrap(),
        &mut all,
    );
    assert!(all.len() > 60, "{all:?}");
    // The example writes a pointer as text, without its key.
    for key in all.iter().filter(|key| *key != "pointer") {
        assert!(
            EXAMPLE.contains(&format!("{key}:")),
            "`{key}` is not in config/hookstile.yaml"
        );
    }
}

fn to_json(node: &tree::Node) -> Json {
    match &node.value {
        tree::Value::Null | tree::Value::Wrong => Json::Null,
        tree::Value::Scalar { text, plain } => match serde_json::from_str(text) {
            Ok(value @ (Json::Bool(_) | Json::Number(_))) if *plain => value,
            _ => Json::String(text.to_string()),
        },
        tree::Value::Sequence(items) => items.iter().map(|item| to_json(item)).collect(),
        tree::Value::Mapping(entries) => entries
            .iter()
            .map(|entry| (entry.key.text().unwrap().to_owned(), to_json(&entry.value)))
            .collect(),
    }
}

#[test]
fn schema_is_current_and_accepts_the_examples() {
    let schema = schema::json_schema();
    assert_current(&root().join("config/hookstile.schema.json"), &schema);
    let schema: Json = serde_json::from_str(&schema).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    let validator = jsonschema::validator_for(&schema).unwrap();
    let whole = whole_example();
    for source in [MINIMAL, EXAMPLE, whole.as_str()] {
        let instance = to_json(&tree::parse(source, 0, &Problems::default()).unwrap()[0]);
        let errors: Vec<_> = validator
            .iter_errors(&instance)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    for wrong in [
        "routes: []",
        "listen: [{adress: a}]\nroutes: [{}]",
        "routes: [{delivery: fax}]",
        "{}",
    ] {
        let instance = to_json(&tree::parse(wrong, 0, &Problems::default()).unwrap()[0]);
        assert!(!validator.is_valid(&instance), "{wrong}");
    }
}

#[test]
fn reference_is_current() {
    assert_current(&root().join("docs/configuration.md"), &schema::reference());
}

/// Returns the keys of a mapping of the schema with their defaults, as YAML.
fn documented_defaults(schema: &Json, mapping: &str) -> String {
    let properties = schema["$defs"][mapping]["properties"].as_object().unwrap();
    let with_default = properties
        .iter()
        .filter_map(|(key, property)| Some((key, property.get("default")?)));
    let pairs: serde_json::Map<_, _> = with_default
        .map(|(key, default)| (key.clone(), default.clone()))
        .collect();
    assert!(!pairs.is_empty(), "{mapping}");
    Json::from(pairs).to_string()
}

#[test]
fn documented_defaults_are_the_actual_ones() {
    let schema: Json = serde_json::from_str(&schema::json_schema()).unwrap();
    let defaults = |mapping| documented_defaults(&schema, mapping);
    let spelled_out = format!(
        "{MINIMAL}    replay: {}\n    retry: {}\n    retain: {}\nstore: {}\ndefaults: {}\n\
         listen: {}\nadmin: {}\nlimits: {}\nshutdown: {}\nlog: {}\n",
        defaults("Replay"),
        defaults("Retry"),
        defaults("Retain"),
        defaults("Store"),
        defaults("Route"),
        schema["properties"]["listen"]["default"],
        defaults("Admin"),
        defaults("Limits"),
        defaults("Shutdown"),
        defaults("Log"),
    );
    let (short, long) = (config(MINIMAL), config(&spelled_out));
    assert_eq!(addresses(&short), addresses(&long));
    assert_eq!(short.admin.address, long.admin.address);
    assert_eq!(embedded(&short.store), embedded(&long.store));
    assert_eq!(short.shutdown, long.shutdown);
    assert_eq!(
        (short.log.format, short.log.level),
        (long.log.format, long.log.level)
    );
    let limits = |limits: Limits| {
        let bytes = (limits.header_bytes, limits.body_bytes_in_flight);
        let connections = (limits.connections, limits.connections_per_address);
        (
            connections,
            bytes,
            limits.header_timeout,
            limits.idle_timeout,
            limits.trusted_proxies,
        )
    };
    assert_eq!(limits(short.limits), limits(long.limits));
    let (short, long) = (&short.routes[0], &long.routes[0]);
    assert_eq!(short.methods, long.methods);
    assert_eq!(short.budget, long.budget);
    assert_eq!(short.max_body, long.max_body);
    assert_eq!(short.replay, long.replay);
    assert_eq!(
        (short.delivery_mode, short.accept_status),
        (long.delivery_mode, long.accept_status)
    );
    assert_eq!((short.retry, short.retain), (long.retry, long.retain));
    assert_eq!(short.forward_query, long.forward_query);
}

#[test]
fn example_has_the_default_limits() {
    let instance = to_json(&tree::parse(EXAMPLE, 0, &Problems::default()).unwrap()[0]);
    let schema: Json = serde_json::from_str(&schema::json_schema()).unwrap();
    for (key, mapping) in [
        ("limits", "Limits"),
        ("shutdown", "Shutdown"),
        ("log", "Log"),
    ] {
        let defaults: Json = serde_json::from_str(&documented_defaults(&schema, mapping)).unwrap();
        assert_eq!(instance[key], defaults, "{key}");
    }
}

#[test]
fn out_of_range_values_are_reported_with_the_range() {
    for (keys, range) in [
        ("concurrency: 0", "1 to 1,000,000"),
        ("max_body: 2GiB", "1B to 1GiB"),
        ("attempt_timeout: 0s", "more than 0s, at most 1h"),
        ("expect_every: 0s", "at least 1ms"),
        ("accept_status: 204", "202 or 200"),
    ] {
        let report = parse_text(&with_keys(keys)).err().unwrap().to_string();
        assert!(report.contains(&format!("expected {range}")), "{report}");
    }
}

#[test]
fn durations_are_written_in_the_usual_unit() {
    for (milliseconds, text) in [
        (0, "0s"),
        (1, "1ms"),
        (500, "500ms"),
        (60_000, "60s"),
        (300_000, "5m"),
        (3_600_000, "1h"),
        (72 * 3_600_000, "72h"),
        (7 * 24 * 3_600_000, "7d"),
        (72 * 3_600_000 + 300_000, "72h5m"),
    ] {
        assert_eq!(
            values::Duration::from_millis(milliseconds).to_string(),
            text
        );
    }
}

#[test]
fn route_key_replaces_the_default_as_a_whole() {
    let config = config(
        "defaults:\n  budget: 3s\n  replay: {window: 200h, on_duplicate: acknowledge}\n  \
         secrets: [{env: WEBHOOK_SECRET}]\n  upstream: http://127.0.0.1:3000/\n\
         routes:\n  - path: /a\n  - {path: /b, replay: {in_flight: reject}}\n",
    );
    let [a, b] = &config.routes[..] else {
        panic!("two routes")
    };
    assert_eq!(
        (a.budget.total, b.budget.total),
        (Duration::from_secs(3), Duration::from_secs(3))
    );
    assert_eq!(a.replay.window, Duration::from_secs(200 * 3600));
    assert_eq!(a.replay.on_duplicate, OnDuplicate::Acknowledge);
    assert_eq!(b.replay.window, Duration::from_secs(96 * 3600));
    assert_eq!(b.replay.on_duplicate, OnDuplicate::Reject);
    assert_eq!(b.replay.in_flight, InFlightPolicy::Reject);
}

#[test]
fn route_names_are_derived_from_path_and_host() {
    let config = config(
        "defaults: {secrets: [{env: WEBHOOK_SECRET}], upstream: \"http://127.0.0.1:3000/\"}\n\
         routes:\n  - {path: /Webhooks/VPN_x, host: A.example.com}\n  \
         - {path: /Webhooks/VPN_x, host: b.example.com}\n  - {path: /}\n  \
         - {path: /c, name: Own.Name}\n",
    );
    let names: Vec<_> = config.routes.iter().map(|route| &*route.name).collect();
    assert_eq!(
        names,
        [
            "webhooks-vpn_x",
            "b-example-com--webhooks-vpn_x",
            "root",
            "Own.Name"
        ]
    );
    assert_eq!(config.routes[0].host.as_deref(), Some("a.example.com"));
}

#[test]
fn unsigned_event_id_needs_the_body_digest() {
    use crate::event::{IdSource, Source};
    let now = Timestamp::from_second(NOW).unwrap();
    let body = "{}";
    for (event, hashed) in [
        ("event: {id: /x}", false),
        ("event: {id: {header: X-Id}}", true),
        ("event: {id: {body_digest: true}}", true),
        ("event: {id: [/x, /y]}", false),
        ("event: {id: {pointer: /x, names: object}}", true),
        ("event: {id: {none: true}}", false),
        ("event: {missing_id: body_digest}", true),
        ("event: {type: /x}", false),
    ] {
        let route = route(event);
        let secret = crate::secret::Secret::new("canary-webhook-secret").unwrap();
        let signed = crate::signature::presets::vpn_enterprise()
            .sign(&secret, body.as_bytes(), now, None)
            .unwrap();
        let mut verification = route.verifier.start(&signed.to_headers(), now);
        verification.update(body.into());
        let verified = verification.finish().unwrap();
        assert_eq!(verified.body_sha256().is_some(), hashed, "{event}");
    }
    assert!(matches!(
        route("event: {id: {body_digest: true}}").envelope.id,
        IdSource::BodyDigest
    ));
    let joined = |event: &str| match route(event).envelope.id {
        IdSource::Joined(pointers) => pointers.len(),
        IdSource::Pointer(_) => 1,
        other => panic!("{other:?}"),
    };
    assert_eq!(joined("event: {id: [/x, /y]}"), 2);
    assert_eq!(joined("event: {id: {pointer: [/x, /y]}}"), 2);
    assert_eq!(joined("event: {id: [/x]}"), 1);
    assert_eq!(joined("event: {id: {names: object}}"), 1);
    for wrong in [
        "event: {id: []}",
        "event: {id: [x]}",
        "event: {id: {none: false}}",
        "event: {id: {none: true, pointer: /x}}",
        "event: {type: [/x, /y]}",
        "event: {default_type: \"\"}",
    ] {
        assert!(parse_text(&with_keys(wrong)).is_err(), "{wrong}");
    }
    assert!(matches!(
        route("event: {type: {header: X-Type}}").envelope.event_type,
        Source::Header(_)
    ));
    assert!(
        route("event: {timestamp: /t, max_age: 5m}")
            .envelope
            .timestamp
            .is_some()
    );
}

#[test]
fn variables_are_inserted_into_values() {
    let source = "listen: [{address: \"127.0.0.1:${PORT}\"}]\n\
                  limits: {connections: \"${PORT}\"}\nroutes:\n  - path: /${STAGE}/$${x}\n    \
                  name: ${STAGE}\n    secrets: [{env: \"${UNSET:-WEBHOOK}_SECRET\"}]\n    \
                  upstream: http://127.0.0.1:${PORT}/\n    budget: ${UNSET:-3s}\n    \
                  headers: {value: \"${PORT}\"}\n";
    let loaded = config(source);
    assert_eq!(addresses(&loaded), ["127.0.0.1:3000"]);
    assert_eq!(loaded.limits.connections, 3000);
    let route = &loaded.routes[0];
    assert_eq!(
        (&*route.name, &*route.path),
        ("canary-stage", "/canary-stage/${x}")
    );
    assert_eq!(route.upstream.url(), "http://127.0.0.1:3000/");
    assert_eq!(route.budget.total, Duration::from_secs(3));
    // The text of a variable is text: it has no structure.
    let env = |_: &str| Some("[a, b]".to_owned());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hookstile.yaml");
    fs::write(&file, "routes: \"${ROUTES}\"\n").unwrap();
    assert!(load(&file, &env).is_err());
}

#[test]
fn unreadable_header_takes_its_route_off_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hookstile.yaml");
    let key = folder.path().join("app.key");
    fs::write(&file, with_keys("headers: {X-Api-Key: {file: app.key}}")).unwrap();
    let load = |kept: &SecretFiles| {
        load_to_serve(&file, &env, kept).unwrap_or_else(|report| panic!("{report}"))
    };
    let none = SecretFiles::default();
    assert!(super::load(&file, &env).is_err());
    assert!(!load(&none).config.routes[0].active);
    fs::write(&key, "canary-of-the-application\n").unwrap();
    let loaded = load(&none);
    assert!(loaded.config.routes[0].active && loaded.warnings.is_empty());
    assert!(loaded.config.files.named.contains_key(&key));
    fs::remove_file(&key).unwrap();
    assert!(load(&loaded.config.files.secrets).config.routes[0].active);
}

#[test]
fn unset_variable_elsewhere_is_no_problem() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hookstile.yaml");
    fs::write(
        &file,
        format!("{MINIMAL}    name: ${{UNSET}}\nadmin: {{address: \"127.0.0.1:${{PORT}}\"}}\n"),
    )
    .unwrap();
    assert_eq!(
        admin_endpoint(&file, &env, false).unwrap().admin.port(),
        3000
    );
    assert!(admin_endpoint(&file, &|_| None, false).is_err());
    assert!(store(&file, &|_| None).is_ok());
    assert!(load(&file, &env).is_err());
}

#[test]
fn secrets_are_read_from_variables_files_and_literals() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("unix.key"), "canary-file\n").unwrap();
    fs::write(folder.path().join("dos.key"), "canary-file-2\r\n").unwrap();
    let source = "routes: [{path: /hook, upstream: \"http://127.0.0.1:3000/\", \
                  secrets: [{env: WEBHOOK_SECRET}, {file: unix.key}, {file: dos.key, name: two}, \
                  {value: canary-literal}]}]";
    let loaded = parse_in(folder.path(), source).unwrap_or_else(|report| panic!("{report:?}"));
    let verifier = &loaded.config.routes[0].verifier;
    let names: Vec<_> = verifier.secret_names().map(ToString::to_string).collect();
    assert_eq!(names, ["WEBHOOK_SECRET", "unix.key", "two", "secret-4"]);
    let now = Timestamp::from_second(NOW).unwrap();
    for secret in [
        "canary-webhook-secret",
        "canary-file",
        "canary-file-2",
        "canary-literal",
    ] {
        let secret = crate::secret::Secret::new(secret).unwrap();
        let signed = crate::signature::presets::vpn_enterprise()
            .sign(&secret, b"{}", now, None)
            .unwrap();
        let mut verification = verifier.start(&signed.to_headers(), now);
        verification.update("{}".into());
        assert!(verification.finish().is_ok());
    }
}

#[test]
fn durations_and_sizes_need_units() {
    let seconds = |text: &str| {
        route(&format!("budget: {text}, budget_margin: 1ms"))
            .budget
            .total
            .as_secs_f64()
    };
    for (text, expected) in [
        ("500ms", 0.5),
        ("10s", 10.0),
        ("4m", 240.0),
        ("0.5h", 1800.0),
        ("1.5s", 1.5),
        ("10 s", 10.0),
    ] {
        assert!((seconds(text) - expected).abs() < 1e-9, "{text}");
    }
    for (text, expected) in [
        ("1000", 1000),
        ("7B", 7),
        ("64KiB", 65_536),
        ("2MB", 2_000_000),
        ("1MiB", 1 << 20),
        ("2 MiB", 2 << 20),
    ] {
        assert_eq!(
            route(&format!("max_body: {text}")).max_body,
            expected,
            "{text}"
        );
    }
    for wrong in [
        "10",
        "10  s",
        "s",
        "1e3s",
        ".5s",
        "5.s",
        "1.2.3s",
        "-5s",
        "10sec",
        "0s",
        "99999999d",
        "\"\"",
        "[]",
    ] {
        assert!(
            parse_text(&with_keys(&format!("budget: {wrong}"))).is_err(),
            "{wrong}"
        );
    }
    for wrong in [
        "-1",
        "1.5MiB",
        "64k",
        "KiB",
        "0",
        "99999999999999999999GiB",
        "2TiB",
        "\"\"",
        "true",
    ] {
        assert!(
            parse_text(&with_keys(&format!("max_body: {wrong}"))).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn queue_keys_have_their_documented_defaults() {
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    for (delivery, mode) in [
        ("queue", DeliveryMode::Queue),
        ("spill", DeliveryMode::Spill),
    ] {
        let route = route(&format!("delivery: {delivery}, budget: 4s"));
        assert_eq!(route.delivery_mode, mode);
        assert_eq!(route.accept_status, StatusCode::ACCEPTED);
        let retry = Backoff {
            initial: second * 5,
            factor: 2.0,
            max_interval: hour,
            horizon: hour * 72,
            permanent: PermanentFailure {
                attempts: 3,
                at_least: hour,
            },
        };
        assert_eq!(route.retry, retry);
        assert_eq!(route.attempt_timeout, second * 4);
    }
    let written = route(
        "delivery: queue, accept_status: 200, attempt_timeout: 90s, \
         retry: {initial: 250ms, factor: 1.5, max_interval: 2m, horizon: 96h, \
         permanent: {attempts: 5, at_least: 0s}}",
    );
    assert_eq!(written.accept_status, StatusCode::OK);
    assert_eq!(written.attempt_timeout, second * 90);
    let retry = Backoff {
        initial: second / 4,
        factor: 1.5,
        max_interval: second * 120,
        horizon: hour * 96,
        permanent: PermanentFailure {
            attempts: 5,
            at_least: Duration::ZERO,
        },
    };
    assert_eq!(written.retry, retry);
}

#[test]
fn retry_defaults_adjust_to_given_keys() {
    let pauses = |retry: &str| {
        let Backoff {
            initial,
            max_interval,
            horizon,
            ..
        } = route(&format!("delivery: queue, retry: {retry}")).retry;
        [initial, max_interval, horizon].map(|pause| pause.as_secs())
    };
    assert_eq!(pauses("{max_interval: 1s}"), [1, 1, 72 * 3600]);
    assert_eq!(pauses("{horizon: 2s}"), [2, 3600, 2]);
    assert_eq!(pauses("{initial: 2h}"), [7200, 7200, 72 * 3600]);
}

#[test]
fn dead_letters_wait_for_an_operator_by_default() {
    let redelivers = |keys: &str| config(&format!("{MINIMAL}{keys}")).redeliver_dead_letters;
    assert!(!redelivers(""));
    assert!(!redelivers("dead_letters: {}\n"));
    assert!(!redelivers("dead_letters: {redeliver: never}\n"));
    assert!(redelivers("dead_letters: {redeliver: when_healthy}\n"));
}

#[test]
fn concurrency_has_its_own_default_for_the_queue() {
    assert_eq!(route("delivery: queue").queue_concurrency, 32);
    assert_eq!(
        route("delivery: queue, concurrency: 500").queue_concurrency,
        500
    );
    let source = with_keys("delivery: queue") + "\ndefaults: {concurrency: 7}\n";
    assert_eq!(config(&source).routes[0].queue_concurrency, 7);
}

#[test]
fn retention_keeps_a_week_and_one_gibibyte_by_default() {
    let day = Duration::from_secs(86_400);
    let retain = |keys: &str| route(keys).retain;
    let usual = Retain {
        payloads: Payloads::Failed,
        keep: day * 7,
        max_bytes: Some(1 << 30),
    };
    assert_eq!(retain("name: x"), usual);
    assert_eq!(
        retain("retain: {payloads: none}"),
        Retain {
            payloads: Payloads::None,
            ..usual
        }
    );
    let written = Retain {
        payloads: Payloads::All,
        keep: day,
        max_bytes: Some(20 << 20),
    };
    assert_eq!(
        retain("retain: {payloads: all, for: 1d, max_size: 20MiB}"),
        written
    );
}

#[test]
fn stored_bodies_are_limited_to_256_mib() {
    let source = |keys: &str| with_keys(keys) + "\nlimits: {body_bytes_in_flight: 1GiB}\n";
    for keys in [
        "delivery: queue",
        "delivery: spill",
        "retain: {payloads: all}",
    ] {
        assert!(
            parse_text(&source(&format!("{keys}, max_body: 256MiB"))).is_ok(),
            "{keys}"
        );
        assert!(
            parse_text(&source(&format!("{keys}, max_body: 257MiB"))).is_err(),
            "{keys}"
        );
    }
    assert!(parse_text(&source("retain: {payloads: failed}, max_body: 1GiB")).is_ok());
}

#[test]
fn defaults_may_have_queue_keys_without_a_warning() {
    let keys = "defaults: {accept_status: 200, attempt_timeout: 3s, retry: {initial: 1s}}\n";
    let loaded =
        parse_text(&format!("{MINIMAL}{keys}")).unwrap_or_else(|report| panic!("{report:?}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
}

fn embedded(settings: &Settings) -> &EmbeddedSettings {
    match settings {
        Settings::Embedded(settings) => settings,
        Settings::Shared(_) => panic!("not embedded"),
    }
}

#[test]
fn store_path_is_relative_to_the_configuration() {
    let store = |keys: &str| embedded(&config(&format!("{MINIMAL}{keys}")).store).clone();
    let usual = store("");
    assert_eq!(usual.folder, Path::new("src/config/cases/hookstile-data"));
    assert_eq!(
        (usual.durability, usual.max_ids, usual.max_bytes),
        (Durability::Strict, 50_000_000, None)
    );
    let written =
        store("store: {path: ../events, durability: relaxed, max_ids: 1000, max_size: 16MiB}\n");
    assert_eq!(written.folder, Path::new("src/config/cases/../events"));
    assert_eq!(
        (written.durability, written.max_ids),
        (Durability::Relaxed, 1000)
    );
    assert_eq!(written.max_bytes, Some(16 << 20));
    assert_eq!(
        store("store: {path: /var/lib/hookstile}\n").folder,
        Path::new("/var/lib/hookstile")
    );
}

#[test]
fn default_store_path_must_not_be_a_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("hookstile-data"), "").unwrap();
    let report = parse_in(folder.path(), MINIMAL).err().unwrap();
    assert!(report.to_string().contains("is not a folder"), "{report}");
    fs::remove_file(folder.path().join("hookstile-data")).unwrap();
    fs::create_dir(folder.path().join("hookstile-data")).unwrap();
    assert!(parse_in(folder.path(), MINIMAL).is_ok());
}

#[test]
fn every_key_has_one_home() {
    for (mapping, key, home) in [
        ("Route", "window", Some("replay")),
        ("Route", "tolerance", Some("signature.timestamp")),
        ("Route", "connections", Some("limits")),
        ("File", "per_second", None),
        ("File", "colour", None),
    ] {
        assert_eq!(placement::home(mapping, key).as_deref(), home, "{key}");
    }
}

#[test]
fn misplaced_keys_keep_their_value() {
    // The last error is about the value of a key that stands at the wrong place.
    for (source, problem) in [
        ("routes:\n  - path: /a\nupstream: nowhere\n", "not a URL"),
        (
            "routes:\n  - {path: /a, shutdown: {grace: 9h}}\n",
            "0s to 1h",
        ),
        ("admin:\naddress: here\nroutes: []\n", "not an address"),
        ("path: /a?b\n", "no query"),
    ] {
        let report = parse_text(source).err().unwrap().to_string();
        assert!(report.contains(problem), "{report}");
        assert!(
            !source.contains("upstream") || !report.contains("has no `upstream`"),
            "{report}"
        );
    }
}

#[test]
fn impossible_paths_are_rejected() {
    for path in [
        "",
        "hook",
        "/a?b",
        "/a#b",
        "/a//b",
        "/a/../b",
        "/./a",
        "/a/..",
        "/ä",
        "/a b",
        "\"/a\\n\"",
    ] {
        let source = with_keys("name: x").replace("/hook", path);
        assert!(parse_text(&source).is_err(), "{path}");
    }
    for path in ["/", "/a/", "/a/...", "/%20", "/a.b~c"] {
        assert_eq!(
            &*config(&with_keys("name: x").replace("/hook", path)).routes[0].path,
            path
        );
    }
}

#[test]
fn anchored_secrets_are_masked() {
    let config = config(
        "defaults: {upstream: \"http://127.0.0.1:3000/\"}\nroutes:\n  \
         - {path: /a, secrets: &all [{env: WEBHOOK_SECRET}]}\n  - {path: /b, secrets: *all}\n",
    );
    assert_eq!(config.routes.len(), 2);
    let report = parse_text("x: &x canary\nroutes: [{secrets: [{value: *x}]}]\n")
        .err()
        .unwrap();
    assert!(!report.to_string().contains("canary"), "{report}");
}

#[test]
fn rejected_values_are_masked() {
    for source in [
        "routes: [{secrets: [{value: canary, value: canary}]}]",
        "routes: []\n--- {secrets: [canary]}",
        "? [canary]\n: canary\n",
        "routes: []\nsecret: canary",
        "routes: [{vpn_secret: canary}]",
        "routes: [{secrets: [{env: whsec_canary}]}]",
        "routes: [{secrets: [{file: whsec_canary}]}]",
        "routes: [{secrets: whsec_canary}]",
        "routes: [{secrets: {whsec_canary}}]",
        "routes: [{secrets: [{whsec_canary}]}]",
    ] {
        let report = parse_text(source).err().unwrap();
        assert!(
            !report.to_string().contains("canary")
                && !report_json(&report).to_string().contains("canary"),
            "{report}"
        );
    }
}

#[test]
fn secret_in_place_of_a_variable_is_never_shown() {
    let places = [
        "routes: [{path: /a, upstream: \"http://127.0.0.1:1/\", secrets: [{env: SECRET}]}]",
        "routes: []\nadmin: {token: {env: SECRET}, read_token: {env: SECRET}}",
        "routes: []\nstore: {postgres: {url: {env: SECRET}}}",
        "routes: [{challenge: {verify_token: {env: SECRET}}}]",
        "routes: [{env: SECRET}]",
        "routes: [\n  {env: SECRET",
    ];
    let secrets = [
        "whsec_MfKQ9r8GKYqrTwjU",
        "sk_live_51H8xQ2eZvKYlo2C",
        "0123456789abcdef0123456789abcdef",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "correcthorsebatterystaple",
        "correct_horse_battery",
        "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        "A1B2C3D4E5F6A7B8",
        "hunter2",
        "p4ss-w0rd",
    ];
    for (place, secret) in places
        .iter()
        .flat_map(|place| secrets.map(|secret| (place, secret)))
    {
        let source = place.replace("SECRET", secret);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hookstile.yaml");
        fs::write(&path, &source).unwrap();
        let report = load(&path, &|_| None).err().unwrap();
        let shown = format!("{report}{report:?}{}", report_json(&report));
        assert!(!shown.contains(secret), "{source}: {shown}");
    }
    for name in [
        "WEBHOOK_SECRET",
        "GITHUB_SECRET_2",
        "S3_KEY",
        "STRIPE_2026",
        "K8S_TOKEN_20261101",
    ] {
        assert!(redact::is_shown_variable(name), "{name}");
    }
}

#[test]
fn short_secrets_are_warned_about() {
    let source = "admin: {token: {env: TOKEN}}\nroutes: [{path: /a, upstream: \
                  \"http://127.0.0.1:1/\", secrets: [{env: SECRET}]}]\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hookstile.yaml");
    fs::write(&path, source).unwrap();
    for (length, warnings) in [(1, 2), (15, 2), (16, 0)] {
        let env = |name: &str| Some(name[..1].repeat(length));
        let report = load(&path, &env).unwrap_or_else(|report| panic!("{report:?}"));
        let shown = report.warnings.to_string();
        assert_eq!(
            shown.matches("shorter than 16").count(),
            warnings,
            "{shown}"
        );
    }
}

#[test]
fn unreadable_file_gives_a_report() {
    let report = load(Path::new("/nonexistent/hookstile.yaml"), &env)
        .err()
        .unwrap();
    assert!(
        report.to_string().contains("cannot read the configuration"),
        "{report}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hookstile.yaml");
    fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(
        load(&path, &env)
            .err()
            .unwrap()
            .to_string()
            .contains("not UTF-8")
    );
    fs::write(&path, MINIMAL).unwrap();
    assert_eq!(
        load(&path, &env)
            .unwrap_or_else(|report| panic!("{report:?}"))
            .config
            .routes
            .len(),
        1
    );
}

/// Returns the example with literal secrets, so that a leak would be visible.
fn full_of_canaries() -> String {
    EXAMPLE
        .replace("{env: HOOKSTILE_ADMIN_TOKEN}", "{value: canary-token}")
        .replace("{env: WEBHOOK_SECRET,", "{value: canary-secret,")
        .replace(
            "[{env: OWN_SYSTEM_SECRET}]",
            "\n      - value: |\n          canary-block\n      - value: \"canary-quoted\"",
        )
        .replace(
            "X-Custom-Header: your-value",
            "X-Api-Key: Bearer canary-header",
        )
}

#[test]
fn fuzzing_findings_compile_or_give_a_report() {
    for source in crate::corpus::files("found/config").into_values() {
        let source = String::from_utf8(source).unwrap();
        match check_text(&source) {
            Ok(loaded) => assert!(!loaded.config.routes.is_empty()),
            Err(report) => {
                assert!(
                    !report.to_text(false).is_empty()
                        && !report_json(&report).to_string().is_empty()
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_text_does_not_panic(source in "\\PC*") {
        let _ = check_text(&source);
    }

    #[test]
    fn yaml_tokens_do_not_panic(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "routes", "path", "secrets", "env", "value", "upstream", "defaults", "event", "id",
            ": ", ":", "- ", "\n", "\n  ", "\n    ", "{", "}", "[", "]", ", ", "&a ", "*a", "<<",
            "|", ">", "\"", "'", "#", "!t ", "---\n", "...", "\t", "null", "~", "/x", "10s", "é",
            "\u{feff}", "\r\n", "%YAML 1.2\n", "? ",
        ]), 0..60)
    ) {
        let source = tokens.concat();
        if let Err(report) = check_text(&source) {
            prop_assert!(!report.to_text(false).is_empty());
        }
    }

    /// A single typing mistake anywhere in a file with literal secrets shows none of them.
    #[test]
    fn typing_mistakes_show_no_secret(at in any::<prop::sample::Index>(), mistake in 0..6) {
        let mut source = full_of_canaries();
        let offsets: Vec<_> = source.char_indices().map(|(at, _)| at).collect();
        let at = *at.get(&offsets);
        let line_end = source[at..].find('\n').map_or(source.len(), |newline| at + newline);
        match mistake {
            0 => drop(source.remove(at)),
            1 => source.insert(at, ':'),
            2 => source.insert(at, '"'),
            3 => source.replace_range(at..line_end, ""),
            4 => source.insert(at, '\n'),
            _ => source.insert(at, 'x'),
        }
        let report = match parse_text(&source) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        };
        let (plain, coloured) = (report.to_text(false), report.to_text(true));
        let shown = format!("{plain}{coloured}{}{report:?}", report_json(&report));
        prop_assert!(!shown.contains("canary"), "{}", shown);
    }
}

#[test]
fn admin_endpoint_needs_no_route_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hookstile.yaml");
    let admin = "admin: {address: 192.0.2.7:9180, token: {env: ADMIN_TOKEN}}";
    fs::write(&file, format!("{MINIMAL}{admin}\nstore: {{path: kept}}\n")).unwrap();
    let found = admin_endpoint(&file, &|_| None, false).unwrap();
    assert_eq!(found.admin, "192.0.2.7:9180".parse().unwrap());
    assert_eq!((found.token.is_none(), found.token_problem), (true, None));
    let unset = admin_endpoint(&file, &|_| None, true).unwrap();
    assert!(unset.token_problem.unwrap().contains("ADMIN_TOKEN"));
    let env = |name: &str| (name == "ADMIN_TOKEN").then(|| "t".into());
    let token = admin_endpoint(&file, &env, true).unwrap().token.unwrap();
    assert_eq!(token.secret.expose(), b"t");
    let kept = folder.path().join("kept");
    assert_eq!(
        store_folder(&file, &|_| None).unwrap(),
        StoreFolder::Embedded(kept)
    );
}

#[test]
fn section_is_read_from_a_refused_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hookstile.yaml");
    let admin = "admin:\n  # ours\n  address: 192.0.2.7:9180\n  tokn: x\n";
    for text in [
        format!("routs: []\n{admin}store: {{postgres: {{url: {{env: URL}}}}}}\n"),
        format!("# ä\nroutes:\n  - path: [ä\n{admin}store:\n  postgres: {{url: {{env: URL}}}}\n"),
        format!("{admin}routes: \"\nstore:\n  postgres: {{url: {{env: URL}}}}\n"),
        format!("{admin}administration: [\nstore:\n  postgres: {{}}\nroutes: ]"),
    ] {
        fs::write(&file, &text).unwrap();
        let found = admin_endpoint(&file, &|_| None, true).unwrap();
        assert_eq!(found.admin, "192.0.2.7:9180".parse().unwrap(), "{text}");
        assert_eq!(
            store_folder(&file, &|_| None).unwrap(),
            StoreFolder::Shared,
            "{text}"
        );
    }
    fs::write(&file, "admin: {address: nowhere}\n").unwrap();
    let report = admin_endpoint(&file, &|_| None, true).unwrap_err();
    assert!(report.to_string().contains("nowhere"), "{report}");
}

#[test]
fn check_without_secrets_reads_none() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hookstile.yaml");
    let text = "listen: [{address: 127.0.0.1:0, tls: {certificate: a.crt, key: a.key}}]
admin: {token: {file: token}, read_token: {file: read}}
store: {postgres: {url: {env: URL}}}
routes:
  - {path: /a, provider: github, secrets: [{env: A}, {file: b}], upstream: http://127.0.0.1:1}
  - {path: /b, provider: meta, secrets: [{env: A}], challenge: {verify_token: {env: C}},
     upstream: http://127.0.0.1:1}
";
    fs::write(&file, text).unwrap();
    assert!(load(&file, &|_| None).is_err());
    let loaded = load_without_secrets(&file, &|_| None).unwrap();
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    let mut unchecked = loaded.config.files.unchecked;
    unchecked.sort();
    assert_eq!(unchecked, ["A", "C", "URL", "a.key", "b", "read", "token"]);
    fs::write(&file, text.replace("path: /b", "pth: /b")).unwrap();
    let report = load_without_secrets(&file, &|_| None).err().unwrap();
    assert!(report.to_string().contains("pth"), "{report}");
}

#[test]
fn check_without_secrets_inserts_variables() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hookstile.yaml");
    let text = "store: {path: \"${STATE}/store\"}
routes:
  - {path: /a, provider: github, secrets: [{env: STATE}, {file: \"${STATE}/b\"}],
     upstream: \"http://${STATE}:1\"}
";
    fs::write(&file, text).unwrap();
    let env = |name: &str| (name == "STATE").then(|| "state".to_owned());
    let loaded = load_without_secrets(&file, &env).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(loaded.config.files.unchecked, ["STATE", "state/b"]);
    let report = load_without_secrets(&file, &|_| None).err().unwrap();
    assert!(report.to_string().contains("STATE"), "{report}");
    let StoreFolder::Embedded(store) = store_folder(&file, &env).unwrap() else {
        panic!("the store is embedded");
    };
    assert!(store.ends_with("state/store"), "{}", store.display());
}

#[test]
fn notify_needs_an_endpoint_and_its_secret() {
    let route = "routes: [{path: /a, provider: vpn-enterprise, secrets: [{env: S}], \
                 upstream: \"http://127.0.0.1:3000\"}]\n";
    let notify = |value: &str| {
        super::check_text(&format!("notify: {value}\n{route}"))
            .map_err(|report| report.summaries().collect::<Vec<_>>())
    };
    let local = notify("{url: \"http://127.0.0.1:9000/x\", secret: {env: N}}")
        .unwrap_or_else(|report| panic!("{report:?}"));
    let settings = local.config.notify.unwrap();
    assert_eq!(settings.begin_after.as_secs(), 30);
    assert_eq!(settings.end_after.as_secs(), 120);
    let is_plain = |warning: String| warning.contains("sent unencrypted");
    assert!(!local.warnings.summaries().any(is_plain));
    let plain = notify("{url: \"http://alerts.example.com\", secret: {env: N}}").unwrap();
    assert!(plain.warnings.summaries().any(is_plain));
    for wrong in [
        "{url: \"ftp://x\", secret: {env: N}}",
        "{secret: {env: N}}",
        "{url: \"https://alerts.example.com\"}",
    ] {
        assert!(notify(wrong).is_err(), "{wrong}");
    }
}

/// Returns the keys in backticks of each row of the table in docs/upgrades.md, with when they take
/// effect.
fn reload_table() -> Vec<(Vec<&'static str>, &'static str)> {
    let text = include_str!("../../docs/upgrades.md");
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| changed |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        (cells[1].split('`').skip(1).step_by(2).collect(), cells[2])
    })
    .collect()
}

#[test]
fn reload_table_has_every_key() {
    let table = reload_table();
    let keys: Vec<_> = table.iter().flat_map(|(keys, _)| keys).collect();
    let schema: Json = serde_json::from_str(&schema::json_schema()).unwrap();
    let properties = schema["properties"].as_object().unwrap();
    for key in properties.keys() {
        let is_listed = |listed: &&&str| **listed == key || listed.starts_with(&format!("{key}."));
        assert!(keys.iter().any(is_listed), "{key} in {keys:?}");
    }
    for section in ["admin", "limits"] {
        let reference = properties[section]["$ref"].as_str().unwrap();
        let section_schema = schema.pointer(&reference[1..]).unwrap();
        for key in section_schema["properties"].as_object().unwrap().keys() {
            let key = format!("{section}.{key}");
            assert!(
                keys.iter()
                    .any(|listed| **listed == key || **listed == section),
                "{key} in {keys:?}"
            );
        }
    }
}

#[test]
fn keys_that_need_a_restart_are_documented() {
    let restart: Vec<_> = reload_table()
        .into_iter()
        .filter(|(_, effect)| effect.starts_with("after a restart"))
        .flat_map(|(keys, _)| keys)
        .collect();
    let loaded = parse_text(MINIMAL).unwrap();
    let mut names: Vec<_> = loaded
        .config
        .restart_keys
        .iter()
        .map(|key| key.name)
        .collect();
    names.sort_unstable();
    let mut documented = restart;
    documented.sort_unstable();
    assert_eq!(documented, names);
}

#[test]
fn changed_restart_keys_are_known_by_their_values() {
    let changed = |text: &str| -> Vec<&str> {
        let (old, new) = (parse_text(MINIMAL).unwrap(), parse_text(text).unwrap());
        let (old, new) = (old.config.restart_keys, new.config.restart_keys);
        new.iter()
            .filter(|key| old.iter().any(|old| old.is_changed(key)))
            .map(|key| key.name)
            .collect()
    };
    let with = |text: &str| format!("{text}\n{MINIMAL}");
    assert!(changed(MINIMAL).is_empty());
    assert!(changed(&with("store: {max_ids: 50000000, durability: strict}")).is_empty());
    assert_eq!(changed(&with("store: {max_ids: 5000}")), ["store.max_ids"]);
    assert_eq!(changed(&with("store: {path: elsewhere}")), ["store"]);
    assert_eq!(
        changed(&with(
            "admin: {address: \"127.0.0.1:9181\", hosts: [ops.test]}"
        )),
        ["admin.hosts"]
    );
}

#[test]
fn listener_address_has_three_forms() {
    let listen = |value: &str| {
        let text = format!("listen: [{{address: \"{value}\"}}]\n{MINIMAL}");
        parse_text(&text)
            .map(|loaded| loaded.config.listen[0].address.clone())
            .map_err(|report| report.to_string())
    };
    for (written, shown) in [
        ("127.0.0.1:80", "127.0.0.1:80"),
        ("[::1]:80", "[::1]:80"),
        ("localhost:8080", "localhost:8080"),
        ("hooks-1.internal.:443", "hooks-1.internal.:443"),
        ("unix:/run/h/s", "unix:/run/h/s"),
        ("unix:///run//h/./s", "unix:/run/h/s"),
    ] {
        let address = listen(written).unwrap_or_else(|report| panic!("{written}: {report}"));
        assert_eq!(address.to_string(), shown);
    }
    for (wrong, named) in [
        ("localhost", "the port is missing: `localhost:8080`"),
        ("/run/s", "a Unix socket is `unix:/run/s`"),
        ("unix:s", "from the root"),
        ("unix:/run/", "from the root"),
        ("unix:@abstract", "from the root"),
        ("256.0.0.1:80", "this is not an address"),
        ("a..b:80", "this is not an address"),
        ("*:80", "0.0.0.0:80"),
        ("localhost:99999", "this is not an address"),
    ] {
        let report = listen(wrong).expect_err(wrong);
        assert!(report.contains(named), "{wrong}: {report}");
    }
}

#[test]
fn socket_mode_is_octal_in_every_notation() {
    let mode = |text: &str| {
        let text = format!("listen: [{{address: \"unix:/s\", mode: {text}}}]\n{MINIMAL}");
        parse_text(&text).map(|loaded| loaded.config.listen[0].mode)
    };
    for written in ["\"0660\"", "0660", "660", "0o660"] {
        assert_eq!(mode(written).ok(), Some(0o660), "{written}");
    }
    for wrong in ["\"rw-rw----\"", "1777", "680", "-1", "u+w"] {
        assert!(mode(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn loop_over_a_unix_socket_is_noticed() {
    let upstream = "http://127.0.0.1:3000/webhooks/vpn-enterprise";
    assert!(MINIMAL.contains(upstream), "the minimal configuration");
    let to_socket = |path: &str| {
        let target = format!("{{url: {upstream}, socket: {path}}}");
        let text = MINIMAL.replace(upstream, &target);
        let text = format!("listen: [{{address: \"unix:/run/s\"}}]\n{text}");
        let loaded = parse_text(&text).unwrap_or_else(|report| panic!("{report}"));
        loaded.warnings.to_string()
    };
    assert!(to_socket("/run/s").contains("the gateway's own address"));
    assert!(!to_socket("/run/t").contains("the gateway's own address"));
}

#[test]
fn lost_key_above_headers_shows_no_value() {
    for header in ["X-Api-Key: canary", "Anything: Bearer canary"] {
        let text = MINIMAL.replace("routes:", &format!("defaults:\n  {header}\nroutes:"));
        let report = parse_text(&text).err().expect("an unknown key");
        assert!(!report.to_text(false).contains("canary"), "{report}");
    }
}
