//! What the model writes down: violations, refused requests, and a trace of its steps.

use super::memory::FileId;
use crate::pci::PciAddress;
use std::ops::Range;
use tidegate_core::tdi::TrustDomain;

/// Entries that each list keeps; later ones are only counted.
const KEPT: usize = 1 << 16;

/// Who made a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// A PCI function, by DMA.
    Function(PciAddress),
    /// The CPU, through a mapped BAR.
    Cpu,
}

/// Something that must never happen happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Steps so far (manual mode) or microseconds since the fabric was built (threads).
    pub when: u64,
    /// Who did it.
    pub who: Who,
    /// What.
    pub what: Breach,
}

/// Kinds of violation.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Breach {
    /// A request reached its target, or was issued, although the TDI of `stopped` was stopped since the request
    /// (or the work that it belongs to) came into being.
    DmaAfterStop {
        /// The function whose TDI was stopped: the initiator or the target.
        stopped: PciAddress,
        /// Address at which the initiator sees the target.
        address: u64,
        /// Bytes.
        len: u64,
        /// Write or read.
        write: bool,
    },
    /// A T=0 request to private MMIO of a bound TDI. It was rejected.
    UnprotectedAccess {
        /// The function that owns the page.
        target: PciAddress,
        /// BAR index.
        bar: u8,
        /// Offset in the BAR.
        at: u64,
        /// Write or read.
        write: bool,
    },
    /// A T=1 request of another trust domain. It was rejected.
    ForeignDomain {
        /// The function that owns the page.
        target: PciAddress,
        /// Domain of the requester.
        from: TrustDomain,
        /// Domain of the target.
        to: Option<TrustDomain>,
    },
    /// DMA reached memory in quarantine.
    QuarantineTouched {
        /// The file.
        file: FileId,
        /// Bytes of the request in the file.
        range: Range<u64>,
        /// Write or read.
        write: bool,
    },
    /// A TDI was stopped while a function had a live mapping of one of its windows.
    MappedAtStop {
        /// The function whose address space holds the mapping.
        importer: PciAddress,
        /// Where.
        iova: u64,
    },
    /// Pages of a TDI in RUN became private, or shared, while a function had a live mapping of them.
    MappedAtChange {
        /// The function whose address space holds the mapping.
        importer: PciAddress,
        /// Where.
        iova: u64,
    },
    /// Pages of a TDI in RUN became private, or shared, while requests were on their way to them.
    ChangedUnderWay {
        /// How many, in pieces.
        inbound: u64,
    },
    /// A TDI was stopped while requests of it, or to it, were under way.
    StopWithOutstanding {
        /// Descriptors that its device had accepted and not finished.
        accepted: u64,
        /// Its own requests in the fabric.
        outbound: u64,
        /// Requests of others towards it.
        inbound: u64,
    },
}

/// A request that was refused: by the IOMMU, by the initiator's own state, or by the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Steps so far (manual mode) or microseconds since the fabric was built (threads).
    pub when: u64,
    /// Who asked.
    pub who: Who,
    /// Device address (DMA) or offset in the BAR (CPU).
    pub address: u64,
    /// Its T bit.
    pub t: bool,
    /// Write or read.
    pub write: bool,
    /// Why not.
    pub why: Refusal,
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// Bus mastering is off.
    BusMasterOff,
    /// The initiator's TDI is in LOCKED or ERROR, where it must not send memory requests.
    NotRunning,
    /// The read's completion came when the initiator was no longer in the state that sent it.
    LateCompletion,
    /// The function has no address space.
    Detached,
    /// The IOMMU has no live mapping there for this T bit.
    Unmapped,
    /// The mapping does not allow it.
    Rights,
    /// Nothing on the way hands requests on from this function to that one.
    NotRouted,
    /// Memory decode is off, the function sleeps, or it is dead.
    NoDecode,
    /// T=0 to private MMIO of a bound TDI.
    Unprotected,
    /// T=1 to a TDI that is not in RUN.
    TargetNotRunning,
    /// T=1 to MMIO that is not TEE memory.
    NotTee,
    /// T=1 from another trust domain.
    ForeignDomain,
    /// No range of the report covers it.
    Inaccessible,
}

/// One step, for comparing runs and for reading what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Number of the step or microseconds.
    pub when: u64,
    /// The initiator.
    pub who: PciAddress,
    /// What it was.
    pub kind: StepKind,
    /// Device address, 0 for an inside step.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// Kinds of [`Step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepKind {
    /// A device changed inside.
    Inside,
    /// A device issued a posted write.
    IssueWrite,
    /// A device issued a read.
    IssueRead,
    /// A request came to the root complex and was translated, or refused there.
    Translate,
    /// A posted write came to its target.
    Write,
    /// A read came to its target and was answered.
    Read,
}

/// Ways in which a device can be made to behave badly, see [`super::Soft::misbehave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The next n completions are never written (NIC).
    LoseCompletions(u32),
    /// The next payload write is withheld by the device and made `after` steps or microseconds later, although
    /// its descriptor was completed long before (NIC).
    LateWrite {
        /// How much later.
        after: u64,
    },
    /// The next n frames from the wire are lost in the device.
    DropFrames(u32),
    /// A queue disable is never acknowledged (NIC).
    HungDisable,
    /// The function is gone: never completes, never answers; registers and config space read all-ones.
    Dead,
    /// The next n resets fail with EAGAIN (imports die all the same).
    FailResets(u32),
    /// The TDI goes to ERROR by itself, if it is bound.
    TdiError,
}

/// The lists.
#[derive(Debug, Default)]
pub(super) struct Log {
    violations: Vec<Violation>,
    faults: Vec<Fault>,
    steps: Option<Vec<Step>>,
    left_out: u64,
}

impl Log {
    pub(super) fn tracing(on: bool) -> Log {
        Log { steps: on.then(Vec::new), ..Log::default() }
    }

    pub(super) fn violation(&mut self, violation: Violation) {
        tracing::warn!(?violation, "soft fabric");
        push(&mut self.violations, violation, &mut self.left_out);
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        tracing::debug!(?fault, "soft fabric");
        push(&mut self.faults, fault, &mut self.left_out);
    }

    pub(super) fn step(&mut self, step: Step) {
        if let Some(steps) = &mut self.steps {
            push(steps, step, &mut self.left_out);
        }
    }

    pub(super) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(super) fn faults(&self) -> &[Fault] {
        &self.faults
    }

    pub(super) fn steps(&self) -> &[Step] {
        self.steps.as_deref().unwrap_or(&[])
    }

    /// Entries that no list had room for.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

fn push<T>(list: &mut Vec<T>, entry: T, left_out: &mut u64) {
    if list.len() < KEPT {
        list.push(entry);
    } else {
        *left_out += 1;
    }
}
