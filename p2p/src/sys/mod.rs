//! System calls: the only module of this crate with `unsafe`.
//!
//! Thin wrappers over the ioctls of VFIO and iommufd, eventfd and mmap. Each is safe, takes descriptors and
//! numbers but never an address, checks what the kernel answers, and keeps its errno. Numbers, layouts and
//! errno come from the uAPI headers of Linux 7.3 (`include/uapi/linux/{vfio,iommufd}.h`).
//!
//! Tests: `number::tests` (every ioctl number, every layout), `bar::tests` (mapping, bounds, alignment; run
//! them under ASAN), `p2p/tests/vfio_guest.rs` (the calls on a real kernel).
#![expect(unsafe_code, reason = "ioctl, eventfd, mmap and volatile access have no safe form")]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub(crate) mod bar;
pub(crate) mod iommufd;
mod number;
pub(crate) mod vfio;

use crate::backend::BackendError;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What a system call answered instead of success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    /// This thread's `errno`.
    fn last() -> Errno {
        io::Error::last_os_error().into()
    }

    /// The error with the call it came from.
    pub(crate) fn of(self, op: &'static str) -> BackendError {
        BackendError::Os { op, errno: self.0 }
    }
}

impl From<io::Error> for Errno {
    /// EIO for an error that carries no errno (a short read or write).
    fn from(error: io::Error) -> Errno {
        Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// A new eventfd, close-on-exec, non-blocking. One syscall.
pub(crate) fn eventfd() -> Result<File, Errno> {
    // SAFETY: eventfd takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    // SAFETY: the kernel just made this descriptor; nobody else has it.
    unsafe { owned(fd) }.map(File::from)
}

/// Locks the open file against every other open of it (flock), or says EWOULDBLOCK. Let go when the file is closed, so
/// also when the process ends. One syscall.
pub(crate) fn try_lock(file: &File) -> Result<(), Errno> {
    // SAFETY: flock takes a descriptor and a number.
    let answer = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if answer == 0 { Ok(()) } else { Err(Errno::last()) }
}

/// One ioctl; returns its non-negative answer.
///
/// # Safety
/// 1. `number` is an ioctl whose argument is a `T`, so the kernel touches no more than `size_of::<T>()` bytes
///    behind `argument`, or the `argsz`/`size` that `T` starts with tells it a size that `argument` really has.
/// 2. An address inside `T` is valid for what the ioctl does with it.
unsafe fn ioctl<T>(fd: BorrowedFd<'_>, number: u32, argument: &mut T) -> Result<libc::c_int, Errno> {
    let argument: *mut T = argument;
    // SAFETY: (1) and (2) are the caller's.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), number as libc::Ioctl, argument) };
    if answer < 0 { Err(Errno::last()) } else { Ok(answer) }
}

/// Takes the descriptor that a system call returned; a negative answer is an error in `errno`.
///
/// # Safety
/// `fd` is negative, or a descriptor that the kernel just made and that nobody else owns.
unsafe fn owned(fd: libc::c_int) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: by this function's contract the descriptor is open and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn an_eventfd_is_empty_until_signalled_and_once_read() {
        let fd = eventfd().unwrap();
        let mut word = [0; 8];
        assert_eq!((&fd).read(&mut word).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        (&fd).write_all(&3u64.to_ne_bytes()).unwrap();
        assert_eq!((&fd).read(&mut word).unwrap(), 8);
        assert_eq!(u64::from_ne_bytes(word), 3);
        assert_eq!((&fd).read(&mut word).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn errno_is_kept() {
        let plain = File::open("/proc/self/cmdline").unwrap();
        use std::os::fd::AsFd;
        assert_eq!(vfio::reset(plain.as_fd()), Err(Errno(libc::ENOTTY)));
        assert_eq!(
            Errno(libc::ENOTTY).of("VFIO_DEVICE_RESET"),
            BackendError::Os { op: "VFIO_DEVICE_RESET", errno: libc::ENOTTY }
        );
    }
}
