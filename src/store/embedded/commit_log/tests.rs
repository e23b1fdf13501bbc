//! What is found in the log after any end.

use std::ops::RangeInclusive;

use proptest::prelude::*;
use rusqlite::params;
use rusqlite::types::Value;

use super::statements::Statement;
use super::*;

const RUN: i64 = 7;

/// A log in a folder of its own, with what was appended since the last restart.
struct TestLog {
    folder: tempfile::TempDir,
    log: CommitLog,
    position: LogPosition,
}

impl TestLog {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = CommitLog::start(folder.path()).unwrap();
        let position = LogPosition {
            run: RUN,
            ..LogPosition::default()
        };
        Self {
            folder,
            log,
            position,
        }
    }

    /// Encodes the record that comes next, with a value of this size. Its number is the other value.
    fn next_record(&self, bytes: usize) -> Vec<u8> {
        let position = self.position.after_logged();
        let statements = statements(position.applied, bytes);
        encode(
            position,
            Execution::AtOnce,
            &RowWrites::default(),
            &statements,
        )
        .unwrap()
    }

    fn append(&mut self, bytes: usize) {
        self.log.append(&self.next_record(bytes)).unwrap();
        self.position = self.position.after_logged();
    }

    fn restart(&mut self) {
        self.log.restart();
        self.position = self.position.after_flushed();
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join(FILE)).unwrap()
    }

    /// Writes to the file beside the log.
    fn overwrite(&self, offset: usize, bytes: &[u8]) {
        let file = OpenOptions::new()
            .write(true)
            .open(self.folder.path().join(FILE));
        file.unwrap().write_all_at(bytes, offset as u64).unwrap();
    }

    /// Returns the numbers of the records that a database lacks which has this last commit and the flushed
    /// ones, and the number of those that are gone.
    fn unapplied(&self, applied: i64) -> (Vec<i64>, i64) {
        let position = LogPosition {
            run: RUN,
            applied,
            flushed: self.position.flushed.min(applied),
        };
        let found = read(self.folder.path(), position).unwrap();
        for record in found.to_execute(position) {
            let Value::Integer(number) = record.statements[0].values[0] else {
                panic!("not the number that was written");
            };
            assert_eq!(number, record.number, "never another content");
        }
        (
            found
                .to_execute(position)
                .map(|record| record.number)
                .collect(),
            found.missing,
        )
    }
}

fn statements(number: i64, bytes: usize) -> Statements {
    let mut statements = Statements::default();
    let values = params![number, vec![0x5a_u8; bytes]];
    statements
        .push("INSERT INTO some VALUES (?1, ?2)", values)
        .unwrap();
    statements
}

fn numbers(range: RangeInclusive<i64>) -> Vec<i64> {
    range.collect()
}

#[test]
fn log_keeps_its_size() {
    let mut log = TestLog::new();
    let size = log.content().len();
    while log.log.has_room() {
        log.append(Statements::BYTES_MAX - 200);
    }
    let last = log.position.applied;
    log.restart();
    log.append(1);
    assert_eq!(log.content().len(), size);
    let after = log.position.applied;
    assert_eq!(after, last + 2, "the flushed commit has a number");
}

#[test]
fn records_of_an_earlier_round_are_not_executed() {
    let mut log = TestLog::new();
    (0..5).for_each(|_| log.append(5000));
    log.restart();
    assert_eq!(log.unapplied(6), (vec![], 0));
    log.append(10);
    assert_eq!(log.unapplied(6), (vec![7], 0));
    log.append(10);
    assert_eq!(log.unapplied(6), (vec![7, 8], 0));
    assert_eq!(log.unapplied(8), (vec![], 0));
}

#[test]
fn log_of_another_run_is_not_executed() {
    let mut log = TestLog::new();
    log.append(10);
    let position = LogPosition {
        run: RUN + 2,
        ..LogPosition::default()
    };
    assert_eq!(read(log.folder.path(), position).unwrap().records, []);
}

#[test]
fn older_database_executes_no_later_round() {
    let mut log = TestLog::new();
    (0..5).for_each(|_| log.append(10));
    log.restart();
    log.append(10);
    assert_eq!(log.unapplied(3), (vec![], 3), "4 to 6 are gone");
}

#[test]
fn commits_without_their_rows_are_counted() {
    let mut log = TestLog::new();
    (0..4).for_each(|_| log.append(10));
    log.overwrite(BLOCK, &[0; BLOCK]);
    let position = LogPosition {
        run: RUN,
        applied: 6,
        flushed: 0,
    };
    let found = unapplied(&log.content(), position);
    let numbers: Vec<i64> = found.records.iter().map(|record| record.number).collect();
    assert_eq!(numbers, [1, 3, 4], "rows of commits that the database has");
    assert_eq!((found.missing, found.without_rows), (0, 3), "2, 5 and 6");
}

#[test]
fn missing_and_empty_files_have_no_records() {
    let folder = tempfile::tempdir().unwrap();
    let position = LogPosition {
        run: RUN,
        ..LogPosition::default()
    };
    assert_eq!(read(folder.path(), position).unwrap().records, []);
    File::create(folder.path().join(FILE)).unwrap();
    assert_eq!(read(folder.path(), position).unwrap().records, []);
}

#[test]
fn texts_stand_once_in_a_record() {
    let mut statements = Statements::default();
    let text = "UPDATE some SET a = ?1";
    statements.push(text, params![1]).unwrap();
    let one = statements.encode().unwrap().len();
    statements.push(text, params![2]).unwrap();
    assert!(statements.encode().unwrap().len() < one + text.len());
}

#[test]
fn transaction_above_the_limit_is_not_kept() {
    let mut statements = Statements::default();
    let large = vec![0_u8; Statements::BYTES_MAX];
    statements.push("DELETE", params![large]).unwrap();
    assert_eq!(statements.encode(), None);
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>().prop_map(Value::Real),
        ".{0,20}".prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Blob),
    ]
}

proptest! {
    #[test]
    fn statements_are_read_as_they_were_pushed(
        pushed in prop::collection::vec((0usize..3, prop::collection::vec(value(), 0..5)), 0..20),
    ) {
        let texts = ["INSERT", "UPDATE", "DELETE"];
        let mut statements = Statements::default();
        for (text, values) in &pushed {
            let values: Vec<&dyn rusqlite::ToSql> = values.iter().map(|value| value as _).collect();
            statements.push(texts[*text], &values).unwrap();
        }
        let expected: Vec<_> = pushed
            .into_iter()
            .map(|(text, values)| Statement { text: texts[text].into(), values })
            .collect();
        prop_assert_eq!(Statements::decode(&statements.encode().unwrap()), Some(expected));
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Statements::decode(&bytes);
        let _ = Record::decode(&bytes);
    }

    /// The last write is cut short at any block, in any order of its blocks.
    #[test]
    fn torn_tail_is_not_executed(
        earlier in prop::collection::vec(0usize..20_000, 0..6),
        sizes in prop::collection::vec(0usize..20_000, 1..6),
        lost in any::<u64>(),
    ) {
        let mut log = TestLog::new();
        for size in &earlier {
            log.append(*size);
        }
        log.restart();
        let applied = log.position.applied;
        for size in &sizes[..sizes.len() - 1] {
            log.append(*size);
        }
        let (before, first) = (log.content(), log.log.next_block);
        log.append(*sizes.last().unwrap());
        let end = log.log.next_block;
        let lost: Vec<_> = (first..end).filter(|block| lost >> (block % 64) & 1 == 1).collect();
        for block in &lost {
            let offset = usize::try_from(*block).unwrap() * BLOCK;
            log.overwrite(offset, &before[offset..][..BLOCK]);
        }
        let last = if lost.is_empty() { log.position.applied } else { log.position.applied - 1 };
        // A block of zeros may be lost without a trace.
        let (found, missing) = log.unapplied(applied);
        prop_assert!(found == numbers(applied + 1..=last) || found == numbers(applied + 1..=last + 1));
        prop_assert_eq!(missing, 0);
    }

    /// A changed byte voids its record, and no other.
    #[test]
    fn damaged_record_is_never_believed(
        sizes in prop::collection::vec(0usize..9_000, 2..8),
        place in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let mut log = TestLog::new();
        let mut ends = Vec::new();
        for size in &sizes {
            let length = log.next_record(*size).len();
            ends.push(usize::try_from(log.log.next_block).unwrap() * BLOCK + length);
            log.append(*size);
        }
        let at = place.index(*ends.last().unwrap());
        let content = log.content();
        log.overwrite(at, &[content[at] ^ flip]);
        let count = i64::try_from(sizes.len()).unwrap();
        let hit = ends.iter().position(|end| at < *end).unwrap();
        let is_padding = hit > 0 && at < ends[hit - 1].next_multiple_of(BLOCK);
        let (found, missing) = log.unapplied(0);
        if is_padding {
            prop_assert_eq!((found, missing), (numbers(1..=count), 0));
        } else {
            let hit = i64::try_from(hit).unwrap() + 1;
            let others: Vec<_> = (1..=count).filter(|number| *number != hit).collect();
            prop_assert_eq!(found, others);
            prop_assert_eq!(missing, i64::from(hit < count));
        }
    }
}
