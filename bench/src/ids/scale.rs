//! scale: the hot path of one channel while others are open and idle.

use super::Group;
use crate::NoOp;
use crate::missing::{Missing, Setup, missing};
use crate::rig::Rig;
use crate::round::{Contender, Round};
use crate::shapes::Turner;
use tidegate_core::{Channel, ChannelConfig, Fabric};

/// A fabric with one busy channel and some idle ones.
struct Crowd {
    turner: Turner,
    _idle: Vec<Channel<NoOp>>,
}

impl Crowd {
    fn new(channels: usize) -> Setup<Crowd> {
        let fabric = Fabric::builder().channels(channels).build().map_err(missing)?;
        let turner = Turner::new(&fabric)?;
        let poller = fabric.poller("idle");
        let idle = (1..channels).map(|_| fabric.channel(&poller, NoOp::default(), ChannelConfig::depth(8)));
        Ok(Crowd { turner, _idle: idle.collect::<Result<_, _>>().map_err(missing)? })
    }
}

pub(super) struct Scale([Crowd; 4]);

impl Scale {
    pub(super) fn new() -> Setup<Scale> {
        Ok(Scale([Crowd::new(1)?, Crowd::new(8)?, Crowd::new(64)?, Crowd::new(1024)?]))
    }
}

impl Group for Scale {
    fn crosses(&self) -> bool {
        false
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        let series = ["scale/1", "scale/8", "scale/64", "scale/1024"];
        let contenders = series.into_iter().zip(&mut self.0).map(|(series, crowd)| {
            let turner = &mut crowd.turner;
            Contender::new(series, move |n| turner.bursts_of_1(n))
        });
        round.race(rig, contenders.collect());
        let one = round.figure("scale/1").cloned().unwrap_or(Err(Missing::new("not measured")));
        for series in &series[1..] {
            round.put_or_miss(&format!("{series}@1-channel"), one.clone());
        }
        Ok(())
    }
}
