//! A row of the ledger's file as bytes. Pure.
//!
//! Numbers are little-endian:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..16 | the event's key |
//! | 16..32 | the digest of a completed event; or the number of attempts (4), and zeros |
//! | 32..38 | the uptime at which the row expires, in milliseconds |
//! | 38..44 | the delivery's number, 0 for none |
//! | 44..50 | the number of the commit that wrote the row last |
//! | 50..54 | the route's number, 0 if it is not known |
//! | 54..59 | if that commit deleted the row, the number of commits since it was written first, or else 0 |
//! | 59 | the kind: [`COMPLETED`], [`ATTEMPTED`] or [`POSSIBLY_DELIVERED`], with [`DELETED`] added |
//! | 60..64 | the CRC-32C of the slot's number (4 bytes) and the bytes before |
//!
//! A slot of zeros was never written. A deleted row keeps its content, so that a copy of the store as
//! it was before can still be made.

use super::super::{AttemptHistory, DeliveryId, EventKey, LedgerEntry};
use crate::signature::PayloadDigest;
use crate::store::uptime::Uptime;

/// The size of a row, in bytes.
pub(in super::super) const ROW_BYTES: usize = 64;

/// The kinds of rows.
const COMPLETED: u8 = 1;
const ATTEMPTED: u8 = 2;
const POSSIBLY_DELIVERED: u8 = 3;
/// Added to the kind of a row that was deleted.
const DELETED: u8 = 0x80;

/// The largest number of 6 bytes. As an expiry, in milliseconds of uptime, it is some 8,900 years.
const LONG_MAX: u64 = (1 << 48) - 1;
/// The largest number of 5 bytes.
const AGE_MAX: u64 = (1 << 40) - 1;

/// A remembered event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct LedgerRow {
    pub key: EventKey,
    pub entry: LedgerEntry,
    pub ends: Uptime,
    pub delivery: Option<DeliveryId>,
    /// The number of the route in the database; `None` if it is not known.
    pub route: Option<i64>,
    /// The number of the commit that wrote the row.
    pub written: i64,
    /// The number of the commit that deleted it.
    pub deleted: Option<i64>,
}

/// The content of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum SlotContent {
    /// The slot was never written.
    Empty,
    Row(LedgerRow),
    /// The bytes are not what was written.
    Damaged,
}

impl LedgerRow {
    /// Returns the time until which a row is remembered that ends then: what a row can hold.
    pub(in super::super) fn bounded(ends: Uptime) -> Uptime {
        Uptime(ends.0.min(LONG_MAX))
    }

    /// Returns whether the row existed at a commit: it was not written later, and not deleted before.
    pub(in super::super) fn existed_at(&self, commit: i64) -> bool {
        self.written <= commit && self.deleted.is_none_or(|deleted| deleted > commit)
    }

    /// Returns the number of the commit that wrote the row last.
    pub(in super::super) fn last_commit(&self) -> i64 {
        self.deleted.unwrap_or(self.written)
    }

    /// Returns the row as it was at a commit, of which it will be. A row that did not exist then never
    /// has.
    pub(in super::super) fn undone_to(&self, commit: i64) -> Self {
        if self.written > commit {
            Self {
                written: commit,
                deleted: Some(commit),
                ..*self
            }
        } else {
            Self {
                deleted: None,
                ..*self
            }
        }
    }

    /// Returns whether the event is remembered at this time.
    pub(in super::super) fn is_live(&self, now: Uptime) -> bool {
        self.deleted.is_none() && self.ends > now
    }

    /// Returns the digest of a completed event, or else the history of its attempts.
    pub(in super::super) fn columns(&self) -> (Option<[u8; 16]>, AttemptHistory) {
        match self.entry {
            LedgerEntry::Completed { digest } => {
                (Some(digest.to_bytes()), AttemptHistory::default())
            }
            LedgerEntry::Attempted(tried) => (None, tried),
        }
    }

    pub(in super::super) fn encode(&self, slot: u32) -> [u8; ROW_BYTES] {
        let mut bytes = [0; ROW_BYTES];
        bytes[..16].copy_from_slice(&self.key.0.to_le_bytes());
        let kind = match self.entry {
            LedgerEntry::Completed { digest } => {
                bytes[16..32].copy_from_slice(&digest.to_bytes());
                COMPLETED
            }
            LedgerEntry::Attempted(tried) => {
                bytes[16..20].copy_from_slice(&tried.attempts.to_le_bytes());
                if tried.possibly_delivered {
                    POSSIBLY_DELIVERED
                } else {
                    ATTEMPTED
                }
            }
        };
        let long = |number: u64| number.min(LONG_MAX).to_le_bytes();
        let number = |number: i64| long(u64::try_from(number).unwrap_or(0));
        bytes[32..38].copy_from_slice(&long(self.ends.0)[..6]);
        bytes[38..44].copy_from_slice(&number(self.delivery.map_or(0, |id| id.0))[..6]);
        bytes[44..50].copy_from_slice(&number(self.last_commit())[..6]);
        let route = self.route.and_then(|route| u32::try_from(route).ok());
        bytes[50..54].copy_from_slice(&route.unwrap_or(0).to_le_bytes());
        let age = u64::try_from(self.last_commit() - self.written).unwrap_or(0);
        bytes[54..59].copy_from_slice(&age.min(AGE_MAX).to_le_bytes()[..5]);
        bytes[59] = kind | if self.deleted.is_some() { DELETED } else { 0 };
        let checksum = checksum(slot, &bytes);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(in super::super) fn decode(slot: u32, bytes: &[u8; ROW_BYTES]) -> SlotContent {
        if *bytes == [0; ROW_BYTES] {
            return SlotContent::Empty;
        }
        match Self::decode_written(slot, bytes) {
            Some(row) => SlotContent::Row(row),
            None => SlotContent::Damaged,
        }
    }

    fn decode_written(slot: u32, bytes: &[u8; ROW_BYTES]) -> Option<Self> {
        let mut rest = &bytes[..];
        let key = u128::from_le_bytes(take_array(&mut rest)?);
        let content: [u8; 16] = take_array(&mut rest)?;
        let ends = from_bytes(take_array::<6>(&mut rest)?);
        let delivery = from_bytes(take_array::<6>(&mut rest)?).cast_signed();
        let last_commit = from_bytes(take_array::<6>(&mut rest)?).cast_signed();
        let route = u32::from_le_bytes(take_array(&mut rest)?);
        let age = from_bytes(take_array::<5>(&mut rest)?).cast_signed();
        let [kind] = take_array(&mut rest)?;
        if u32::from_le_bytes(take_array(&mut rest)?) != checksum(slot, bytes) {
            return None;
        }
        let [attempts, _, _, _] = content.as_chunks::<4>().0 else {
            return None;
        };
        let tried = |possibly_delivered| {
            LedgerEntry::Attempted(AttemptHistory {
                attempts: u32::from_le_bytes(*attempts),
                possibly_delivered,
            })
        };
        Some(Self {
            key: EventKey(key),
            entry: match kind & !DELETED {
                COMPLETED => LedgerEntry::Completed {
                    digest: PayloadDigest::from_bytes(content),
                },
                ATTEMPTED => tried(false),
                POSSIBLY_DELIVERED => tried(true),
                _ => return None,
            },
            ends: Uptime(ends),
            delivery: (delivery != 0).then_some(DeliveryId(delivery)),
            route: (route != 0).then_some(route.into()),
            written: last_commit - age,
            deleted: (kind & DELETED != 0).then_some(last_commit),
        })
    }
}

/// Returns the checksum of a slot's bytes, which leaves out the checksum itself.
pub(super) fn checksum(slot: u32, bytes: &[u8; ROW_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&slot.to_le_bytes()), &bytes[..60])
}

/// Returns the number that these bytes are, of which there are at most 8.
fn from_bytes<const N: usize>(bytes: [u8; N]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Takes the first bytes of a slice, as many as the result has; `None` if there are fewer.
pub(in super::super) fn take_array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows() -> impl Strategy<Value = LedgerRow> {
        let entry = prop_oneof![
            any::<[u8; 16]>().prop_map(|digest| LedgerEntry::Completed {
                digest: PayloadDigest::from_bytes(digest),
            }),
            any::<(u32, bool)>().prop_map(|(attempts, possibly_delivered)| {
                LedgerEntry::Attempted(AttemptHistory {
                    attempts,
                    possibly_delivered,
                })
            }),
        ];
        let numbers = (1..1_i64 << 48, 0..1_i64 << 40, 1..=i64::from(u32::MAX));
        (
            any::<u128>(),
            entry,
            0..=LONG_MAX,
            numbers,
            any::<[bool; 3]>(),
        )
            .prop_map(
                |(
                    key,
                    entry,
                    ends,
                    (delivery, written, route),
                    [has_delivery, has_route, is_deleted],
                )| {
                    LedgerRow {
                        key: EventKey(key),
                        entry,
                        ends: Uptime(ends),
                        delivery: has_delivery.then_some(DeliveryId(delivery)),
                        route: has_route.then_some(route),
                        written,
                        deleted: is_deleted.then_some(written + i64::from(u16::MAX)),
                    }
                },
            )
    }

    #[test]
    fn undone_row_is_as_it_was() {
        let row = |written, deleted| LedgerRow {
            key: EventKey(1),
            entry: LedgerEntry::Attempted(AttemptHistory::default()),
            ends: Uptime(1),
            delivery: None,
            route: None,
            written,
            deleted,
        };
        for (written, deleted, existed) in [
            (5, None, true),
            (5, Some(6), true),
            (5, Some(5), false),
            (6, None, false),
            (6, Some(7), false),
        ] {
            let row = row(written, deleted);
            assert_eq!(row.existed_at(5), existed);
            let undone = row.undone_to(5);
            if row.last_commit() > 5 {
                assert_eq!(undone.is_live(Uptime(0)), existed);
                assert_eq!(undone.existed_at(100), existed, "for good");
            }
        }
    }

    proptest! {
        #[test]
        fn row_is_read_as_written(row in rows(), slot: u32) {
            let bytes = row.encode(slot);
            prop_assert_eq!(LedgerRow::decode(slot, &bytes), SlotContent::Row(row));
        }

        #[test]
        fn changed_row_is_never_believed(
            row in rows(), slot: u32, byte in 0..ROW_BYTES, bit in 0..8,
        ) {
            let mut bytes = row.encode(slot);
            bytes[byte] ^= 1_u8 << bit;
            prop_assert_eq!(LedgerRow::decode(slot, &bytes), SlotContent::Damaged);
        }

        #[test]
        fn row_of_another_slot_is_never_believed(row in rows(), slot: u32, other: u32) {
            prop_assume!(slot != other);
            prop_assert_eq!(LedgerRow::decode(other, &row.encode(slot)), SlotContent::Damaged);
        }
    }
}
