//! Submission into a channel from threads that do not own it.
//!
//! A [`Channel`] has one owner, who alone submits and polls. This layer carries requests of other threads to that
//! owner and their completions back: the owner has an [`Inbox`], every other thread a [`Submitter`]. A channel
//! without an inbox pays nothing for it.
//!
//! Each submitter has two rings of its own to the inbox, one for requests, one for answers ([`rtrb`]: one writer and
//! one reader each, no read-modify-write, no lock). So submitters do not contend with each other, one that is
//! descheduled in the middle of a request holds nobody up (least of all the owner inside its section), and the
//! requests of one submitter keep their order. The price: the owner looks at one cache line for each submitter in each
//! turn.
//!
//! # One answer each
//! A request that [`Submitter::submit`] took ([`Sent::Queued`]) is answered exactly once: with its completion, or with
//! the reason why it was not submitted ([`Refused`]). A submitter has at most [`InboxConfig::window`] unanswered
//! requests, and its rings have that many entries: answers always find room. Requests of a submitter that was
//! dropped are carried out all the same; nobody hears of them.
//!
//! A request's handles are checked when the owner forwards it, inside its section, as if the owner had submitted it
//! itself. What was revoked meanwhile is [`Refused::Stale`].
//!
//! ```
//! use tidegate_core::mpsc::{Answer, Inbox, InboxConfig, Sent};
//! use tidegate_core::{engine::cpu::Cpu, *};
//!
//! let fabric = Fabric::builder().build()?;
//! let region = fabric.register(Memory::allocate("inbox", 4096)?.backing(), Access::ReadWrite)?;
//! let mut channel = fabric.channel(&fabric.poller("owner"), Cpu::new(64), ChannelConfig::default())?;
//! let mut inbox = Inbox::new(&channel, InboxConfig::default());
//!
//! // Another thread: a submitter is `Send`; each clone has rings of its own.
//! let mut submitter = inbox.submitter();
//! let whole = region.span();
//! let other = std::thread::spawn(move || {
//!     assert_eq!(submitter.submit(Op::fill(whole, 7).cookie(1)), Sent::Queued);
//!     let mut answers = [Answer::EMPTY];
//!     while submitter.poll(&mut answers) == 0 {
//!         std::thread::yield_now();
//!     }
//!     answers[0]
//! });
//!
//! // The owner's loop: forward, do its own work, poll through the inbox.
//! let mut own = [Completion::EMPTY; 16];
//! while !other.is_finished() {
//!     let Ok(mut section) = channel.pin() else { continue };
//!     inbox.forward(&mut section);
//!     inbox.poll(&mut section, &mut own); // what is not the inbox's is left in `own`
//! }
//! let answer = other.join().expect("it does not panic");
//! assert_eq!((answer.cookie, answer.result.map(|done| done.status)), (1, Ok(Status::Done)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod inbox;
mod submitter;

pub use inbox::Inbox;
pub use submitter::Submitter;

use crate::region::Generation;
use crate::sync::lock;
use crate::{Cause, Completion, Flow, Op};
use inbox::Seat;
use rtrb::RingBuffer;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(doc)]
use crate::Channel;

/// How an inbox is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxConfig {
    /// Unanswered requests of one submitter at most: its credits. Default 64; taken as 1 to 65536.
    pub window: u32,
    /// Requests of one submitter that one [`Inbox::forward`] takes at most, so that sections stay short and every
    /// submitter gets its turn. Default 32; taken as at least 1.
    pub burst: u32,
}

impl Default for InboxConfig {
    fn default() -> Self {
        InboxConfig { window: 64, burst: 32 }
    }
}

impl InboxConfig {
    /// A window other than the default.
    pub fn window(window: u32) -> Self {
        InboxConfig { window, ..Self::default() }
    }
}

/// What [`Submitter::submit`] answers.
#[must_use = "a request that was not queued will not be answered"]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Taken: it is answered exactly once, under its cookie.
    Queued,
    /// The window is used up: poll for answers, then try again.
    Full,
    /// The inbox is gone.
    Closed,
}

/// Why a request ended without a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A region it names was revoked before it was forwarded; the generation its slot showed.
    #[error("a region it names was revoked (its slot is in generation {})", .0.0)]
    Stale(Generation),
    /// It may not be done on this channel.
    #[error("it may not be done on this channel ({0:?})")]
    Denied(Flow),
    /// The channel is closed or closing.
    #[error("the channel is closed ({0:?})")]
    Closed(Cause),
    /// The inbox was dropped before it was forwarded: nothing was started.
    #[error("the inbox was dropped before the request was forwarded")]
    Gone,
    /// It was forwarded, and then its inbox left the channel: it ends there, unheard. Nothing is promised of the
    /// destination's bytes.
    #[error("it was forwarded, and its inbox left the channel before it ended")]
    Orphaned,
}

/// How one request ended.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The value given with [`Op::cookie`].
    pub cookie: u64,
    /// Its completion (the cookie in it is the same), or why there is none.
    pub result: Result<Completion, Refused>,
}

impl Answer {
    /// A value to fill a polling array with.
    pub const EMPTY: Answer = Answer { cookie: 0, result: Ok(Completion::EMPTY) };
}

/// A request on its way to the owner: the cookie is its entry in the submitter's table.
type Request = Op;

/// An answer on its way back.
#[derive(Debug)]
struct Reply {
    entry: u32,
    result: Result<Completion, Refused>,
}

/// What an inbox and its submitters share.
#[derive(Debug)]
struct Desk {
    /// The inbox is gone: set after its last answer.
    closed: AtomicBool,
    /// `arrivals` may hold something.
    arrived: AtomicBool,
    /// Seats of new submitters, for the inbox to fetch.
    arrivals: crate::sync::Mutex<Vec<Seat>>,
    window: u32,
}

impl Desk {
    /// A submitter with rings of its own. Takes a lock and allocates.
    fn open(self: &Arc<Self>) -> Submitter {
        let (to_owner, requests) = RingBuffer::new(self.window as usize);
        let (replies, from_owner) = RingBuffer::new(self.window as usize);
        let mut arrivals = lock(&self.arrivals);
        arrivals.push(Seat::new(requests, replies, self.window));
        // Under the lock, under which the inbox clears it too: no seat is overlooked.
        self.arrived.store(true, Ordering::Relaxed);
        drop(arrivals);
        Submitter::new(self.clone(), to_owner, from_owner)
    }
}
