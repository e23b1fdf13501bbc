//! Measures a durable commit of one record of 400 bytes, and of 32 at once: by a direct, synchronous
//! write to a file that exists, as the commit log does it (`src/store/embedded/commit_log.rs`); by the
//! crates `wal-db` and `writeahead`; and by `fdatasync` of a file that grows.
//!
//! The ways take turns, so that what else the machine does hits all of them. The argument is the folder
//! for their files, which should be on the disk that is meant.

#[path = "../../compare/src/segment.rs"]
mod segment;

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use futures_executor::block_on;
use segment::Segment;
use wal_db::Wal;
use writeahead::{SimpleFile, WriteAhead, WriteAheadOptions, WriteHandle};

/// The size of the log that exists, in bytes.
const LOG_BYTES: usize = 2 << 20;
const RECORD_BYTES: usize = 400;
const ROUNDS: usize = 5;
const TURNS: usize = 15;
const COMMITS_IN_A_TURN: usize = 20;

/// A way to make records durable.
enum Way {
    Direct(Segment),
    WalDb(Wal),
    WriteAhead {
        /// Its thread ends with it.
        _log: WriteAhead<SimpleFile>,
        handle: WriteHandle,
    },
    Growing(File, u64),
}

const NAMES: [&str; 4] = ["direct write", "wal-db", "writeahead", "growing file"];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn open(name: &str, folder: &Path) -> Outcome<Way> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("log");
    Ok(match name {
        "direct write" => Way::Direct(Segment::create(&path, LOG_BYTES)?),
        "wal-db" => Way::WalDb(Wal::open(&path)?),
        "writeahead" => {
            let mut log = WriteAhead::with_options(WriteAheadOptions {
                log_dir: path,
                ..WriteAheadOptions::default()
            });
            log.start()?;
            let handle = log.writer()?;
            Way::WriteAhead { _log: log, handle }
        }
        _ => Way::Growing(File::create(&path)?, 0),
    })
}

impl Way {
    /// Makes all records durable at once.
    fn commit(&mut self, records: &[Vec<u8>]) -> Outcome<()> {
        let bytes = records.concat();
        match self {
            Self::Direct(segment) => segment.append(&bytes)?,
            Self::WalDb(wal) => {
                let _end = wal.append_and_sync(&bytes)?;
            }
            Self::WriteAhead { handle, .. } => {
                block_on(handle.write_batch(records.to_vec()))?;
            }
            Self::Growing(file, end) => {
                file.write_all_at(&bytes, *end)?;
                file.sync_data()?;
                *end += bytes.len() as u64;
            }
        }
        Ok(())
    }
}

/// Returns the median of the values, in microseconds.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() -> Outcome<()> {
    let folder = std::env::args().nth(1).ok_or("which folder?")?;
    for count in [1, 32] {
        let records = vec![vec![0x5a; RECORD_BYTES]; count];
        let mut medians = [const { Vec::new() }; NAMES.len()];
        for _ in 0..ROUNDS {
            let place = Path::new(&folder).join("bench-logs");
            let ways = NAMES.map(|name| open(name, &place.join(name)));
            let mut ways = ways.into_iter().collect::<Outcome<Vec<Way>>>()?;
            let mut times = [const { Vec::new() }; NAMES.len()];
            for _ in 0..TURNS {
                for (way, times) in ways.iter_mut().zip(&mut times) {
                    // Not counted: it pays for what the way before has left behind.
                    way.commit(&records)?;
                    for _ in 0..COMMITS_IN_A_TURN {
                        let began = Instant::now();
                        way.commit(&records)?;
                        times.push(began.elapsed().as_secs_f64() * 1e6);
                    }
                }
            }
            for (medians, times) in medians.iter_mut().zip(&mut times) {
                medians.push(median(times));
            }
            drop(ways);
            std::fs::remove_dir_all(&place)?;
        }
        let medians = medians.map(|mut rounds| median(&mut rounds));
        for (name, time) in NAMES.iter().zip(medians) {
            let ratio = time / medians[0];
            println!("{count:>2} records at once, {name:<12}  {time:>6.0} µs  {ratio:.2}");
        }
    }
    Ok(())
}
