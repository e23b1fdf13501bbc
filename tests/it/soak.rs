//! Hours in small: good, bad, replayed, slow and broken traffic at once, receivers with moods, reloads, upgrades, stops and kills;
//! every promise holds, and what was taken meanwhile is given back.
//!
//! `make soak` runs it for an hour, CI for two minutes, `make test` for some seconds (`HOOKSTILE_SOAK_SECONDS`).

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::harness::fleet::Front;
use crate::harness::patience::eventually;
use crate::harness::*;

/// Each lap begins with a store of its own. Longer ones would fill the memory with what the checkers have to know.
const LAP: Duration = Duration::from_secs(40);

/// Above what it had at the start, once all is quiet again: idle connections to receivers, and to the store.
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
async fn under_all_at_once_every_promise_holds_and_nothing_is_kept_that_was_taken() {
    let end = Instant::now() + time();
    let mut laps = 0;
    while Instant::now() < end || laps == 0 {
        lap(LAP.min(end.saturating_duration_since(Instant::now()))).await;
        laps += 1;
    }
    eprintln!("{laps} laps");
}

/// Half of it with reloads, to see what is given back; half of it with kills and stops.
async fn lap(time: Duration) {
    let mut trial = Trial::start().await;
    let (descriptors, resident) = (descriptors(&trial), trial.gateway.resident_bytes());
    let noise: Vec<_> = (0..4)
        .map(|number| Noise::start(&trial.gateway.front(), number))
        .collect();
    let (began, mut reloads) = (Instant::now(), 0);
    while began.elapsed() < time / 2 || reloads == 0 {
        trial.gateway.rewrite(trial.setup_under(Under::default()));
        trial
            .gateway
            .signal(if reloads % 8 == 7 { "USR2" } else { "HUP" });
        trial.progresses(10).await;
        reloads += 1;
    }
    noise.iter().for_each(Noise::hush);
    eventually("connections and bodies are given back", async || {
        let metrics = trial.gateway.metrics().await;
        let held = ["connections", "requests_in_flight", "body_bytes_in_flight"]
            .map(|name| metrics.value(name, &[]));
        // Those of the senders that go on.
        held[0] <= 30.0 && held[1] <= 30.0 && held[2] <= 100_000.0
    })
    .await;
    eventually("descriptors are given back", async || {
        self::descriptors(&trial) <= descriptors + DESCRIPTORS_MORE
    })
    .await;
    let now = trial.gateway.resident_bytes();
    assert!(
        now <= resident + RESIDENT_MORE,
        "{resident} bytes at the start, {now} after {reloads} reloads"
    );

    let noise: Vec<_> = (0..4)
        .map(|number| Noise::start(&trial.gateway.front(), number))
        .collect();
    let mut rounds = 0;
    while began.elapsed() < time || rounds < 2 {
        trial.progresses(rounds * 7 % 25).await;
        if rounds % 3 == 2 {
            assert_eq!(trial.gateway.stop().await.code(), Some(0));
        } else {
            trial.kill().await;
        }
        trial.restart().await;
        rounds += 1;
    }
    noise.iter().for_each(Noise::hush);
    trial.progresses(10).await;
    trial.judge().await;
}

fn descriptors(trial: &Trial) -> usize {
    let folder = format!("/proc/{}/fd", trial.gateway.pid());
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

/// A sender that means no good, or does not know better.
struct Noise(JoinHandle<()>);

impl Noise {
    fn start(front: &Front, number: usize) -> Self {
        let front = front.clone();
        Self(tokio::spawn(async move {
            for round in number.. {
                if let Some(address) = front.address()
                    && let Some(client) = Client::try_connect(address).await
                {
                    bother(client, round).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }))
    }

    fn hush(&self) {
        self.0.abort();
    }
}

async fn bother(mut client: Client, round: usize) {
    let event = Event::sized(&format!("evt_noise_{round}"), 500);
    let path = ["/webhooks/proxy", "/webhooks/queue", "/webhooks/spill"][round % 3];
    let whole = event.forged().at(path).bytes();
    match round % 7 {
        0 => drop(client.send_raw(&whole).await),
        1 => drop(client.send_raw(&event.post().at("/elsewhere").bytes()).await),
        2 => drop(
            client.send_raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd").await,
        ),
        // A head, or a body, that is not finished; then gone.
        3 => drop(client.trickle(&whole[..40], Duration::from_millis(2)).await),
        4 => drop(client.trickle(&whole[..whole.len() - 20], Duration::from_millis(1)).await),
        5 => drop(client.send_raw(&event.post().at(path).header("Content-Length", "9999999999").head_bytes()).await),
        _ => client.reset(),
    }
}
