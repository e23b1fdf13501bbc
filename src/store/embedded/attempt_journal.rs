//! What is being handed over at this moment, in a file that outlives the process: after a crash, those are the events
//! of which nobody knows whether they arrived.
//!
//! It is written without a flush, so it survives the end of the process, however it ends, and not the loss of power:
//! an attempt is not worth a flush of its own. A slot is written before the first byte is sent, and cleared when the
//! outcome is in the ledger.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{AttemptHistory, DeliveryId, EventKey, folder_lock};

const FILE: &str = "hookstile.underway";

/// For an event: its key (16 bytes), window in milliseconds (8), attempts with this one (4), and a mark (4). For a stored
/// one: its delivery's number in the place of the key, and another mark. Anything else is a free slot.
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
    /// Slots in the file.
    count: u64,
}

/// What the run before has left.
pub(super) struct PreviousRun {
    pub under_way: AttemptJournal,
    pub cut_off: Vec<InterruptedAttempt>,
    /// There was a file: a backup of the database alone has none, and tells nothing of what was under way.
    pub was_noted: bool,
}

/// An attempt that is under way. Dropped without [`Underway::clear`], it is one of unknown outcome to the next run.
pub struct JournalEntry {
    all: Arc<AttemptJournal>,
    slot: u64,
}

/// An attempt that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InterruptedAttempt {
    Event {
        key: EventKey,
        tried: AttemptHistory,
        window: Duration,
    },
    Delivery(DeliveryId),
}

impl AttemptJournal {
    /// Opens the file and reads what the last run left in it. It stays there until [`UnderWay::forget_last_run`].
    pub(super) fn open(folder: &Path) -> io::Result<PreviousRun> {
        let path = folder.join(FILE);
        let was_noted = path.try_exists()?;
        let mut file = folder_lock::open_private(&path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let cut_off = content
            .as_chunks::<SLOT_BYTES>()
            .0
            .iter()
            .filter_map(read)
            .collect();
        Ok(PreviousRun {
            under_way: Self {
                file,
                slots: Mutex::default(),
            },
            cut_off,
            was_noted,
        })
    }

    /// Empties the file, once what it held is in the ledger.
    pub(super) fn forget_last_run(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// Notes that an attempt begins.
    pub(super) fn begin(self: &Arc<Self>, attempt: InterruptedAttempt) -> io::Result<JournalEntry> {
        let slot = self.with_slots(|slots| {
            slots.free.pop().unwrap_or_else(|| {
                slots.count += 1;
                slots.count - 1
            })
        });
        if let Err(error) = self
            .file
            .write_all_at(&written(attempt), slot * SLOT_BYTES as u64)
        {
            self.with_slots(|slots| slots.free.push(slot));
            return Err(error);
        }
        Ok(JournalEntry {
            all: Arc::clone(self),
            slot,
        })
    }

    fn with_slots<T>(&self, change: impl FnOnce(&mut Slots) -> T) -> T {
        change(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl JournalEntry {
    /// The attempt's outcome is recorded.
    pub(crate) fn clear(self) {
        // A note that can't be cleared marks one event too many after a crash; the slot is not used again.
        if self
            .all
            .file
            .write_all_at(&[0; SLOT_BYTES], self.slot * SLOT_BYTES as u64)
            .is_ok()
        {
            self.all.with_slots(|slots| slots.free.push(self.slot));
        }
    }
}

fn written(attempt: InterruptedAttempt) -> [u8; SLOT_BYTES] {
    let (name, window, attempts, mark) = match attempt {
        InterruptedAttempt::Event { key, tried, window } => (
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

fn read(slot: &[u8; SLOT_BYTES]) -> Option<InterruptedAttempt> {
    let (name, rest) = slot.split_first_chunk()?;
    let (window, rest) = rest.split_first_chunk()?;
    let (attempts, mark) = rest.split_first_chunk()?;
    let name = u128::from_be_bytes(*name);
    match u32::from_be_bytes(*mark.first_chunk()?) {
        EVENT => Some(InterruptedAttempt::Event {
            key: EventKey(name),
            tried: AttemptHistory {
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
            tried,
            window: Duration::from_secs(100),
        }
    }

    fn opened(folder: &Path) -> (Arc<AttemptJournal>, Vec<InterruptedAttempt>) {
        let PreviousRun {
            under_way, cut_off, ..
        } = AttemptJournal::open(folder).unwrap();
        (Arc::new(under_way), cut_off)
    }

    #[test]
    fn what_was_under_way_is_found_by_the_next_run_and_what_ended_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (under_way, nothing) = opened(folder.path());
        assert!(nothing.is_empty());
        let ended = under_way.begin(event(1, 1)).unwrap();
        drop(under_way.begin(event(u128::MAX, 3)).unwrap());
        ended.clear();
        let stored = InterruptedAttempt::Delivery(DeliveryId(i64::MAX));
        assert_eq!(
            under_way.begin(stored).unwrap().slot,
            0,
            "a slot is used again"
        );
        let (_, found) = opened(folder.path());
        assert_eq!(found, [stored, event(u128::MAX, 3)]);
    }

    #[test]
    fn a_torn_or_foreign_slot_is_no_event() {
        let folder = tempfile::tempdir().unwrap();
        let torn = [&[7_u8; 96][..], &written(event(1, 1))[..31]].concat();
        std::fs::write(folder.path().join(FILE), torn).unwrap();
        assert!(opened(folder.path()).1.is_empty());
    }
}
