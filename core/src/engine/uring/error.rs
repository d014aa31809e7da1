//! What can go wrong when an engine is set up or a buffer registered.

use std::fmt;

/// An engine could not be made, or memory not be registered with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UringError {
    /// The kernel lets this process have no ring.
    Disabled {
        /// errno of io_uring_setup.
        errno: i32,
        /// Value of the sysctl `kernel.io_uring_disabled`, if it can be read.
        sysctl: Option<u32>,
    },
    /// A system call failed.
    Os {
        /// Which.
        op: &'static str,
        /// The errno.
        errno: i32,
    },
    /// Pinning the pages would exceed what this user may lock.
    Memlock {
        /// Bytes to be pinned.
        bytes: u64,
        /// RLIMIT_MEMLOCK, bytes.
        limit: u64,
    },
    /// All buffer slots are taken: see [`super::Builder::buffers`].
    BufferSlots {
        /// Slots that it takes (one a GiB begun).
        wanted: usize,
        /// Slots there are.
        slots: u32,
    },
    /// This kernel has no table of buffers that can grow (Linux 5.19): operations use plain addresses.
    NoBuffers,
    /// No file was given.
    NoFile,
    /// More than [`super::MAX_FILES`] files.
    TooManyFiles {
        /// How many.
        files: usize,
    },
    /// [`super::Fence::DataSync`] on a ring asked to be IOPOLL: the kernel syncs on no such ring.
    SyncOnIopoll,
    /// The kernel may drop completions (older than Linux 5.5).
    DropsCompletions,
}

impl fmt::Display for UringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UringError::Disabled { errno, sysctl: Some(sysctl) } if *sysctl != 0 => write!(
                f,
                "io_uring is switched off (errno {errno}, kernel.io_uring_disabled is {sysctl}): as root, \
                 `sysctl kernel.io_uring_disabled=0`, or for value 1 join the group that \
                 kernel.io_uring_group names"
            ),
            UringError::Disabled { errno, .. } => write!(
                f,
                "io_uring_setup is refused (errno {errno}): the kernel is built without CONFIG_IO_URING, or a \
                 seccomp filter (a container's, a service's) must allow io_uring_setup, io_uring_enter and \
                 io_uring_register"
            ),
            UringError::Os { op, errno } => write!(f, "{op}: errno {errno}"),
            UringError::Memlock { bytes, limit } => write!(
                f,
                "pinning {bytes} bytes exceeds RLIMIT_MEMLOCK, {limit} bytes for all that this user has pinned: \
                 raise it by {} KiB (`ulimit -l {}`, LimitMEMLOCK= of the service, /etc/security/limits.conf), or \
                 give CAP_IPC_LOCK",
                bytes.div_ceil(1024),
                limit.saturating_add(*bytes).div_ceil(1024)
            ),
            UringError::BufferSlots { wanted, slots } => {
                write!(
                    f,
                    "{wanted} buffer slots are not free (of {slots}): build the engine with more, or drop a registration"
                )
            }
            UringError::NoBuffers => {
                write!(
                    f,
                    "this kernel has no sparse table of buffers (Linux 5.19): operations use plain addresses"
                )
            }
            UringError::NoFile => write!(f, "no file was given: see Builder::file"),
            UringError::TooManyFiles { files } => {
                write!(f, "{files} files: one engine takes {}", super::MAX_FILES)
            }
            UringError::SyncOnIopoll => {
                write!(
                    f,
                    "fences that sync data need a ring without IOPOLL: the kernel syncs on no such ring"
                )
            }
            UringError::DropsCompletions => {
                write!(f, "this kernel may drop completions (io_uring needs Linux 5.5)")
            }
        }
    }
}

impl std::error::Error for UringError {}

pub(super) fn os(op: &'static str, error: &std::io::Error) -> UringError {
    UringError::Os { op, errno: error.raw_os_error().unwrap_or(0) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_set() {
        let memlock = UringError::Memlock { bytes: 1 << 20, limit: 8 << 20 }.to_string();
        assert!(memlock.contains("ulimit -l 9216"), "{memlock}");
        assert!(memlock.contains("CAP_IPC_LOCK"), "{memlock}");
        let off = UringError::Disabled { errno: 1, sysctl: Some(2) }.to_string();
        assert!(off.contains("sysctl kernel.io_uring_disabled=0"), "{off}");
        let seccomp = UringError::Disabled { errno: 1, sysctl: Some(0) }.to_string();
        assert!(seccomp.contains("seccomp"), "{seccomp}");
    }
}
