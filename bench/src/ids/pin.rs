//! pin: entering and leaving a section, epoch unchanged.

use super::Group;
use crate::missing::{Missing, Setup, missing};
use crate::peers::urcu;
use crate::rig::Rig;
use crate::round::{Contender, Round};
use crate::shapes::Turner;
use arc_swap::ArcSwap;
use std::hint::black_box;
use tidegate_core::Fabric;

pub(super) struct Pin {
    turner: Turner,
    seize: seize::Collector,
    swap: ArcSwap<u64>,
    hazard: haphazard::HazardPointer<'static>,
    target: haphazard::AtomicPtr<u64>,
}

impl Pin {
    pub(super) fn new() -> Setup<Pin> {
        let fabric = Fabric::builder().build().map_err(missing)?;
        Ok(Pin {
            turner: Turner::new(&fabric)?,
            seize: seize::Collector::new(),
            swap: ArcSwap::from_pointee(7),
            hazard: haphazard::HazardPointer::new(),
            target: haphazard::AtomicPtr::from(Box::new(7)),
        })
    }
}

impl Group for Pin {
    fn crosses(&self) -> bool {
        false
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let Pin { turner, seize, swap, hazard, target } = self;
        let collector = crossbeam_epoch::Collector::new();
        let crossbeam = collector.register();
        let urcu = urcu::Reader::register();
        let mut contenders = vec![
            Contender::new("pin", |n| turner.sections(n)),
            Contender::new("pin@crossbeam-epoch", |n| {
                for _ in 0..n {
                    black_box(&crossbeam.pin());
                }
            }),
            Contender::new("pin@seize", |n| {
                for _ in 0..n {
                    use seize::Guard;
                    black_box(&seize.enter()).collector();
                }
            }),
            Contender::new("pin@haphazard", |n| {
                for _ in 0..n {
                    black_box(target.safe_load(hazard));
                    hazard.reset_protection();
                }
            }),
            Contender::new("pin@arc-swap", |n| {
                for _ in 0..n {
                    black_box(&swap.load());
                }
            }),
        ];
        match &urcu {
            Ok(reader) => contenders.push(Contender::new("pin@liburcu-memb", |n| reader.sections(n))),
            Err(why) => round.miss("pin@liburcu-memb", why),
        }
        round.race(rig, contenders);
        Ok(())
    }
}
