//! Which pages of a device's BARs peers may reach, and which its drivers keep for themselves.

use crate::domain::lock;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What a range of a BAR is taken for. Two of one kind may overlap, two of different kinds may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A dma-buf leads there, and so may windows of peers.
    Exported,
    /// A driver has something there that no peer may write: queues in the device's own memory.
    Withheld,
}

#[derive(Debug, Clone)]
struct Entry {
    id: u64,
    what: Use,
    bar: u8,
    range: Range<u64>,
}

/// The ranges taken, of one device.
#[derive(Debug, Default)]
pub(crate) struct Pages(Mutex<(u64, Vec<Entry>)>);

impl Pages {
    /// Takes a range, until what comes back is dropped.
    ///
    /// # Errors
    /// A range that is taken for the other use, and meets it.
    pub(crate) fn take(self: &Arc<Self>, what: Use, bar: u8, range: Range<u64>) -> Result<Taken, Range<u64>> {
        let mut taken = lock(&self.0);
        let meets = |other: &Entry| range.start < other.range.end && other.range.start < range.end;
        let other = taken.1.iter().find(|other| other.bar == bar && other.what != what && meets(other));
        if let Some(other) = other {
            return Err(other.range.clone());
        }
        let id = taken.0;
        taken.0 += 1;
        taken.1.push(Entry { id, what, bar, range });
        Ok(Taken { pages: self.clone(), id })
    }
}

/// A range, taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pages: Arc<Pages>,
    id: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.pages.0).1.retain(|entry| entry.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_withheld_is_not_exported_and_the_other_way_round() {
        let pages = Arc::new(Pages::default());
        let kept = pages.take(Use::Withheld, 2, 0x1000..0x2000).unwrap();
        let meeting = || pages.take(Use::Exported, 2, 0..0x1001).map(drop);
        assert_eq!(meeting(), Err(0x1000..0x2000));
        // Beside it, of another BAR, and for the same use.
        let beside = [(Use::Exported, 2, 0..0x1000), (Use::Exported, 2, 0x2000..0x3000)];
        let others = [(Use::Exported, 0, 0..0x4000), (Use::Withheld, 2, 0x1800..0x2000)];
        let taken = beside.into_iter().chain(others).map(|(what, bar, range)| pages.take(what, bar, range));
        let taken: Vec<Taken> = taken.map(Result::unwrap).collect();
        assert_eq!(pages.take(Use::Withheld, 2, 0..8).map(drop), Err(0..0x1000));
        drop(taken);
        drop(kept);
        assert_eq!(meeting(), Ok(()));
    }
}
