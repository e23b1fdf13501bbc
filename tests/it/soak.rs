//! A long run in small: valid, invalid, replayed, slow and broken traffic at once, unreliable
//! upstreams, reloads, upgrades, stops and kills. Every promise holds, and all resources are
//! released.
//!
//! `make soak` runs it for an hour, CI for two minutes, `make test` for some seconds
//! (`HOOKSTILE_SOAK_SECONDS`).

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::harness::fleet::Endpoint;
use crate::harness::wait::eventually;
use crate::harness::*;

/// Each lap starts with a new store. Longer laps would fill the memory with the history that the
/// checker needs.
const LAP: Duration = Duration::from_secs(40);

/// Descriptors allowed above the number at the start, once all is quiet: idle connections to
/// upstreams and to the store.
const DESCRIPTORS_MORE: usize = 48;
const RESIDENT_MORE: u64 = 64 << 20;

fn time() -> Duration {
    let usual = if std::env::var_os("CI").is_some() {
        120
    } else {
        10
    };
    let seconds = std::env::var("HOOKSTILE_SOAK_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(usual))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn combined_faults_keep_every_promise() {
    let end = Instant::now() + time();
    let mut laps = 0;
    while Instant::now() < end || laps == 0 {
        run_lap(LAP.min(end.saturating_duration_since(Instant::now()))).await;
        laps += 1;
    }
    eprintln!("{laps} laps");
}

/// Runs one lap: half of it with reloads, to see that resources are released, and half with kills
/// and stops.
async fn run_lap(time: Duration) {
    let mut load_test = LoadTest::start().await;
    let (descriptors, resident) = (descriptors(&load_test), load_test.gateway.resident_bytes());
    let noise: Vec<_> = (0..4)
        .map(|number| BadSender::start(&load_test.gateway.endpoint(), number))
        .collect();
    let (began, mut reloads) = (Instant::now(), 0);
    while began.elapsed() < time / 2 || reloads == 0 {
        load_test
            .gateway
            .rewrite(load_test.setup_with_launcher(Launcher::default()));
        load_test
            .gateway
            .signal(if reloads % 8 == 7 { "USR2" } else { "HUP" });
        load_test.wait_for_progress(10).await;
        reloads += 1;
    }
    noise.iter().for_each(BadSender::stop);
    eventually("connections and bodies are released", async || {
        let metrics = load_test.gateway.metrics().await;
        let held = ["connections", "requests_in_flight", "body_bytes_in_flight"]
            .map(|name| metrics.value(name, &[]));
        // The remaining senders still hold some.
        held[0] <= 30.0 && held[1] <= 30.0 && held[2] <= 100_000.0
    })
    .await;
    eventually("descriptors are released", async || {
        self::descriptors(&load_test) <= descriptors + DESCRIPTORS_MORE
    })
    .await;
    let now = load_test.gateway.resident_bytes();
    assert!(
        now <= resident + RESIDENT_MORE,
        "{resident} bytes at the start, {now} after {reloads} reloads"
    );

    let noise: Vec<_> = (0..4)
        .map(|number| BadSender::start(&load_test.gateway.endpoint(), number))
        .collect();
    let mut rounds = 0;
    while began.elapsed() < time || rounds < 2 {
        load_test.wait_for_progress(rounds * 7 % 25).await;
        if rounds % 3 == 2 {
            assert_eq!(load_test.gateway.stop().await.code(), Some(0));
        } else {
            load_test.kill().await;
        }
        load_test.restart().await;
        rounds += 1;
    }
    noise.iter().for_each(BadSender::stop);
    load_test.wait_for_progress(10).await;
    load_test.finish().await;
}

fn descriptors(load_test: &LoadTest) -> usize {
    let folder = format!("/proc/{}/fd", load_test.gateway.pid());
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// A hostile or broken sender.
struct BadSender(JoinHandle<()>);

impl BadSender {
    fn start(endpoint: &Endpoint, number: usize) -> Self {
        let endpoint = endpoint.clone();
        Self(tokio::spawn(async move {
            for round in number.. {
                if let Some(address) = endpoint.address()
                    && let Some(client) = Client::try_connect(address).await
                {
                    send_bad_traffic(client, round).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }))
    }

    fn stop(&self) {
        self.0.abort();
    }
}

async fn send_bad_traffic(mut client: Client, round: usize) {
    let event = Event::sized(&format!("evt_noise_{round}"), 500);
    let path = ["/webhooks/proxy", "/webhooks/queue", "/webhooks/spill"][round % 3];
    let whole = event.forged().at(path).bytes();
    match round % 7 {
        0 => drop(client.send_raw(&whole).await),
        1 => drop(client.send_raw(&event.post().at("/elsewhere").bytes()).await),
        2 => drop(
            client.send_raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd").await,
        ),
        // An unfinished head or body, then a hang-up.
        3 => drop(client.trickle(&whole[..40], Duration::from_millis(2)).await),
        4 => drop(client.trickle(&whole[..whole.len() - 20], Duration::from_millis(1)).await),
        5 => drop(client.send_raw(&event.post().at(path).header("Content-Length", "9999999999").head_bytes()).await),
        _ => client.reset(),
    }
}
