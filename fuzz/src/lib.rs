//! One fuzz target a message, a frame or a report: bytes are refused, or they are what is written again. And one for each
//! side of TDISP, to which anything happens in any order.
//!
//! The target of a message overwrites the type byte of what it is given, so that no input is wasted on another message. `ci/fuzz` runs
//! the targets under libFuzzer; `cargo test` runs them on their corpus, which is text: `corpus/NAME.txt`, one input a
//! line in hexadecimal.

mod frames;
mod ide_km;
mod report;
mod requester;
mod responder;
mod script;
mod tdisp;

/// What a target made of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is a message, or something was answered, and the target's promises hold for it.
    Taken,
    /// It is none, or nothing was.
    Refused,
}

/// A target: panics where a promise does not hold.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// How `ci/fuzz` names it.
    pub name: &'static str,
    /// Runs it on one input.
    pub run: fn(&[u8]) -> Seen,
}

/// Every target.
pub fn targets() -> impl Iterator<Item = Target> {
    let groups = [
        tdisp::TARGETS,
        ide_km::TARGETS,
        frames::TARGETS,
        report::TARGETS,
        responder::TARGETS,
        requester::TARGETS,
    ];
    groups.into_iter().flatten().map(|&(name, run)| Target { name, run })
}

/// A group of targets, by name.
type Group = &'static [(&'static str, fn(&[u8]) -> Seen)];

/// The input with this byte at this place.
fn with(input: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut message = input.to_vec();
    if let Some(to) = message.get_mut(at) {
        *to = byte;
    }
    message
}

/// What was written is what was read, but for the bits of `reserved` (offset and mask), which are written as zero.
fn same_but_reserved(read: &[u8], written: &[u8], reserved: &[(usize, u8)]) {
    let mut wanted = read.to_vec();
    for &(at, mask) in reserved {
        wanted[at] &= !mask;
    }
    assert_eq!(written, wanted, "{read:02x?} is written as something else");
}
