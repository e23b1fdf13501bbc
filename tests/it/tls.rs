//! Webhooks over TLS: who is shown which certificate, who is let in, and how a certificate is renewed.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::harness::command::finish;
use crate::harness::programs::{program, tool};
use crate::harness::tls::{Authority, Issued, Trust};
use crate::harness::*;

const ONE: &str = r#"[{address: "127.0.0.1:0", tls: {certificate: tls.crt, key: tls.key}}]"#;
const TWO: &str = r#"[{address: "127.0.0.1:0", tls: [{certificate: a.crt, key: a.key}, {certificate: b.crt, key: b.key}]}]"#;

/// A gateway's configuration with one certificate.
fn setup(upstream: &Upstream, shown: &Issued) -> Setup {
    let setup = Setup::from(Route::to(upstream)).with("listen", ONE);
    setup
        .file("tls.crt", &shown.certificate)
        .file("tls.key", &shown.key)
        .stopping_at_once()
}

fn replace(folder: &Path, name: &str, content: &str) {
    let beside = folder.join(format!("{name}.new"));
    std::fs::write(&beside, content).expect("a file");
    std::fs::rename(beside, folder.join(name)).expect("a rename");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_are_delivered_over_both_versions_of_tls_and_of_http() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let gateway = Gateway::start(setup(&upstream, &authority.issue("hooks.test"))).await;
    for (number, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        let trust = Trust::of(&authority).version(version);
        let mut h1 = Client::connect_tls(gateway.data(), &trust, "hooks.test", &["http/1.1"])
            .await
            .expect("a handshake");
        assert_eq!(h1.protocol().as_deref(), Some("http/1.1"));
        h1.send(Event::new(&format!("evt_h1_{number}")))
            .await
            .assert(200, "delivered");
        h1.send(Event::new(&format!("evt_h1_kept_{number}")))
            .await
            .assert(200, "delivered");
        let h2 = Client::connect_tls(gateway.data(), &trust, "hooks.test", &["h2", "http/1.1"])
            .await
            .expect("a handshake");
        assert_eq!(h2.protocol().as_deref(), Some("h2"));
        let mut h2 = h2.h2().await;
        h2.send(Event::sized(&format!("evt_h2_{number}"), 200_000))
            .await
            .assert(200, "delivered");
        // Without ALPN it is HTTP/1.1.
        let mut plain = Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
            .await
            .expect("a handshake");
        plain
            .send(Event::new(&format!("evt_plain_{number}")))
            .await
            .assert(200, "delivered");
    }
    assert_eq!(upstream.count(), 8);
    for seen in upstream.requests() {
        assert_eq!(seen.headers.all("X-Forwarded-Proto"), ["https"]);
    }
    gateway
        .metrics()
        .await
        .assert_value("tls_handshakes_total", &[("result", "ok")], 6.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_is_shown_the_certificate_of_the_name_it_asks_for_or_the_first() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let (a, b) = (authority.issue("a.test"), authority.issue("*.b.test"));
    let setup = Setup::from(Route::to(&upstream)).with("listen", TWO);
    let setup = setup
        .file("a.crt", &a.certificate)
        .file("a.key", &a.key)
        .file("b.crt", &b.certificate);
    let gateway = Gateway::start(setup.file("b.key", &b.key)).await;
    let trust = Trust::anybody();
    for (name, shown) in [
        ("a.test", &a),
        ("hooks.b.test", &b),
        ("HOOKS.B.test", &b),
        ("x.y.b.test", &a),
        ("c.test", &a),
    ] {
        let client = Client::connect_tls(gateway.data(), &trust, name, &[])
            .await
            .expect("a handshake");
        assert!(client.was_shown(shown), "{name}");
    }
    let nameless = Client::connect_tls(gateway.data(), &trust, "127.0.0.1", &[])
        .await
        .expect("a handshake");
    assert!(nameless.was_shown(&a));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_without_a_signal_and_kept_connections_go_on() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let (old, new) = (authority.issue("hooks.test"), authority.issue("hooks.test"));
    let gateway = Gateway::start(setup(&upstream, &old)).await;
    let trust = Trust::of(&authority);
    let mut kept = Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
        .await
        .expect("a handshake");
    kept.send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    // As certbot does: one file after the other.
    replace(gateway.directory(), "tls.crt", &new.certificate);
    replace(gateway.directory(), "tls.key", &new.key);
    eventually("the new certificate is shown", async || {
        let client = Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
            .await
            .expect("a handshake");
        client.was_shown(&new)
    })
    .await;
    kept.send(Event::new("evt_2"))
        .await
        .assert(200, "delivered");
    gateway
        .metrics()
        .await
        .assert_value("config_last_reload_successful", &[], 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_does_not_fit_its_key_changes_nothing_and_is_told() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let (old, new) = (authority.issue("hooks.test"), authority.issue("hooks.test"));
    let gateway = Gateway::start(setup(&upstream, &old)).await;
    replace(gateway.directory(), "tls.crt", &new.certificate);
    gateway
        .metric_reaches("config_last_reload_successful", &[], 0.0)
        .await;
    let trust = Trust::of(&authority);
    let mut client = Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
        .await
        .expect("a handshake");
    assert!(client.was_shown(&old));
    client
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    assert!(
        gateway
            .output()
            .contains("this file holds the key of another certificate"),
        "{}",
        gateway.output()
    );
    replace(gateway.directory(), "tls.key", &new.key);
    gateway
        .metric_reaches("config_last_reload_successful", &[], 1.0)
        .await;
    let client = Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
        .await
        .expect("a handshake");
    assert!(client.was_shown(&new));
    let secret = new.key.lines().nth(1).expect("a line of base64");
    let output = gateway.output() + &gateway.metrics().await.text;
    assert!(
        !output.contains(secret) && !output.contains("PRIVATE KEY-----\n"),
        "{output}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tls_is_closed_counted_and_told_but_does_not_flood_the_log() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let gateway = Gateway::start(setup(&upstream, &authority.issue("hooks.test"))).await;
    let not_tls = [
        &b"GET / HTTP/1.1\r\nHost: hooks.test\r\n\r\n"[..],
        &[0; 64],
        &[0x16, 3, 1, 0xff, 0xff, 1],
        b"\x80\x2e\x01\0\x02",
    ];
    for bytes in not_tls {
        let mut client = gateway.connect().await;
        client.write(bytes).await;
        client.rest().await;
    }
    for _ in 0..100 {
        let mut client = gateway.connect().await;
        client.write(b"GET / HTTP/1.1\r\n\r\n").await;
        client.rest().await;
    }
    gateway
        .metric_reaches("tls_handshakes_total", &[("result", "failed")], 104.0)
        .await;
    let told = gateway.output().matches("no TLS handshake").count();
    assert!((1..60).contains(&told), "{told} lines");
    let trust = Trust::of(&authority);
    let mut client = Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
        .await
        .expect("a handshake");
    client
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    assert!(
        !gateway.output().contains("panicked") && !gateway.output().contains("pingora"),
        "{}",
        gateway.output()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_without_a_farewell_leaves_no_line() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let gateway = Gateway::start(setup(&upstream, &authority.issue("hooks.test"))).await;
    let trust = Trust::of(&authority);
    for number in 0..5 {
        let mut client = Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
            .await
            .expect("a handshake");
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
        client.reset();
        drop(gateway.connect().await);
    }
    gateway.metric_reaches("connections", &[], 0.0).await;
    for line in gateway.output().lines() {
        assert!(
            !line.contains("\"level\":\"WARN\"") && !line.contains("no TLS handshake"),
            "{line}"
        );
    }
    gateway
        .metrics()
        .await
        .assert_value("tls_handshakes_total", &[("result", "failed")], 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_handshake_is_cut_and_holds_a_place_until_then() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let setup = setup(&upstream, &authority.issue("hooks.test"));
    let gateway = Gateway::start(setup.with(
        "limits",
        "{header_timeout: 1s, idle_timeout: 60s, connections: 2}",
    ))
    .await;
    let mut slow = gateway.connect().await;
    slow.write(&[0x16, 3, 1]).await;
    let mut silent = gateway.connect().await;
    gateway
        .metric_reaches("tls_handshakes_total", &[("result", "timeout")], 1.0)
        .await;
    slow.rest().await;
    silent.rest().await;
    // HTTP/2 was agreed on, and nothing comes.
    let trust = Trust::of(&authority);
    let mut begun = Client::connect_tls(gateway.data(), &trust, "hooks.test", &["h2"])
        .await
        .expect("a handshake");
    begun.write(b"PRI * HT").await;
    begun.closed().await;
    gateway.metric_reaches("connections", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_over_the_limit_is_closed_before_its_handshake() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let setup = setup(&upstream, &authority.issue("hooks.test"));
    let gateway = Gateway::start(setup.with("limits", "{connections: 1}")).await;
    let trust = Trust::of(&authority);
    let mut first = Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
        .await
        .expect("a handshake");
    assert!(
        Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
            .await
            .is_err()
    );
    gateway
        .metric_reaches(
            "requests_total",
            &[("route", ""), ("outcome", "overloaded")],
            1.0,
        )
        .await;
    first
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_client_ca_only_those_it_has_signed_are_let_in() {
    let (upstream, authority, clients) = (Upstream::ok(), Authority::new(), Authority::new());
    let listen = ONE.replace("}}]", "}, client_ca: clients.pem}]");
    let setup = setup(&upstream, &authority.issue("hooks.test")).with("listen", &listen);
    let gateway = Gateway::start(setup.file("clients.pem", clients.pem())).await;
    for version in [&TLS12, &TLS13] {
        let trust = Trust::of(&authority).version(version);
        for refused in [
            trust.clone(),
            trust
                .clone()
                .showing(&authority.issue_to_client("stranger")),
        ] {
            // TLS 1.3 tells a client only after its own part is done.
            if let Ok(mut client) =
                Client::connect_tls(gateway.data(), &refused, "hooks.test", &[]).await
            {
                assert!(client.try_send(Event::new("evt_no")).await.is_none());
            }
        }
        let known = trust.showing(&clients.issue_to_client("billing"));
        let mut client = Client::connect_tls(gateway.data(), &known, "hooks.test", &[])
            .await
            .expect("a handshake");
        client
            .send(Event::new(&format!("evt_{version:?}")))
            .await
            .assert(200, "delivered");
    }
    assert_eq!(upstream.count(), 2);
    gateway
        .metrics()
        .await
        .assert_value("tls_handshakes_total", &[("result", "failed")], 4.0);
    let tested = gateway
        .admin_post("/webhooks/wh_hooks/test", &json!({}))
        .await;
    assert_eq!(tested.status, 200, "{}", tested.text());
    assert!(tested.text().contains("delivered"), "{}", tested.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_head_over_tls_has_its_time_from_its_first_byte() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let setup = setup(&upstream, &authority.issue("hooks.test"));
    let gateway = Gateway::start(setup.with("limits", "{header_timeout: 1s}")).await;
    let trust = Trust::of(&authority);
    let mut client = Client::connect_tls(gateway.data(), &trust, "hooks.test", &[])
        .await
        .expect("a handshake");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    client
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    client.write(b"POST /web").await;
    client.answer().await.assert(408, "body_timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_event_counts_as_received_over_tls() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let gateway = Gateway::start(setup(&upstream, &authority.issue("hooks.test"))).await;
    let tested = gateway
        .admin_post("/webhooks/wh_hooks/test", &json!({}))
        .await;
    assert_eq!(tested.status, 200, "{}", tested.text());
    assert!(tested.text().contains("delivered"), "{}", tested.text());
    assert_eq!(upstream.count(), 1);
    let delivered = upstream.last();
    delivered.assert_header("X-Forwarded-Proto", "https");
    delivered.assert_header("X-Forwarded-For", "127.0.0.1");
    gateway
        .metrics()
        .await
        .assert_value("tls_handshakes_total", &[("result", "ok")], 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_expiry_of_each_certificate_is_a_metric_and_follows_a_reload() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let gateway = Gateway::start(setup(&upstream, &authority.issue("hooks.test"))).await;
    let labels = [("listener", "127.0.0.1:0"), ("certificate", "tls.crt")];
    assert!(
        gateway
            .metrics()
            .await
            .value("tls_certificate_expiry_timestamp_seconds", &labels)
            > 2e9
    );
    let other = setup(&upstream, &authority.issue("hooks.test"))
        .with("listen", &ONE.replace("tls.crt", "other.crt"));
    std::fs::rename(
        gateway.directory().join("tls.crt"),
        gateway.directory().join("other.crt"),
    )
    .expect("a rename");
    gateway.rewrite(other);
    eventually("the series of the new file is there", async || {
        let labels = [("certificate", "other.crt")];
        gateway
            .metrics()
            .await
            .find("tls_certificate_expiry_timestamp_seconds", &labels)
            .is_some()
    })
    .await;
    assert!(
        gateway
            .metrics()
            .await
            .find("tls_certificate_expiry_timestamp_seconds", &labels)
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sslscan_finds_tls_1_2_and_1_3_alone_with_strong_ciphers() {
    let skipped = "what a scanner finds of our TLS";
    let Some(sslscan) = tool("sslscan", program("HOOKSTILE_SSLSCAN", "sslscan"), skipped) else {
        return;
    };
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let gateway = Gateway::start(setup(&upstream, &authority.issue("hooks.test"))).await;
    let mut command = std::process::Command::new(sslscan);
    command.args([
        "--xml=-",
        "--no-colour",
        "--sni-name=hooks.test",
        &gateway.data().to_string(),
    ]);
    let report = finish(command).await.stdout;
    let elements = |name: &str| {
        let start = format!("<{name} ");
        report
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with(&start))
            .map(ToOwned::to_owned)
            .collect::<Vec<_>>()
    };
    for protocol in elements("protocol") {
        let ours = protocol.contains(r#"version="1.2""#) || protocol.contains(r#"version="1.3""#);
        assert_eq!(protocol.contains(r#"enabled="1""#), ours, "{protocol}");
    }
    let ciphers = elements("cipher");
    assert!(ciphers.len() >= 6, "{report}");
    for cipher in &ciphers {
        let strong = ["GCM", "POLY1305"].iter().any(|mode| cipher.contains(mode));
        let of_1_3 = cipher.contains(r#"cipher="TLS_"#);
        assert!(strong && (of_1_3 || cipher.contains("ECDHE-")), "{cipher}");
        // It knows no more of those of TLS 1.3 than their names.
        assert!(
            of_1_3 || cipher.contains(r#"strength="strong""#),
            "{cipher}"
        );
    }
    for flaw in elements("heartbleed") {
        assert!(flaw.contains(r#"vulnerable="0""#), "{flaw}");
    }
    for (name, value) in [
        ("compression", r#"supported="0""#),
        ("renegotiation", r#"supported="0""#),
        ("fallback", r#"supported="1""#),
    ] {
        let found = elements(name);
        assert!(
            found.iter().all(|element| element.contains(value)),
            "{name}: {found:?}\n{report}"
        );
    }
}
