//! Requests on their way through the fabric.

use super::iommu::Place;
use super::memory::Memory;
use super::port::{BarKind, Port};
use super::tdi::Mark;
use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

/// Where a lane leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Memory,
    Function(usize),
}

/// Translated requests of one initiator to one target.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) pieces: VecDeque<Parcel>,
    pub(super) held: bool,
}

/// A request in an uplink.
pub(super) struct Request {
    pub(super) address: u64,
    pub(super) mark: Mark,
    pub(super) stale: bool,
    pub(super) born: u64,
    pub(super) ready: u64,
    pub(super) body: Body,
}

pub(super) enum Body {
    Write(Vec<u8>),
    /// Part of an [`Assembly`].
    Read {
        assembly: u64,
        offset: u64,
        len: u64,
    },
}

/// A translated piece in a lane.
pub(super) struct Parcel {
    pub(super) request: Request,
    pub(super) place: Place,
}

/// A read whose pieces are under way.
pub(super) struct Assembly {
    pub(super) initiator: usize,
    pub(super) tag: u32,
    pub(super) mark: Mark,
    pub(super) address: u64,
    pub(super) left: usize,
    pub(super) failed: bool,
    pub(super) data: Vec<u8>,
}

impl Body {
    /// Length, and whether it is a write.
    pub(super) fn extent(&self) -> (u64, bool) {
        match self {
            Body::Write(data) => (data.len() as u64, true),
            Body::Read { len, .. } => (*len, false),
        }
    }

    pub(super) fn cut(&self, offset: u64, len: u64) -> Body {
        match self {
            Body::Write(data) => {
                let range = offset as usize..(offset + len) as usize;
                Body::Write(data.get(range).unwrap_or(&[]).to_vec())
            }
            Body::Read { assembly, .. } => Body::Read { assembly: *assembly, offset, len },
        }
    }

    /// Gives the bytes to write, or room to read into; returns what was read.
    pub(super) fn carry_out(&self, by: impl FnOnce(Exchange<'_>)) -> Vec<u8> {
        match self {
            Body::Write(data) => {
                by(Exchange::Write(data));
                Vec::new()
            }
            Body::Read { len, .. } => {
                let mut data = vec![0xff; *len as usize];
                by(Exchange::Read(&mut data));
                data
            }
        }
    }
}

pub(super) enum Exchange<'a> {
    Write(&'a [u8]),
    Read(&'a mut [u8]),
}

pub(super) fn exchange(memory: &Memory, at: u64, body: Exchange<'_>) {
    match body {
        Exchange::Write(data) => {
            // Whoever sees this write sees the earlier ones of the lane.
            fence(Ordering::Release);
            memory.write(at, data);
        }
        Exchange::Read(into) => memory.read(at, into),
    }
}

/// Carries a request out at a BAR; registers take it in words.
pub(super) fn touch(ports: &[Port], target: usize, bar: u8, at: u64, body: Exchange<'_>) {
    let Some(port) = ports.get(target) else { return };
    match port.bar(bar) {
        BarKind::None => {}
        BarKind::Memory(memory) => exchange(memory, at, body),
        BarKind::Registers(_) => {
            let mut model = port.model();
            match body {
                Exchange::Write(data) => {
                    for (word, at) in data.chunks_exact(4).zip((at..).step_by(4)) {
                        let value = word.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
                        model.write(bar, at & !3, 4, value);
                    }
                }
                Exchange::Read(into) => {
                    for (word, at) in into.chunks_exact_mut(4).zip((at..).step_by(4)) {
                        word.copy_from_slice(&(model.read(bar, at & !3, 4) as u32).to_le_bytes());
                    }
                }
            }
            drop(model);
            port.wake();
        }
    }
}
