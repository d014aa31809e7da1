//! What an operator may look at.

use super::Shared;
use crate::channel::{Counters, Erased, Use, owner};
use crate::region::Generation;
use crate::sync::Ordering;

/// A picture of a fabric at one moment (each line consistent in itself).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// All channels.
    pub channels: Vec<ChannelState>,
    /// What is in quarantine.
    pub quarantine: Vec<String>,
}

/// One channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChannelState {
    /// Name.
    pub name: String,
    /// Its polling thread.
    pub poller: String,
    /// Device, if it has one.
    pub device: Option<String>,
    /// Entries of its ring in flight. They come and go while they are counted, so it may be off by those.
    pub in_flight: u64,
    /// What it counted, as of its last section that did something.
    pub counters: Counters,
    /// The regions it used, the most used first; at most 256.
    pub regions: Vec<RegionUse>,
    /// All other regions together: used less often, or longer ago.
    pub other: Use,
    /// `open`, `closing`, `seized`, `closed` or `orphaned`.
    pub state: &'static str,
}

/// What a channel did with one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionUse {
    /// Slot of the region, as reports name it.
    pub region: u32,
    /// Which of the slot's regions.
    pub generation: Generation,
    /// Operations and bytes, as submitted.
    pub used: Use,
}

/// What a channel did with each region, the most used first.
fn regions(channel: &dyn Erased) -> (Vec<RegionUse>, Use) {
    let (rows, other) = channel.published().regions();
    let named = |(region, generation, used)| RegionUse { region, generation: Generation(generation), used };
    let mut regions: Vec<RegionUse> = rows.into_iter().map(named).collect();
    regions.sort_by_key(|region| std::cmp::Reverse(region.used.reads + region.used.writes));
    (regions, other)
}

impl Snapshot {
    pub(super) fn new(shared: &Shared, quarantine: Vec<String>) -> Snapshot {
        let all = shared.channels();
        let channels = all.iter().map(|channel| {
            let (regions, other) = regions(&**channel);
            ChannelState {
                name: channel.meta().name.clone(),
                poller: channel.meta().poller.name().to_owned(),
                device: channel.meta().gate.as_ref().map(|gate| gate.name().to_owned()),
                in_flight: channel.names().count(|_| true),
                counters: channel.published().read(),
                regions,
                other,
                state: match channel.line().owner.load(Ordering::Relaxed) {
                    word if word & owner::CLOSED != 0 => "closed",
                    word if word & owner::TAKEN != 0 => "seized",
                    word if word & owner::ORPHANED != 0 => "orphaned",
                    word if word & owner::CLOSING != 0 => "closing",
                    _ => "open",
                },
            }
        });
        Snapshot { channels: channels.collect(), quarantine }
    }
}
