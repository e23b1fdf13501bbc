//! Reports about secret files, and certificates of upstreams.

use crate::harness::tls::{Authority, Issued};
use crate::harness::*;

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
