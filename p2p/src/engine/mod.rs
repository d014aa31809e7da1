//! What drives devices: register and descriptor layouts, and the queues built on them.
//!
//! Everything here is generic over [`crate::backend::Registers`] and [`Words`], so that one text drives a soft
//! device and a real one. Nothing here blocks, and nothing but opening and disabling a queue reads a register.

pub mod edu;
pub mod softnic;

/// Host memory that a device reaches too, in 64-bit little-endian words at multiples of 8 bytes.
///
/// An implementation makes each access volatile or atomic. Past the end: reads zero, writes are dropped.
pub trait Words: Send + 'static {
    /// Loads a word; nothing that follows is read before it (Acquire).
    fn load(&self, at: u64) -> u64;
    /// Stores a word.
    fn store(&self, at: u64, value: u64);
    /// Bytes.
    fn len(&self) -> u64;
    /// True for no memory.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A device could not be taken into use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Registers read all-ones.
    #[error("the device does not answer (register {at:#x} reads all-ones)")]
    Gone {
        /// The register.
        at: u64,
    },
    /// Another device, or another version of it.
    #[error("register {at:#x} reads {found:#x}, expected {expected:#x}")]
    Identity {
        /// The register.
        at: u64,
        /// What it read.
        found: u32,
        /// What the engine drives.
        expected: u32,
    },
    /// The queue is in use, or does not exist.
    #[error("queue {queue} is in use or does not exist (status {status:#x})")]
    Queue {
        /// The queue.
        queue: u32,
        /// Its status register.
        status: u32,
    },
    /// The rings do not fit their memory, or their size is not a power of two in the device's range.
    #[error("{entries} entries need {needed:#x} bytes of ring memory, {given:#x} given")]
    Rings {
        /// Entries asked for.
        entries: u32,
        /// Bytes that they need; 0 when the device has no such ring.
        needed: u64,
        /// Bytes given.
        given: u64,
    },
}

/// The device stopped answering: a register that cannot hold all-ones did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device does not answer")]
pub struct Gone;

#[cfg(test)]
pub(crate) mod testing {
    use super::Words;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    /// Words of a file, as a mapping of it would show them.
    pub(crate) struct FileWords(pub(crate) File);

    impl Words for FileWords {
        fn load(&self, at: u64) -> u64 {
            let mut raw = [0; 8];
            self.0.read_exact_at(&mut raw, at).map_or(0, |()| u64::from_le_bytes(raw))
        }

        fn store(&self, at: u64, value: u64) {
            self.0.write_all_at(&value.to_le_bytes(), at).unwrap();
        }

        fn len(&self) -> u64 {
            self.0.metadata().unwrap().len()
        }
    }
}
