//! What is found in the file after any end, and against a plain map.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::store::AttemptHistory;

const HASH_KEY: [u8; 16] = [7; 16];
const HOUR_MS: u64 = 3_600_000;

fn open(folder: &Path) -> LedgerFile {
    LedgerFile::open(folder, &HASH_KEY).unwrap()
}

fn row(key: u128, hour: u64, written: i64) -> LedgerRow {
    LedgerRow {
        key: EventKey(key),
        entry: LedgerEntry::Attempted(AttemptHistory {
            attempts: 1,
            possibly_delivered: false,
        }),
        ends: Uptime(hour * HOUR_MS + 1),
        delivery: None,
        route: None,
        written,
        deleted: None,
    }
}

/// Writes a row where there is room for it. Returns its slot.
fn add(file: &LedgerFile, row: &LedgerRow) -> u32 {
    let slot = file.allocate(Hour::containing(row.ends)).unwrap();
    let mut writes = RowWrites::default();
    writes.push(slot, row);
    file.write(&writes).unwrap();
    slot
}

/// Returns the keys of the rows that a start at this hour finds.
fn loaded(file: &LedgerFile, hour: u64) -> (Vec<u128>, DamagedRows) {
    let mut keys = Vec::new();
    let damaged = file.load(Uptime(hour * HOUR_MS), i64::MAX, |_, row| {
        keys.push(row.key.0);
    });
    keys.sort_unstable();
    (keys, damaged.unwrap())
}

fn overwrite(folder: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(folder.join(FILE)).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn rows_are_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path());
    let rows = [row(1, 5, 1), row(2, 5, 1), row(3, 9, 2)];
    let slots = rows.map(|row| add(&file, &row));
    let file = open(folder.path());
    assert_eq!(loaded(&file, 5).0, [1, 2, 3]);
    assert_eq!(
        slots.map(|slot| file.read(slot).unwrap()),
        rows.map(SlotContent::Row)
    );
    let empty = SlotContent::Empty;
    assert_eq!(file.read(slots[0] + 100).unwrap(), empty, "never written");
    assert_eq!(file.read(9 * SLOTS).unwrap(), empty, "behind the end");
    assert_eq!(
        add(&file, &row(4, 5, 3)),
        slots[1] + 1,
        "goes on where it was"
    );
}

#[test]
fn damaged_row_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path());
    let slots = [1, 2, 3].map(|key| add(&file, &row(key, 5, 1)));
    overwrite(folder.path(), offset(slots[1]) + 3, &[0xff]);
    let damaged = DamagedRows {
        count: 1,
        first_slot: Some(slots[1]),
    };
    assert_eq!(loaded(&file, 5), (vec![1, 3], damaged));
    assert_eq!(file.read(slots[1]).unwrap(), SlotContent::Damaged);
    assert_eq!(add(&file, &row(4, 5, 2)), slots[2] + 1, "no slot is reused");
}

#[test]
fn expired_extent_is_reused_and_its_rows_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path());
    let slots = [1, 2].map(|key| add(&file, &row(key, 5, 1)));
    let mut forgotten = Vec::new();
    file.sweep(Hour::containing(Uptime(6 * HOUR_MS)), |expired| {
        forgotten = expired.to_vec();
    });
    assert_eq!(forgotten, [true]);
    assert_eq!(add(&file, &row(3, 8, 2)), slots[0]);
    // The clock may lag behind after a crash. The row that is left over is still not the event's.
    assert_eq!(loaded(&open(folder.path()), 5).0, [3]);
}

#[test]
fn expired_extents_give_their_room_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path());
    // Extents 0 to 9 of hour 5, 10 of hour 7, 11 to 15 of hour 6.
    for (key, hour) in (0..10 * u128::from(SLOTS) - 1)
        .map(|key| (key, 5))
        .chain([(1 << 20, 7)])
        .chain((1 << 21..(1 << 21) + 5 * u128::from(SLOTS)).map(|key| (key, 6)))
    {
        add(&file, &row(key, hour, 1));
    }
    file.sync().unwrap();
    let extents = |count: u64| count * EXTENT_BYTES as u64;
    assert_eq!(file.file_bytes(), extents(16));
    let full = file.disk_bytes();

    file.sweep(Hour::containing(Uptime(7 * HOUR_MS)), |_| {});
    assert_eq!(file.file_bytes(), extents(11));
    let left = file.disk_bytes();
    assert!(left <= full - extents(13), "{left} of {full}");
    assert_eq!(loaded(&open(folder.path()), 7).0, [1 << 20]);
    // The clock may lag behind after a crash.
    let first: Vec<u128> = (0..u128::from(SLOTS) - 1).collect();
    assert_eq!(
        loaded(&open(folder.path()), 5).0,
        [first, vec![1 << 20]].concat()
    );

    file.sweep(Hour::containing(Uptime(8 * HOUR_MS)), |_| {});
    assert_eq!(file.file_bytes(), ROW_BYTES as u64);
    let slot = add(&file, &row(3, 9, 2));
    assert_eq!(slot, 1, "goes on at the front");
    assert_eq!(loaded(&open(folder.path()), 8).0, [3]);
}

#[test]
fn late_row_behind_the_end_harms_no_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path());
    let late = row(1, 5, 1);
    let slot = add(&file, &late);
    add(&file, &row(2, 6, 1));
    let behind = add(&file, &row(3, 5, 1)) + SLOTS;
    file.sweep(Hour::containing(Uptime(7 * HOUR_MS)), |_| {});
    // The commit log writes its rows again after a crash.
    let mut writes = RowWrites::default();
    writes.push(slot, &late);
    writes.push(behind, &late);
    file.write(&writes).unwrap();
    let file = open(folder.path());
    assert_eq!(loaded(&file, 7).0, [] as [u128; 0]);
    add(&file, &row(4, 8, 2));
    add(&file, &row(5, 9, 2));
    assert_eq!(loaded(&open(folder.path()), 7).0, [4, 5]);
}

#[test]
fn later_commits_are_undone_once_and_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path());
    let slots = [row(1, 5, 1), row(2, 5, 1), row(3, 5, 2)].map(|row| add(&file, &row));
    let mut writes = RowWrites::default();
    let deleted = LedgerRow {
        deleted: Some(2),
        ..row(2, 5, 1)
    };
    writes.push(slots[1], &deleted);
    file.write(&writes).unwrap();
    for last in [1, 2] {
        let mut live = Vec::new();
        let file = open(folder.path());
        let load = file.load(Uptime(0), last, |_, row| {
            live.extend(row.deleted.is_none().then_some(row.key.0));
        });
        load.unwrap();
        assert_eq!(live, [1, 2]);
    }
}

#[test]
fn file_of_another_database_is_moved_aside() {
    let folder = tempfile::tempdir().unwrap();
    add(&open(folder.path()), &row(1, 5, 1));
    let other = LedgerFile::open(folder.path(), &[8; 16]).unwrap();
    assert_eq!(loaded(&other, 0).0, [] as [u128; 0]);
    assert!(folder.path().join(MOVED_FILE).exists());
    assert!(!exists(folder.path(), &HASH_KEY).unwrap());
    assert!(exists(folder.path(), &[8; 16]).unwrap());
}

#[test]
fn rows_outlive_a_damaged_header_and_a_cut_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path());
    let slots = [1, 2].map(|key| add(&file, &row(key, 5, 1)));
    overwrite(folder.path(), 10, &[0xff]);
    let whole = File::options().write(true).open(folder.path().join(FILE));
    whole.unwrap().set_len(offset(slots[1]) + 10).unwrap();
    assert_eq!(loaded(&open(folder.path()), 5).0, [1]);
}

#[test]
fn deleted_file_is_saved_under_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path());
    add(&file, &row(1, 5, 1));
    std::fs::remove_file(folder.path().join(FILE)).unwrap();
    file.save().unwrap();
    assert_eq!(loaded(&open(folder.path()), 5).0, [1]);
}

#[derive(Debug, Clone)]
enum Step {
    Add(u128, u64),
    Delete(u128),
    Reopen,
    PassHour,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u128..20, 1u64..4).prop_map(|(key, hours)| Step::Add(key, hours)),
        3 => (0u128..20).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
        1 => Just(Step::PassHour),
    ]
}

proptest! {
    #[test]
    fn file_agrees_with_a_map(steps in prop::collection::vec(step(), 0..120)) {
        let folder = tempfile::tempdir().unwrap();
        let mut file = open(folder.path());
        let mut model: HashMap<u128, (u32, LedgerRow)> = HashMap::new();
        let mut now = 10;
        for (commit, step) in (1..).zip(steps) {
            let delete = |file: &LedgerFile, (slot, row): (u32, LedgerRow)| {
                let mut writes = RowWrites::default();
                writes.push(slot, &LedgerRow { deleted: Some(commit), ..row });
                file.write(&writes).unwrap();
            };
            match step {
                Step::Add(key, hours) => {
                    if let Some(earlier) = model.remove(&key) {
                        delete(&file, earlier);
                    }
                    let row = row(key, now + hours, commit);
                    model.insert(key, (add(&file, &row), row));
                }
                Step::Delete(key) => {
                    if let Some(earlier) = model.remove(&key) {
                        delete(&file, earlier);
                    }
                }
                Step::Reopen => {
                    file = open(folder.path());
                    file.load(Uptime(now * HOUR_MS), i64::MAX, |_, _| {}).unwrap();
                }
                Step::PassHour => {
                    now += 1;
                    let is_over = |row: &LedgerRow| row.ends < Uptime(now * HOUR_MS);
                    model.retain(|_, (_, row)| !is_over(row));
                    file.sweep(Hour::containing(Uptime(now * HOUR_MS)), |_| {});
                }
            }
            for (slot, row) in model.values() {
                prop_assert_eq!(file.read(*slot).unwrap(), SlotContent::Row(*row));
            }
        }
        let mut found = HashMap::new();
        let file = open(folder.path());
        file.load(Uptime(now * HOUR_MS), i64::MAX, |slot, row| {
            if row.deleted.is_none() {
                found.insert(row.key.0, (slot, *row));
            }
        }).unwrap();
        prop_assert_eq!(found, model);
    }
}
