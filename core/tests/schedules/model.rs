//! The reference: what may happen to every ticket, region and channel, told without epochs, atomics or rings. It errs
//! on the side of what is allowed where a drain has a choice of moments; what it forbids is wrong at any moment.

use crate::ask::Ask;
use std::collections::{BTreeMap, BTreeSet};
use tidegate_core::{Completion, Status, Submit};

/// One accepted operation.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) cookie: u64,
    /// Regions it names, by number.
    pub(crate) names: Vec<usize>,
    /// Its first ticket: a list is several, and has the last.
    pub(crate) first: u64,
    /// The device knows only its last entry.
    pub(crate) whole: bool,
    /// Tickets that the device has yet to end.
    pub(crate) left: Vec<u64>,
    /// Bytes that a success moves.
    pub(crate) len: u32,
    /// The first failure that the device reported of it.
    pub(crate) worst: Status,
    /// What the device said of it, once it had ended all of it.
    pub(crate) said: Option<Status>,
}

impl Open {
    /// The first of its entries that is surely in use.
    fn in_use(&self, ticket: u64) -> u64 {
        match self.said {
            None if self.whole => self.first,
            None => self.left.iter().copied().min().unwrap_or(ticket),
            // Which of them waits to be retired is not known.
            Some(_) => ticket,
        }
    }
}

/// One channel, from its making to its drop.
#[derive(Debug, Default)]
pub(crate) struct ChannelModel {
    pub(crate) depth: u64,
    /// Device, by number.
    pub(crate) device: usize,
    pub(crate) open: BTreeMap<u64, Open>,
    /// Last ticket heard of.
    pub(crate) last: u64,
    /// Windows it has written.
    pub(crate) wrote: BTreeSet<usize>,
    /// Its device closes, or closed.
    pub(crate) closing: bool,
    /// Step at which its owner fell asleep inside a section.
    pub(crate) asleep: Option<u64>,
    /// Completions handed out: by the device's word; withdrawn.
    pub(crate) ended: u64,
    pub(crate) revoked: u64,
    pub(crate) aborted: u64,
    pub(crate) confirmed: u64,
}

/// One drain: of a revoke, a quiesce, or something dropped.
#[derive(Debug)]
pub(crate) struct DrainModel {
    /// Those that it marked itself.
    pub(crate) regions: BTreeSet<usize>,
    /// Channels that it may take over: which had named a region of it, or written a window of it, when it began; and
    /// those that it closes.
    pub(crate) channels: BTreeSet<usize>,
    /// Those that it closes.
    pub(crate) closes: BTreeSet<usize>,
    /// It ended without all of them: another drain closes them as soon as their owners are out.
    pub(crate) gave_up: bool,
    /// It may cancel; it may force.
    pub(crate) cancels: bool,
    pub(crate) forces: bool,
    pub(crate) begun: u64,
    pub(crate) over: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) channels: BTreeMap<usize, ChannelModel>,
    /// Marked regions: by number.
    pub(crate) marked: BTreeSet<usize>,
    pub(crate) windows: BTreeSet<usize>,
    pub(crate) drains: Vec<DrainModel>,
    pub(crate) step: u64,
}

impl Model {
    /// A drain of these regions, which also closes these channels, begins. Returns its number.
    pub(crate) fn drain(
        &mut self,
        regions: &[usize],
        closes: &[usize],
        cancels: bool,
        forces: bool,
    ) -> usize {
        let all: BTreeSet<usize> = regions.iter().copied().collect();
        for earlier in self.drains.iter_mut().filter(|d| !d.over) {
            // It joins those, and hastens them; a quiesce joins whoever has its channels.
            if !earlier.regions.is_disjoint(&all) || closes.iter().any(|c| earlier.channels.contains(c)) {
                earlier.cancels |= cancels;
                earlier.forces |= forces;
            }
        }
        let fresh: BTreeSet<usize> = all.iter().copied().filter(|r| !self.marked.contains(r)).collect();
        let concerned = |channel: &ChannelModel| {
            channel.open.values().any(|open| open.names.iter().any(|r| fresh.contains(r)))
                || !channel.wrote.is_disjoint(&fresh)
        };
        let mut channels: BTreeSet<usize> =
            self.channels.iter().filter(|(_, c)| concerned(c)).map(|(n, _)| *n).collect();
        channels.extend(closes);
        for closed in closes {
            if let Some(channel) = self.channels.get_mut(closed) {
                channel.closing = true;
            }
        }
        self.marked.extend(&fresh);
        self.drains.push(DrainModel {
            regions: fresh,
            channels,
            closes: closes.iter().copied().collect(),
            gave_up: false,
            cancels,
            forces,
            begun: self.step,
            over: false,
        });
        self.drains.len() - 1
    }

    /// May somebody have this channel in hand?
    pub(crate) fn may_be_seized(&self, channel: usize) -> bool {
        let has = |d: &DrainModel| !d.over && d.channels.contains(&channel);
        self.drains.iter().any(|d| has(d) || (d.gave_up && d.closes.contains(&channel)))
    }

    /// Was there ever a drain that may have stopped its queue?
    pub(crate) fn may_have_been_stopped(&self, channel: usize) -> bool {
        self.drains.iter().any(|d| (d.cancels || d.forces) && d.channels.contains(&channel))
    }

    /// May anything at all have been done to it, a flush included?
    pub(crate) fn may_have_been_touched(&self, channel: usize) -> bool {
        self.drains.iter().any(|d| d.channels.contains(&channel))
    }

    /// Does somebody sleep in a section that this drain has to wait for?
    pub(crate) fn is_held_up(&self, drain: usize) -> bool {
        let DrainModel { begun, regions, .. } = &self.drains[drain];
        // One that marked nothing itself only waits for others.
        !regions.is_empty() && self.channels.values().any(|c| c.asleep.is_some_and(|since| since <= *begun))
    }

    /// Judges the answer of a submit on an open pin, and takes note of it.
    pub(crate) fn submitted(&mut self, n: usize, answer: Submit, cookie: u64, ask: &Ask) {
        let names: BTreeSet<usize> = ask.names.iter().flatten().copied().collect();
        let entries = ask.names.len() as u64;
        let stale = names.iter().any(|r| self.marked.contains(r));
        let touched = self.may_have_been_touched(n);
        let windows: BTreeSet<usize> = ask.to.iter().copied().filter(|r| self.windows.contains(r)).collect();
        let Some(channel) = self.channels.get_mut(&n) else { panic!("no channel {n}") };
        // Entries of a list that ended before the rest of it are free, and those of a whole list are not.
        let taken = |oldest: Option<u64>| oldest.map_or(0, |oldest| channel.last + 1 - oldest);
        let (least, most) = (
            taken(channel.open.iter().map(|(ticket, open)| open.in_use(*ticket)).min()),
            taken(channel.open.values().map(|open| open.first).min()),
        );
        match answer {
            Submit::Queued(ticket) => {
                assert!(!stale, "accepted after the mark");
                assert!(!channel.closing, "accepted by a closing channel");
                assert_eq!(ask.denied, None, "not something that this channel does");
                assert!(ticket.0 >= channel.last + entries, "a ticket was given twice");
                assert!(touched || least + entries <= channel.depth, "accepted beyond the depth");
                channel.last = ticket.0;
                channel.wrote.extend(&windows);
                let (first, own) = (ticket.0 + 1 - entries, ask.own as u64);
                let (left, worst) = ((ticket.0 + 1 - own..=ticket.0).collect(), Status::Done);
                let names = names.into_iter().collect();
                let open = Open {
                    cookie,
                    names,
                    first,
                    whole: own < entries,
                    left,
                    len: ask.len,
                    worst,
                    said: None,
                };
                channel.open.insert(ticket.0, open);
            }
            Submit::Stale(_) => assert!(stale, "stale without a revoke"),
            Submit::Closed(_) => assert!(channel.closing || touched, "closed by nobody"),
            Submit::Full => {
                assert!(most + entries > channel.depth || touched, "full at {most} of {}", channel.depth);
            }
            Submit::Denied(flow) => {
                assert!(!stale, "a revoked region is looked at first");
                assert_eq!(Some(flow), ask.denied, "{ask:?}");
            }
        }
    }

    /// The device ended the operation at this entry of the ring. False: there is none.
    pub(crate) fn said(&mut self, n: usize, index: u32, status: Status) -> bool {
        let Some(channel) = self.channels.get_mut(&n) else { return false };
        // Tickets and entries of the ring go round together.
        let entries = (channel.depth + 1).next_power_of_two();
        let is = |ticket: &u64| *ticket % entries == u64::from(index);
        // The newest, if an older one of the entry was withdrawn and waits to be fetched.
        let Some(open) = channel.open.values_mut().rev().find(|open| open.left.iter().any(is)) else {
            return false;
        };
        open.left.retain(|ticket| !is(ticket));
        if open.worst == Status::Done {
            open.worst = status;
        }
        open.said = open.left.is_empty().then_some(open.worst);
        true
    }

    /// Judges a completion that was handed out.
    pub(crate) fn completed(&mut self, n: usize, completion: Completion) {
        let stopped = self.may_have_been_stopped(n);
        let forced = self.drains.iter().any(|d| d.forces && d.channels.contains(&n));
        let Some(channel) = self.channels.get_mut(&n) else { panic!("no channel {n}") };
        let Some(open) = channel.open.remove(&completion.ticket.0) else {
            panic!("{completion:?}: twice, or never accepted")
        };
        assert_eq!(completion.cookie, open.cookie);
        match completion.status {
            Status::Revoked => {
                assert!(stopped, "withdrawn without a cancel");
                assert!(open.names.iter().any(|r| self.marked.contains(r)), "revoked without a revoke");
                assert!(open.said.is_none() || forced, "withdrawn although the device had ended it");
                channel.revoked += 1;
            }
            Status::Aborted => {
                assert!(stopped, "aborted without a cancel");
                assert!(open.said.is_none() || forced, "aborted although the device had ended it");
                channel.aborted += 1;
            }
            other => {
                assert_eq!(Some(other), open.said, "the device did not say so");
                assert!(other != Status::Done || completion.len == open.len, "{completion:?} of {open:?}");
                channel.ended += 1;
            }
        }
    }
}
