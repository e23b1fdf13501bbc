//! What is being handed over at this moment, in a file that outlives the process: after a crash, those are the events
//! of which nobody knows whether they arrived.
//!
//! It is written without a flush, so it survives the end of the process, however it ends, and not the loss of power:
//! an attempt is not worth a flush of its own. A slot is written before the first byte is sent, and cleared when the
//! outcome is in the ledger.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{EventKey, Tried};

const FILE: &str = "hookgate.underway";

/// Key (16 bytes), window in milliseconds (8), attempts with this one (4), and a mark that the slot is in use (4).
const SLOT_BYTES: usize = 32;
const IN_USE: u32 = 0x686f_6f6b;

pub(super) struct UnderWay {
    file: File,
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    free: Vec<u64>,
    /// Slots in the file.
    count: u64,
}

/// An attempt that is under way: cleared on drop.
pub struct Underway {
    all: Arc<UnderWay>,
    slot: u64,
    /// Left as it is: the outcome is known nowhere else.
    kept: bool,
}

/// An event whose attempt was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CutOff {
    pub key: EventKey,
    pub tried: Tried,
    pub window: Duration,
}

impl UnderWay {
    /// Opens the file and reads what the last run left in it. It stays there until [`UnderWay::forget_last_run`].
    pub(super) fn open(folder: &Path) -> io::Result<(Self, Vec<CutOff>)> {
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(FILE));
        let mut file = options?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let cut_off = content.as_chunks::<SLOT_BYTES>().0.iter().filter_map(read).collect();
        Ok((Self { file, slots: Mutex::default() }, cut_off))
    }

    /// Empties the file, once what it held is in the ledger.
    pub(super) fn forget_last_run(&self) -> io::Result<()> {
        self.file.set_len(0)
    }

    /// Notes that an attempt begins.
    pub(super) fn begin(self: &Arc<Self>, key: EventKey, attempts: u32, window: Duration) -> io::Result<Underway> {
        let slot = self.with_slots(|slots| {
            slots.free.pop().unwrap_or_else(|| {
                slots.count += 1;
                slots.count - 1
            })
        });
        let underway = Underway { all: Arc::clone(self), slot, kept: false };
        self.file.write_all_at(&written(key, attempts, window), slot * SLOT_BYTES as u64)?;
        Ok(underway)
    }

    fn with_slots<T>(&self, change: impl FnOnce(&mut Slots) -> T) -> T {
        change(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Underway {
    /// Leaves the note for the next run.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // A note that can't be cleared marks one event too many after a crash; the slot is not used again.
        if self.all.file.write_all_at(&[0; SLOT_BYTES], self.slot * SLOT_BYTES as u64).is_ok() {
            self.all.with_slots(|slots| slots.free.push(self.slot));
        }
    }
}

fn written(key: EventKey, attempts: u32, window: Duration) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..16].copy_from_slice(&key.0.to_be_bytes());
    slot[16..24].copy_from_slice(&u64::try_from(window.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
    slot[24..28].copy_from_slice(&attempts.to_be_bytes());
    slot[28..].copy_from_slice(&IN_USE.to_be_bytes());
    slot
}

fn read(slot: &[u8; SLOT_BYTES]) -> Option<CutOff> {
    let (key, rest) = slot.split_first_chunk()?;
    let (window, rest) = rest.split_first_chunk()?;
    let (attempts, mark) = rest.split_first_chunk()?;
    if *mark != IN_USE.to_be_bytes() {
        return None;
    }
    Some(CutOff {
        key: EventKey(u128::from_be_bytes(*key)),
        tried: Tried { attempts: u32::from_be_bytes(*attempts), possibly_delivered: true },
        window: Duration::from_millis(u64::from_be_bytes(*window)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(100);

    fn opened(folder: &Path) -> (Arc<UnderWay>, Vec<CutOff>) {
        let (under_way, cut_off) = UnderWay::open(folder).unwrap();
        (Arc::new(under_way), cut_off)
    }

    #[test]
    fn what_was_under_way_is_found_by_the_next_run_and_what_ended_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (under_way, nothing) = opened(folder.path());
        assert!(nothing.is_empty());
        let ended = under_way.begin(EventKey(1), 1, WINDOW).unwrap();
        let cut_off = under_way.begin(EventKey(u128::MAX), 3, WINDOW).unwrap();
        drop(ended);
        let another = under_way.begin(EventKey(2), 1, WINDOW).unwrap();
        assert_eq!(another.slot, 0, "a slot is used again");
        another.keep();
        std::mem::forget(cut_off);
        let (_, found) = opened(folder.path());
        let tried = |attempts| Tried { attempts, possibly_delivered: true };
        assert_eq!(
            found,
            [
                CutOff { key: EventKey(2), tried: tried(1), window: WINDOW },
                CutOff { key: EventKey(u128::MAX), tried: tried(3), window: WINDOW },
            ]
        );
    }

    #[test]
    fn a_torn_or_foreign_slot_is_no_event() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), [&[7_u8; 100][..], &written(EventKey(1), 1, WINDOW)[..31]].concat())
            .unwrap();
        assert!(opened(folder.path()).1.is_empty());
    }
}
