//! What everybody in the soak knows: which registrations are over, what was counted, what went wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Registrations remembered at once; thousands are made before a number comes round.
const LIVES: usize = 1 << 16;

/// By number: the registration whose revoke has begun, and the one whose revoke has ended cleanly.
static BEGUN: [AtomicU64; LIVES] = [const { AtomicU64::new(0) }; LIVES];
static OVER: [AtomicU64; LIVES] = [const { AtomicU64::new(0) }; LIVES];
static NEXT: AtomicU64 = AtomicU64::new(1);

/// One registration of a piece of memory. Every word of that memory holds one of its two patterns for as long as it
/// lasts: anything else was written by somebody whose time was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life(u64);

const BASE: u64 = 0x5a << 56;
const STAMP: u64 = 0xa5 << 56;

impl Life {
    pub(crate) fn new() -> Life {
        Life(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// What the memory is filled with before it is registered.
    pub(crate) fn base(self) -> u64 {
        BASE | self.0
    }

    /// What operations write.
    pub(crate) fn stamp(self) -> u64 {
        STAMP | self.0
    }

    /// Whose pattern is it?
    pub(crate) fn of(pattern: u64) -> Life {
        Life(pattern & !(0xff << 56))
    }

    /// Positions of the devices' medium that hold its stamp.
    pub(crate) fn position(self) -> u64 {
        self.0 << 16
    }

    /// Whose is this position?
    pub(crate) fn at(position: u64) -> Life {
        Life(position >> 16)
    }

    pub(crate) fn owns(self, word: u64) -> bool {
        word == self.base() || word == self.stamp()
    }

    /// Before its first revoke.
    pub(crate) fn begin_end(self) {
        at(&BEGUN, self).store(self.0, Ordering::SeqCst);
    }

    /// After a clean revoke: nothing may touch its memory any more.
    pub(crate) fn end(self) {
        at(&OVER, self).store(self.0, Ordering::SeqCst);
    }

    pub(crate) fn is_ending(self) -> bool {
        at(&BEGUN, self).load(Ordering::SeqCst) == self.0
    }

    pub(crate) fn is_over(self) -> bool {
        at(&OVER, self).load(Ordering::Relaxed) == self.0
    }
}

fn at(table: &[AtomicU64; LIVES], life: Life) -> &AtomicU64 {
    &table[life.0 as usize % LIVES]
}

/// What must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// An accepted operation never completed.
    Lost,
    /// A completion of nothing that was open.
    Twice,
    /// Memory was touched after its revoke had ended.
    LateWrite,
    /// A revoke ended past its deadline.
    LateRevoke,
    /// Anything else.
    Other,
}

static WRONGS: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// Counts it; says the first ones aloud.
pub(crate) fn wrong(what: Wrong, times: u64, how: impl FnOnce() -> String) {
    if times > 0 && WRONGS[what as usize].fetch_add(times, Ordering::Relaxed) < 5 {
        eprintln!("soak: {what:?} x{times}: {}", how());
    }
}

pub(crate) fn wrongs(what: Wrong) -> u64 {
    WRONGS[what as usize].load(Ordering::Relaxed)
}

/// Memory is freed after its revoke rather than used again, and what the soak notices does not stop it: for
/// AddressSanitizer, which is to see it first.
pub(crate) static BLIND: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_blind() -> bool {
    BLIND.load(Ordering::Relaxed)
}

/// Has enough gone wrong to stop?
pub(crate) fn is_over() -> bool {
    all_wrongs() > 0 && !is_blind()
}

pub(crate) fn all_wrongs() -> u64 {
    WRONGS.iter().map(|w| w.load(Ordering::Relaxed)).sum()
}

/// What was done, over all rounds.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Operations that completed.
    pub(crate) operations: AtomicU64,
    /// Operations on channels whose owner died or left: nobody hears of them.
    pub(crate) abandoned: AtomicU64,
    pub(crate) revokes: AtomicU64,
    pub(crate) quiesces: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) withdrawn: AtomicU64,
    pub(crate) channels: AtomicU64,
}

pub(crate) static DONE: Done = Done {
    operations: AtomicU64::new(0),
    abandoned: AtomicU64::new(0),
    revokes: AtomicU64::new(0),
    quiesces: AtomicU64::new(0),
    stale: AtomicU64::new(0),
    withdrawn: AtomicU64::new(0),
    channels: AtomicU64::new(0),
};

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// SplitMix64: one stream for each thread of each round, all derived from the one seed.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64, stream: u64) -> Rng {
        let mut rng = Rng(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        rng.next();
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
