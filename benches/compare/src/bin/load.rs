//! The load generator: signs events, sends them and reports the times. It has one thread, and
//! everything it sends is in memory before the clock runs.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use futures_util::future::try_join_all;
use hookstile_compare::event::{Events, Kind, Tag};
use hookstile_compare::exchange::Connection;
use hookstile_compare::http2;
use hookstile_compare::segment::{BLOCK, Segment};
use hookstile_compare::socket::{Tls, certify};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The longest that a response may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// The number of flushes that are timed, and the length of the file that they go to.
const FLUSHES: usize = 200;
const FLUSHED_BYTES: usize = 1 << 20;
/// The requests of a stretch for whose times there is room from the start.
const LATENCIES_AT_FIRST: usize = 1 << 20;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Writes the signatures of events 0 to COUNT.
    Sign {
        #[arg(long)]
        size: usize,
        #[arg(long)]
        count: usize,
        file: PathBuf,
    },
    /// Sends a valid event, a tampered one, and the valid one again; prints the statuses.
    Probe {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        size: usize,
        /// Sends over TLS, and trusts this certificate.
        #[arg(long)]
        trust: Option<PathBuf>,
    },
    /// Writes a certificate and its key into a folder.
    Certify { folder: PathBuf },
    /// Writes single blocks durably, one after the other, and prints how long one takes.
    Flush { folder: PathBuf },
    /// Sends events: first to warm up, then, after a line on stdin, for the measurement. Ends early
    /// when there are no more.
    Run {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        size: usize,
        #[arg(long)]
        connections: usize,
        /// Sends over TLS, and trusts this certificate.
        #[arg(long)]
        trust: Option<PathBuf>,
        /// Opens a connection for each event.
        #[arg(long)]
        reconnect: bool,
        /// Sends over HTTP/2, with as many events at a time on each connection.
        #[arg(long, requires = "trust", conflicts_with = "reconnect")]
        streams: Option<usize>,
        #[arg(long)]
        seconds: f64,
        #[arg(long)]
        warm_up: f64,
        /// Events per second; without it, as fast as the responses arrive.
        #[arg(long)]
        rate: Option<f64>,
        /// The number of the first event.
        #[arg(long, default_value_t = 0)]
        first: usize,
        /// The number after the last event; without it, all signed events.
        #[arg(long, default_value_t = usize::MAX)]
        last: usize,
        /// Sends the events again and again.
        #[arg(long, conflicts_with = "first")]
        repeat: bool,
        #[arg(long, value_enum, default_value_t = Kind::Genuine)]
        kind: Kind,
        /// The status of every response; without it, any success.
        #[arg(long)]
        status: Option<u16>,
        /// The file that `sign` has written.
        tags: PathBuf,
    },
}

#[derive(Serialize)]
struct Statuses {
    valid: u16,
    tampered: u16,
    replayed: u16,
}

#[derive(Serialize)]
struct Report {
    requests: usize,
    warm_up_requests: usize,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
    /// The connections opened, over both stretches.
    opened: usize,
}

#[derive(Serialize)]
struct Flushes {
    p50_us: f64,
}

fn main() -> io::Result<()> {
    // A paced sender must wake when it asked to; the system may otherwise add 50 µs. If the setting
    // is not available, all peers are measured without it.
    let _ = fs::write("/proc/self/timerslack_ns", "1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match Arguments::parse().task {
        Task::Sign { size, count, file } => sign(&Events::new(size), count, &file),
        Task::Probe { to, size, trust } => {
            let tls = tls(trust.as_deref(), HTTP1)?;
            print(&runtime.block_on(probe(to, &Events::new(size), tls.as_ref()))?)
        }
        Task::Certify { folder } => certify(&folder),
        Task::Flush { folder } => print(&flush(&folder)?),
        Task::Run {
            to,
            size,
            connections,
            trust,
            reconnect,
            streams,
            seconds,
            warm_up,
            rate,
            first,
            last,
            repeat,
            kind,
            status,
            tags,
        } => {
            let mut tags = fs::read(tags)?.as_chunks().0.to_vec();
            tags.truncate(last);
            let load = Load { events: Events::new(size), tags, rate, repeat, kind, status, next: Cell::new(first) };
            let tls = tls(trust.as_deref(), if streams.is_some() { HTTP2 } else { HTTP1 })?;
            print(&runtime.block_on(async {
                let mut senders = if let (Some(streams), Some(tls)) = (streams, &tls) {
                    let opened = try_join_all((0..connections).map(|_| http2::open(to, tls, streams))).await?;
                    opened.into_iter().flatten().map(Sender::Http2).collect::<Vec<_>>()
                } else {
                    let connection = || Connection::new(to, tls.clone(), !reconnect);
                    (0..connections).map(|_| Sender::Http1(connection())).collect()
                };
                let report = load.run(&mut senders, warm_up, seconds).await?;
                io::Result::Ok(Report { opened: report.opened + streams.map_or(0, |_| connections), ..report })
            })?)
        }
    }
}

/// The names of the protocols in ALPN (RFC 7301).
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

fn tls(trusted: Option<&Path>, protocol: &[u8]) -> io::Result<Option<Tls>> {
    trusted.map(|file| Tls::new(file, protocol)).transpose()
}

fn print(value: &impl Serialize) -> io::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}

fn sign(events: &Events, count: usize, file: &Path) -> io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(file)?);
    for number in 0..count {
        file.write_all(&events.sign(number))?;
    }
    file.flush()
}

fn flush(folder: &Path) -> io::Result<Flushes> {
    let file = folder.join("flushed");
    let mut segment = Segment::create(&file, FLUSHED_BYTES)?;
    let mut times = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        let start = Instant::now();
        segment.append(&[1; BLOCK])?;
        times.push(start.elapsed());
    }
    fs::remove_file(file)?;
    times.sort_unstable();
    Ok(Flushes { p50_us: percentile(&times, 0.5) })
}

/// Returns a percentile of sorted times, in microseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn percentile(times: &[Duration], part: f64) -> f64 {
    let rank = (times.len() as f64 * part) as usize;
    times.get(rank).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}

async fn probe(to: SocketAddr, events: &Events, tls: Option<&Tls>) -> io::Result<Statuses> {
    // Numbers that no load reaches, and that no probe of another size uses.
    let event = usize::MAX - events.size();
    let other = event - 1;
    let tag = events.sign(event);
    let send = async |number| {
        let mut sender = Sender::Http1(Connection::new(to, tls.cloned(), true));
        sender.exchange(events, number, &tag, Kind::Genuine).await
    };
    Ok(Statuses { valid: send(event).await?, tampered: send(other).await?, replayed: send(event).await? })
}

/// One of those that send at the same time.
enum Sender {
    Http1(Connection),
    Http2(http2::Sender),
}

impl Sender {
    async fn exchange(&mut self, events: &Events, number: usize, tag: &Tag, kind: Kind) -> io::Result<u16> {
        let exchanged = timeout(PATIENCE, async {
            match self {
                Self::Http1(connection) => connection.exchange(events, number, tag, kind).await,
                Self::Http2(sender) => sender.exchange(events, number, tag, kind).await,
            }
        });
        exchanged.await.unwrap_or_else(|_| Err(io::Error::new(ErrorKind::TimedOut, "no response in 20 s")))
    }

    /// Returns how often it has opened a connection of its own.
    fn opened(&self) -> usize {
        if let Self::Http1(connection) = self { connection.opened() } else { 0 }
    }
}

struct Load {
    events: Events,
    tags: Vec<Tag>,
    rate: Option<f64>,
    repeat: bool,
    kind: Kind,
    status: Option<u16>,
    /// The number of the next event; with `repeat`, of the next request.
    next: Cell<usize>,
}

impl Load {
    async fn run(&self, senders: &mut [Sender], warm_up: f64, seconds: f64) -> io::Result<Report> {
        // The warm-up uses at most a fifth of the events, however fast the peer is.
        let (first, end) = (self.next.get(), if self.repeat { usize::MAX } else { self.tags.len() });
        self.stretch(senders, first + (end - first) / 5, warm_up).await?;
        let warm_up_requests = self.next.get() - first;
        println!("warm");
        io::stdin().read_line(&mut String::new())?;
        let start = Instant::now();
        let mut latencies = self.stretch(senders, end, seconds).await?;
        let seconds = start.elapsed().as_secs_f64();
        latencies.sort_unstable();
        Ok(Report {
            requests: latencies.len(),
            warm_up_requests,
            seconds,
            p50_us: percentile(&latencies, 0.5),
            p99_us: percentile(&latencies, 0.99),
            opened: senders.iter().map(Sender::opened).sum(),
        })
    }

    /// Sends events below number `end` for `seconds`, and returns the time of each.
    async fn stretch(&self, senders: &mut [Sender], end: usize, seconds: f64) -> io::Result<Vec<Duration>> {
        let (first, start, length) = (self.next.get(), Instant::now(), Duration::from_secs_f64(seconds));
        let pace = self.rate.map(|rate| Pace::start(Duration::from_secs_f64(1.0 / rate), length, senders.len()));
        let end = pace.as_ref().map_or(end, |pace| end.min(first + pace.events));
        let latencies = RefCell::new(Vec::with_capacity((end - first).min(LATENCIES_AT_FIRST)));
        try_join_all(senders.iter_mut().map(async |sender| {
            loop {
                match &pace {
                    Some(pace) => pace.turn().await,
                    None if start.elapsed() >= length => break,
                    None => {}
                }
                let number = self.next.get();
                if number >= end {
                    break;
                }
                self.next.set(number + 1);
                let intended = pace.as_ref().map_or_else(Instant::now, |pace| pace.intended(number - first));
                let event = if self.repeat { number % self.tags.len() } else { number };
                let status = sender.exchange(&self.events, event, &self.tags[event], self.kind).await?;
                if self.status.map_or(!(200..300).contains(&status), |expected| status != expected) {
                    return Err(io::Error::other(format!("event {event} was answered with {status}")));
                }
                latencies.borrow_mut().push(intended.elapsed());
            }
            Ok(())
        }))
        .await?;
        Ok(latencies.into_inner())
    }
}

/// Permits to send at a fixed rate. Permits that are not used in time remain; a sender that uses
/// one late counts from the time at which it was due.
struct Pace {
    start: Instant,
    interval: Duration,
    events: usize,
    turns: Arc<Semaphore>,
}

impl Pace {
    /// Starts a thread that keeps the time, because the runtime's timers have millisecond
    /// resolution.
    fn start(interval: Duration, length: Duration, senders: usize) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let events = length.div_duration_f64(interval) as usize;
        let pace = Self { start: Instant::now(), interval, events, turns: Arc::new(Semaphore::new(0)) };
        let turns = Arc::clone(&pace.turns);
        let due: Vec<_> = (0..events).map(|event| pace.intended(event)).collect();
        thread::spawn(move || {
            for due in due {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                turns.add_permits(1);
            }
            // One more permit for each sender, so that it finds the end.
            turns.add_permits(senders);
        });
        pace
    }

    async fn turn(&self) {
        self.turns.acquire().await.expect("never closed").forget();
    }

    fn intended(&self, event: usize) -> Instant {
        self.start + self.interval * u32::try_from(event).expect("a stretch has fewer events")
    }
}
