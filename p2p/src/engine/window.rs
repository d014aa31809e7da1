//! What an engine remembers of the windows it wrote, so that a read-back of one can be checked: see
//! [`super`] for the argument.

use super::{code, meet};
use tidegate_core::engine::{Outcome, Target};

/// Windows remembered: as many as a channel remembers as written (`Names` of core).
const WINDOWS: usize = 8;
/// Most bytes compared.
pub(super) const MOST: usize = 16;
/// Fewest bytes compared.
const LEAST: usize = 4;

/// Bytes that were written to a window, and that a dead mapping can't give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof {
    /// Slot of the window.
    region: u32,
    /// Where the first one is, in the device's address space.
    address: u64,
    len: usize,
    bytes: [u8; MOST],
}

impl Proof {
    /// The last telling piece of `data`, which was written to `address`. `None`: all of it could come from a dead
    /// mapping.
    pub(super) fn find(region: u32, address: u64, data: &[u8]) -> Option<Proof> {
        let (n, piece) = data.rchunks(MOST).enumerate().find(|(_, piece)| is_telling(piece))?;
        let before = data.len() - n * MOST - piece.len();
        let mut bytes = [0; MOST];
        bytes.get_mut(..piece.len())?.copy_from_slice(piece);
        Some(Proof { region, address: address.wrapping_add(before as u64), len: piece.len(), bytes })
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// What a buffer holds that must not be taken for the answer.
    pub(super) fn complement(&self) -> [u8; MOST] {
        self.bytes.map(|byte| !byte)
    }

    /// Does a write to `address` touch it?
    pub(super) fn is_in(&self, region: u32, address: u64, len: u64) -> bool {
        self.region == region && meet(self.address, self.len as u64, address, len)
    }

    /// Is `got` what a dead mapping gives?
    fn looks_dead(&self, got: &[u8]) -> bool {
        got.iter().all(|b| *b == 0)
            || got.iter().all(|b| *b == 0xff)
            || got.iter().zip(self.bytes()).all(|(got, byte)| *got == !*byte)
    }
}

/// Bytes that tell a live mapping from a dead one.
fn is_telling(piece: &[u8]) -> bool {
    piece.len() >= LEAST && piece.iter().any(|byte| !matches!(byte, 0 | 0xff))
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    proof: Proof,
    /// Written since the last read-back that was good: if it is not there, that says something. An older one may
    /// have been cleared by a reset or a stop in between, at the end of which the window came back at the same place.
    fresh: bool,
}

/// One proof a window. A full table forgets its oldest window, whose read-backs are unchecked then.
#[derive(Debug, Default)]
pub(super) struct Windows {
    entries: [Option<Entry>; WINDOWS],
    oldest: usize,
}

impl Windows {
    fn entry(&mut self, region: u32) -> Option<&mut Option<Entry>> {
        self.entries.iter_mut().find(|e| e.is_some_and(|e| e.proof.region == region))
    }

    /// `len` bytes at `address` of a window were (or may have been) written. `proof`: of what is there now.
    #[inline]
    pub(super) fn wrote(&mut self, region: u32, address: u64, len: u64, proof: Option<Proof>) {
        let new = proof.map(|proof| Entry { proof, fresh: true });
        match (self.entry(region), new) {
            (Some(entry), Some(new)) => *entry = Some(new),
            (Some(entry), None) if entry.is_some_and(|e| e.proof.is_in(region, address, len)) => {
                *entry = None
            }
            (Some(_), None) | (None, None) => {}
            (None, Some(new)) => self.insert(new),
        }
    }

    #[cold]
    fn insert(&mut self, new: Entry) {
        if let Some(free) = self.entries.iter_mut().find(|e| e.is_none()) {
            *free = Some(new);
            return;
        }
        if let Some(entry) = self.entries.get_mut(self.oldest) {
            *entry = Some(new);
        }
        self.oldest = (self.oldest + 1) % WINDOWS;
    }

    /// What to read back from `window`.
    pub(super) fn proof(&self, window: &Target) -> Option<Proof> {
        let end = window.address.saturating_add(window.len);
        let inside = |p: &Proof| p.address >= window.address && p.address + p.len as u64 <= end;
        let mut all = self.entries.iter().flatten().map(|e| e.proof);
        all.find(|p| p.region == window.region && inside(p))
    }

    /// What `got`, read where `proof` was, says. `others`: may operations of this very engine have written there
    /// since?
    pub(super) fn judge(&mut self, proof: &Proof, got: &[u8], others: impl FnOnce() -> bool) -> Outcome {
        let mut nobody = None;
        let entry = self.entry(proof.region).unwrap_or(&mut nobody);
        let same = entry.as_mut().filter(|e| e.proof == *proof);
        if got == proof.bytes() {
            if let Some(entry) = same {
                entry.fresh = false;
            }
            return Outcome::Done;
        }
        let alone = same.is_some_and(|e| e.fresh) && !others();
        if alone && proof.looks_dead(got) {
            return Outcome::Device(code::DEAD_WINDOW);
        }
        if entry.is_some_and(|e| e.proof == *proof) {
            *entry = None;
        }
        Outcome::Unchecked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(region: u32) -> Target {
        Target { address: 0x1000, len: 0x1000, region, window: true }
    }

    fn wrote(windows: &mut Windows, region: u32, at: u64, data: &[u8]) {
        let proof = Proof::find(region, at, data);
        windows.wrote(region, at, data.len() as u64, proof);
    }

    #[test]
    fn a_proof_is_a_piece_that_a_dead_mapping_can_not_give() {
        assert_eq!(Proof::find(1, 0, &[0; 64]), None);
        assert_eq!(Proof::find(1, 0, &[0xff; 64]), None);
        assert_eq!(Proof::find(1, 0, b"abc"), None, "too short");
        let mut data = [0; 100];
        data[30] = 7;
        let proof = Proof::find(1, 0x1000, &data).unwrap();
        assert_eq!((proof.address(), proof.bytes().len()), (0x1000 + 100 - 80, 16));
        assert!(proof.bytes().contains(&7));
    }

    #[test]
    fn only_the_very_bytes_confirm() {
        let mut windows = Windows::default();
        wrote(&mut windows, 1, 0x1800, b"tidegate");
        let proof = windows.proof(&window(1)).unwrap();
        for dead in [&[0; 8], &[0xff; 8], &b"tidegate".map(|b| !b)] {
            assert_eq!(windows.judge(&proof, dead, || false), Outcome::Device(code::DEAD_WINDOW));
        }
        assert_eq!(windows.judge(&proof, b"tidegate", || true), Outcome::Done);
        // Long confirmed: that it is gone now says nothing.
        assert_eq!(windows.judge(&proof, &[0; 8], || false), Outcome::Unchecked);
        assert_eq!(windows.proof(&window(1)), None);
    }

    #[test]
    fn somebody_elses_bytes_prove_nothing() {
        let mut windows = Windows::default();
        wrote(&mut windows, 1, 0x1800, b"tidegate");
        let proof = windows.proof(&window(1)).unwrap();
        assert_eq!(windows.judge(&proof, b"somebody", || false), Outcome::Unchecked);
        wrote(&mut windows, 1, 0x1800, b"tidegate");
        assert_eq!(windows.judge(&proof, &[0; 8], || true), Outcome::Unchecked);
    }

    #[test]
    fn a_place_that_was_written_over_is_forgotten_and_another_window_is_not_asked() {
        let mut windows = Windows::default();
        wrote(&mut windows, 1, 0x1800, b"tidegate");
        wrote(&mut windows, 1, 0x1900, &[0; 8]);
        assert!(windows.proof(&window(1)).is_some());
        assert_eq!(windows.proof(&window(2)), None);
        assert_eq!(windows.proof(&Target { address: 0x1900, ..window(1) }), None, "moved");
        wrote(&mut windows, 1, 0x1807, &[0; 8]);
        assert_eq!(windows.proof(&window(1)), None);
    }

    #[test]
    fn a_full_table_forgets_the_oldest() {
        let mut windows = Windows::default();
        for region in 0..10 {
            wrote(&mut windows, region, 0x1800, b"tidegate");
        }
        let known = |region| windows.proof(&window(region)).is_some();
        assert_eq!((0..10).map(known).collect::<Vec<_>>(), (0..10).map(|r| r > 1).collect::<Vec<_>>());
    }
}
