//! Reports about names and addresses that fail: a name server that hangs or is gone, and addresses
//! that drop packets.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::json;

use crate::harness::upstream::NeverAccepts;
use crate::harness::*;

const NEAR: Ipv4Addr = Ipv4Addr::LOCALHOST;
const FAR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A gateway's configuration with a name server of the test's own.
fn asking(name_server: &NameServer, routes: impl Into<Vec<Route>>) -> Setup {
    let address = name_server.address().to_string();
    Setup::new(routes)
        .stopping_at_once()
        .env("HOOKSTILE_NAMESERVER", &address)
}

/// Returns the URL of a port by name. The final dot keeps the machine's search domains away.
fn url(name: &str, address: SocketAddr) -> String {
    format!("http://{name}.:{}/receiver", address.port())
}

fn addresses(addresses: impl Into<Vec<IpAddr>>) -> Answer {
    Answer::Addresses {
        addresses: addresses.into(),
        ttl: 60,
    }
}

fn threads(gateway: &Gateway) -> usize {
    fs::read_dir(format!("/proc/{}/task", gateway.pid()))
        .expect("the process runs")
        .count()
}

/// Report: a resolver that does not answer for one name blocked the threads that all routes, the
/// ledger and the queue shared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_name_stops_no_other_route() {
    let (name_server, upstream) = (NameServer::start().await, Upstream::ok());
    name_server.set("slow.test.", Answer::Silence);
    name_server.set("app.test.", Answer::address(NEAR, 1));
    let by_name = url("app.test", upstream.address());
    let gateway = Gateway::start(asking(
        &name_server,
        [
            Route::to_url(&url("slow.test", upstream.address()))
                .named("slow")
                .with("path", "/slow")
                .with("budget", "60s"),
            Route::to_url(&by_name)
                .named("named")
                .with("path", "/named"),
            Route::to(&upstream).named("ip").with("path", "/ip"),
            Route::to_url(&by_name)
                .named("queued")
                .with("path", "/queued")
                .with("delivery", "queue"),
        ],
    ))
    .await;
    let first = Event::new("evt_first");
    gateway
        .send(first.post().at("/ip"))
        .await
        .assert(200, "delivered");
    let before = threads(&gateway);
    let mut hanging = Vec::new();
    for number in 0..600 {
        let mut client = gateway.connect().await;
        let request = Event::new(&format!("evt_slow_{number}")).post().at("/slow");
        client.write(&request.bytes()).await;
        hanging.push(client);
    }
    eventually("the slow name is asked for", async || {
        name_server.questions("slow.test.") > 0
    })
    .await;
    for (path, outcome) in [
        ("/named", "delivered"),
        ("/ip", "delivered"),
        ("/queued", "queued"),
    ] {
        let event = Event::new(&format!("evt_{}", &path[1..]));
        let response = gateway.send(event.post().at(path)).await;
        assert_eq!(response.outcome(), outcome, "{path}");
    }
    gateway
        .send(first.post().at("/ip"))
        .await
        .assert_problem(409, "duplicate");
    upstream.wait_for_requests(4).await;
    // A few threads may start for the store; not one for each request.
    assert!(threads(&gateway) < before + 64);
    // One look-up, for all who wait for it.
    assert!(name_server.questions("slow.test.") < 20);
}

/// Report: when the name servers were away, every delivery failed, although the upstream was there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_known_address_is_used_without_name_servers() {
    let (name_server, upstream) = (NameServer::start().await, Upstream::ok());
    name_server.set("app.test.", Answer::address(NEAR, 1));
    let route = Route::to_url(&url("app.test", upstream.address()));
    let gateway = Gateway::start(asking(&name_server, [route])).await;
    let send = async |id: String| {
        gateway.send(Event::new(&id)).await.assert(200, "delivered");
    };
    send("evt_first".into()).await;
    name_server.set_silent(true);
    let asked = name_server.questions("app.test.");
    let mut number = 0;
    eventually("the name is asked for again, in vain", async || {
        number += 1;
        send(format!("evt_{number}")).await;
        name_server.questions("app.test.") > asked
    })
    .await;
    let reloaded = gateway.admin_post("/reload", &json!({})).await;
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    send("evt_after_reload".into()).await;
    name_server.set("app.test.", Answer::Absent { ttl: 1 });
    name_server.set_silent(false);
    eventually("the name is gone", async || {
        number += 1;
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.status == 502
    })
    .await;
}

/// Report: a proxy went on sending to the old address after the name had moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moved_name_is_followed_without_a_reload() {
    let (name_server, old) = (NameServer::start().await, Upstream::at((FAR, 0)));
    let new = Upstream::at((NEAR, old.address().port()));
    name_server.set("app.test.", Answer::address(FAR, 1));
    let route = Route::to_url(&url("app.test", old.address()));
    let gateway = Gateway::start(asking(&name_server, [route])).await;
    gateway
        .send(Event::new("evt_first"))
        .await
        .assert(200, "delivered");
    assert_eq!(old.count(), 1);
    name_server.set("app.test.", Answer::address(NEAR, 1));
    let mut number = 0;
    eventually("the new address is used", async || {
        number += 1;
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.assert(200, "delivered");
        new.count() > 0
    })
    .await;
}

/// Report: the first of an upstream's two addresses dropped packets (node gone, broken IPv6), and
/// the second one was never tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_that_drops_packets_costs_no_delivery() {
    let (name_server, upstream) = (NameServer::start().await, Upstream::at((FAR, 0)));
    let _black_hole = NeverAccepts::at((NEAR, upstream.address().port())).await;
    name_server.set("app.test.", addresses([NEAR.into(), FAR.into()]));
    let by_name = url("app.test", upstream.address());
    let limited = format!("{{url: {by_name:?}, connect_timeout: 2s}}");
    let gateway = Gateway::start(asking(
        &name_server,
        [
            Route::to_url(&by_name)
                .named("plain")
                .with("path", "/plain"),
            Route::to_url(&by_name)
                .named("limited")
                .with("path", "/limited")
                .with("upstream", &limited),
            Route::to_url(&by_name)
                .named("queued")
                .with("path", "/queued")
                .with("delivery", "queue"),
        ],
    ))
    .await;
    for (path, status) in [("/plain", 200), ("/limited", 200), ("/queued", 202)] {
        for attempt in ["a", "b"] {
            let event = Event::new(&format!("evt_{}_{attempt}", &path[1..]));
            let response = gateway.send(event.post().at(path)).await;
            assert_eq!(response.status, status, "{path}: {}", response.text());
        }
    }
    upstream.wait_for_requests(6).await;
}

/// Each attempt has time for two of four addresses, and remembers those that did not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_get_through_many_dead_addresses() {
    let (name_server, upstream) = (NameServer::start().await, Upstream::at(([127, 0, 0, 4], 0)));
    let port = upstream.address().port();
    let dead = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last));
    let mut black_holes = Vec::new();
    for address in dead {
        black_holes.push(NeverAccepts::at((address, port)).await);
    }
    let listed = dead.into_iter().chain([Ipv4Addr::new(127, 0, 0, 4)]);
    let listed: Vec<IpAddr> = listed.map(IpAddr::V4).collect();
    name_server.set("app.test.", addresses(listed));
    let by_name = url("app.test", upstream.address());
    let limited = format!("{{url: {by_name:?}, connect_timeout: 400ms}}");
    let route = Route::to_url(&by_name).with("upstream", &limited);
    let gateway = Gateway::start(asking(&name_server, [route])).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(502, "upstream_unreachable");
    let mut number = 1;
    eventually("the address that works is tried", async || {
        number += 1;
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.status == 200
    })
    .await;
    assert!(number <= 4, "{number} attempts");
}

/// A webhook made over the API must not reach a metadata endpoint by a name that also has a
/// harmless address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_address_of_a_name_is_never_tried() {
    let (name_server, upstream) = (NameServer::start().await, Upstream::ok());
    let metadata: IpAddr = [169, 254, 169, 254].into();
    name_server.set("mixed.test.", addresses([metadata, NEAR.into()]));
    name_server.set("bad.test.", addresses([metadata]));
    let gateway = Gateway::start(asking(&name_server, [Route::to(&upstream)])).await;
    for (name, status) in [("mixed.test", 200), ("bad.test", 502)] {
        let document = json!({"url": url(name, upstream.address())});
        let created = gateway.admin_post("/webhooks", &document).await;
        assert_eq!(created.status, 201, "{}", created.text());
        let created: serde_json::Value = serde_json::from_slice(&created.body).expect("JSON");
        let text = |key: &str| created["webhook"][key].as_str().expect("text").to_owned();
        let event = Event::new(&format!("evt_{name}"));
        let request = event.signed_with(&text("secret")).at(&text("path"));
        let response = gateway.send(request).await;
        assert_eq!(response.status, status, "{name}: {}", response.text());
    }
    assert_eq!(upstream.count(), 1);
}

/// RFC 6761: `localhost` is this machine, whatever the name servers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn localhost_needs_no_name_server() {
    let (name_server, upstream) = (NameServer::start().await, Upstream::ok());
    name_server.set_silent(true);
    let hosts = ["localhost", "LocalHost.", "app.localhost"];
    let routes = hosts.iter().enumerate().map(|(number, host)| {
        Route::to_url(&format!(
            "http://{host}:{}/receiver",
            upstream.address().port()
        ))
        .named(&format!("route_{number}"))
        .with("path", &format!("/{number}"))
    });
    let gateway = Gateway::start(asking(&name_server, routes.collect::<Vec<_>>())).await;
    for number in 0..hosts.len() {
        let event = Event::new(&format!("evt_{number}"));
        gateway
            .send(event.post().at(&format!("/{number}")))
            .await
            .assert(200, "delivered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn name_server_needs_a_port() {
    let upstream = Upstream::ok();
    let setup = Setup::from(Route::to(&upstream)).env("HOOKSTILE_NAMESERVER", "127.0.0.53");
    let (status, output) = Gateway::refuses(setup).await;
    assert_eq!(status, Some(1), "{output}");
    assert!(output.contains("HOOKSTILE_NAMESERVER"), "{output}");
}
