//! tdisp: a message parsed and checked, a report made a table of tags; against a copy of the same bytes.

use super::Group;
use crate::missing::{Missing, Setup};
use crate::rig::Rig;
use crate::round::{Contender, Round};
use crate::tdisp::{self, Lock};
use std::hint::black_box;
use tidegate_tdisp::report::{TagTable, Terms};
use tidegate_tdisp::wire::LockFlags;

pub(super) struct Tdisp {
    message: [u8; 36],
    means: Lock,
    report: Vec<u8>,
}

impl Tdisp {
    pub(super) fn new() -> Setup<Tdisp> {
        let (message, means) = tdisp::lock_request()?;
        Ok(Tdisp { message, means, report: tdisp::report()? })
    }
}

impl Group for Tdisp {
    fn crosses(&self) -> bool {
        false
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let Tdisp { message, means, report } = &*self;
        let bars = tdisp::bars(64);
        let terms = Terms::new(LockFlags::LOCK_MSIX, 0, &bars);
        let (mut table, mut short, mut long) = (TagTable::default(), [0; 36], vec![0; report.len()]);
        // By `black_box` on both ends, so that the length is known to neither.
        let copy = |n: u64, from: &[u8], to: &mut [u8]| {
            for _ in 0..n {
                black_box(&mut *to).copy_from_slice(black_box(from));
            }
        };
        round.race(
            rig,
            vec![
                Contender::new("tdisp/lock", |n| {
                    for _ in 0..n {
                        assert!(tdisp::lock(black_box(message), LockFlags::all()).is_some());
                    }
                }),
                Contender::new("tdisp/lock@memcpy", |n| copy(n, message, &mut short)),
            ],
        );
        debug_assert_eq!(tdisp::lock(message, LockFlags::all()), *means);
        round.race(
            rig,
            vec![
                Contender::new("tdisp/tags-64", |n| {
                    for _ in 0..n {
                        assert!(tdisp::tags(black_box(report), &terms, &mut table).is_ok());
                    }
                }),
                Contender::new("tdisp/tags-64@memcpy", |n| copy(n, report, &mut long)),
            ],
        );
        Ok(())
    }
}
