//! A file of blocks that exist already, so that a direct and synchronous write is all that
//! durability takes.

use std::fs::{self, File, OpenOptions};
use std::io::Result;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The unit in which a disk is written directly.
pub const BLOCK: usize = 4096;
/// The length of one write: more records are written in several.
const WRITE_MAX: usize = 256 << 10;

/// A segment that is written from front to back, and then from its front again.
pub struct Segment {
    file: File,
    bytes: usize,
    position: usize,
    /// A block more than a write takes, so that `aligned` bytes into it a block can begin.
    buffer: Vec<u8>,
    aligned: usize,
}

impl Segment {
    /// Creates a segment of zeros; `bytes` is a multiple of the longest write.
    pub fn create(path: &Path, bytes: usize) -> Result<Self> {
        assert!(bytes > 0 && bytes.is_multiple_of(WRITE_MAX), "whole writes fit");
        fs::write(path, vec![0; bytes])?;
        File::open(path)?.sync_all()?;
        let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(path);
        // Not every file system can leave out the page cache.
        let file = open(libc::O_DSYNC | libc::O_DIRECT).or_else(|_| open(libc::O_DSYNC))?;
        let buffer = vec![0; WRITE_MAX + BLOCK];
        let aligned = buffer.as_ptr().align_offset(BLOCK);
        Ok(Self { file, bytes, position: 0, buffer, aligned })
    }

    /// Writes `records` in whole blocks, and returns once they are on disk.
    pub fn append(&mut self, records: &[u8]) -> Result<()> {
        for part in records.chunks(WRITE_MAX) {
            let blocks = &mut self.buffer[self.aligned..][..part.len().next_multiple_of(BLOCK)];
            blocks[..part.len()].copy_from_slice(part);
            blocks[part.len()..].fill(0);
            if self.position + blocks.len() > self.bytes {
                self.position = 0;
            }
            self.file.write_all_at(blocks, self.position as u64)?;
            self.position += blocks.len();
        }
        Ok(())
    }
}
