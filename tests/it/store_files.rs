//! `hookstile store`: checking, backing up and restoring the embedded store's files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness::command::{Run, command, finish};
use crate::harness::*;

/// Runs `hookstile store` in a folder with a configuration.
async fn store(folder: &Path, line: &str) -> Run {
    let mut command = command();
    command
        .current_dir(folder)
        .arg("store")
        .args(line.split(' '));
    finish(command).await
}

/// Returns the codes of the problems in a document.
fn codes(document: &Value) -> Vec<&str> {
    let problems = document["problems"].as_array().expect("a list");
    let codes = problems.iter().map(|problem| problem["code"].as_str());
    codes.map(|code| code.expect("a text")).collect()
}

/// Reads the files of a folder, but for the lock, which names the last process.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder).expect("a folder");
    files
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file() && !path.ends_with("hookstile.lock"))
        .map(|path| (path.clone(), fs::read(path).expect("a file")))
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

/// A gateway that has delivered, failed and stored events, of each state.
async fn used_gateway() -> (Gateway, Upstream) {
    let upstream = Upstream::deciding(|request, _| match request.header("Hookstile-Event-Id") {
        Some("evt_dead") => Reply::status(422),
        Some("evt_failed") => {
            Reply::full(500, "Content-Type: text/plain\r\n", b"broken \xe2\x82\xac")
        }
        Some("evt_waits") => Reply::status(503),
        _ => Reply::ok(),
    });
    let quick = "{initial: 1ms, max_interval: 10ms, horizon: 1h}";
    let queue = Route::to(&upstream)
        .named("queue")
        .with("delivery", "queue")
        .with("retry", quick)
        .with("retain", "{payloads: all, for: 7d}");
    let routes = [Route::to(&upstream), queue];
    let gateway = Gateway::start(Setup::new(routes)).await;
    let at_queue = |event: &str| Event::new(event).post().at("/webhooks/queue");
    for event in ["evt_1", "evt_2"] {
        gateway
            .send(Event::new(event))
            .await
            .assert(200, "delivered");
    }
    gateway.send(Event::new("evt_failed")).await;
    for event in ["evt_dead", "evt_waits", "evt_done"] {
        gateway.send(at_queue(event)).await.assert(202, "queued");
    }
    for (state, count) in [("dead", 1.0), ("pending", 1.0)] {
        let labels = [("route", "queue"), ("state", state)];
        gateway
            .wait_for_metric("queue_events", &labels, count)
            .await;
    }
    (gateway, upstream)
}

/// Makes a backup of a gateway's store.
async fn backup(gateway: &Gateway) -> PathBuf {
    let run = store(gateway.directory(), "backup backup.db --json").await;
    assert_eq!(run.assert(0).json()["success"], true, "{}", run.stdout);
    gateway.directory().join("backup.db")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_shows_and_changes_nothing() {
    let (mut gateway, _upstream) = used_gateway().await;
    let folder = gateway.directory().to_owned();
    let busy = store(&folder, "check --json").await.assert(1).json();
    let detail = busy["detail"].as_str().expect("a text");
    assert_eq!(busy["code"], "store_in_use");
    let process = format!("process {}", gateway.pid());
    assert!(
        detail.contains(&process) && detail.contains("store backup"),
        "{detail}"
    );
    let file = store(&folder, "check hookstile-data/hookstile.db").await;
    assert!(file.assert(1).stderr.contains(&process), "{}", file.stderr);

    for killed in [true, false] {
        if killed {
            gateway.kill().await;
        } else {
            gateway.restart().await;
            gateway.stop().await;
        }
        let before = content(&gateway.store());
        assert_eq!(
            before.keys().any(|path| path.ends_with("hookstile.db-wal")),
            killed
        );
        for line in ["check --json", "check --json hookstile-data"] {
            let found = store(&folder, line).await.assert(0).json();
            assert_eq!(codes(&found), [""; 0], "{found}");
            assert_eq!(
                (&found["success"], &found["event_ids"]),
                (&json!(true), &json!(6))
            );
            let queue = &found["routes"][1];
            for (name, expected) in [
                ("route", json!("queue")),
                ("pending", json!(1)),
                ("dead", json!(1)),
                ("success", json!(1)),
                ("failed", json!(0)),
            ] {
                assert_eq!(queue[name], expected, "{name}: {found}");
            }
            assert!(queue["oldest"].is_string(), "{queue}");
        }
        let shown = store(&folder, "check").await.assert(0).stdout.clone();
        assert!(
            shown.contains("6 event IDs remembered") && shown.ends_with("ok\n"),
            "{shown}"
        );
        assert!(
            content(&gateway.store()) == before,
            "the check changes the files"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_finds_broken_relations() {
    let (gateway, _upstream) = used_gateway().await;
    let sound = backup(&gateway).await;
    let folder = gateway.directory();
    let broken = folder.join("broken.db");
    for (code, damage) in [
        (
            "missing_payload",
            "DELETE FROM payloads WHERE delivery = (SELECT id FROM deliveries WHERE state = 'pending')",
        ),
        (
            "stray_payload",
            "DELETE FROM deliveries WHERE state = 'dead'",
        ),
        (
            "damaged_delivery",
            "UPDATE deliveries SET state = 'lost' WHERE state = 'dead'",
        ),
        (
            "damaged_delivery",
            "UPDATE deliveries SET due_ms = NULL WHERE state = 'pending'",
        ),
        (
            "damaged_delivery",
            "UPDATE deliveries SET attempts = '[' WHERE state = 'success'",
        ),
        (
            "damaged_ledger_row",
            "UPDATE ledger SET row_id = row_id + (9 << 32)",
        ),
        (
            "damaged_ledger_row",
            "UPDATE ledger SET key = substr(key, 2)",
        ),
        ("payload_size", "UPDATE payloads SET body = zeroblob(3)"),
        ("unknown_route", "DELETE FROM routes WHERE name = 'queue'"),
        ("wrong_count", "UPDATE routes SET kept_bytes = 7"),
        ("wrong_count", "DELETE FROM days"),
        ("damaged_header", "DELETE FROM store"),
        ("damaged_webhook", "INSERT INTO webhooks VALUES ('a', '{')"),
        ("unreadable_rows", "DROP TABLE payloads"),
        (
            "damaged_database",
            "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'days'",
        ),
    ] {
        fs::copy(&sound, &broken).expect("a copy");
        let file = rusqlite::Connection::open(&broken).expect("a database");
        file.execute_batch(damage).expect("valid SQL");
        drop(file);
        let run = store(folder, "check broken.db --json").await;
        let found = run.assert(1).json();
        assert_eq!(found["code"], "store_damaged", "{damage}: {found}");
        assert!(codes(&found).contains(&code), "{damage}: {found}");
        let refused = store(folder, "restore broken.db --json").await;
        assert_eq!(
            refused.assert(1).json()["code"],
            "store_damaged",
            "{damage}"
        );
    }
    fs::copy(&sound, &broken).expect("a copy");
    let file = rusqlite::Connection::open(&broken).expect("a database");
    file.execute("DELETE FROM payloads", []).expect("valid SQL");
    drop(file);
    let run = store(folder, "check broken.db").await;
    let shown = &run.assert(1).stdout;
    assert!(
        shown.contains("problem missing_payload: deliveries without their payload (")
            && shown.contains(" (pending)")
            && shown.contains("events forget ID")
            && !shown.contains("ok\n"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_finds_flipped_bytes() {
    let (gateway, _upstream) = used_gateway().await;
    let file = backup(&gateway).await;
    let sound = fs::read(&file).expect("a file");
    store(gateway.directory(), "check backup.db")
        .await
        .assert(0);
    // The first byte of a page says what the page is.
    for page in 0..sound.len() / 4096 {
        let mut flipped = sound.clone();
        flipped[page * 4096] ^= 0x40;
        fs::write(&file, flipped).expect("a file");
        let run = store(gateway.directory(), "check backup.db").await;
        assert_eq!(run.code, Some(1), "page {page}: {}", run.stdout);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_reads_the_commit_log() {
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    gateway
        .send(Event::new("evt_0"))
        .await
        .assert(200, "delivered");
    // A loss of power leaves the database as it was flushed, and the whole log.
    let after = gateway.directory().join("after");
    fs::create_dir(&after).expect("a folder");
    for file in gateway.store_files() {
        if !file.ends_with("hookstile.db-shm") {
            fs::copy(&file, after.join(file.file_name().expect("a name"))).expect("a copy");
        }
    }
    for number in 1..=4 {
        let event = Event::new(&format!("evt_{number}"));
        gateway.send(event).await.assert(200, "delivered");
    }
    gateway.kill().await;
    let log = after.join("hookstile.commits");
    fs::copy(gateway.commit_log(), &log).expect("a copy");

    let before = content(&after);
    let found = store(gateway.directory(), "check after --json")
        .await
        .assert(0)
        .json();
    let unapplied = found["unapplied_transactions"].as_u64().expect("a number");
    assert!(unapplied >= 4, "{found}");
    assert_eq!(found["event_ids"], 5, "those of the log, too: {found}");
    let shown = store(gateway.directory(), "check after").await;
    let said = format!("{unapplied} transactions of the commit log will be executed");
    assert!(shown.assert(0).stdout.contains(&said), "{}", shown.stdout);
    assert!(content(&after) == before, "the check changes the files");

    let bytes = fs::read(&log).expect("a file");
    let number = |block: &[u8]| i64::from_le_bytes(block[32..40].try_into().expect("8 bytes"));
    let blocks = bytes.chunks(4096).enumerate();
    let mut records: Vec<_> = blocks
        .filter(|(_, block)| block.starts_with(b"hookcom"))
        .map(|(at, block)| (number(block), at * 4096))
        .collect();
    records.sort_unstable();
    let (_, last_but_one) = records[records.len() - 2];
    let file = fs::OpenOptions::new()
        .write(true)
        .open(&log)
        .expect("a file");
    let flipped = bytes[last_but_one + 40] ^ 1;
    file.write_all_at(&[flipped], last_but_one as u64 + 40)
        .expect("a write");
    let found = store(gateway.directory(), "check after --json")
        .await
        .assert(1)
        .json();
    assert_eq!(codes(&found), ["damaged_commit_log"], "{found}");
    assert_eq!(found["unapplied_transactions"], unapplied - 1);
    let detail = &found["problems"][0]["detail"];
    assert!(detail.to_string().contains("1 acknowledged"), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_ledger_is_found_and_harms_one_event() {
    const ROW: u64 = 64;
    let upstream = Upstream::ok();
    let mut gateway = Gateway::start(Route::to(&upstream)).await;
    for id in ["evt_1", "evt_2"] {
        gateway.send(Event::new(id)).await.assert(200, "delivered");
    }
    gateway.stop().await;
    let ledger = gateway.store().join("hookstile.ledger");
    let file = fs::OpenOptions::new().write(true).open(&ledger);
    let file = file.expect("a file");
    // The first slot is the header, and the second one the first event's.
    file.write_all_at(&[0xff], ROW + 3).expect("a write");
    let folder = gateway.store().display().to_string();
    let check = format!("check {folder} --json");
    let found = store(gateway.directory(), &check).await.assert(1).json();
    assert_eq!(codes(&found), ["damaged_ledger_row"], "{found}");
    assert_eq!(found["event_ids"], 1);
    gateway.restart().await;
    gateway
        .send(Event::new("evt_2"))
        .await
        .assert(409, "duplicate");
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert(200, "delivered");
    gateway.stop().await;
    fs::remove_file(&ledger).expect("a file");
    let found = store(gateway.directory(), &check).await.assert(1).json();
    assert_eq!(codes(&found), ["damaged_ledger_row"], "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_files_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let yaml = Setup::from(Route::to_url("http://127.0.0.1:9/")).yaml();
    fs::write(folder.join("hookstile.yaml"), yaml).expect("a file");
    fs::write(
        folder.join("text.db"),
        "no database at all, but long enough. ".repeat(99),
    )
    .expect("a file");
    fs::write(folder.join("empty.db"), "").expect("a file");
    let other = rusqlite::Connection::open(folder.join("other.db")).expect("a database");
    let tables = "CREATE TABLE a (b); PRAGMA user_version = 4";
    other.execute_batch(tables).expect("valid SQL");
    drop(other);
    let before = content(folder);
    for name in ["text.db", "empty.db", "other.db"] {
        for act in ["check", "restore"] {
            let run = store(folder, &format!("{act} {name} --json")).await;
            assert_eq!(
                run.assert(1).json()["code"],
                "foreign_store",
                "{act} {name}"
            );
        }
    }
    for line in [
        "check",
        "check hookstile-data",
        "check none.db",
        "backup new.db",
    ] {
        let run = store(folder, &format!("{line} --json")).await;
        assert_eq!(run.assert(1).json()["code"], "no_store", "{line}");
    }
    assert!(content(folder) == before, "nothing is created");
    assert!(!folder.join("hookstile-data").exists());

    let shared = "store: {postgres: {url: {env: DATABASE_URL}}}\n";
    let yaml = fs::read_to_string(folder.join("hookstile.yaml")).expect("a file") + shared;
    fs::write(folder.join("hookstile.yaml"), yaml).expect("a file");
    for (line, tool) in [
        ("backup new.db", "pg_dump"),
        ("restore other.db", "pg_restore"),
    ] {
        let run = store(folder, line).await;
        assert!(run.assert(2).stderr.contains(tool), "{}", run.stderr);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_is_private_whole_and_new() {
    let (mut gateway, _upstream) = used_gateway().await;
    let folder = gateway.directory().to_owned();
    let running = store(&folder, "backup one.db --json")
        .await
        .assert(0)
        .json();
    let expected = json!([true, true, 6, 6]);
    let shown = ["success", "gateway_running", "event_ids", "deliveries"];
    assert_eq!(
        json!(shown.map(|name| &running[name])),
        expected,
        "{running}"
    );
    assert_eq!(mode(&folder.join("one.db")), 0o600);
    store(&folder, "check one.db").await.assert(0);
    let one = fs::read(folder.join("one.db")).expect("a file");
    let again = store(&folder, "backup one.db --json").await;
    assert_eq!(again.assert(1).json()["code"], "file_exists");
    assert!(fs::read(folder.join("one.db")).expect("a file") == one);
    store(&folder, "backup -").await.assert(2);
    for act in ["backup", "check"] {
        // SQLite opens files by URIs, too.
        let line = format!("{act} {}/odd?#%41.db", folder.display());
        store(&folder, &line).await.assert(0);
    }
    let nowhere = store(&folder, "backup none/two.db").await;
    assert!(
        nowhere.assert(1).stderr.contains("none/two.db"),
        "{}",
        nowhere.stderr
    );
    // A backup that was killed leaves a part, which the next one takes.
    fs::write(folder.join("two.db.partial"), "a part").expect("a file");

    gateway.kill().await;
    let stopped = store(&folder, "backup two.db").await;
    let line = &stopped.assert(0).stdout;
    assert!(line.contains("6 event IDs, 6 deliveries, in "), "{line}");
    let found = store(&folder, "check two.db --json").await.assert(0).json();
    assert_eq!(found["event_ids"], 6);
    let names = fs::read_dir(&folder).expect("a folder");
    let names = names.map(|entry| entry.expect("an entry").file_name());
    let parts = names.filter(|name| name.to_string_lossy().contains("partial"));
    assert_eq!(parts.count(), 0);

    let damaged = gateway.store().join("hookstile.db");
    let file = fs::OpenOptions::new()
        .write(true)
        .open(damaged)
        .expect("a file");
    for page in 1..file.metadata().expect("a file").len() / 4096 {
        file.write_all_at(&[0x7f], page * 4096).expect("a write");
    }
    let failed = store(&folder, "backup three.db --json")
        .await
        .assert(1)
        .json();
    assert_eq!(failed["success"], false, "{failed}");
    assert!(!folder.join("three.db").exists() && !folder.join("three.db.partial").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backup_has_what_was_answered_before() {
    let upstream = Upstream::ok();
    let queue = Route::to(&upstream)
        .named("queue")
        .with("delivery", "queue");
    let mut gateway = Gateway::start(Setup::new([Route::to(&upstream), queue])).await;
    let ends = Arc::new(AtomicBool::new(false));
    let senders = (0..6).map(|sender| {
        let (address, ends) = (gateway.public_address(), Arc::clone(&ends));
        tokio::spawn(async move {
            let path = [PATH, "/webhooks/queue"][sender % 2];
            let mut client = Client::connect(address).await;
            let mut answered = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let id = format!("evt_{sender}_{}", answered.len());
                let response = client.send(Event::new(&id).post().at(path)).await;
                assert!(response.status < 300, "{}", response.text());
                answered.push((id, path, std::time::Instant::now()));
            }
            answered
        })
    });
    let senders: Vec<_> = senders.collect();
    upstream.wait_for_requests(300).await;
    let began = std::time::Instant::now();
    let file = backup(&gateway).await;
    let ended = std::time::Instant::now();
    upstream.wait_for_requests(upstream.count() + 50).await;
    ends.store(true, Ordering::Relaxed);
    let mut answered = Vec::new();
    for sender in senders {
        answered.extend(sender.await.expect("no panic"));
    }
    let meanwhile = answered
        .iter()
        .filter(|(_, _, at)| (began..ended).contains(at));
    assert!(meanwhile.count() > 0, "the gateway answers during a backup");

    gateway.stop().await;
    store(gateway.directory(), "check backup.db")
        .await
        .assert(0);
    let line = format!("restore {} --replace", file.display());
    store(gateway.directory(), &line).await.assert(0);
    gateway.restart().await;
    let mut client = gateway.connect().await;
    answered.retain(|(_, _, at)| *at < began);
    assert!(answered.len() > 200, "{}", answered.len());
    for (id, path, _) in answered {
        let again = client.send(Event::new(&id).post().at(path)).await;
        again.assert_problem(409, "duplicate");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restore_replaces_only_on_request() {
    let (mut gateway, upstream) = used_gateway().await;
    let folder = gateway.directory().to_owned();
    let file = backup(&gateway).await;
    gateway
        .send(Event::new("evt_later"))
        .await
        .assert(200, "delivered");
    let busy = store(&folder, "restore backup.db --replace --json").await;
    assert_eq!(busy.assert(1).json()["code"], "store_in_use");
    gateway.kill().await;

    let before = content(&gateway.store());
    let refused = store(&folder, "restore backup.db").await;
    assert!(
        refused.assert(1).stderr.contains("--replace"),
        "{}",
        refused.stderr
    );
    assert!(
        content(&gateway.store()) == before,
        "a refusal changes nothing"
    );
    let run = store(&folder, "restore backup.db --replace --json").await;
    let document = run.assert(0).json();
    let replaced = PathBuf::from(document["replaced"].as_str().expect("a path"));
    let name = replaced
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    assert!(name.starts_with("hookstile-data.replaced-2"), "{name}");
    let moved: Vec<_> = content(&replaced).into_values().collect();
    assert!(
        moved == before.into_values().collect::<Vec<_>>(),
        "all files are kept"
    );
    assert_eq!((mode(&replaced), mode(&gateway.store())), (0o700, 0o700));
    assert_eq!(mode(&gateway.store().join("hookstile.db")), 0o600);
    assert_eq!(document["event_ids"], 6, "{document}");
    assert!(file.exists());

    let attempts = upstream.requests_for("evt_waits").len();
    gateway.restart().await;
    // It may have been delivered since the backup was made.
    eventually("the waiting event is attempted", async || {
        upstream.requests_for("evt_waits").len() > attempts
    })
    .await;
    let waiting = upstream.requests_for("evt_waits");
    waiting[attempts].assert_header("Hookstile-Possible-Duplicate", "true");
    for known in ["evt_1", "evt_2"] {
        gateway
            .send(Event::new(known))
            .await
            .assert_problem(409, "duplicate");
    }
    gateway
        .send(Event::new("evt_later"))
        .await
        .assert(200, "delivered");

    // Into a folder that does not exist, no store has to be replaced.
    gateway.stop().await;
    fs::remove_dir_all(gateway.store()).expect("a folder");
    let shown = store(&folder, "restore backup.db")
        .await
        .assert(0)
        .stdout
        .clone();
    assert!(
        shown.contains("forgotten") && shown.contains("ok\n"),
        "{shown}"
    );
    gateway.restart().await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_restore_stops_the_start() {
    let (mut gateway, _upstream) = used_gateway().await;
    let folder = gateway.directory().to_owned();
    let file = backup(&gateway).await;
    gateway.stop().await;
    // A restore that was killed after it had moved the first file.
    fs::copy(&file, gateway.store().join("hookstile.restoring")).expect("a copy");
    fs::remove_file(gateway.store().join("hookstile.db")).expect("a file");
    let before = content(&gateway.store());
    for line in ["check", "backup other.db"] {
        let run = store(&folder, line).await;
        assert!(
            run.assert(1).stderr.contains("restore FILE --replace"),
            "{}",
            run.stderr
        );
    }
    gateway.launch_with(proxy_only());
    assert_eq!(gateway.wait_for_exit().await.code(), Some(1));
    assert!(
        gateway.output().contains("was cut off"),
        "{}",
        gateway.output()
    );
    assert!(content(&gateway.store()) == before, "no store is created");
    store(&folder, "restore backup.db --replace")
        .await
        .assert(0);
    gateway.restart_with(proxy_only()).await;
    gateway
        .send(Event::new("evt_1"))
        .await
        .assert_problem(409, "duplicate");
}

/// A setup with the route of [`used_gateway`] that is not a queue.
fn proxy_only() -> Setup {
    Setup::from(Route::to_url("http://127.0.0.1:9/"))
}
