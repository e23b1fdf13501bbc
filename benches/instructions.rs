//! A regression guard: the number of instructions per event, counted by callgrind, which other
//! processes on the machine do not disturb, and compared with `instructions.json`. More than 5 %
//! above that fails (20 % for queued events); `HOOKSTILE_REGENERATE=1` rewrites the file.
//!
//! Each case runs in a process of its own, twice: with a few events and with more. The difference
//! is the cost of the events; the start and other one-time work is in both runs. callgrind has no
//! SHA extensions, so SHA-256 counts about twenty times its real cost on a processor that has them.
//! Work in the kernel is not counted.
//!
//! The profiles stay in `target/instructions`, for `callgrind_annotate --inclusive=yes`.

#![allow(unreachable_pub, reason = "a benchmark has no public interface")]

#[path = "setup/gateway.rs"]
mod gateway;
#[path = "setup/ledger.rs"]
mod ledger;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;

use bytes::Bytes;
use hookstile::event::{EnvelopeSpec, IdNames, IdSource, MissingParts, Source};
use hookstile::ledger::{ClaimDecision, Ledger};
use hookstile::log::{self, Format};
use hookstile::secret::Secret;
use hookstile::signature::{NamedSecret, Verifier, presets};
use http::HeaderMap;
use jiff::Timestamp;
use tracing::level_filters::LevelFilter;

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");
/// The fraction by which a case may exceed its baseline.
const TOLERANCE: f64 = 0.05;
/// The tolerance of a case that depends on time: the length of SQLite's log varies with the moment
/// of its last checkpoint.
const LOOSE: (&str, f64) = ("request/queue/1KiB", 0.2);
/// The number of events in the first run and in the second. The store's threads take some 200,000
/// instructions more or fewer in a run, which is 1 % of the cheapest case of the ledger here.
const RUNS: [u64; 2] = [100, 1300];

const KIB: usize = 1 << 10;

/// A case's name and the function that runs it for a number of events.
type Case = (&'static str, fn(u64));
const CASES: [Case; 10] = [
    ("verify/1KiB", |events| verify(events, KIB)),
    ("verify/16KiB", |events| verify(events, 16 * KIB)),
    ("envelope/1KiB", |events| envelope(events, KIB)),
    ("envelope/16KiB", |events| envelope(events, 16 * KIB)),
    ("ledger/new_event", new_events),
    ("ledger/replay", replays),
    ("request/proxy/1KiB", |events| {
        requests(events, KIB, "proxy", Sent::Genuine);
    }),
    ("request/proxy/16KiB", |events| {
        requests(events, 16 * KIB, "proxy", Sent::Genuine);
    }),
    ("request/queue/1KiB", |events| {
        requests(events, KIB, "queue", Sent::Genuine);
    }),
    ("request/refused/1KiB", |events| {
        requests(events, KIB, "proxy", Sent::Forged);
    }),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().collect();
    if let [_, flag, name, events] = &arguments[..]
        && flag == "--case"
    {
        let (_, run) = CASES.iter().find(|(case, _)| case == name).expect("a case");
        run(events.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    sign_requests();
    let counted: BTreeMap<_, _> = CASES.iter().map(|(name, _)| (*name, count(name))).collect();
    if std::env::var_os("HOOKSTILE_REGENERATE").is_some() {
        let text = serde_json::to_string_pretty(&counted).expect("JSON") + "\n";
        fs::write(BASELINE, text).expect("the baseline can be written");
    }
    let baseline = fs::read(BASELINE)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    if holds(&counted, &baseline.unwrap_or_default()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints each case beside its baseline. Returns whether all are within the tolerance.
fn holds(counted: &BTreeMap<&str, u64>, baseline: &BTreeMap<String, u64>) -> bool {
    let mut all = true;
    println!(
        "{:24}{:>14}{:>14}{:>9}",
        "instructions per event", "baseline", "now", ""
    );
    for (&name, &now) in counted {
        let Some(&before) = baseline.get(name) else {
            println!("{name:24}{:>14}{now:>14}  has no baseline", "-");
            all = false;
            continue;
        };
        let change = ratio(now, before) - 1.0;
        let tolerance = if name == LOOSE.0 { LOOSE.1 } else { TOLERANCE };
        let verdict = match change {
            change if change > tolerance => {
                all = false;
                "  too many"
            }
            change if change < -tolerance => "  fewer: update the baseline",
            _ => "",
        };
        println!(
            "{name:24}{before:>14}{now:>14}{:>+8.1}%{verdict}",
            change * 100.0
        );
    }
    if !all {
        println!(
            "\nif the cost is justified: HOOKSTILE_REGENERATE=1 make instructions, \
             and say why in the commit message"
        );
    }
    all
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn ratio(now: u64, before: u64) -> f64 {
    now as f64 / before as f64
}

/// Signs the requests in advance, so that signing is not counted.
fn sign_requests() {
    for size in [KIB, 16 * KIB] {
        let all: Vec<_> = (0..RUNS[1])
            .map(|number| gateway::signed_request(number, size))
            .collect();
        fs::write(signed(size), all.concat()).expect("the requests can be written");
    }
}

/// Returns the path of the signed requests of this body size, which all have the same length.
fn signed(size: usize) -> PathBuf {
    folder().join(format!("requests-{size}"))
}

fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("instructions");
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Returns the number of instructions per event.
fn count(name: &str) -> u64 {
    let [few, more] = RUNS.map(|events| run_under_callgrind(name, events));
    (more - few) / (RUNS[1] - RUNS[0])
}

fn run_under_callgrind(name: &str, events: u64) -> u64 {
    let profile = folder().join(format!("{}.{events}", name.replace('/', "-")));
    let itself = std::env::current_exe().expect("it runs");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(itself)
        .args(["--case", name, &events.to_string()])
        .stdout(Stdio::null())
        .output()
        .expect("valgrind is installed: scripts/install check");
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = fs::read_to_string(&profile).expect("a profile");
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: ")?.trim().parse().ok());
    total.expect("a profile has a total")
}

fn verify(events: u64, size: usize) {
    let (scheme, secret) = (presets::vpn_enterprise(), || {
        Secret::new(gateway::KEY).expect("not empty")
    });
    let named = NamedSecret {
        name: "current".into(),
        secret: secret(),
        expires: None,
    };
    let verifier = Verifier::new(
        scheme.clone(),
        vec![named.for_scheme(&scheme).expect("a key")],
        false,
    );
    let body = Bytes::from(gateway::event(1, size));
    let headers = scheme
        .sign(&secret(), &body, Timestamp::UNIX_EPOCH, None)
        .expect("signs")
        .to_headers();
    for _ in 0..events {
        let mut verification = verifier.start(&headers, Timestamp::UNIX_EPOCH);
        verification.update(body.clone());
        verification.finish().expect("signed with this key");
    }
}

fn envelope(events: u64, size: usize) {
    let pointer = |text: &str| text.parse().expect("a pointer");
    let spec = EnvelopeSpec {
        id: IdSource::Pointer(pointer("/id")),
        id_names: IdNames::Event,
        event_type: Source::Pointer(pointer("/type")),
        missing: MissingParts::default(),
        timestamp: None,
    };
    let body = gateway::event(1, size);
    for _ in 0..events {
        spec.parse(body.as_bytes(), &HeaderMap::new())
            .expect("an event");
    }
}

fn new_events(events: u64) {
    with_ledger(|runtime, ledger| {
        let digest = ledger::digest();
        (0..events).for_each(|number| runtime.block_on(ledger::complete(ledger, digest, number)));
    });
}

fn replays(events: u64) {
    with_ledger(|runtime, ledger| {
        let digest = ledger::digest();
        runtime.block_on(ledger::complete(ledger, digest, 1));
        for _ in 0..events {
            let decision = runtime.block_on(ledger::claim(ledger, digest, 1));
            assert!(matches!(decision, ClaimDecision::Duplicate));
        }
    });
}

fn with_ledger(run: impl FnOnce(&tokio::runtime::Runtime, &std::sync::Arc<Ledger>)) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    run(&runtime(), &Ledger::new(ledger::open(folder.path())));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Genuine,
    Forged,
}

/// Sends requests one after the other over one connection. A queued event is delivered before the
/// next request is sent.
fn requests(events: u64, size: usize, delivery: &str, sent: Sent) {
    let settings = log::Settings {
        format: Some(Format::Json),
        level: LevelFilter::INFO,
    };
    let _log = log::start(settings).expect("for the first time");
    let (folder, runtime) = (
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder"),
        runtime(),
    );
    let (taken, delivered) = mpsc::channel();
    let app = runtime.block_on(gateway::gateway(receiver(taken), delivery, folder.path()));
    let mut connection =
        Connection::from(TcpStream::connect(app.data[0].inet().expect("TCP")).expect("it listens"));
    let mut signed = fs::read(signed(size)).expect("signed in advance");
    let each = signed.len() / usize::try_from(RUNS[1]).expect("few");
    for request in signed
        .chunks_mut(each)
        .zip(0..events)
        .map(|(request, _)| request)
    {
        if sent == Sent::Forged {
            request[each - 4] ^= 1;
        }
        let response = connection.exchange(request);
        let expected = match (sent, delivery) {
            (Sent::Forged, _) => "401",
            (Sent::Genuine, "queue") => "202",
            (Sent::Genuine, _) => "200",
        };
        assert!(
            response.starts_with(&format!("HTTP/1.1 {expected}")),
            "{response}"
        );
        if sent == Sent::Genuine {
            delivered.recv().expect("it is delivered");
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Accepts every event, over one connection after the other, and reports each.
fn receiver(taken: mpsc::Sender<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = Connection::from(connection.expect("a connection"));
            while connection.read_message().is_some() {
                let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
                connection.stream.write_all(response).expect("it reads");
                let _ = taken.send(());
            }
        }
    });
    address
}

/// Either end of a connection, with a large buffer, so that its own cost is small.
struct Connection {
    stream: TcpStream,
    room: Vec<u8>,
}

impl From<TcpStream> for Connection {
    fn from(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        Self {
            stream,
            room: vec![0; 1 << 16],
        }
    }
}

impl Connection {
    fn exchange(&mut self, request: &[u8]) -> String {
        self.stream.write_all(request).expect("it reads");
        self.read_message().expect("it answers")
    }

    /// Reads a message and returns its head; returns `None` at the end of the connection.
    fn read_message(&mut self) -> Option<String> {
        let mut come = 0;
        loop {
            come += self
                .stream
                .read(&mut self.room[come..])
                .ok()
                .filter(|read| *read > 0)?;
            let Some(end) = self.room[..come]
                .windows(4)
                .position(|end| end == b"\r\n\r\n")
            else {
                continue;
            };
            let head = String::from_utf8_lossy(&self.room[..end]).into_owned();
            let length: Option<usize> = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length")
                    .then(|| value.parse().ok())?
            });
            while come < end + 4 + length.unwrap_or(0) {
                come += self
                    .stream
                    .read(&mut self.room[come..])
                    .ok()
                    .filter(|read| *read > 0)?;
            }
            return Some(head);
        }
    }
}
