//! Whether a DSM does what the specification asks: the cases of the public TEE-IO validator for a responder, by the
//! numbers that they have there (V1.1 to V7.3), as data.
//!
//! Each of the [`CASES`] starts with a fresh device in CONFIG_UNLOCKED, is brought to a state by messages, and poses one
//! question. A case that could not be brought to its question is [`Verdict::NotPosed`], never a pass. Pure, as the
//! [`requester`](crate::requester) below it: the caller carries the bytes and makes the device fresh.
//!
//! ```
//! use tidegate_tdisp::report::{InterfaceReport, MmioRange};
//! use tidegate_tdisp::responder::{Device, Responder, Scrub, Settings, SystemEntropy};
//! use tidegate_tdisp::state::event::SessionId;
//! use tidegate_tdisp::validator::{CASES, Terms, Verdict};
//! use tidegate_tdisp::wire::{FunctionId, LockFlags};
//!
//! struct Gpu;
//! impl Device for Gpu {
//!     fn describe(&self, _: FunctionId, _: LockFlags) -> InterfaceReport {
//!         InterfaceReport { ranges: vec![MmioRange::private(0, 0xE_0000, 16)], ..Default::default() }
//!     }
//!     fn outstanding(&self, _: FunctionId) -> u64 { 0 }
//!     fn scrub(&mut self, _: FunctionId) -> Scrub { Scrub::Done }
//! }
//!
//! for case in &CASES {
//!     let gpu = FunctionId::new(0x100);
//!     let mut dsm = Responder::new(Settings::default(), Gpu, SystemEntropy);
//!     dsm.add(gpu, None)?;
//!     let fresh = |request: &[u8], response: &mut Vec<u8>| {
//!         dsm.handle(SessionId(1), request, response);
//!         Ok(())
//!     };
//!     let verdict = case.run(fresh, &Terms::new(gpu));
//!     // This device can be locked as it is, so what it does without keys cannot be asked.
//!     let posed = case.id != "V3.2";
//!     assert_eq!(matches!(verdict, Verdict::Pass), posed, "{}: {verdict}", case.id);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cases;
mod subject;

use alloc::string::String;
use core::fmt;

use crate::requester::{Backoff, Transport};
use crate::state::State;
use crate::wire::{FunctionId, LockFlags};
use subject::{Stop, Subject};

/// What a case says of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It does what the specification asks.
    Pass,
    /// It does not.
    Fail(String),
    /// The question could not be put: says why.
    NotPosed(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Pass => f.write_str("pass"),
            Verdict::Fail(why) => write!(f, "fail: {why}"),
            Verdict::NotPosed(why) => write!(f, "not posed: {why}"),
        }
    }
}

/// What the caller knows of the IDE keys of a fresh device. No case programs any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// Nothing; the device shows it. If its LOCK succeeds, it has keys or needs none. If that is refused with
    /// INVALID_REQUEST, and no other stream id can be locked either, nor any without flags, then so it must be where
    /// keys are needed and no stream has them: V3.2 is posed, and V3.1 is not. A device that has keys and refuses
    /// every LOCK looks the same: say [`There`](Self::There) where it has.
    #[default]
    Unknown,
    /// Every sub-stream of the default stream has them, or the device needs none: V3.2 is not posed.
    There,
    /// A sub-stream has none, and the device needs them: V3.2 is posed, and what needs a lock is not.
    Missing,
}

/// What the caller knows of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The function whose TDI is asked about.
    pub function: FunctionId,
    /// The id of its default stream, for the LOCK.
    pub stream: u8,
    /// Flags of the LOCK, of which those that the peer does not support are left out.
    pub flags: LockFlags,
    /// Whether a fresh device can be locked.
    pub keys: Keys,
    /// How often a peer may be busy.
    pub backoff: Backoff,
}

impl Terms {
    /// Default stream 0, NO_FW_UPDATE, keys unknown; a peer may be busy a hundred times in a row.
    pub fn new(function: FunctionId) -> Terms {
        let backoff = Backoff { attempts: 100, ..Backoff::default() };
        Terms { function, stream: 0, flags: LockFlags::NO_FW_UPDATE, keys: Keys::Unknown, backoff }
    }
}

/// One question.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Case {
    /// Its number in the TEE-IO validator, with a V in front.
    pub id: &'static str,
    /// What a peer that passes does.
    pub promise: &'static str,
    /// Where the TDI must be for the question.
    pub from: State,
    needs: Needs,
    pose: fn(&mut Subject<'_>) -> Result<(), Stop>,
}

/// What a question needs of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    Keys,
    NoKeys,
}

/// Every case.
pub const CASES: [Case; 22] = cases::CASES;

impl Case {
    /// Puts the question to a fresh device at the other end of `transport`.
    pub fn run(&self, transport: impl Transport, terms: &Terms) -> Verdict {
        let why = match self.needs {
            Needs::Keys if terms.keys == Keys::Missing => "the peer has no keys, so it cannot be locked",
            Needs::NoKeys if terms.keys == Keys::There => "the peer has keys, or needs none",
            _ => {
                let mut transport = transport;
                let mut subject = Subject::new(&mut transport, terms);
                let posed = subject.bring(self.from).and_then(|()| (self.pose)(&mut subject));
                return posed.map_or_else(Stop::into_verdict, |()| Verdict::Pass);
            }
        };
        Verdict::NotPosed(why.into())
    }
}
