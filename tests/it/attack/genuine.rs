//! Genuine senders during an attack: on a kept connection and on new ones, to every route.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::interval;

use crate::harness::*;

/// The number of events that are timed before the attack.
const UNLOADED: usize = 100;

/// The time between two events of a sender.
const INTERVAL: Duration = Duration::from_millis(20);

const PATHS: [&str; 2] = [PATH, "/webhooks/other"];

/// Senders at work.
pub struct Genuine {
    gateway: SocketAddr,
    unloaded: Vec<Duration>,
    is_over: Arc<AtomicBool>,
    sending: JoinHandle<Sent>,
}

/// What became of a series of events.
#[derive(Default)]
struct Sent {
    times: Vec<Duration>,
    failures: Vec<String>,
}

impl Genuine {
    /// Sends some events, to compare with, and starts the senders.
    pub async fn start(gateway: &Gateway) -> Self {
        let gateway = gateway.public_address();
        let unloaded = send(gateway, "unloaded", |sent| sent < UNLOADED).await;
        assert_eq!(unloaded.failures, [""; 0]);
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let sending = tokio::spawn(async move {
            send(gateway, "loaded", |_| !over.load(Ordering::Relaxed)).await
        });
        Self {
            gateway,
            unloaded: unloaded.times,
            is_over,
            sending,
        }
    }

    /// Stops the senders and asserts that each event was delivered. Prints how long they took.
    pub async fn assert_all_delivered(self, attack: &str) {
        // At least these are sent while the attack is at its height.
        let last = send(self.gateway, "last", |sent| sent < UNLOADED).await;
        self.is_over.store(true, Ordering::Relaxed);
        let sent = within("the last event", self.sending)
            .await
            .expect("no panic");
        let all = [sent.failures, last.failures].concat();
        assert_eq!(all, [""; 0], "of {} events", sent.times.len() + UNLOADED);
        let times = [sent.times, last.times].concat();
        let ((p50, p99), (before50, before99)) = (percentiles(times), percentiles(self.unloaded));
        eprintln!("{attack}: p50 {before50:?} before, {p50:?} during; p99 {before99:?}, {p99:?}");
    }
}

/// Sends events to each route in turn, alternately on a kept and on a new connection, while `goes_on`
/// says so of the number of events sent.
async fn send(gateway: SocketAddr, prefix: &str, goes_on: impl Fn(usize) -> bool) -> Sent {
    let mut sent = Sent::default();
    let mut kept = Client::connect(gateway).await;
    let mut pace = interval(INTERVAL);
    let mut number = 0;
    while goes_on(number) {
        pace.tick().await;
        let event = Event::new(&format!("evt_{prefix}_{number}"));
        let request = event.post().at(PATHS[number / 2 % PATHS.len()]);
        let began = Instant::now();
        let response = if number % 2 == 0 {
            kept.try_send(request).await
        } else {
            Client::connect(gateway).await.try_send(request).await
        };
        match response {
            Some(response) if response.outcome() == "delivered" => {
                sent.times.push(began.elapsed());
            }
            Some(response) => sent.failures.push(response.outcome().to_owned()),
            None => sent.failures.push("no response".into()),
        }
        if number % 2 == 0 && !sent.failures.is_empty() {
            kept = Client::connect(gateway).await;
        }
        number += 1;
    }
    sent
}

/// Returns the median and the 99th percentile.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
