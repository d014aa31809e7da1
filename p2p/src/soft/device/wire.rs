//! The far side of a NIC's cable.

use super::super::lock;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

/// A cable plugged into a soft NIC: what a test or a demo streams frames through. Cheap to clone.
#[derive(Clone)]
pub struct Wire {
    frames: Arc<Mutex<Frames>>,
    mtu: u32,
    wake: Arc<dyn Fn() + Send + Sync>,
}

/// Why a frame was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The cable holds as many frames as it can: try again when the NIC has taken some.
    #[error("the wire holds {held} frames already")]
    Full {
        /// Frames that wait.
        held: usize,
    },
    /// Empty, or longer than the MTU.
    #[error("a frame of {len} bytes (1 to {mtu} allowed)")]
    Length {
        /// Bytes given.
        len: usize,
        /// Longest frame.
        mtu: u32,
    },
}

#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Towards the NIC.
    pub(super) inward: VecDeque<Vec<u8>>,
    /// From the NIC.
    pub(super) outward: VecDeque<Vec<u8>>,
    taken: u64,
    capacity: usize,
}

impl Frames {
    /// The next frame for the NIC.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let frame = self.inward.pop_front()?;
        self.taken += 1;
        Some(frame)
    }

    /// May the NIC send a frame?
    pub(super) fn has_room(&self) -> bool {
        self.outward.len() < self.capacity
    }
}

impl Wire {
    pub(super) fn new(capacity: usize, mtu: u32) -> Wire {
        let frames = Frames { capacity, ..Frames::default() };
        Wire { frames: Arc::new(Mutex::new(frames)), mtu, wake: Arc::new(|| {}) }
    }

    /// The same cable, whose sends call `wake`.
    pub(crate) fn waking(&self, wake: Arc<dyn Fn() + Send + Sync>) -> Wire {
        Wire { wake, ..self.clone() }
    }

    /// Puts one frame on the cable, towards the NIC. Nothing is ever lost on it.
    ///
    /// # Errors
    /// [`WireError::Full`] and [`WireError::Length`]; the frame is not taken.
    pub fn send(&self, frame: &[u8]) -> Result<(), WireError> {
        let len = frame.len();
        if len == 0 || len > self.mtu as usize {
            return Err(WireError::Length { len, mtu: self.mtu });
        }
        let mut frames = lock(&self.frames);
        let held = frames.inward.len();
        if held >= frames.capacity {
            return Err(WireError::Full { held });
        }
        frames.inward.push_back(frame.to_vec());
        drop(frames);
        (self.wake)();
        Ok(())
    }

    /// The next frame that the NIC sent.
    pub fn recv(&self) -> Option<Vec<u8>> {
        let frame = lock(&self.frames).outward.pop_front();
        if frame.is_some() {
            (self.wake)();
        }
        frame
    }

    /// Takes back all frames that wait for the NIC; returns how many there were.
    pub fn clear(&self) -> usize {
        std::mem::take(&mut lock(&self.frames).inward).len()
    }

    /// Frames that fit in each direction.
    pub fn capacity(&self) -> usize {
        lock(&self.frames).capacity
    }

    /// Frames that wait for the NIC.
    pub fn waiting(&self) -> usize {
        lock(&self.frames).inward.len()
    }

    /// Frames that the NIC has taken off the cable so far.
    pub fn sent(&self) -> u64 {
        lock(&self.frames).taken
    }

    /// Longest frame in bytes.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    pub(super) fn frames(&self) -> std::sync::MutexGuard<'_, Frames> {
        lock(&self.frames)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("frames", &self.frames).field("mtu", &self.mtu).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_wire_refuses_and_loses_nothing() {
        let w = Wire::new(1, 16);
        assert_eq!(w.send(&[0; 17]), Err(WireError::Length { len: 17, mtu: 16 }));
        assert_eq!(w.send(&[]), Err(WireError::Length { len: 0, mtu: 16 }));
        assert_eq!(w.send(&[1]), Ok(()));
        assert_eq!(w.send(&[2]), Err(WireError::Full { held: 1 }));
        assert_eq!(w.frames().take(), Some(vec![1]));
        assert_eq!((w.sent(), w.waiting()), (1, 0));
    }
}
