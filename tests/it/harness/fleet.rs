//! Senders under load that behave as providers do: they sign each event once and send it again
//! until it is accepted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::history::Sent;
use super::sender::{Client, Event};
use super::wait::{eventually, within};

/// The address of a gateway. It changes when the gateway restarts, and is `None` while the gateway
/// is down.
#[derive(Clone, Default)]
pub struct Endpoint(Arc<Mutex<Option<SocketAddr>>>);

impl Endpoint {
    pub fn set(&self, address: Option<SocketAddr>) {
        *self.0.lock().expect("not poisoned") = address;
    }

    pub fn address(&self) -> Option<SocketAddr> {
        *self.0.lock().expect("not poisoned")
    }
}

/// The addresses of all gateways, as a load balancer uses them: gateways that are down are skipped.
#[derive(Clone, Default)]
pub struct Endpoints(Arc<Mutex<Vec<Endpoint>>>);

impl Endpoints {
    pub fn add(&self, endpoint: Endpoint) {
        self.0.lock().expect("not poisoned").push(endpoint);
    }

    /// Returns the address for the copy with this number.
    fn address(&self, number: usize) -> Option<SocketAddr> {
        let endpoints = self.0.lock().expect("not poisoned");
        let up: Vec<_> = endpoints.iter().filter_map(Endpoint::address).collect();
        up.get(number.checked_rem(up.len())?).copied()
    }
}

impl From<&Endpoint> for Endpoints {
    fn from(endpoint: &Endpoint) -> Self {
        Self(Arc::new(Mutex::new(vec![endpoint.clone()])))
    }
}

/// The longest time that a sender waits for a response, which a stalled gateway may never send.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before a retry. Providers wait for minutes; the short pause lets a test see many
/// retries.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// One event in this many is followed by a replay of an older one; one in this many is sent twice
/// at once.
const REPLAY_EVERY: usize = 4;
const TWINS_EVERY: usize = 7;

/// Running senders, each with its own connections.
pub struct Fleet {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
}

struct Shared {
    endpoints: Endpoints,
    path: String,
    prefix: String,
    stopping: AtomicBool,
    accepted: AtomicUsize,
    sent: Mutex<Vec<Sent>>,
}

impl Fleet {
    /// Starts this many senders to the path, which run until [`Fleet::finish`].
    pub fn start(endpoint: &Endpoint, path: &str, senders: usize) -> Self {
        Self::start_as("evt", &endpoint.into(), path, senders)
    }

    /// Starts senders whose event IDs have this prefix, so that two fleets differ; each copy goes
    /// to the next gateway.
    pub fn start_as(prefix: &str, endpoints: &Endpoints, path: &str, senders: usize) -> Self {
        let shared = Arc::new(Shared {
            endpoints: endpoints.clone(),
            path: path.to_owned(),
            prefix: prefix.to_owned(),
            stopping: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            sent: Mutex::default(),
        });
        let senders = (0..senders)
            .map(|number| tokio::spawn(Sender::new(&shared, number, number).run()))
            .collect();
        Self { shared, senders }
    }

    /// Returns the number of events accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Waits until this many more events are accepted.
    #[track_caller]
    pub fn wait_for_progress(&self, by: usize) -> impl Future<Output = ()> {
        let target = self.accepted() + by;
        eventually(format!("{by} more events are accepted"), async move || {
            self.accepted() >= target
        })
    }

    /// Stops creating events, and waits until all started events are accepted.
    pub async fn finish(self) -> Vec<Sent> {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for sender in self.senders {
            within("the last events are accepted", sender)
                .await
                .expect("no panic in a sender");
        }
        self.shared.sent().clone()
    }
}

impl Shared {
    fn sent(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.sent.lock().expect("not poisoned")
    }
}

struct Sender {
    shared: Arc<Shared>,
    number: usize,
    /// The number of copies sent so far.
    copies: usize,
    clients: HashMap<SocketAddr, Client>,
}

impl Sender {
    fn new(shared: &Arc<Shared>, number: usize, copies: usize) -> Self {
        Self {
            shared: Arc::clone(shared),
            number,
            copies,
            clients: HashMap::new(),
        }
    }

    async fn run(mut self) {
        let mut events: Vec<Event> = Vec::new();
        while !self.shared.stopping.load(Ordering::SeqCst) {
            let count = events.len();
            let id = format!("{}_{}_{count}", self.shared.prefix, self.number);
            // The sizes vary from small to a few pages of the store.
            let event = Event::sized(&id, 80 + count % 9 * 700);
            let twin = (count % TWINS_EVERY == TWINS_EVERY - 1).then(|| {
                // The second copy goes to another gateway, if there is one.
                let mut second = Self::new(&self.shared, self.number, self.copies + 1);
                let (id, event) = (id.clone(), event.clone());
                tokio::spawn(async move { second.send(&id, &event).await })
            });
            while !self.send(&id, &event).await {
                tokio::time::sleep(RETRY_AFTER).await;
            }
            self.shared.accepted.fetch_add(1, Ordering::SeqCst);
            if let Some(twin) = twin {
                twin.await.expect("no panic in a sender");
            }
            events.push(event);
            if count % REPLAY_EVERY == REPLAY_EVERY - 1 {
                // Replays the last event at times, and an old one at others.
                let which = if count % 8 < 4 { count } else { count / 2 };
                let id = format!("{}_{}_{which}", self.shared.prefix, self.number);
                self.send(&id, &events[which].clone()).await;
            }
        }
    }

    /// Sends one copy and returns whether the event needs no other.
    async fn send(&mut self, id: &str, event: &Event) -> bool {
        let Some(gateway) = self.shared.endpoints.address(self.copies) else {
            return false;
        };
        self.copies += 1;
        let request = event.post().at(&self.shared.path);
        let began = Instant::now();
        let client = match self.clients.remove(&gateway) {
            Some(client) => Some(client),
            None => Client::try_connect(gateway).await,
        };
        let Some(mut client) = client else {
            return false;
        };
        let response = timeout(RESPONSE_TIMEOUT, client.send_raw(&request.bytes()))
            .await
            .unwrap_or(None);
        let ended = Instant::now();
        if response
            .as_ref()
            .is_some_and(|response| response.header("Connection") != Some("close"))
        {
            self.clients.insert(gateway, client);
        }
        let response = response.map(|response| (response.status, response.outcome().to_owned()));
        let accepted = response.as_ref().is_some_and(|(status, outcome)| {
            (200..300).contains(status) || outcome == "duplicate" || outcome == "payload_mismatch"
        });
        let body = Bytes::from(event.body.clone());
        self.shared.sent().push(Sent {
            id: id.to_owned(),
            body,
            began,
            ended,
            response,
        });
        accepted
    }
}
