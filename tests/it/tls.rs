//! Webhooks over TLS: certificate selection, client authentication, and certificate renewal.

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
    let temporary = folder.join(format!("{name}.new"));
    std::fs::write(&temporary, content).expect("a file");
    std::fs::rename(temporary, folder.join(name)).expect("a rename");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_tls_and_http_version_delivers() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let gateway = Gateway::start(setup(&upstream, &authority.issue("hooks.test"))).await;
    for (number, version) in [&TLS12, &TLS13].into_iter().enumerate() {
        let trust = Trust::new(&authority).version(version);
        let mut h1 = Client::connect_tls(
            gateway.public_address(),
            &trust,
            "hooks.test",
            &["http/1.1"],
        )
        .await
        .expect("a handshake");
        assert_eq!(h1.protocol().as_deref(), Some("http/1.1"));
        h1.send(Event::new(&format!("evt_h1_{number}")))
            .await
            .assert(200, "delivered");
        h1.send(Event::new(&format!("evt_h1_kept_{number}")))
            .await
            .assert(200, "delivered");
        let h2 = Client::connect_tls(
            gateway.public_address(),
            &trust,
            "hooks.test",
            &["h2", "http/1.1"],
        )
        .await
        .expect("a handshake");
        assert_eq!(h2.protocol().as_deref(), Some("h2"));
        let mut h2 = h2.h2().await;
        h2.send(Event::sized(&format!("evt_h2_{number}"), 200_000))
            .await
            .assert(200, "delivered");
        // Without ALPN the protocol is HTTP/1.1.
        let mut plain = Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
            .await
            .expect("a handshake");
        plain
            .send(Event::new(&format!("evt_plain_{number}")))
            .await
            .assert(200, "delivered");
    }
    assert_eq!(upstream.count(), 8);
    for received in upstream.requests() {
        assert_eq!(received.headers.all("X-Forwarded-Proto"), ["https"]);
    }
    gateway
        .metrics()
        .await
        .assert_value("tls_handshakes_total", &[("result", "ok")], 6.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_is_chosen_by_server_name() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let (a, b) = (authority.issue("a.test"), authority.issue("*.b.test"));
    let setup = Setup::from(Route::to(&upstream)).with("listen", TWO);
    let setup = setup
        .file("a.crt", &a.certificate)
        .file("a.key", &a.key)
        .file("b.crt", &b.certificate);
    let gateway = Gateway::start(setup.file("b.key", &b.key)).await;
    let trust = Trust::any_certificate();
    for (name, shown) in [
        ("a.test", &a),
        ("hooks.b.test", &b),
        ("HOOKS.B.test", &b),
        ("x.y.b.test", &a),
        ("c.test", &a),
    ] {
        let client = Client::connect_tls(gateway.public_address(), &trust, name, &[])
            .await
            .expect("a handshake");
        assert!(client.was_shown(shown), "{name}");
    }
    let nameless = Client::connect_tls(gateway.public_address(), &trust, "127.0.0.1", &[])
        .await
        .expect("a handshake");
    assert!(nameless.was_shown(&a));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificate_is_used_without_signal() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let (old, new) = (authority.issue("hooks.test"), authority.issue("hooks.test"));
    let gateway = Gateway::start(setup(&upstream, &old)).await;
    let trust = Trust::new(&authority);
    let mut kept = Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
        .await
        .expect("a handshake");
    kept.send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    // As certbot does: one file after the other.
    replace(gateway.directory(), "tls.crt", &new.certificate);
    replace(gateway.directory(), "tls.key", &new.key);
    eventually("the new certificate is presented", async || {
        let client = Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
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
async fn mismatched_certificate_changes_nothing() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let (old, new) = (authority.issue("hooks.test"), authority.issue("hooks.test"));
    let gateway = Gateway::start(setup(&upstream, &old)).await;
    replace(gateway.directory(), "tls.crt", &new.certificate);
    gateway
        .wait_for_metric("config_last_reload_successful", &[], 0.0)
        .await;
    let trust = Trust::new(&authority);
    let mut client = Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
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
        .wait_for_metric("config_last_reload_successful", &[], 1.0)
        .await;
    let client = Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
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
async fn non_tls_connection_is_closed_and_sampled() {
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
        .wait_for_metric("tls_handshakes_total", &[("result", "failed")], 104.0)
        .await;
    let lines = gateway.output().matches("TLS handshake failed").count();
    assert!((1..60).contains(&lines), "{lines} lines");
    let trust = Trust::new(&authority);
    let mut client = Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
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
async fn abrupt_hang_up_is_not_logged() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let gateway = Gateway::start(setup(&upstream, &authority.issue("hooks.test"))).await;
    let trust = Trust::new(&authority);
    for number in 0..5 {
        let mut client = Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
            .await
            .expect("a handshake");
        client
            .send(Event::new(&format!("evt_{number}")))
            .await
            .assert(200, "delivered");
        client.reset();
        drop(gateway.connect().await);
    }
    gateway.wait_for_metric("connections", &[], 0.0).await;
    for line in gateway.output().lines() {
        assert!(
            !line.contains("\"level\":\"WARN\"") && !line.contains("TLS handshake failed"),
            "{line}"
        );
    }
    gateway
        .metrics()
        .await
        .assert_value("tls_handshakes_total", &[("result", "failed")], 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handshake_is_cut() {
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
        .wait_for_metric("tls_handshakes_total", &[("result", "timeout")], 1.0)
        .await;
    slow.rest().await;
    silent.rest().await;
    // HTTP/2 was negotiated, but nothing follows.
    let trust = Trust::new(&authority);
    let mut unfinished =
        Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &["h2"])
            .await
            .expect("a handshake");
    unfinished.write(b"PRI * HT").await;
    unfinished.wait_for_close().await;
    gateway.wait_for_metric("connections", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn excess_connection_is_closed_before_handshake() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let setup = setup(&upstream, &authority.issue("hooks.test"));
    let gateway = Gateway::start(setup.with("limits", "{connections: 1}")).await;
    let trust = Trust::new(&authority);
    let mut first = Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
        .await
        .expect("a handshake");
    assert!(
        Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
            .await
            .is_err()
    );
    gateway
        .wait_for_metric(
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
async fn client_ca_admits_only_its_clients() {
    let (upstream, authority, clients) = (Upstream::ok(), Authority::new(), Authority::new());
    let listen = ONE.replace("}}]", "}, client_ca: clients.pem}]");
    let setup = setup(&upstream, &authority.issue("hooks.test")).with("listen", &listen);
    let gateway = Gateway::start(setup.file("clients.pem", clients.pem())).await;
    for version in [&TLS12, &TLS13] {
        let trust = Trust::new(&authority).version(version);
        for refused in [
            trust.clone(),
            trust
                .clone()
                .showing(&authority.issue_to_client("stranger")),
        ] {
            // TLS 1.3 reports a rejection only after the client has finished its part.
            if let Ok(mut client) =
                Client::connect_tls(gateway.public_address(), &refused, "hooks.test", &[]).await
            {
                assert!(client.try_send(Event::new("evt_no")).await.is_none());
            }
        }
        let known = trust.showing(&clients.issue_to_client("billing"));
        let mut client = Client::connect_tls(gateway.public_address(), &known, "hooks.test", &[])
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
async fn slow_head_over_tls_is_timed_from_first_byte() {
    let (upstream, authority) = (Upstream::ok(), Authority::new());
    let setup = setup(&upstream, &authority.issue("hooks.test"));
    let gateway = Gateway::start(setup.with("limits", "{header_timeout: 1s}")).await;
    let trust = Trust::new(&authority);
    let mut client = Client::connect_tls(gateway.public_address(), &trust, "hooks.test", &[])
        .await
        .expect("a handshake");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    client
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    client.write(b"POST /web").await;
    client.read_response().await.assert(408, "body_timeout");
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
async fn certificate_expiry_metric_follows_reload() {
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
    eventually("the new file has a series", async || {
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
async fn sslscan_finds_only_strong_tls() {
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
        &gateway.public_address().to_string(),
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
        let enabled =
            protocol.contains(r#"version="1.2""#) || protocol.contains(r#"version="1.3""#);
        assert_eq!(protocol.contains(r#"enabled="1""#), enabled, "{protocol}");
    }
    let ciphers = elements("cipher");
    assert!(ciphers.len() >= 6, "{report}");
    for cipher in &ciphers {
        let strong = ["GCM", "POLY1305"].iter().any(|mode| cipher.contains(mode));
        let of_1_3 = cipher.contains(r#"cipher="TLS_"#);
        assert!(strong && (of_1_3 || cipher.contains("ECDHE-")), "{cipher}");
        // sslscan knows only the names of the TLS 1.3 ciphers.
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
