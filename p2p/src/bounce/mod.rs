//! The other way: from one device to another through host memory.
//!
//! A [`Bounce`] is a pipeline of two legs. One engine brings pieces of a stream into host buffers, another takes them
//! out; while one buffer is being filled another one is being drained. Both may be one channel of one device. It is
//! turned by its owner like a channel is polled: a turn polls, submits what can be, and never blocks; between
//! [`Bounce::begin`] and the end of a stream it allocates nothing (the read-back that confirms at the end does).
//!
//! ```
//! use tidegate_core::*;
//! use tidegate_p2p::bounce::{Bounce, Buffers, End};
//! use tidegate_p2p::engine::softnic::SoftNic;
//! use tidegate_p2p::soft::{Peers, Soft};
//! use tidegate_p2p::{Domain, Progress, Want};
//!
//! // Two NICs with a GPU each, and a root complex that hands nothing on between the two pairs.
//! let at = |text: &str| text.parse::<tidegate_p2p::PciAddress>();
//! let soft = Soft::builder(1).nic(at("01:00.0")?).gpu(at("02:00.0")?, 1 << 20).nic(at("81:00.0")?)
//!     .gpu(at("82:00.0")?, 1 << 20).build()?;
//! let fabric = Fabric::builder().build()?;
//! let (here, there) = (Domain::new(&fabric, soft.clone())?, Domain::new(&fabric, soft.clone())?);
//! let (nic, gpu) = (here.attach(at("01:00.0")?)?, here.attach(at("02:00.0")?)?);
//! let (far_nic, far_gpu) = (there.attach(at("81:00.0")?)?, there.attach(at("82:00.0")?)?);
//! let source = here.import(&gpu.export(0, 0..0x1_0000)?, Want::default())?;
//! let target = there.import(&far_gpu.export(0, 0..0x1_0000)?, Want::default())?;
//! let poller = fabric.poller("bounce");
//! let first = nic.channel(&poller, SoftNic::queue(0), ChannelConfig::depth(16))?;
//! let second = far_nic.channel(&poller, SoftNic::queue(0), ChannelConfig::depth(16))?;
//!
//! use std::os::unix::fs::FileExt;
//! let bytes: Vec<u8> = (0..0x1_0000_u32).map(|n| n as u8).collect();
//! soft.vram_file(at("02:00.0")?).ok_or("no VRAM")?.write_all_at(&bytes, 0)?;
//! let (from, to) = (source.region().handle(), target.region().handle());
//! let buffers = Buffers::new(&here, &there, 4, 4096, None)?;
//! let mut bounce = Bounce::two(buffers, first, second,
//!     move |at, into| Op::copy(from.span(at..at + 4096), into),
//!     move |at, piece| Op::copy(piece, to.span(at..at + 4096)))
//!     .confirming();
//! bounce.begin(0x1_0000)?;
//! while bounce.turn() != Progress::Done {
//!     soft.step();
//! }
//! assert_eq!(bounce.end(), Some(End::Finished { confirmed: true }));
//! assert_eq!(bounce.account().drain.bytes, 0x1_0000);
//! let mut there = vec![0; 0x1_0000];
//! soft.vram_file(at("82:00.0")?).ok_or("no VRAM")?.read_exact_at(&mut there, 0)?;
//! assert_eq!(there, bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! * Every operation that a channel accepted is counted once as submitted and once as completed, also over errors and
//!   revokes: a stream ends when nothing of it is in flight any more, and not before.
//! * A byte is counted as drained when the device said so of the piece that it is in, and no byte twice.
//! * After a stop nothing new is submitted. [`End::Stopped`] names the leg, the place and the reason that came first.
//! * A revoke of the buffers or of a window takes what it names out of the channels as always; the bounce only hears of it.
//!
//! # How many buffers
//!
//! Each leg has at most half of the buffers in flight: while one half is filled the other is drained, also where a device
//! works on everything it has at once. With two buffers the time from a completion to the next submit is lost on each piece;
//! with four a device has a next piece while that passes. Every stream pays for filling its first half while nothing drains,
//! so more buffers help against longer latencies, and cost short streams. On the soft fabric's modelled time, 64 pieces of
//! 4 KiB came to 0.94 to 0.98 of the slower leg's throughput with two buffers and to 0.95 to 0.99 with four; 0.9 is tested.

mod account;
mod buffers;
mod flow;
#[cfg(test)]
mod tests;

pub use account::{Account, End, Leg, Side, Why};
pub use buffers::{Buffers, BuffersError};

use crate::Progress;
use flow::Flow;
use tidegate_core::{
    Channel, Completion, Engine, Op, Pinned, Shared, Span, Status, Submit, Ticket, Unconfirmable,
};

/// The pipeline. Dropped in the middle of a stream it closes its channels, which stops their devices as any drop of a
/// channel does, and keeps the buffers until that is so.
pub struct Bounce<A: Engine, B: Engine = A> {
    legs: Option<Legs<A, B>>,
    flow: Flow,
    confirm: Confirm,
    running: bool,
    end: Option<End>,
}

/// The channels of a bounce.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one a bounce, never moved in a loop")]
pub enum Legs<A: Engine, B: Engine> {
    /// One channel does both.
    One(Channel<A>),
    /// One each.
    Two(Channel<A>, Channel<B>),
}

/// The read-back at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirm {
    /// Not asked for.
    No,
    /// When all is drained.
    Wanted,
    /// Under way.
    Asked(Ticket),
}

/// A stream is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stream is under way: turn it to its end first")]
pub struct Running;

impl<A: Engine, B: Engine> Bounce<A, B> {
    /// Of two channels. `fill` makes the operation that brings the stream's bytes from `at` on into a piece of host
    /// memory (a copy from a window, a read of the medium), `drain` the one that takes a piece to its place. Both are
    /// called once for each submit, with spans in the domain of their leg. The channels have nothing in flight.
    pub fn two(
        buffers: Buffers,
        first: Channel<A>,
        second: Channel<B>,
        fill: impl FnMut(u64, Span<Shared>) -> Op + Send + 'static,
        drain: impl FnMut(u64, Span<Shared>) -> Op + Send + 'static,
    ) -> Self {
        Bounce::new(buffers, Legs::Two(first, second), Box::new(fill), Box::new(drain))
    }

    fn new(buffers: Buffers, legs: Legs<A, B>, fill: flow::Maker, drain: flow::Maker) -> Self {
        let flow = Flow::new(buffers, fill, drain);
        Bounce { legs: Some(legs), flow, confirm: Confirm::No, running: false, end: None }
    }

    /// Pieces shorter than a buffer, for engines that take no more at a time.
    pub fn piece(mut self, bytes: u32) -> Self {
        self.flow.limit(bytes);
        self
    }

    /// A piece that comes with fewer bytes than its buffer holds (a received frame) is passed on as it is. Default: that
    /// stops the stream. Places in the stream go on by whole pieces.
    pub fn partial(mut self) -> Self {
        self.flow.allow_partial();
        self
    }

    /// Ends each stream with a checked read-back on the second leg ([`Pinned::confirm`]). Bytes that a dead mapping could
    /// give (all zeros, all ones) are not confirmed by it.
    pub fn confirming(mut self) -> Self {
        self.confirm = Confirm::Wanted;
        self
    }

    /// Begins a stream of so many bytes. No bytes: it is over at the next turn.
    ///
    /// # Errors
    /// [`Running`].
    pub fn begin(&mut self, bytes: u64) -> Result<(), Running> {
        if self.running {
            return Err(Running);
        }
        self.flow.begin(bytes);
        (self.running, self.end) = (true, None);
        if self.confirm != Confirm::No {
            self.confirm = Confirm::Wanted;
        }
        Ok(())
    }

    /// Begins nothing new: the stream ends, stopped, when what is in flight has ended.
    pub fn stop(&mut self) {
        let at = self.flow.place();
        self.flow.stop(Leg::Fill, at, Why::Asked);
    }

    /// Polls both channels and submits what can be. No system call but what the engines' doorbells are; no allocation
    /// within the stream.
    pub fn turn(&mut self) -> Progress {
        if !self.running {
            return Progress::Done;
        }
        let flow = &mut self.flow;
        // Then the one completion to come is the read-back's, which is not the flow's.
        let over = flow.is_through() && flow.account.in_flight() == 0;
        let moved = match &mut self.legs {
            _ if over => false,
            Some(Legs::One(channel)) => section(channel, |pinned| {
                let polled = flow.poll(pinned);
                // Out before in: what is done first frees a buffer first.
                let drained = flow.drain(pinned);
                flow.fill(pinned) | drained | polled
            }),
            Some(Legs::Two(first, second)) => {
                let filled = section(first, |pinned| flow.poll(pinned) | flow.fill(pinned));
                filled | section(second, |pinned| flow.poll(pinned) | flow.drain(pinned))
            }
            None => false,
        };
        if self.settle() {
            return Progress::Done;
        }
        if moved { Progress::Moved } else { Progress::Waiting }
    }

    /// How the last stream ended; `None` while one is under way, and before the first.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// What was counted so far.
    pub fn account(&self) -> Account {
        self.flow.account
    }

    /// The channels and the buffers back, between streams; the bounce itself while one is under way.
    ///
    /// # Errors
    /// The bounce.
    #[allow(clippy::result_large_err, reason = "the error is what was given")]
    pub fn into_legs(mut self) -> Result<Legs<A, B>, Self> {
        match self.legs.take() {
            Some(legs) if !self.running => Ok(legs),
            legs => {
                self.legs = legs;
                Err(self)
            }
        }
    }

    /// Is the stream over? Then says how.
    fn settle(&mut self) -> bool {
        if self.flow.account.in_flight() > 0 {
            return false;
        }
        let end = match self.flow.stopped {
            Some(stopped) => stopped,
            None if !self.flow.is_through() => return false,
            None => match self.confirmed() {
                Some(end) => end,
                None => return false,
            },
        };
        self.flow.write_off();
        (self.running, self.end) = (false, Some(end));
        true
    }

    /// The read-back at the end: `None` while it is under way.
    fn confirmed(&mut self) -> Option<End> {
        match &mut self.legs {
            Some(Legs::One(channel)) => confirm(channel, &mut self.confirm, &self.flow),
            Some(Legs::Two(_, channel)) => confirm(channel, &mut self.confirm, &self.flow),
            None => Some(End::Finished { confirmed: false }),
        }
    }
}

impl<A: Engine> Bounce<A, A> {
    /// Of one channel, whose device does both legs: as [`Bounce::two`].
    pub fn one(
        buffers: Buffers,
        channel: Channel<A>,
        fill: impl FnMut(u64, Span<Shared>) -> Op + Send + 'static,
        drain: impl FnMut(u64, Span<Shared>) -> Op + Send + 'static,
    ) -> Self {
        Bounce::new(buffers, Legs::One(channel), Box::new(fill), Box::new(drain))
    }
}

/// A section on a channel; false while a revoke has it.
fn section<E: Engine>(channel: &mut Channel<E>, work: impl FnOnce(&mut Pinned<'_, E>) -> bool) -> bool {
    channel.pin().is_ok_and(|mut pinned| work(&mut pinned))
}

fn confirm<E: Engine>(channel: &mut Channel<E>, state: &mut Confirm, flow: &Flow) -> Option<End> {
    let unproved = |why| Some(End::Stopped { leg: Leg::Drain, at: flow.place(), why });
    match *state {
        Confirm::No => Some(End::Finished { confirmed: false }),
        Confirm::Wanted => {
            let asked = channel.pin().ok()?.confirm();
            match asked {
                Ok(Submit::Queued(Ticket(0))) => reached(channel, flow),
                Ok(Submit::Queued(ticket)) => {
                    *state = Confirm::Asked(ticket);
                    None
                }
                Ok(Submit::Full) => None,
                Ok(Submit::Closed(cause)) => unproved(Why::Closed(cause)),
                Err(Unconfirmable::Revoked) => unproved(Why::Revoked),
                // The engine can't, or can't now: what its device said is all there is.
                Ok(_) | Err(_) => Some(End::Finished { confirmed: false }),
            }
        }
        Confirm::Asked(ticket) => {
            let mut out = [Completion::EMPTY; 1];
            if channel.pin().ok()?.poll(&mut out) == 0 || out[0].ticket != ticket {
                return None;
            }
            match out[0].status {
                Status::Done => reached(channel, flow),
                Status::Device(code) => unproved(Why::Unconfirmed(code)),
                Status::Revoked => unproved(Why::Revoked),
                Status::Aborted => {
                    *state = Confirm::Wanted;
                    None
                }
                // What was written could come from a dead mapping as well, all zeros say.
                _ => Some(End::Finished { confirmed: false }),
            }
        }
    }
}

fn reached<E: Engine>(channel: &mut Channel<E>, flow: &Flow) -> Option<End> {
    Some(End::Finished { confirmed: channel.confirmed() >= flow.last })
}

impl<A: Engine, B: Engine> Drop for Bounce<A, B> {
    fn drop(&mut self) {
        if self.flow.account.in_flight() > 0 {
            self.flow.buffers.keep();
        }
    }
}

impl<A: Engine, B: Engine> std::fmt::Debug for Bounce<A, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bounce")
            .field("account", &self.flow.account)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
