//! The seam to devices: an [`Engine`] drives one kind of queue.
//!
//! Engines of other crates, and users' own, implement it. The fabric has checked every operand before an engine
//! sees it, remembers what is in flight, and decides when a queue is cancelled; the engine translates operations
//! to descriptors, rings doorbells, and reports what the device completed.

pub mod copy;
pub mod cpu;
pub mod uring;
pub mod worker;

use crate::op::OpKind;

/// Which addresses an engine puts into its descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSpace {
    /// Addresses of the channel's domain (IOVAs): handles of other domains are `Denied`.
    Device,
    /// Addresses of this process: regions of all domains, windows excepted, are reachable.
    Cpu,
}

/// A checked operand: bytes in the engine's address space. A plain value, which anybody can make: that it was checked
/// is what the caller of [`Engine::push`] vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// First byte.
    pub address: u64,
    /// Bytes, at least 1.
    pub len: u64,
    /// Slot of the region; tells windows apart in [`Engine::flush`].
    pub region: u32,
    /// A peer's BAR rather than host memory.
    pub window: bool,
}

/// A checked operation with its operands resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Copy `from` to `to`, same length.
    Copy {
        /// Source.
        from: Target,
        /// Destination.
        to: Target,
    },
    /// Repeat `pattern` over `to`.
    Fill {
        /// Destination.
        to: Target,
        /// Little-endian pattern.
        pattern: u64,
    },
    /// From the medium to `to`.
    Read {
        /// Position in the medium.
        at: u64,
        /// Destination.
        to: Target,
    },
    /// From `from` to the medium.
    Write {
        /// Source.
        from: Target,
        /// Position in the medium.
        at: u64,
    },
    /// See [`OpKind::Fence`].
    Fence,
    /// Read back from `window` over the path that the channel's writes take, after everything that completed
    /// before; the value must be one that a dead mapping can't return. Only where [`Engine::CONFIRMS`].
    ReadBack {
        /// The window (all of the region).
        window: Target,
    },
}

impl Operation {
    /// Its kind; `None` for a read-back.
    pub fn kind(&self) -> Option<OpKind> {
        Some(match self {
            Operation::Copy { .. } => OpKind::Copy,
            Operation::Fill { .. } => OpKind::Fill,
            Operation::Read { .. } => OpKind::Read,
            Operation::Write { .. } => OpKind::Write,
            Operation::Fence => OpKind::Fence,
            Operation::ReadBack { .. } => return None,
        })
    }
}

/// A checked list: bytes of several places as one operation. The pieces of both sides are in the order of the bytes;
/// their lengths sum up to the same, their boundaries need not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListOperation<'a> {
    /// [`OpKind::Copy`], [`OpKind::Read`] (then `from` is empty) or [`OpKind::Write`] (then `to` is empty).
    pub kind: OpKind,
    /// Sources.
    pub from: &'a [Target],
    /// Destinations.
    pub to: &'a [Target],
    /// Position in the medium.
    pub at: u64,
    /// Bytes in all.
    pub len: u64,
}

/// Did a descriptor fit?
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// Written; the device sees it at the next doorbell.
    Taken,
    /// No room (an operation may need several descriptors).
    Full,
    /// Not something this engine does, or not on these operands.
    Unsupported,
}

/// How a device ended an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Success. For a read-back: and the value proves the mapping alive.
    Done,
    /// Failure, with the device's code.
    Device(u16),
    /// A read-back came, ordered as promised, with a value that proves nothing.
    Unchecked,
}

/// Progress of a cancel.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// The device has stopped: it touches nothing of what was not retired, and never will.
    Stopped,
    /// Asked; ask again.
    Pending,
    /// The device gave no sign of life, or has no way to stop its queue.
    Impossible,
}

/// Progress of a window flush.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Posted writes to the window have arrived.
    Flushed,
    /// Asked; ask again.
    Pending,
    /// This engine has no way to tell: the forced path is taken (unmap first, then a CPU read).
    Impossible,
}

/// Drives one queue of one device. All methods are called by one thread at a time: the channel's owner inside a
/// section, or a revoker that seized the channel.
///
/// None may block, allocate on `push`, `doorbell` or `retire`, or panic. `push` and `retire` are hot. An engine that panics
/// is called no more: its channel closes ([`crate::Cause::Panicked`]), what is in flight ends as withdrawn, and it is kept,
/// with all that its device may touch, until that is proved stopped by its [`crate::drain::Initiator`]. In a section the
/// owner gets the panic; a revoker reports it.
///
/// # Safety
/// 1. Descriptors name only addresses inside the operands given to `push` and `push_list`, or memory the engine owns.
/// 2. After an operation was retired, or after `cancel` answered [`Cancel::Stopped`], the device touches its
///    operands no more (posted writes to a peer excepted, which `flush` is for).
/// 3. Dropping the engine while the device may still run leaves memory that the device may write alive.
#[expect(unsafe_code, reason = "a promise that only the implementer can keep")]
pub unsafe trait Engine: Send + 'static {
    /// Which addresses it wants.
    const SPACE: AddressSpace;
    /// Can it run [`Operation::ReadBack`] in its queue? Then channels can confirm, and drains flush that way.
    const CONFIRMS: bool;

    /// Operations in flight at most. The channel takes the smaller of this and its configured depth.
    fn depth(&self) -> u32;

    /// Writes the descriptor of `op`; `index` (below [`Engine::depth`] `+ 1` rounded up to a power of two) comes back
    /// in [`Sink::complete`]. The fabric may add one read-back of its own to a full queue: answer [`Push::Full`] if
    /// it does not fit. Nothing is visible to the device before [`Engine::doorbell`].
    ///
    /// # Safety
    /// The operands of `op` were checked by the fabric, or the caller vouches that they are valid in
    /// [`Engine::SPACE`], for what `op` does to them; and they stay so until the operation was retired or cancelled
    /// ([`Cancel::Stopped`]). An address that faults in the device's IOMMU harms nobody. A push that was not
    /// [`Push::Taken`] asks for nothing.
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push;

    /// Writes the descriptor of a whole list, for engines whose device takes one: scatter-gather. It completes once, with
    /// `index`, the bytes of all of it and the worst of its outcomes. All or nothing: [`Push::Full`] leaves no part
    /// behind. Engines that say [`Push::Unsupported`] (this list, or any) get the list as plain operations.
    ///
    /// # Safety
    /// As [`Engine::push`], for every piece of both sides. The slices themselves are the caller's again when it returns.
    unsafe fn push_list(&mut self, index: u32, op: &ListOperation<'_>) -> Push {
        let _ = (index, op);
        Push::Unsupported
    }

    /// May a list of reads or writes of `len` bytes at position `at` be split into operations at `at`, `at` plus the
    /// first one's length, and so on, which run in any order? Asked once a list that `push_list` does not take; without
    /// it the list is denied. So it must be where each operation is a unit (a packet), where bytes go in the order of the
    /// operations (a pipe), and where a later position would be one of something else.
    fn splits(&self, at: u64, len: u64) -> bool {
        let _ = (at, len);
        false
    }

    /// Makes all pushed descriptors visible. Called once at the end of a section that pushed.
    fn doorbell(&mut self);

    /// Reports what completed, in any order, while the sink has room.
    fn retire(&mut self, sink: &mut Sink<'_>);

    /// The same for a revoker that seized the channel: only what has completed by now. For engines that work in
    /// `retire`: a revoke past its `cancel` deadline does not wait for more of that. Default: [`Engine::retire`].
    #[inline]
    fn reap(&mut self, sink: &mut Sink<'_>) {
        self.retire(sink);
    }

    /// Stops the queue without waiting; called again until it does not answer `Pending`. Completions that the
    /// device produces meanwhile are still retired. Uses registers that the owner never writes, or is called
    /// after the owner was shut out.
    fn cancel(&mut self) -> Cancel;

    /// Makes a stopped queue usable again, empty. False: it can't be; the channel stays closed.
    fn resume(&mut self) -> bool;

    /// Makes sure that posted writes of retired operations to `window` have arrived, without [`Operation::ReadBack`]
    /// (called if not [`Engine::CONFIRMS`], or where the push of the read-back was [`Push::Unsupported`]). It says
    /// [`Flush::Flushed`] only of a mapping that was alive: what was written is confirmed then. Operations that are in
    /// the queue stay there: an engine that must stop its queue for this starts it again where it stood, or answers
    /// [`Flush::Impossible`]. Called again until it does not answer `Pending`.
    fn flush(&mut self, window: &Target) -> Flush {
        let _ = window;
        Flush::Impossible
    }

    /// Asked of an engine in quarantine, now and then and by any thread: has the device stopped after all, as
    /// [`Cancel::Stopped`] would say? Then the engine is dropped, and its regions are free. For devices that can
    /// tell by themselves; of the others the proof comes from their [`crate::drain::Initiator`]. Completions go
    /// nowhere.
    fn stopped(&mut self) -> bool {
        false
    }
}

/// Where an engine reports completions.
#[derive(Debug)]
pub struct Sink<'a> {
    pub(crate) ring: &'a mut crate::channel::Ring,
    pub(crate) out: &'a mut [crate::Completion],
    pub(crate) n: usize,
    /// Of the ring, ahead of it until the poll ends. Behind is as good: only room is lost.
    pub(crate) oldest: u64,
    pub(crate) bytes: u64,
}

impl<'a> Sink<'a> {
    #[inline(always)]
    pub(crate) fn new(
        ring: &'a mut crate::channel::Ring,
        out: &'a mut [crate::Completion],
        n: usize,
    ) -> Self {
        let oldest = ring.oldest;
        Sink { ring, out, n, oldest, bytes: 0 }
    }

    /// Completions that still fit.
    #[inline(always)]
    pub fn room(&self) -> usize {
        self.out.len() - self.n
    }

    /// Operation `index` ended, having moved `len` bytes. An index that is not in flight (a device that
    /// completes twice, or invents) is counted and dropped. Without [`Sink::room`] the completion is kept for the
    /// next poll, at the cost of an allocation.
    #[inline(always)]
    pub fn complete(&mut self, index: u32, outcome: Outcome, len: u32) {
        let Some((ticket, cookie)) = self.ring.plain(index, &mut self.oldest) else {
            let (n, bytes) = self.ring.unusual(index, outcome, len, self.out.get_mut(self.n));
            self.n += n;
            self.count(bytes);
            return;
        };
        let status = self.ring.end(index, outcome);
        self.count(len);
        match self.out.get_mut(self.n) {
            Some(slot) => {
                // Field by field: a value that is put together on the stack first costs a stall here.
                (slot.ticket, slot.cookie) = (ticket, cookie);
                (slot.status, slot.len) = (status, len);
                self.n += 1;
            }
            None => self.ring.stash(crate::Completion { ticket, cookie, status, len }),
        }
    }

    #[inline(always)]
    fn count(&mut self, len: u32) {
        if !cfg!(tidegate_uncounted) {
            self.bytes += u64::from(len);
        }
    }

    /// Is this index in flight? For engines whose completions name it by other means.
    #[inline]
    pub fn in_flight(&self, index: u32) -> bool {
        self.ring.is_in_flight(index)
    }
}
