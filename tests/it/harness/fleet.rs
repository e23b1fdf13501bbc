//! Senders under load that behave as providers do: each event is signed once, and sent again until it is accepted.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::history::Sent;
use super::patience::{eventually, within};
use super::sender::{Client, Event};

/// Where senders find the gateway. It moves when the gateway is started again, and is nowhere while it is down.
#[derive(Clone, Default)]
pub struct Front(Arc<Mutex<Option<SocketAddr>>>);

impl Front {
    pub fn set(&self, address: Option<SocketAddr>) {
        *self.0.lock().expect("not poisoned") = address;
    }

    pub fn address(&self) -> Option<SocketAddr> {
        *self.0.lock().expect("not poisoned")
    }
}

/// All gateways that senders may find, as behind a load balancer that passes over those that are down.
#[derive(Clone, Default)]
pub struct Fronts(Arc<Mutex<Vec<Front>>>);

impl Fronts {
    pub fn add(&self, front: Front) {
        self.0.lock().expect("not poisoned").push(front);
    }

    /// Where the copy of this number goes.
    fn address(&self, number: usize) -> Option<SocketAddr> {
        let fronts = self.0.lock().expect("not poisoned");
        let up: Vec<_> = fronts.iter().filter_map(Front::address).collect();
        up.get(number.checked_rem(up.len())?).copied()
    }
}

impl From<&Front> for Fronts {
    fn from(front: &Front) -> Self {
        Self(Arc::new(Mutex::new(vec![front.clone()])))
    }
}

/// How long a sender waits for an answer, as from a gateway that stands still.
const GIVES_UP_AFTER: Duration = Duration::from_secs(5);

/// A provider waits for minutes; here it is this long, so that a test sees many retries.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Every so many events, an older one is sent once more; and every so many, two copies go at once.
const REPLAY_EVERY: usize = 4;
const TWINS_EVERY: usize = 7;

/// Senders at work, each on connections of its own.
pub struct Fleet {
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
}

struct Shared {
    fronts: Fronts,
    path: String,
    prefix: String,
    stopping: AtomicBool,
    accepted: AtomicUsize,
    sent: Mutex<Vec<Sent>>,
}

impl Fleet {
    /// So many send to this path until [`Fleet::finish`].
    pub fn start(front: &Front, path: &str, senders: usize) -> Self {
        Self::start_as("evt", &front.into(), path, senders)
    }

    /// The same with event IDs that begin like this, for a second fleet; each copy goes to the next gateway.
    pub fn start_as(prefix: &str, fronts: &Fronts, path: &str, senders: usize) -> Self {
        let shared = Arc::new(Shared {
            fronts: fronts.clone(),
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

    /// How many events were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Waits until so many more events were accepted.
    #[track_caller]
    pub fn progresses(&self, by: usize) -> impl Future<Output = ()> {
        let target = self.accepted() + by;
        eventually(format!("{by} more events are accepted"), async move || {
            self.accepted() >= target
        })
    }

    /// No new events; those that were begun are sent until they are accepted.
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
    /// Copies that it has sent.
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
            // From small to a few pages of the store.
            let event = Event::sized(&id, 80 + count % 9 * 700);
            let twin = (count % TWINS_EVERY == TWINS_EVERY - 1).then(|| {
                // To another gateway, where there is one.
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
                // Sometimes the last one, sometimes one of long ago.
                let which = if count % 8 < 4 { count } else { count / 2 };
                let id = format!("{}_{}_{which}", self.shared.prefix, self.number);
                self.send(&id, &events[which].clone()).await;
            }
        }
    }

    /// One copy; whether the sender need not send another.
    async fn send(&mut self, id: &str, event: &Event) -> bool {
        let Some(gateway) = self.shared.fronts.address(self.copies) else {
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
        let answer = timeout(GIVES_UP_AFTER, client.send_raw(&request.bytes()))
            .await
            .unwrap_or(None);
        let ended = Instant::now();
        if answer
            .as_ref()
            .is_some_and(|answer| answer.header("Connection") != Some("close"))
        {
            self.clients.insert(gateway, client);
        }
        let answer = answer.map(|answer| (answer.status, answer.outcome().to_owned()));
        let accepted = answer.as_ref().is_some_and(|(status, outcome)| {
            (200..300).contains(status) || outcome == "duplicate" || outcome == "payload_mismatch"
        });
        let body = Bytes::from(event.body.clone());
        self.shared.sent().push(Sent {
            id: id.to_owned(),
            body,
            began,
            ended,
            answer,
        });
        accepted
    }
}
