//! Reports about secret files, and certificates of upstreams.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;

use crate::harness::tls::{Authority, Issued};
use crate::harness::*;

const FIRST: &str = "first-secret-0123456789";
const SECOND: &str = "second-secret-0123456789";

/// Starts a gateway with a route to a TLS upstream, trusting these certificates.
async fn gateway_trusting(upstream: &Upstream, host: &str, ca: &str) -> Gateway {
    let url = format!("https://{host}:{}/receiver", upstream.address().port());
    let route = Route::to_url(&format!("{{url: \"{url}\", ca: ca.pem}}"));
    Gateway::start(Setup::from(route).file("ca.pem", ca)).await
}

/// Runs `check` on the gateway's own configuration.
async fn check(gateway: &Gateway) -> command::Run {
    let mut check = command::command();
    check
        .env("WEBHOOK_SECRET", SECRET)
        .args(["check", "--config"]);
    check.arg(gateway.config());
    command::finish(check).await
}

/// The certificate that `openssl req -x509` makes is a CA and the server's own at once. Given as
/// `ca`, it was refused, while `curl --cacert` accepts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn self_signed_upstream_is_trusted_as_its_own_ca() {
    for host in ["localhost", "127.0.0.1"] {
        let own = Issued::self_signed(&["localhost", "127.0.0.1"], "localhost");
        let upstream = Upstream::tls(own.identity(), [Reply::ok()]);
        let bundle = format!("{}{}", Authority::new().pem(), own.certificate);
        let gateway = gateway_trusting(&upstream, host, &bundle).await;
        for number in 0..3 {
            let event = Event::new(&format!("evt_{number}"));
            gateway.send(event).await.assert(200, "delivered");
        }
        assert_eq!(upstream.connections(), 1, "{host}: connections are kept");
        let checked = check(&gateway).await;
        checked.assert(0);
        assert!(
            !checked.stderr.contains("certificate"),
            "{}",
            checked.stderr
        );
    }
}

/// A certificate that another CA signed is enough, too, as it is for curl.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_is_trusted_by_its_own_certificate_alone() {
    let issued = Authority::new().issue("localhost");
    let upstream = Upstream::tls(issued.identity(), [Reply::ok()]);
    let gateway = gateway_trusting(&upstream, "localhost", &issued.certificate).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

/// A bundle may hold the old certificate of the upstream and the CA of the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_of_a_trusted_ca_is_used_beside_its_own() {
    let (own, authority) = (
        Issued::self_signed(&["localhost"], "localhost"),
        Authority::new(),
    );
    let upstream = Upstream::tls(authority.identity("localhost"), [Reply::ok()]);
    let bundle = format!("{}{}", own.certificate, authority.pem());
    let gateway = gateway_trusting(&upstream, "localhost", &bundle).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
}

/// Trust in a certificate ends at that certificate: not its name, nor its key's other certificates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_self_signed_upstream_gets_nothing() {
    let trusted = Issued::self_signed(&["localhost"], "localhost");
    let same_names = Issued::self_signed(&["localhost"], "localhost");
    let upstream = Upstream::tls(same_names.identity(), [Reply::ok()]);
    let gateway = gateway_trusting(&upstream, "localhost", &trusted.certificate).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(502, "upstream_unreachable");
    let elsewhere = Issued::self_signed(&["receiver.test"], "localhost");
    let misnamed = Upstream::tls(elsewhere.identity(), [Reply::ok()]);
    let gateway = gateway_trusting(&misnamed, "localhost", &elsewhere.certificate).await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert_problem(502, "upstream_unreachable");
    assert_eq!((upstream.count(), misnamed.count()), (0, 0));
    assert_eq!((upstream.bytes(), misnamed.bytes()), (0, 0));
}

/// `check` said nothing about certificates that no connection can be trusted by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_why_a_certificate_cannot_be_trusted() {
    let upstream = Upstream::ok();
    for (certificate, says) in [
        (
            Issued::self_signed(&[], "localhost"),
            "`localhost` only as its common name",
        ),
        (
            Issued::self_signed(&["receiver.test"], "localhost"),
            "this certificate is for `receiver.test`, and not for `localhost`",
        ),
        (
            Authority::new().issue("receiver.test"),
            "this certificate is for `receiver.test`, and not for `localhost`",
        ),
    ] {
        let gateway = gateway_trusting(&upstream, "localhost", &certificate.certificate).await;
        let checked = check(&gateway).await;
        checked.assert(0);
        assert!(checked.stderr.contains(says), "{}", checked.stderr);
    }
}

/// Returns a route whose only secret is in this file.
fn route_with_secret_in(upstream: &Upstream, file: &Path) -> Route {
    Route::to(upstream).with("secrets", &format!("[{{file: \"{}\"}}]", file.display()))
}

/// Waits until events that are signed with `secret` verify.
async fn verifies(gateway: &Gateway, secret: &str) {
    let mut number = 0;
    wait::eventually("events signed with the new secret verify", async || {
        number += 1;
        let event = Event::new(&format!("evt_{secret}_{number}"));
        gateway.send(event.signed_with(secret)).await.status == 200
    })
    .await;
}

/// Writes a file, as a rename over it or in place.
fn write(file: &Path, content: impl AsRef<[u8]>, in_place: bool) {
    let written = file.with_extension("new");
    let to = if in_place { file } else { &written };
    fs::write(to, content).expect("a writable folder");
    if !in_place {
        fs::rename(written, file).expect("a rename");
    }
}

/// Mounts a secret as Kubernetes does: `key` leads through `..data` to a folder, which a rename of
/// the link replaces.
fn mount(folder: &Path, version: &str, secret: &str) {
    fs::create_dir(folder.join(version)).expect("a new folder");
    fs::write(folder.join(version).join("key"), secret).expect("a writable folder");
    symlink(version, folder.join("..tmp")).expect("a link");
    fs::rename(folder.join("..tmp"), folder.join("..data")).expect("a rename");
    if !folder.join("key").exists() {
        symlink("..data/key", folder.join("key")).expect("a link");
    }
}

/// A secret that Kubernetes had replaced was used only after a reload. Certificates and the
/// configuration were watched, secrets were not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounted_secret_is_applied_when_it_is_swapped() {
    let (upstream, mounted) = (Upstream::ok(), tempfile::tempdir().expect("a folder"));
    mount(mounted.path(), "..1", FIRST);
    let file = mounted.path().join("key");
    let gateway = Gateway::start(route_with_secret_in(&upstream, &file)).await;
    verifies(&gateway, FIRST).await;
    mount(mounted.path(), "..2", SECOND);
    verifies(&gateway, SECOND).await;
    let old = Event::new("evt_old").signed_with(FIRST);
    gateway
        .send(old)
        .await
        .assert_problem(401, "invalid_signature");
    fs::remove_dir_all(mounted.path().join("..1")).expect("the old folder");
    mount(mounted.path(), "..3", FIRST);
    verifies(&gateway, FIRST).await;
}

/// So is one that a person or a script writes, also where a link leads to another folder, and a
/// verify token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_secret_file_is_applied_like_a_reload() {
    let (upstream, folder) = (Upstream::ok(), tempfile::tempdir().expect("a folder"));
    let (file, other) = (folder.path().join("key"), folder.path().join("other"));
    fs::create_dir(&other).expect("a new folder");
    let (link, target) = (folder.path().join("link"), other.join("key"));
    fs::write(&file, FIRST).expect("a writable folder");
    fs::write(&target, FIRST).expect("a writable folder");
    symlink(&target, &link).expect("a link");
    for (route_file, written) in [(&file, &file), (&link, &target)] {
        let gateway = Gateway::start(route_with_secret_in(&upstream, route_file)).await;
        for (secret, in_place) in [(SECOND, true), (FIRST, false), (SECOND, false)] {
            write(written, format!("{secret}\n"), in_place);
            verifies(&gateway, secret).await;
        }
        write(written, FIRST, true);
    }
}

/// Where a secret's file goes away, its last content stays in effect, also through a reload, and
/// the log warns once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vanished_secret_file_keeps_its_value_and_warns() {
    let (upstream, folder) = (Upstream::ok(), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("key");
    fs::write(&file, FIRST).expect("a writable folder");
    let route = || route_with_secret_in(&upstream, &file);
    let gateway = Gateway::start(route()).await;
    verifies(&gateway, FIRST).await;
    fs::remove_file(&file).expect("the file");
    wait::eventually("the log warns", async || {
        gateway.output().contains("cannot be read any more")
    })
    .await;
    verifies(&gateway, FIRST).await;
    let reloaded = command::run_cli(&gateway, "reload").await;
    reloaded.assert(0);
    verifies(&gateway, FIRST).await;
    gateway.rewrite(route().with("budget", "9s"));
    command::run_cli(&gateway, "reload").await.assert(0);
    verifies(&gateway, FIRST).await;
    assert_eq!(gateway.admin_get("/readyz").await.text(), "ready\n");
    let warnings = gateway.output().matches("cannot be read any more").count();
    assert_eq!(warnings, 1, "{}", gateway.output());
    fs::write(&file, SECOND).expect("a writable folder");
    verifies(&gateway, SECOND).await;
}

/// An empty file is no secret: a reload is refused, and the old secret stays in effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emptied_secret_file_changes_nothing() {
    let (upstream, folder) = (Upstream::ok(), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("key");
    fs::write(&file, FIRST).expect("a writable folder");
    let gateway = Gateway::start(route_with_secret_in(&upstream, &file)).await;
    fs::write(&file, "").expect("a writable folder");
    gateway
        .wait_for_metric("config_last_reload_successful", &[], 0.0)
        .await;
    verifies(&gateway, FIRST).await;
    let unsigned = Event::new("evt_unsigned").signed_with("");
    assert_eq!(gateway.send(unsigned).await.status, 401);
    fs::write(&file, SECOND).expect("a writable folder");
    verifies(&gateway, SECOND).await;
}

/// One secret that could not be read kept the whole gateway from its start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_secret_takes_only_its_route_off_line() {
    let (upstream, folder) = (Upstream::ok(), tempfile::tempdir().expect("a folder"));
    let file = folder.path().join("late.key");
    let late = |name: &str| route_with_secret_in(&upstream, &file).named(name);
    let file_name = file.display();
    let rotated = Route::to(&upstream).named("rotated").with(
        "secrets",
        &format!("[{{env: WEBHOOK_SECRET}}, {{file: \"{file_name}\"}}]"),
    );
    let meta = Route::to(&upstream).named("meta").with("provider", "meta");
    let meta = meta.with(
        "challenge",
        &format!("{{verify_token: {{file: \"{file_name}\"}}}}"),
    );
    let other = || Route::to(&upstream).named("other");
    let gateway = Gateway::start(Setup::new([late("late"), rotated, meta, other()])).await;
    let to = |name: &str, id: &str| Event::new(id).post().at(&format!("/webhooks/{name}"));
    gateway
        .send(to("other", "evt_1"))
        .await
        .assert(200, "delivered");
    for name in ["late", "rotated", "meta"] {
        let refused = gateway.send(to(name, "evt_1")).await;
        refused.assert_problem(503, "inactive");
        refused.assert_retry_after();
    }
    let handshake = Request::new(
        "GET",
        "/webhooks/meta?hub.mode=subscribe&hub.challenge=1&hub.verify_token=",
    );
    assert_eq!(gateway.send(handshake).await.status, 503);
    let ready = gateway.admin_get("/readyz").await;
    assert_eq!(ready.status, 200);
    for name in ["late", "rotated", "meta"] {
        assert!(
            ready.text().contains(&format!("`{name}`")),
            "{}",
            ready.text()
        );
    }
    assert!(!ready.text().contains("`other`"), "{}", ready.text());
    assert!(
        gateway.output().contains("late.key"),
        "{}",
        gateway.output()
    );
    let status = gateway.api("/webhooks/wh_late").await["webhook"]["status"].clone();
    assert_eq!(status, "inactive");
    // A check is for the person who can mend it.
    let checked = check(&gateway).await;
    checked.assert(78);
    assert!(checked.stderr.contains("late.key"), "{}", checked.stderr);
    fs::write(&file, FIRST).expect("a writable folder");
    wait::eventually("the route is on line", async || {
        let event = Event::new("evt_2").signed_with(FIRST);
        gateway.send(event.at("/webhooks/late")).await.status != 503
    })
    .await;
    gateway
        .send(to("rotated", "evt_2"))
        .await
        .assert(200, "delivered");
    assert_eq!(gateway.admin_get("/readyz").await.text(), "ready\n");
    // A route that a reload adds is off line alone, too.
    let missing = folder.path().join("missing.key");
    let added = route_with_secret_in(&upstream, &missing).named("added");
    gateway.rewrite(Setup::new([late("late"), added, other()]));
    command::run_cli(&gateway, "reload").await.assert(0);
    gateway
        .send(to("added", "evt_3"))
        .await
        .assert_problem(503, "inactive");
    gateway
        .send(to("other", "evt_3"))
        .await
        .assert(200, "delivered");
}

/// A secret that was saved by PowerShell or copied from a web page verified nothing, and neither
/// `check` nor `verify` said why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invisible_part_of_a_secret_is_named() {
    let upstream = Upstream::ok();
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let cases: [(Vec<u8>, &str, &str); 7] = [
        (
            format!("\u{feff}{FIRST}\n").into(),
            "byte order mark",
            "byte order mark",
        ),
        (
            utf16(&format!("\u{feff}{FIRST}\r\n")),
            "UTF-16",
            "read as UTF-16",
        ),
        (utf16(FIRST), "UTF-16", "read as UTF-16"),
        (
            format!("{FIRST}\u{200b}").into(),
            "invisible characters",
            "invisible characters",
        ),
        (
            format!("{FIRST}\u{a0}\n").into(),
            "invisible characters",
            "invisible characters",
        ),
        (format!("{FIRST} \n").into(), "white space", "white space"),
        (
            format!("{FIRST}\r\r\n").into(),
            "white space",
            "white space",
        ),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    let event = Event::new("evt_1");
    let capture = folder.path().join("captured.http");
    let mut request = format!(
        "POST {PATH} HTTP/1.1\r\nX-VPN-Signature: {}\r\n\r\n",
        sign(FIRST, &event.body)
    )
    .into_bytes();
    request.extend_from_slice(&event.body);
    fs::write(&capture, request).expect("a writable folder");
    for (content, warns, explains) in cases {
        fs::write(&file, &content).expect("a writable folder");
        let gateway = Gateway::start(route_with_secret_in(&upstream, &file)).await;
        gateway
            .send(event.signed_with(FIRST))
            .await
            .assert_problem(401, "invalid_signature");
        let logged = gateway
            .lines()
            .into_iter()
            .any(|line| line["level"] == json!("warn") && line.to_string().contains(warns));
        assert!(logged, "{warns}: {}", gateway.output());
        let checked = check(&gateway).await;
        checked.assert(0);
        assert!(checked.stderr.contains(warns), "{}", checked.stderr);
        let mut verify = command::command();
        verify.args(["verify", "--route", "hooks", "--config"]);
        verify.arg(gateway.config()).arg("--request").arg(&capture);
        let explained = command::finish(verify).await;
        explained.assert(1);
        assert!(explained.stdout.contains(explains), "{}", explained.stdout);
        for output in [&checked.stderr, &explained.stdout, &gateway.output()] {
            assert!(!output.contains(FIRST), "a secret is shown: {output}");
        }
    }
}
