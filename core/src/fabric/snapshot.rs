//! What an operator may look at.

use super::Shared;
use crate::channel::owner;
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
    /// Tickets accepted.
    pub submitted: u64,
    /// In flight now.
    pub in_flight: u64,
    /// `open`, `closing`, `seized`, `closed` or `orphaned`.
    pub state: &'static str,
}

impl Snapshot {
    pub(super) fn new(shared: &Shared, quarantine: Vec<String>) -> Snapshot {
        let all = shared.channels();
        let channels = all.iter().map(|channel| ChannelState {
            name: channel.meta().name.clone(),
            poller: channel.meta().poller.name().to_owned(),
            device: channel.meta().gate.as_ref().map(|gate| gate.name().to_owned()),
            submitted: channel.line().submitted.load(Ordering::Relaxed),
            in_flight: channel.names().count(|_| true),
            state: match channel.line().owner.load(Ordering::Relaxed) {
                word if word & owner::CLOSED != 0 => "closed",
                word if word & owner::TAKEN != 0 => "seized",
                word if word & owner::ORPHANED != 0 => "orphaned",
                word if word & owner::CLOSING != 0 => "closing",
                _ => "open",
            },
        });
        Snapshot { channels: channels.collect(), quarantine }
    }
}
