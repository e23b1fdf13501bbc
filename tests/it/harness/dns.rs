//! A fake name server on a free UDP port: it answers as the test says, and counts the questions.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const A: u16 = 1;
const AAAA: u16 = 28;
const SOA: u16 = 6;
const INTERNET: u16 = 1;
const SERVER_FAILURE: u16 = 2;
const NO_SUCH_NAME: u16 = 3;

/// The answer for one name, to questions for both families.
#[derive(Clone)]
pub enum Answer {
    Addresses {
        addresses: Vec<IpAddr>,
        ttl: u32,
    },
    /// The name does not exist, for `ttl` seconds.
    Absent {
        ttl: u32,
    },
    Failure,
    Silence,
    /// As `Addresses`, but questions for IPv6 are never answered.
    OnlyIpv4 {
        addresses: Vec<IpAddr>,
        ttl: u32,
    },
}

impl Answer {
    pub fn address(address: impl Into<IpAddr>, ttl: u32) -> Self {
        let addresses = vec![address.into()];
        Self::Addresses { addresses, ttl }
    }
}

pub struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    answering: JoinHandle<()>,
}

#[derive(Default)]
struct Zone {
    answers: HashMap<String, Answer>,
    /// The questions for IPv4 addresses, by name.
    questions: HashMap<String, usize>,
    silent: bool,
}

impl NameServer {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("an address");
        let zone = Arc::<Mutex<Zone>>::default();
        let answering = tokio::spawn(answer_questions(socket, Arc::clone(&zone)));
        Self {
            address,
            zone,
            answering,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the answer for a name, which ends with a dot.
    pub fn set(&self, name: &str, answer: Answer) {
        lock(&self.zone).answers.insert(name.into(), answer);
    }

    /// Answers nothing any more, or answers again.
    pub fn set_silent(&self, silent: bool) {
        lock(&self.zone).silent = silent;
    }

    /// Returns how often the IPv4 addresses of a name were asked for.
    pub fn questions(&self, name: &str) -> usize {
        lock(&self.zone).questions.get(name).copied().unwrap_or(0)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

fn lock(zone: &Mutex<Zone>) -> MutexGuard<'_, Zone> {
    zone.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer_questions(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut datagram = [0; 1500];
    while let Ok((length, asker)) = socket.recv_from(&mut datagram).await {
        let Some((name, kind, end)) = question(&datagram[..length]) else {
            continue;
        };
        let response = {
            let mut zone = lock(&zone);
            if kind == A {
                *zone.questions.entry(name.clone()).or_default() += 1;
            }
            let answer = zone.answers.get(&name).cloned();
            (!zone.silent).then(|| response(&datagram[..end], kind, answer))
        };
        if let Some(Some(response)) = response {
            let _ = socket.send_to(&response, asker).await;
        }
    }
}

/// Returns the name and the type that are asked for, and where the question ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let (mut name, mut at) = (String::new(), 12);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + length)?;
        name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
        name.push('.');
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    (at + 4 <= query.len()).then_some((name, kind, at + 4))
}

/// Returns the response to a query, of which only header and question are given.
fn response(query: &[u8], kind: u16, answer: Option<Answer>) -> Option<Vec<u8>> {
    let (code, records, ttl) = match answer {
        None => (NO_SUCH_NAME, Vec::new(), 1),
        Some(Answer::Absent { ttl }) => (NO_SUCH_NAME, Vec::new(), ttl),
        Some(Answer::Failure) => (SERVER_FAILURE, Vec::new(), 0),
        Some(Answer::Silence) => return None,
        Some(Answer::OnlyIpv4 { .. }) if kind == AAAA => return None,
        Some(Answer::Addresses { addresses, ttl } | Answer::OnlyIpv4 { addresses, ttl }) => {
            (0, addresses, ttl)
        }
    };
    let records: Vec<Vec<u8>> = records
        .into_iter()
        .filter_map(|address| match (address, kind) {
            (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
            (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
            _ => None,
        })
        .collect();
    let negative = records.is_empty() && code != SERVER_FAILURE;
    let mut response = query[..2].to_vec();
    let count = u16::try_from(records.len()).expect("few records");
    for number in [0x8180 | code, 1, count, u16::from(negative), 0] {
        response.extend(number.to_be_bytes());
    }
    response.extend(&query[12..]);
    for data in records {
        push_record(&mut response, kind, ttl, &data);
    }
    if negative {
        let mut data = vec![0, 0];
        for number in [1, 3600, 600, 86_400, ttl] {
            data.extend(number.to_be_bytes());
        }
        push_record(&mut response, SOA, ttl, &data);
    }
    Some(response)
}

/// Appends a record of the name that was asked for.
fn push_record(response: &mut Vec<u8>, kind: u16, ttl: u32, data: &[u8]) {
    response.extend([0xC0, 12]);
    response.extend(kind.to_be_bytes());
    response.extend(INTERNET.to_be_bytes());
    response.extend(ttl.to_be_bytes());
    response.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
    response.extend(data);
}
