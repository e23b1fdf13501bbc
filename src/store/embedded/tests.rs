//! What only a store in files promises.

use super::super::tests::{
    Files, KEEP, WINDOW, change, completed, end, queued, record, settlement, tried,
};
use crate::store::*;

#[tokio::test]
async fn a_leap_of_the_clock_does_not_count() {
    let files = Files::new();
    let store = files.open();
    end(&store, 1, completed(1), None).await;
    files.hand.advance(2 * WINDOW);
    assert_eq!(record(&store, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn what_is_forgotten_stays_forgotten_when_the_index_is_read_anew() {
    let files = Files::new();
    let store = files.open();
    for key in 1..=3 {
        end(
            &store,
            key,
            completed(1),
            Some(change(&key.to_string(), DeliveryState::Success)),
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
    assert_eq!((record(&store, 2).await, store.remembered_ids()), (None, 2));
    assert_eq!(
        (record(&store, 1).await, record(&store, 3).await),
        (Some(completed(1)), Some(completed(1)))
    );
}

#[tokio::test]
async fn who_delivers_is_woken_when_the_store_was_opened_anew() {
    let files = Files::new();
    let store = files.open();
    let (waker, other) = (
        store.queue_notifier(&"billing".into()),
        store.queue_notifier(&"other".into()),
    );
    store.reopen_after_error();
    waker.notified().await;
    other.notified().await;
}

#[tokio::test]
async fn of_two_records_of_an_event_the_completed_one_holds() {
    for (first, second) in [(tried(1), completed(1)), (completed(1), tried(1))] {
        let files = Files::new();
        let store = files.open();
        store
            .settle(settlement(1, None, first, None))
            .await
            .unwrap();
        store
            .settle(settlement(1, None, second, None))
            .await
            .unwrap();
        assert_eq!(record(&store, 1).await, Some(completed(1)));
    }
}

#[tokio::test]
async fn a_full_store_says_so_and_forgets_nothing() {
    let files = Files::new();
    let store = files
        .try_open(EmbeddedSettings {
            max_ids: 1,
            ..files.settings()
        })
        .unwrap();
    assert_eq!(store.check_room(), Ok(()));
    store
        .settle(settlement(1, None, completed(1), None))
        .await
        .unwrap();
    assert_eq!(store.check_room(), Err(StoreError::Full));
    assert_eq!(record(&store, 1).await, Some(completed(1)));
}

#[tokio::test]
async fn a_second_store_on_the_folder_is_refused_by_name() {
    let files = Files::new();
    let _first = files.open();
    let refused = files.try_open(files.settings()).err().unwrap().to_string();
    assert!(
        refused.contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_and_left_as_it_is() {
    for content in [
        b"not a database, and long enough to be looked at as one".repeat(100),
        Vec::new(),
    ] {
        let files = Files::new();
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
async fn a_store_of_the_version_before_is_brought_forward_with_all_that_it_holds() {
    let files = Files::new();
    let store = files.open();
    let id = queued(&store, 1, "a").await;
    store.close(true).await;
    drop(store);
    let file = rusqlite::Connection::open(files.settings().folder.join("hookstile.db")).unwrap();
    file.execute_batch(
        "ALTER TABLE deliveries DROP COLUMN secret; ALTER TABLE deliveries DROP COLUMN test; PRAGMA user_version = 1",
    )
    .unwrap();
    drop(file);
    let store = files.open();
    let secret = async |id| store.delivery(id).await.unwrap().unwrap().secret;
    assert_eq!(
        (record(&store, 1).await, secret(id).await),
        (Some(completed(1)), None)
    );
    let id = queued(&store, 2, "b").await;
    assert_eq!(secret(id).await.as_deref(), Some("current"));
}

#[tokio::test]
async fn after_a_crash_those_that_may_have_been_under_way_are_suspected_and_no_others() {
    let (none, second, first_two) = ([false; 3], [false, true, false], [true, true, false]);
    for (in_good_order, same_boot, suspected) in [
        (true, false, none),
        (false, true, second),
        (false, false, first_two),
    ] {
        let files = Files::new();
        let store = files.open();
        store.update_routes(vec![StoreRoute {
            route: "billing".into(),
            retain: KEEP,
            concurrency: 2,
        }]);
        let ids = [
            queued(&store, 1, "a").await,
            queued(&store, 2, "b").await,
            queued(&store, 3, "c").await,
        ];
        if !in_good_order {
            drop(
                store
                    .begin_queued_attempt(ids[1], LeaseDeadline::EVER)
                    .unwrap(),
            );
        }
        store.close(in_good_order).await;
        drop(store);
        if !same_boot {
            let file =
                rusqlite::Connection::open(files.settings().folder.join("hookstile.db")).unwrap();
            file.execute("UPDATE store SET boot = 'another'", [])
                .unwrap();
            let _ = std::fs::remove_file(files.settings().folder.join("hookstile.underway"));
        }
        let store = files.open();
        for (id, suspected) in ids.into_iter().zip(suspected) {
            assert_eq!(
                store
                    .load_event(id, Duration::from_secs(10))
                    .await
                    .unwrap()
                    .unwrap()
                    .tried
                    .possibly_delivered,
                suspected
            );
        }
    }
}

#[tokio::test]
async fn a_file_that_has_gone_is_not_made_anew() {
    let files = Files::new();
    let store = files.open();
    store
        .settle(settlement(1, None, completed(1), None))
        .await
        .unwrap();
    let folder = files.settings().folder;
    let (file, away) = (folder.join("hookstile.db"), folder.join("away.db"));
    let reopened = store.queue_notifier(&"billing".into());
    store.reopen_after_error();
    reopened.notified().await;
    std::fs::rename(&file, &away).unwrap();
    store.reopen_after_error();
    while store.check_open().is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(
        store.settle(settlement(2, None, completed(1), None)).await,
        Err(StoreError::Unavailable)
    );
    assert!(!file.exists());
    std::fs::rename(&away, &file).unwrap();
    reopened.notified().await;
    assert_eq!(
        (record(&store, 1).await, store.remembered_ids()),
        (Some(completed(1)), 1)
    );
}

#[tokio::test]
async fn a_payload_that_cannot_be_read_is_told_and_its_event_is_not() {
    let files = Files::new();
    let store = files.open();
    let id = queued(&store, 1, "a").await;
    let file = rusqlite::Connection::open(files.settings().folder.join("hookstile.db")).unwrap();
    file.execute("DELETE FROM payloads", []).unwrap();
    let event = store
        .load_event(id, Duration::from_secs(10))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((&*event.event_id, event.payload.is_none()), ("a", true));
}
