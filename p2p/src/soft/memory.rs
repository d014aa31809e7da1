//! Bytes that several parties reach: memory BARs of devices, and the host memory that a caller maps.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;

/// Which file bytes belong to, whatever descriptor they are reached through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl FileId {
    /// The identity of an open file. One syscall.
    ///
    /// # Errors
    /// errno of `fstat`.
    pub fn of(file: &File) -> io::Result<FileId> {
        let meta = file.metadata()?;
        Ok(FileId { device: meta.dev(), inode: meta.ino() })
    }
}

/// `len` zero bytes of shared memory in a file that never had a name (what memfd_create makes, without unsafe
/// code): tmpfs where there is one. Two syscalls.
///
/// # Errors
/// errno of `open` or `ftruncate`.
pub fn anonymous_file(len: u64) -> io::Result<File> {
    let open = |dir: &std::path::Path| {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(dir)
    };
    let file = open("/dev/shm".as_ref()).or_else(|_| open(&std::env::temp_dir()))?;
    file.set_len(len)?;
    Ok(file)
}

/// A file of bytes without a name.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    file: Arc<File>,
    id: FileId,
    len: u64,
}

impl Memory {
    /// [`anonymous_file`].
    pub(super) fn anonymous(len: u64) -> io::Result<Memory> {
        let file = anonymous_file(len)?;
        Ok(Memory { id: FileId::of(&file)?, file: Arc::new(file), len })
    }

    /// The memory behind a caller's descriptor; holds its own reference to the file.
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Memory> {
        let file = File::from(fd.try_clone_to_owned()?);
        let meta = file.metadata()?;
        let id = FileId { device: meta.dev(), inode: meta.ino() };
        Ok(Memory { file: Arc::new(file), id, len: meta.len() })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn id(&self) -> FileId {
        self.id
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `into`; what cannot be read stays all-ones.
    pub(super) fn read(&self, at: u64, into: &mut [u8]) {
        if self.file.read_exact_at(into, at).is_err() {
            into.fill(0xff);
        }
    }

    /// Writes `data`, or nothing at all past the end: a file must not grow by DMA.
    pub(super) fn write(&self, at: u64, data: &[u8]) {
        let inside = at.checked_add(data.len() as u64).is_some_and(|end| end <= self.len);
        if inside {
            // A failed write is a dropped write, as on a bus.
            let _dropped = self.file.write_all_at(data, at);
        }
    }

    /// Writes zeros over `range`.
    pub(super) fn scrub(&self, range: Range<u64>) {
        let zeros = [0_u8; 4096];
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(zeros.len() as u64);
            self.write(at, zeros.get(..len as usize).unwrap_or(&[]));
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn both_descriptors_of_a_file_are_one_memory() {
        let a = Memory::anonymous(8192).unwrap();
        let b = Memory::of(a.file().as_fd()).unwrap();
        assert_eq!(a.id(), b.id());
        a.write(4090, &[7; 12]);
        let mut got = [0; 12];
        b.read(4090, &mut got);
        assert_eq!(got, [7; 12]);
        b.scrub(4096..8192);
        a.read(4090, &mut got);
        assert_eq!(got, [7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn past_the_end_reads_ones_and_never_grows() {
        let a = Memory::anonymous(4096).unwrap();
        let mut got = [0; 8];
        a.read(4092, &mut got);
        assert_eq!(got, [0xff; 8]);
        a.write(4092, &[1; 8]);
        a.write(u64::MAX, &[1; 8]);
        assert_eq!(a.file().metadata().unwrap().len(), 4096);
    }
}
