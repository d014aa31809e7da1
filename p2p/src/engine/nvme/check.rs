//! A read-back of a window, command by command.
//!
//! Compare lets the controller read a window and tells whether the bytes are those of a block of the namespace; nothing is
//! written, neither there nor here. That the bytes are ones which only a live mapping gives has to be seen by the CPU, so
//! the block comes to host memory too. For a block that was read into the window before:
//!
//! 1. *Learn.* Read the block to a cleared page of host memory. All 0x00 and 0xff: it proves nothing; the next one is tried.
//! 2. *Doubt.* Compare it with its complement in host memory, which must fail. So Compare does read memory, and what it may
//!    still hold in a buffer when the next one's read is not answered is the complement, not the block.
//! 3. *Compare* it with the window. This is the read that pushes the writes.
//! 4. *Again.* Read the block as in 1; it must be the same. So it was the same at 3, unless somebody else wrote it there
//!    and back in between.
//!
//! All four as they should be is [`Outcome::Done`]. A window that differs, or a block that changed, is
//! [`Outcome::Unchecked`]: the window was read, so the writes before were pushed; but why it differs (it is dead, the exporter
//! or another channel wrote there, the namespace was written) Compare does not tell. Where no block is known a Compare is made
//! for the order alone.

use super::abi::status;
use super::known::{Block, EACH};
use crate::engine::code;
use tidegate_core::engine::{Outcome, Target};

/// A read-back under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Check {
    /// Of core's ring.
    pub(super) index: u32,
    pub(super) window: Target,
    /// To be tried.
    blocks: [Option<Block>; EACH],
    step: Step,
}

/// The command that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Learn(Block),
    Doubt(Block),
    Compare(Block),
    Again(Block),
    /// Compare, for the order alone.
    Order(Block),
    End(Outcome),
}

/// What the CPU sees of a block that came to host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// A byte of it is neither 0x00 nor 0xff.
    pub(super) telling: bool,
    /// It is what was learned.
    pub(super) same: bool,
}

impl Check {
    /// `blocks`: what is known of the window.
    pub(super) fn new(index: u32, window: Target, blocks: [Option<Block>; EACH]) -> Check {
        let mut check = Check { index, window, blocks, step: Step::End(Outcome::Unchecked) };
        check.step =
            check.next().map_or(Step::Order(Block { address: window.address, number: 0 }), Step::Learn);
        check
    }

    pub(super) fn step(&self) -> Step {
        self.step
    }

    fn next(&mut self) -> Option<Block> {
        self.blocks.iter_mut().find_map(Option::take)
    }

    /// The command ended with `code`; `seen` is asked after one that read. True: the window does not hold the block.
    pub(super) fn turn(&mut self, code: u16, seen: impl FnOnce() -> Seen) -> Option<Block> {
        let (mut gone, well) = (None, code == status::SUCCESS);
        self.step = match self.step {
            Step::Learn(block) => match well && seen().telling {
                true => Step::Doubt(block),
                false => self.next().map_or(Step::Order(block), Step::Learn),
            },
            Step::Doubt(block) => match code {
                status::DIFFERENT => Step::Compare(block),
                // Compare that finds a block equal to its complement tells nothing, the order least of all.
                status::SUCCESS => Step::End(Outcome::Device(code::NONSENSE)),
                code => Step::End(Outcome::Device(code)),
            },
            Step::Compare(block) => match code {
                status::SUCCESS => Step::Again(block),
                status::DIFFERENT => {
                    gone = Some(block);
                    self.next().map_or(Step::End(Outcome::Unchecked), Step::Learn)
                }
                code => Step::End(Outcome::Device(code)),
            },
            Step::Again(_) if well && seen().same => Step::End(Outcome::Done),
            Step::Again(_) => Step::End(Outcome::Unchecked),
            Step::Order(_) => match code {
                status::SUCCESS | status::DIFFERENT => Step::End(Outcome::Unchecked),
                code => Step::End(Outcome::Device(code)),
            },
            Step::End(outcome) => Step::End(outcome),
        };
        gone
    }
}

/// Has it a byte that no dead mapping gives?
pub(super) fn is_telling(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| !matches!(byte, 0 | 0xff))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Target = Target { address: 0x1000, len: 0x1000, region: 3, window: true };
    const A: Block = Block { address: 0x1200, number: 7 };
    const B: Block = Block { address: 0x1400, number: 9 };
    const GOOD: Seen = Seen { telling: true, same: true };

    fn run(blocks: [Option<Block>; EACH], ends: &[(u16, Seen)]) -> (Vec<Step>, Vec<Block>) {
        let mut check = Check::new(1, WINDOW, blocks);
        let (mut steps, mut gone) = (vec![check.step()], Vec::new());
        for (code, seen) in ends {
            gone.extend(check.turn(*code, || *seen));
            steps.push(check.step());
        }
        (steps, gone)
    }

    const DIFFERENT: (u16, Seen) = (status::DIFFERENT, GOOD);
    const WELL: (u16, Seen) = (0, GOOD);
    const ZEROS: (u16, Seen) = (0, Seen { telling: false, same: true });
    const CHANGED: (u16, Seen) = (0, Seen { telling: true, same: false });

    #[test]
    fn only_four_good_steps_confirm() {
        let (steps, gone) = run([Some(A), None, None, None], &[WELL, DIFFERENT, WELL, WELL]);
        let done = Step::End(Outcome::Done);
        assert_eq!(steps, [Step::Learn(A), Step::Doubt(A), Step::Compare(A), Step::Again(A), done]);
        assert_eq!(gone, []);
        let ends = [
            // The controller finds that a block equals its complement.
            (vec![WELL, WELL], Outcome::Device(code::NONSENSE)),
            (vec![WELL, (0x281, GOOD)], Outcome::Device(0x281)),
            // The window does not hold it.
            (vec![WELL, DIFFERENT, DIFFERENT], Outcome::Unchecked),
            (vec![WELL, DIFFERENT, (4, GOOD)], Outcome::Device(4)),
            // The namespace was written meanwhile.
            (vec![WELL, DIFFERENT, WELL, CHANGED], Outcome::Unchecked),
            (vec![WELL, DIFFERENT, WELL, (0x281, GOOD)], Outcome::Unchecked),
            // Zeros: read for the order alone.
            (vec![ZEROS, WELL], Outcome::Unchecked),
            (vec![(0x281, GOOD), DIFFERENT], Outcome::Unchecked),
            (vec![ZEROS, (4, GOOD)], Outcome::Device(4)),
        ];
        for (codes, outcome) in ends {
            let (steps, _) = run([Some(A), None, None, None], &codes);
            assert_eq!(steps.last(), Some(&Step::End(outcome)), "{codes:?}");
        }
    }

    #[test]
    fn a_block_that_tells_nothing_or_is_gone_gives_way_to_the_next() {
        let both = [None, Some(A), None, Some(B)];
        let (steps, _) = run(both, &[ZEROS, WELL]);
        assert_eq!(steps, [Step::Learn(A), Step::Learn(B), Step::Doubt(B)]);
        let (steps, gone) = run(both, &[WELL, DIFFERENT, DIFFERENT, WELL]);
        assert_eq!(steps[3..], [Step::Learn(B), Step::Doubt(B)]);
        assert_eq!(gone, [A]);
    }

    #[test]
    fn without_a_block_the_window_is_read_for_the_order() {
        let (steps, _) = run([None; 4], &[DIFFERENT]);
        let order = Step::Order(Block { address: 0x1000, number: 0 });
        assert_eq!(steps, [order, Step::End(Outcome::Unchecked)]);
    }

    #[test]
    fn zeros_and_ones_tell_nothing() {
        assert!(!is_telling(&[0; 512]) && !is_telling(&[0xff; 512]) && !is_telling(&[0, 0xff]));
        assert!(is_telling(&[0, 0, 1]));
    }
}
