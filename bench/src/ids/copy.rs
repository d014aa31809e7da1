//! copy: the copy kernel called directly, hot and cold, against the best of four kernels at each size, and below 4 KiB
//! against memcpy.
#![expect(unsafe_code, reason = "calls our kernel by address, inside blocks that an arena checked")]

use super::Group;
use crate::missing::{Missing, Setup};
use crate::peers::kernels::{Arena, Kernel};
use crate::rig::Rig;
use crate::round::{Contender, Round};
use crate::seams::Copier;
use crate::shapes::Blocks;
use crate::stats::Random;
use std::cell::RefCell;

const ARENA: usize = 256 << 20;
const SIZES: [(&str, usize); 10] = [
    ("64", 64),
    ("256", 256),
    ("1k", 1 << 10),
    ("2k", 2 << 10),
    ("4k", 4 << 10),
    ("16k", 16 << 10),
    ("64k", 64 << 10),
    ("256k", 256 << 10),
    ("1m", 1 << 20),
    ("4m", 4 << 20),
];

pub(super) struct Copy {
    arena: Arena,
    kernels: Vec<Kernel>,
}

impl Copy {
    pub(super) fn new() -> Setup<Copy> {
        let arena = Arena::new(ARENA).ok_or_else(|| Missing::new("no memory for two arenas of 256 MiB"))?;
        Ok(Copy { arena, kernels: Kernel::all() })
    }
}

/// Hot: one block, again and again. Cold: blocks at random over the whole arena.
fn offsets(len: usize, blocks: Blocks) -> Vec<(usize, usize)> {
    match blocks {
        Blocks::Hot => vec![(0, 0)],
        Blocks::Cold => {
            let all = ARENA / len;
            let from = Random::new(21).permutation(all);
            let to = Random::new(22).permutation(all);
            from.into_iter().zip(to).take(1 << 20).map(|(a, b)| (a * len, b * len)).collect()
        }
    }
}

impl Group for Copy {
    fn crosses(&self) -> bool {
        false
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let Copy { arena, kernels } = self;
        // One arena, many contenders, one at a time.
        let arena = RefCell::new(arena);
        for (temperature, kind) in [("hot", Blocks::Hot), ("cold", Blocks::Cold)] {
            for (size, len) in SIZES {
                let small = len < 4096;
                let series = format!("copy/{temperature}-{size}");
                let outside = || Missing::new("blocks outside the arena");
                let blocks = arena.borrow().blocks(offsets(len, kind), len).ok_or_else(outside)?;
                let arena = &arena;
                let mut contenders = Vec::new();
                for kernel in kernels.iter().filter(|kernel| !small || **kernel == Kernel::Memcpy) {
                    let kernel = *kernel;
                    let mut walk = blocks.walk();
                    let run = move |n| kernel.run(&mut arena.borrow_mut(), &mut walk, n);
                    contenders.push(Contender::new(format!("{series}@{}", kernel.name()), run));
                }
                let mut walk = blocks.walk();
                match Copier::new() {
                    Ok(mut copier) => contenders.push(Contender::new(series.clone(), move |n| {
                        arena.borrow_mut().each(&mut walk, n, |to, from| {
                            // SAFETY: 1. `each` hands in blocks inside two distinct mappings.
                            unsafe { copier.copy(to, from, len) }
                        });
                    })),
                    Err(why) => round.miss(&series, &why),
                }
                round.race(rig, contenders);
                let figure =
                    |of: &str| round.figure(of).cloned().unwrap_or(Err(Missing::new("not measured")));
                if small {
                    let more =
                        figure(&series).and_then(|ours| Ok(ours - figure(&format!("{series}@memcpy"))?));
                    round.put_or_miss(&format!("{series}-more"), more);
                } else if kernels.len() > 1 {
                    let theirs =
                        kernels.iter().filter_map(|k| figure(&format!("{series}@{}", k.name())).ok());
                    let best = theirs.fold(f64::INFINITY, f64::min);
                    round.put(&format!("{series}@best-kernel"), best);
                } else {
                    let why = Missing::new("built without the kernels in C (feature `kernels`)");
                    round.miss(&format!("{series}@best-kernel"), &why);
                }
            }
        }
        Ok(())
    }
}
