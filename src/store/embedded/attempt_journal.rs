//! The attempt journal: the attempts in progress, in a file that outlives the process. After a
//! crash, these are the events of which it is unknown whether they were delivered.
//!
//! The file is written without a flush: it survives any end of the process, but not a power loss,
//! because a flush for each attempt would cost too much. A slot is written before the first byte is
//! sent, and cleared when the outcome is in the ledger.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{AttemptHistory, DeliveryId, EventKey, folder_lock};

pub(super) const FILE: &str = "hookstile.attempts";

/// The size of a slot. For an event it holds the key (16 bytes), the window in milliseconds (8),
/// the number of attempts including this one (4), and a marker (4). For a queued event it holds the
/// delivery ID in place of the key, and another marker. Anything else is a free slot.
const SLOT_BYTES: usize = 32;
const EVENT: u32 = 0x6576_6e74;
const DELIVERY: u32 = 0x6465_6c76;

pub(super) struct AttemptJournal {
    file: File,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    free: Vec<u64>,
    /// The number of slots in the file.
    count: u64,
}

/// The journal, and what the previous run left in it.
pub(super) struct PreviousRun {
    pub journal: AttemptJournal,
    pub interrupted: Vec<InterruptedAttempt>,
    /// The file existed. A backup of the database alone has none, and says nothing of interrupted
    /// attempts.
    pub file_existed: bool,
}

/// The entry of an attempt in progress. If it is dropped without [`JournalEntry::clear`], the next
/// run treats the attempt as one of unknown outcome.
pub(crate) struct JournalEntry {
    journal: Arc<AttemptJournal>,
    slot: u64,
}

/// An attempt that was interrupted by the end of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InterruptedAttempt {
    Event {
        key: EventKey,
        history: AttemptHistory,
        window: Duration,
    },
    Delivery(DeliveryId),
}

impl AttemptJournal {
    /// Opens the file and reads what the previous run left in it. The entries stay there until
    /// [`AttemptJournal::clear_previous_run`].
    pub(super) fn open(folder: &Path) -> io::Result<PreviousRun> {
        let path = folder.join(FILE);
        let file_existed = path.try_exists()?;
        let mut file = folder_lock::open_private(&path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let interrupted = content
            .as_chunks::<SLOT_BYTES>()
            .0
            .iter()
            .filter_map(decode)
            .collect();
        Ok(PreviousRun {
            journal: Self {
                file,
                slots: Mutex::default(),
            },
            interrupted,
            file_existed,
        })
    }

    /// Empties the file. Called once its entries are in the ledger.
    pub(super) fn clear_previous_run(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// Writes an entry for an attempt that begins.
    pub(super) fn begin(self: &Arc<Self>, attempt: InterruptedAttempt) -> io::Result<JournalEntry> {
        let slot = self.with_slots(|slots| {
            slots.free.pop().unwrap_or_else(|| {
                slots.count += 1;
                slots.count - 1
            })
        });
        if let Err(error) = self
            .file
            .write_all_at(&encode(attempt), slot * SLOT_BYTES as u64)
        {
            self.with_slots(|slots| slots.free.push(slot));
            return Err(error);
        }
        Ok(JournalEntry {
            journal: Arc::clone(self),
            slot,
        })
    }

    fn with_slots<T>(&self, change: impl FnOnce(&mut Slots) -> T) -> T {
        change(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the number of attempts that the last run left in its journal.
pub(super) fn count_interrupted(folder: &Path) -> io::Result<usize> {
    let content = match std::fs::read(folder.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        content => content?,
    };
    let (slots, _) = content.as_chunks::<SLOT_BYTES>();
    Ok(slots.iter().filter_map(decode).count())
}

impl JournalEntry {
    /// Clears the entry, once the attempt's outcome is recorded.
    pub(crate) fn clear(self) {
        // An entry that cannot be cleared marks one event too many after a crash; its slot is not
        // reused.
        if self
            .journal
            .file
            .write_all_at(&[0; SLOT_BYTES], self.slot * SLOT_BYTES as u64)
            .is_ok()
        {
            self.journal.with_slots(|slots| slots.free.push(self.slot));
        }
    }
}

fn encode(attempt: InterruptedAttempt) -> [u8; SLOT_BYTES] {
    let (name, window, attempts, mark) = match attempt {
        InterruptedAttempt::Event {
            key,
            history: tried,
            window,
        } => (
            key.0,
            u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            tried.attempts,
            EVENT,
        ),
        InterruptedAttempt::Delivery(DeliveryId(id)) => {
            (u128::from(id.cast_unsigned()), 0, 0, DELIVERY)
        }
    };
    let mut slot = [0; SLOT_BYTES];
    slot[..16].copy_from_slice(&name.to_be_bytes());
    slot[16..24].copy_from_slice(&window.to_be_bytes());
    slot[24..28].copy_from_slice(&attempts.to_be_bytes());
    slot[28..].copy_from_slice(&mark.to_be_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<InterruptedAttempt> {
    let (name, rest) = slot.split_first_chunk()?;
    let (window, rest) = rest.split_first_chunk()?;
    let (attempts, mark) = rest.split_first_chunk()?;
    let name = u128::from_be_bytes(*name);
    match u32::from_be_bytes(*mark.first_chunk()?) {
        EVENT => Some(InterruptedAttempt::Event {
            key: EventKey(name),
            history: AttemptHistory {
                attempts: u32::from_be_bytes(*attempts),
                possibly_delivered: true,
            },
            window: Duration::from_millis(u64::from_be_bytes(*window)),
        }),
        DELIVERY => Some(InterruptedAttempt::Delivery(DeliveryId(
            u64::try_from(name).ok()?.cast_signed(),
        ))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: u128, attempts: u32) -> InterruptedAttempt {
        let tried = AttemptHistory {
            attempts,
            possibly_delivered: true,
        };
        InterruptedAttempt::Event {
            key: EventKey(key),
            history: tried,
            window: Duration::from_secs(100),
        }
    }

    fn open(folder: &Path) -> (Arc<AttemptJournal>, Vec<InterruptedAttempt>) {
        let PreviousRun {
            journal,
            interrupted,
            ..
        } = AttemptJournal::open(folder).unwrap();
        (Arc::new(journal), interrupted)
    }

    #[test]
    fn next_run_finds_the_attempts_that_did_not_end() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, found) = open(folder.path());
        assert!(found.is_empty());
        let ended = journal.begin(event(1, 1)).unwrap();
        drop(journal.begin(event(u128::MAX, 3)).unwrap());
        ended.clear();
        let queued = InterruptedAttempt::Delivery(DeliveryId(i64::MAX));
        assert_eq!(
            journal.begin(queued).unwrap().slot,
            0,
            "a free slot is reused"
        );
        let (_, found) = open(folder.path());
        assert_eq!(found, [queued, event(u128::MAX, 3)]);
    }

    #[test]
    fn torn_or_foreign_slots_are_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let torn = [&[7_u8; 96][..], &encode(event(1, 1))[..31]].concat();
        std::fs::write(folder.path().join(FILE), torn).unwrap();
        assert!(open(folder.path()).1.is_empty());
    }
}
