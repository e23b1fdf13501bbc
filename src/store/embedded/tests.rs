//! Tests of what only the embedded engine guarantees.

use std::time::Duration;

use super::super::tests::{
    ATTEMPT_TIMEOUT, RETAIN, TestFolder, WINDOW, attempt, completed, delivery_change, due_ids,
    ledger_entry, queued, record_attempt, requeue_now, settle, settlement, tried,
};
use crate::backoff::DeadLetterReason;
use crate::store::*;

#[tokio::test]
async fn clock_jump_does_not_expire_entries() {
    let files = TestFolder::new();
    let store = files.open();
    settle(&store, 1, completed(1), None).await;
    files.manual_clock.advance(2 * WINDOW);
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn forgotten_event_stays_forgotten_after_reopening() {
    let files = TestFolder::new();
    let store = files.open();
    for key in 1..=3 {
        settle(
            &store,
            key,
            completed(1),
            Some(delivery_change(&key.to_string(), DeliveryState::Success)),
        )
        .await;
    }
    store
        .forget_event(store.find_rows(EventKey(2)).await.unwrap())
        .await
        .unwrap();
    let reopened = store.queue_notifier(&"billing".into());
    store.reopen_after_error();
    reopened.notified().await;
    assert_eq!(
        (ledger_entry(&store, 2).await, store.remembered_ids()),
        (None, 2)
    );
    assert_eq!(
        (ledger_entry(&store, 1).await, ledger_entry(&store, 3).await),
        (Some(completed(1)), Some(completed(1)))
    );
}

#[tokio::test]
async fn reopening_notifies_all_routes() {
    let files = TestFolder::new();
    let store = files.open();
    let (notifier, other) = (
        store.queue_notifier(&"billing".into()),
        store.queue_notifier(&"other".into()),
    );
    store.reopen_after_error();
    notifier.notified().await;
    other.notified().await;
}

#[tokio::test]
async fn completed_entry_takes_precedence() {
    for (first, second) in [(tried(1), completed(1)), (completed(1), tried(1))] {
        let files = TestFolder::new();
        let store = files.open();
        store
            .settle(settlement(1, None, first, None))
            .await
            .unwrap();
        store
            .settle(settlement(1, None, second, None))
            .await
            .unwrap();
        assert_eq!(ledger_entry(&store, 1).await, Some(completed(1)));
    }
}

#[tokio::test]
async fn full_store_refuses_and_forgets_nothing() {
    let files = TestFolder::new();
    let store = files
        .try_open(EmbeddedSettings {
            max_ids: 1,
            ..files.settings()
        })
        .unwrap();
    assert_eq!(store.check_room(None), Ok(()));
    store
        .settle(settlement(1, None, completed(1), None))
        .await
        .unwrap();
    assert_eq!(store.check_room(None), Err(StoreError::Full));
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn error_for_a_locked_folder_names_the_holder() {
    let files = TestFolder::new();
    let _first = files.open();
    let error = files.try_open(files.settings()).err().unwrap().to_string();
    assert!(
        error.contains(&format!("process {}", std::process::id())),
        "{error}"
    );
}

#[tokio::test]
async fn foreign_file_is_refused_and_left_unchanged() {
    for content in [
        b"not a database, and long enough to be read as one".repeat(100),
        Vec::new(),
    ] {
        let files = TestFolder::new();
        let folder = files.settings().folder;
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("hookstile.db");
        if content.is_empty() {
            rusqlite::Connection::open(&file)
                .unwrap()
                .execute_batch("CREATE TABLE theirs (a)")
                .unwrap();
        } else {
            std::fs::write(&file, &content).unwrap();
        }
        let before = std::fs::read(&file).unwrap();
        assert!(matches!(
            files.try_open(files.settings()),
            Err(OpenError::Foreign { .. })
        ));
        if !content.is_empty() {
            assert_eq!(std::fs::read(&file).unwrap(), before);
        }
    }
}

#[tokio::test]
async fn previous_version_is_upgraded_with_its_data() {
    let files = TestFolder::new();
    let store = files.open();
    let id = queued(&store, 1, "a").await;
    store.close(true).await;
    drop(store);
    // As a backup, it has the event IDs in the database, where earlier versions had them.
    let (folder, copy) = (files.settings().folder, TestFolder::new().settings().folder);
    std::fs::create_dir_all(&copy).unwrap();
    back_up(&folder, &copy.join("hookstile.db")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&copy, &folder).unwrap();
    let file = rusqlite::Connection::open(folder.join("hookstile.db")).unwrap();
    file.execute_batch(
        "ALTER TABLE deliveries DROP COLUMN secret; ALTER TABLE deliveries DROP COLUMN test;
         ALTER TABLE ledger DROP COLUMN route; ALTER TABLE store DROP COLUMN log_run;
         ALTER TABLE store DROP COLUMN log_applied; ALTER TABLE store DROP COLUMN log_flushed;
         DROP TABLE unflushed_rows; PRAGMA user_version = 1",
    )
    .unwrap();
    drop(file);
    let store = files.open();
    let secret = async |id| store.delivery(id).await.unwrap().unwrap().secret;
    assert_eq!(
        (ledger_entry(&store, 1).await, secret(id).await),
        (Some(completed(1)), None)
    );
    let id = queued(&store, 2, "b").await;
    assert_eq!(secret(id).await.as_deref(), Some("current"));
}

#[tokio::test]
async fn later_version_is_refused_by_its_number() {
    let files = TestFolder::new();
    files.open().close(true).await;
    let path = files.settings().folder.join("hookstile.db");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute_batch("PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    drop(file);
    let before = std::fs::read(&path).unwrap();
    let error = files.try_open(files.settings()).err().unwrap().to_string();
    assert!(error.contains("(tables 99; this one supports"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn failed_upgrade_leaves_the_earlier_version() {
    let files = TestFolder::new();
    files.open().close(true).await;
    let path = files.settings().folder.join("hookstile.db");
    // The second of two steps fails, because its column exists already.
    let earlier = "ALTER TABLE ledger DROP COLUMN route; PRAGMA user_version = 2";
    let connect = || rusqlite::Connection::open(&path).unwrap();
    connect().execute_batch(earlier).unwrap();
    assert!(files.try_open(files.settings()).is_err());
    let number = |sql| connect().query_row(sql, [], |row| row.get::<_, i32>(0));
    assert_eq!(number("PRAGMA user_version"), Ok(2));
    assert!(number("SELECT count(route) FROM ledger").is_err());
    connect()
        .execute_batch(
            "ALTER TABLE store DROP COLUMN log_run; ALTER TABLE store DROP COLUMN log_applied;
             ALTER TABLE store DROP COLUMN log_flushed",
        )
        .unwrap();
    files.open().close(true).await;
    assert_eq!(number("SELECT count(route) FROM ledger"), Ok(0));
}

#[tokio::test]
async fn crash_marks_only_possibly_interrupted_attempts() {
    let (none, second, first_two) = ([false; 3], [false, true, false], [true, true, false]);
    for (clean, same_boot, suspected) in [
        (true, false, none),
        (false, true, second),
        (false, false, first_two),
    ] {
        let files = TestFolder::new();
        let store = files.open();
        store.update_routes(vec![StoreRoute {
            route: "billing".into(),
            retain: RETAIN,
            horizon: WINDOW,
            concurrency: 2,
            attempt_timeout: ATTEMPT_TIMEOUT,
        }]);
        let ids = [
            queued(&store, 1, "a").await,
            queued(&store, 2, "b").await,
            queued(&store, 3, "c").await,
        ];
        if !clean {
            drop(
                store
                    .begin_queued_attempt(ids[1], LeaseDeadline::UNLIMITED)
                    .unwrap(),
            );
        }
        store.close(clean).await;
        drop(store);
        if !same_boot {
            let file =
                rusqlite::Connection::open(files.settings().folder.join("hookstile.db")).unwrap();
            file.execute("UPDATE store SET boot = 'another'", [])
                .unwrap();
            let _ = std::fs::remove_file(files.settings().folder.join("hookstile.attempts"));
        }
        let store = files.open();
        for (id, suspected) in ids.into_iter().zip(suspected) {
            assert_eq!(
                store
                    .load_event("billing".into(), id, Duration::from_secs(10))
                    .await
                    .unwrap()
                    .unwrap()
                    .history
                    .possibly_delivered,
                suspected
            );
        }
    }
}

#[tokio::test]
async fn missing_file_is_not_created_again() {
    let files = TestFolder::new();
    let store = files.open();
    store
        .settle(settlement(1, None, completed(1), None))
        .await
        .unwrap();
    let folder = files.settings().folder;
    let (file, moved) = (folder.join("hookstile.db"), folder.join("moved.db"));
    let reopened = store.queue_notifier(&"billing".into());
    store.reopen_after_error();
    reopened.notified().await;
    std::fs::rename(&file, &moved).unwrap();
    store.reopen_after_error();
    while store.check_open().is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        store.settle(settlement(2, None, completed(1), None)).await,
        Err(StoreError::Unavailable)
    );
    assert!(!file.exists());
    std::fs::rename(&moved, &file).unwrap();
    reopened.notified().await;
    assert_eq!(
        (ledger_entry(&store, 1).await, store.remembered_ids()),
        (Some(completed(1)), 1)
    );
}

#[tokio::test]
async fn event_with_a_lost_payload_is_still_loaded() {
    let files = TestFolder::new();
    let store = files.open();
    let id = queued(&store, 1, "a").await;
    let file = rusqlite::Connection::open(files.settings().folder.join("hookstile.db")).unwrap();
    file.execute("DELETE FROM payloads", []).unwrap();
    let event = store
        .load_event("billing".into(), id, Duration::from_secs(10))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&*event.event_id, event.payload.is_none()), ("a", true));
}

/// Opens a store once the one before has released it.
async fn open_when_free(files: &TestFolder) -> Store {
    loop {
        match files.try_open(files.settings()) {
            Ok(store) => return store,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// Copies a store's files as a loss of power leaves them: the database as it was at `flushed`, and the
/// commit log as it is now.
fn lose_power(files: &TestFolder, flushed: &TestFolder) -> TestFolder {
    let after = TestFolder::new();
    let (from, to) = (flushed.settings().folder, after.settings().folder);
    copy_files(&from, &to);
    let log = "hookstile.commits";
    std::fs::copy(files.settings().folder.join(log), to.join(log)).unwrap();
    after
}

fn copy_files(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "hookstile.db-shm" {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}

#[tokio::test]
async fn lost_pages_are_recovered_from_the_log() {
    let (files, flushed) = (TestFolder::new(), TestFolder::new());
    let all = DeliveryFilter {
        limit: 10,
        ..DeliveryFilter::default()
    };
    let store = files.open();
    settle(&store, 1, completed(1), None).await;
    copy_files(&files.settings().folder, &flushed.settings().folder);
    settle(&store, 2, completed(2), None).await;
    let queued_one = queued(&store, 3, "evt_3").await;
    let dead = queued(&store, 4, "evt_4").await;
    let reason = AttemptOutcome::Dead(DeadLetterReason::Rejected);
    record_attempt(&store, dead, 1, attempt(400), reason).await;
    store.set_paused("billing".into(), true).await.unwrap();
    store
        .forget_event(store.find_rows(EventKey(2)).await.unwrap())
        .await
        .unwrap();
    let records = store.deliveries(all.clone()).await.unwrap();

    let after = lose_power(&files, &flushed);
    let offline = OfflineStore::open(&after.settings().folder).unwrap();
    assert_eq!(offline.deliveries(&all).unwrap().len(), 2);
    drop(offline);
    for _ in 0..2 {
        let recovered = after.open();
        assert_eq!(ledger_entry(&recovered, 1).await, Some(completed(1)));
        assert_eq!(ledger_entry(&recovered, 2).await, None, "forgotten");
        assert_eq!(ledger_entry(&recovered, 3).await, Some(completed(1)));
        assert_eq!(recovered.queue_counts("billing"), (1, 1));
        assert_eq!(recovered.paused_routes().await.unwrap(), ["billing"]);
        assert_eq!(due_ids(&recovered).await, [queued_one]);
        let found = recovered.deliveries(all.clone()).await.unwrap();
        let ids =
            |records: &[DeliveryRecord]| records.iter().map(|record| record.id).collect::<Vec<_>>();
        assert_eq!(ids(&found), ids(&records));
        recovered.close(true).await;
    }
}

#[tokio::test]
async fn full_log_starts_again_and_loses_nothing() {
    let files = TestFolder::new();
    let store = files.open();
    let log = files.settings().folder.join("hookstile.commits");
    let length = std::fs::metadata(&log).unwrap().len();
    // More than one round, as each commit takes a block.
    let events = 3 * length / 4096;
    for key in 0..u128::from(events) {
        store
            .settle(settlement(key, None, completed(1), None))
            .await
            .unwrap();
    }
    assert_eq!(std::fs::metadata(&log).unwrap().len(), length);
    store.close(true).await;
    let reopened = files.open();
    assert_eq!(reopened.remembered_ids() as u64, events);
}

#[tokio::test]
async fn rows_left_to_the_log_survive_its_end() {
    let (files, flushed) = (TestFolder::new(), TestFolder::new());
    let store = files.open();
    let all = DeliveryFilter {
        limit: 500,
        ..DeliveryFilter::default()
    };
    let deliver = async |key: u128| {
        let change = delivery_change(&key.to_string(), DeliveryState::Success);
        settle(&store, key, completed(1), Some(change)).await;
    };
    deliver(0).await;
    copy_files(&files.settings().folder, &flushed.settings().folder);
    for key in 1..=300 {
        deliver(key).await;
        // A query sees what was answered before it.
        if key % 50 == 0 {
            let found = store.deliveries(all.clone()).await.unwrap();
            assert_eq!(found.len() as u128, key + 1);
        }
    }
    deliver(301).await;
    let after_losses = [lose_power(&files, &flushed), lose_power(&files, &files)];
    store.close(true).await;
    for lost in after_losses {
        let recovered = lost.open();
        assert_eq!(recovered.remembered_ids(), 302);
        assert_eq!(recovered.deliveries(all.clone()).await.unwrap().len(), 302);
        let stats = recovered.route_stats("billing".into(), 0).await.unwrap();
        assert_eq!(stats.successful, 302);
    }
    let closed = files.open();
    assert_eq!(closed.deliveries(all).await.unwrap().len(), 302);
}

#[tokio::test]
async fn missing_ledger_is_refused_where_a_store_must_exist() {
    let files = TestFolder::new();
    let store = files.open();
    let id = queued(&store, 1, "a").await;
    settle(&store, 2, completed(1), None).await;
    store.close(true).await;
    drop(store);
    std::fs::remove_file(files.settings().folder.join("hookstile.ledger")).unwrap();
    let settings = EmbeddedSettings {
        must_exist: true,
        ..files.settings()
    };
    let refused = files.try_open(settings).err();
    assert!(matches!(refused, Some(OpenError::MustExist { .. })));
    let store = files.open();
    assert_eq!(ledger_entry(&store, 2).await, None);
    assert!(ledger_entry(&store, 1).await.is_some(), "what waits");
    assert_eq!(due_ids(&store).await, [id]);
}

#[tokio::test]
async fn missing_ledger_is_not_hidden_by_commands() {
    let (files, crashed) = (TestFolder::new(), TestFolder::new());
    let store = files.open();
    settle(&store, 1, completed(1), None).await;
    copy_files(&files.settings().folder, &crashed.settings().folder);
    let folder = crashed.settings().folder;
    std::fs::remove_file(folder.join("hookstile.ledger")).unwrap();
    assert!(OfflineStore::open(&folder).is_err());
    assert!(back_up(&folder, &folder.join("backup.db")).is_err());
    std::fs::write(folder.join("hookstile.ledger"), "").unwrap();
    assert!(back_up(&folder, &folder.join("backup.db")).is_err());
    assert!(!folder.join("backup.db").exists());
    let settings = EmbeddedSettings {
        must_exist: true,
        ..crashed.settings()
    };
    assert!(crashed.try_open(settings).is_err());
}

#[tokio::test]
async fn deleted_ledger_survives_a_failure() {
    let files = TestFolder::new();
    let store = files.open();
    settle(&store, 1, completed(1), None).await;
    let ledger = files.settings().folder.join("hookstile.ledger");
    std::fs::remove_file(&ledger).unwrap();
    let reopened = store.queue_notifier(&"billing".into());
    store.reopen_after_error();
    reopened.notified().await;
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(1)));
    store.close(true).await;
    let store = files.open();
    assert_eq!(ledger_entry(&store, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn replaced_ledger_is_saved_beside_the_other() {
    let files = TestFolder::new();
    let store = files.open();
    settle(&store, 1, completed(1), None).await;
    let folder = files.settings().folder;
    let [ledger, other] = ["hookstile.ledger", "other"].map(|name| folder.join(name));
    std::fs::write(&other, "another").unwrap();
    std::fs::rename(&other, &ledger).unwrap();
    let saved = folder.join("hookstile.ledger.saved");
    while !saved.exists() || store.check_open().is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(store);
    std::fs::rename(&saved, &ledger).unwrap();
    let restarted = open_when_free(&files).await;
    assert_eq!(ledger_entry(&restarted, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn restored_database_ignores_a_later_log() {
    let (files, backup) = (TestFolder::new(), TestFolder::new());
    let store = files.open();
    settle(&store, 1, completed(1), None).await;
    store.close(true).await;
    copy_files(&files.settings().folder, &backup.settings().folder);
    let store = files.open();
    settle(&store, 2, completed(1), None).await;
    let after = lose_power(&files, &backup);
    let restored = after.open();
    assert_eq!(ledger_entry(&restored, 1).await, Some(completed(1)));
    assert_eq!(ledger_entry(&restored, 2).await, None);
}

#[tokio::test]
async fn deleted_files_are_saved_and_written_again() {
    let files = TestFolder::new();
    let store = files.open();
    settle(&store, 1, completed(1), None).await;
    let id = queued(&store, 2, "a").await;
    let folder = files.settings().folder;
    std::fs::remove_dir_all(&folder).unwrap();
    while !folder.join("hookstile.commits").exists() || store.check_open().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    settle(&store, 3, completed(1), None).await;
    assert!(files.try_open(files.settings()).is_err(), "locked again");
    store.close(true).await;
    let store = files.open();
    for key in [1, 2, 3] {
        assert_eq!(ledger_entry(&store, key).await, Some(completed(1)));
    }
    assert_eq!(due_ids(&store).await, [id]);
}

#[tokio::test]
async fn replaced_database_is_not_believed() {
    let (files, backup) = (TestFolder::new(), TestFolder::new());
    let store = files.open();
    settle(&store, 1, completed(1), None).await;
    store.close(true).await;
    copy_files(&files.settings().folder, &backup.settings().folder);
    let store = files.open();
    settle(&store, 2, completed(1), None).await;
    let (file, other) = (
        "hookstile.db",
        backup.settings().folder.join("hookstile.db"),
    );
    std::fs::rename(other, files.settings().folder.join(file)).unwrap();
    let saved = files.settings().folder.join("hookstile.db.saved");
    while !saved.exists() || store.check_open().is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let refused = store.settle(settlement(3, None, completed(1), None)).await;
    assert_eq!(refused, Err(StoreError::Unavailable));
    let ids: i64 = rusqlite::Connection::open(&saved)
        .unwrap()
        .query_row("SELECT count(*) FROM ledger", [], |row| row.get(0))
        .unwrap();
    assert_eq!(ids, 2, "what the writer had");
    drop(store);
    let restarted = open_when_free(&files).await;
    assert_eq!(ledger_entry(&restarted, 1).await, Some(completed(1)));
    assert_eq!(ledger_entry(&restarted, 2).await, None);
}

#[tokio::test]
async fn store_that_must_exist_is_not_created() {
    let files = TestFolder::new();
    let settings = EmbeddedSettings {
        must_exist: true,
        ..files.settings()
    };
    let error = files.try_open(settings.clone()).err().unwrap().to_string();
    assert!(error.contains("must_exist"), "{error}");
    files.open().close(true).await;
    assert!(files.try_open(settings).is_ok());
}

/// Deletes all payloads from the file, so that only those in memory are left.
fn delete_payloads(files: &TestFolder) {
    let file = files.settings().folder.join("hookstile.db");
    let file = rusqlite::Connection::open(file).unwrap();
    file.execute_batch("DELETE FROM payloads").unwrap();
}

async fn load(store: &Store, id: DeliveryId) -> QueuedEvent {
    let loaded = store.load_event("billing".into(), id, ATTEMPT_TIMEOUT);
    loaded.await.unwrap().expect("a pending event")
}

#[tokio::test]
async fn stored_event_is_loaded_from_memory_once() {
    let files = TestFolder::new();
    let store = files.open();
    let before = queued(&store, 1, "a").await;
    assert_eq!(due_ids(&store).await, [before]);
    let id = queued(&store, 2, "b").await;
    assert_eq!(due_ids(&store).await, [before, id]);
    delete_payloads(&files);
    files.manual_clock.advance(Duration::from_secs(3));
    let event = load(&store, id).await;
    assert_eq!((&*event.event_id, event.age.as_secs()), ("b", 3));
    assert_eq!(event.payload.unwrap().body, "body");
    assert!(load(&store, id).await.payload.is_none(), "it is in memory");
    assert!(load(&store, before).await.payload.is_none());
}

#[tokio::test]
async fn paused_route_holds_no_event_in_memory() {
    let files = TestFolder::new();
    let store = files.open();
    assert_eq!(due_ids(&store).await, []);
    let id = queued(&store, 1, "a").await;
    store.set_paused("billing".into(), true).await.unwrap();
    let later = queued(&store, 2, "b").await;
    delete_payloads(&files);
    for id in [id, later] {
        assert!(load(&store, id).await.payload.is_none());
    }
    assert_eq!(due_ids(&store).await, [id, later]);
}

#[tokio::test]
async fn requeued_event_is_read_again() {
    let files = TestFolder::new();
    let store = files.open();
    assert_eq!(due_ids(&store).await, []);
    let (id, other) = (queued(&store, 1, "a").await, queued(&store, 2, "b").await);
    let requeue = Requeue {
        due: store.now_due().after(Duration::from_secs(30)),
        ..requeue_now(&store, id)
    };
    store.requeue(vec![requeue]).await.unwrap();
    let due = store.due_events("billing".into(), &[], 10).await.unwrap();
    assert_eq!((due.events.len(), due.events[0].id), (1, other));
    assert_eq!(due.next_in, Some(Duration::from_secs(30)));
    files.manual_clock.advance(Duration::from_secs(30));
    assert_eq!(due_ids(&store).await, [other, id]);
    let event = load(&store, id).await;
    assert_eq!((event.age, event.payload.is_some()), (Duration::ZERO, true));
}

#[tokio::test]
async fn reopening_reads_the_queue_again() {
    let files = TestFolder::new();
    let store = files.open();
    assert_eq!(due_ids(&store).await, []);
    let id = queued(&store, 1, "a").await;
    let reopened = store.queue_notifier(&"billing".into());
    store.reopen_after_error();
    reopened.notified().await;
    assert_eq!(due_ids(&store).await, [id]);
    delete_payloads(&files);
    assert!(load(&store, id).await.payload.is_none());
}

#[tokio::test]
async fn long_queue_is_delivered_whole_in_order() {
    let files = TestFolder::new();
    let store = files
        .try_open(EmbeddedSettings {
            durability: Durability::Relaxed,
            ..files.settings()
        })
        .unwrap();
    assert_eq!(due_ids(&store).await, []);
    let body = bytes::Bytes::from(vec![7; 10_000]);
    let mut expected = Vec::new();
    for number in 0..1_300 {
        let mut change = delivery_change(&number.to_string(), DeliveryState::Pending);
        change.payload.as_mut().unwrap().body = body.clone();
        expected.extend(settle(&store, number, completed(1), Some(change)).await);
    }
    let (mut in_flight, mut begun) = (Vec::new(), Vec::new());
    loop {
        let free = 8 - in_flight.len();
        let due = store.due_events("billing".into(), &in_flight, free).await;
        for event in due.unwrap().events {
            let payload = load(&store, event.id).await.payload.unwrap();
            assert_eq!(payload.body.len() + payload.head.len(), event.payload_bytes);
            in_flight.push(event.id);
            begun.push(event.id);
        }
        let Some(ended) = in_flight.pop() else { break };
        let delivered = AttemptOutcome::Delivered {
            keep_payload: false,
        };
        record_attempt(&store, ended, 1, attempt(200), delivered).await;
    }
    assert_eq!(begun, expected);
    assert_eq!(store.queue_counts("billing"), (0, 0));
}

#[test]
fn failed_copy_leaves_no_file() {
    let files = TestFolder::new();
    let to = files.settings().folder.join("copy.db");
    // A folder with something in it cannot be replaced.
    std::fs::create_dir_all(to.join("full")).unwrap();
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    assert!(super::schema::save(&connection, &to).is_err());
    assert!(!to.with_file_name("copy.db.unfinished").exists());
}
