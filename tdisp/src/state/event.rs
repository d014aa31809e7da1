//! What happens to a device from outside TDISP, and which TDIs it hits (chapter 11, "events that lead to ERROR").
//!
//! Whoever watches the device (configuration space, IDE, SPDM) reports an [`Event`]; [`EVENTS`] says what it
//! means. Configuration writes that a lock allows (cache line size, interrupt line, AER and such) are no events.
//! A happening that hits more than one thing is more than one event: a reset of function 0 which ends SPDM
//! sessions is reported as the function's FLR *and* as the end of each session.

use crate::wire::FunctionId;

use super::{Bond, Trigger};

/// The SPDM session that a message came through, as its transport numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u32);

/// Something that happened, and to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// To one function, and with some events to its virtual functions.
    Function(FunctionId, FunctionEvent),
    /// To the IDE stream of this id, and so to each TDI that is bound to it.
    Stream(u8, StreamEvent),
    /// The SPDM session ended: each TDI that it locked is hit.
    SessionEnded(SessionId),
    /// To the whole device.
    Device(DeviceEvent),
}

/// What happened, without saying to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Happening {
    /// To a function.
    Function(FunctionEvent),
    /// To an IDE stream.
    Stream(StreamEvent),
    /// The end of an SPDM session.
    SessionEnded,
    /// To the whole device.
    Device(DeviceEvent),
}

impl Event {
    /// What happened.
    pub fn happening(self) -> Happening {
        match self {
            Event::Function(_, event) => Happening::Function(event),
            Event::Stream(_, event) => Happening::Stream(event),
            Event::SessionEnded(_) => Happening::SessionEnded,
            Event::Device(event) => Happening::Device(event),
        }
    }
}

/// Which TDIs an event hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// The TDI of the function alone.
    Function,
    /// The TDI of the function, and those of its virtual functions.
    FunctionAndVirtual,
    /// Each TDI that is bound to the stream: its default stream, and those of BIND_P2P_STREAM.
    BoundToStream,
    /// Each TDI that the session locked.
    LockedBySession,
    /// Each TDI of the device.
    All,
}

/// What must hold for an event to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// The lock holds the MSI-X table.
    MsixLocked,
}

/// One line of [`EVENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRule {
    /// What happened.
    pub event: Happening,
    /// Whom it hits.
    pub hits: Hits,
    /// Under which condition.
    pub when: When,
    /// What it does to them.
    pub does: Trigger,
}

impl EventRule {
    /// Whether the event, which is this line's, hits a TDI.
    pub(super) fn is_hit(
        &self,
        event: Event,
        function: FunctionId,
        physical: Option<FunctionId>,
        bond: Option<&Bond>,
    ) -> bool {
        let hit = match (self.hits, event) {
            (Hits::Function, Event::Function(of, _)) => function.matches(of),
            (Hits::FunctionAndVirtual, Event::Function(of, _)) => {
                function.matches(of) || physical.is_some_and(|physical| physical.matches(of))
            }
            (Hits::BoundToStream, Event::Stream(stream, _)) => bond.is_some_and(|bond| bond.holds_to(stream)),
            (Hits::LockedBySession, Event::SessionEnded(of)) => bond.is_some_and(|bond| bond.session == of),
            (Hits::All, _) => true,
            // No line says so: doubt is a hit.
            _ => true,
        };
        let counts = match self.when {
            When::Always => true,
            When::MsixLocked => bond.is_some_and(|bond| bond.msix),
        };
        hit && counts
    }
}

macro_rules! function_events {
    ($($(#[$doc:meta])* $event:ident: $hits:ident, $when:ident;)+) => {
        /// An event of one function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum FunctionEvent {
            $($(#[$doc])* $event,)+
        }

        /// Each event there is, whom it hits, under which condition, and what it does to them. Two lines of one
        /// event do not exist.
        pub const EVENTS: &[EventRule] = &[
            $(EventRule {
                event: Happening::Function(FunctionEvent::$event),
                hits: Hits::$hits,
                when: When::$when,
                does: Trigger::Fault,
            },)+
            stream(StreamEvent::CheckFailed),
            stream(StreamEvent::KeySetStopped),
            stream(StreamEvent::KeysLost),
            stream(StreamEvent::Disabled),
            stream(StreamEvent::LinkDown),
            stream(StreamEvent::RegistersWritten),
            EventRule {
                event: Happening::SessionEnded,
                hits: Hits::LockedBySession,
                when: When::Always,
                does: Trigger::Fault,
            },
            device(DeviceEvent::ConventionalReset, Trigger::Reset),
            device(DeviceEvent::DebugAuthorised, Trigger::Fault),
            device(DeviceEvent::FirmwareChanged, Trigger::Fault),
            device(DeviceEvent::DsmFailure, Trigger::Fault),
        ];
    };
}

const fn stream(event: StreamEvent) -> EventRule {
    EventRule {
        event: Happening::Stream(event),
        hits: Hits::BoundToStream,
        when: When::Always,
        does: Trigger::Fault,
    }
}

const fn device(event: DeviceEvent, does: Trigger) -> EventRule {
    EventRule { event: Happening::Device(event), hits: Hits::All, when: When::Always, does }
}

function_events! {
    /// Function-level reset, by the PCI Express or the Advanced Features capability.
    FunctionReset: FunctionAndVirtual, Always;
    /// Memory Space Enable was cleared.
    MemorySpaceCleared: Function, Always;
    /// Bus Master Enable was cleared.
    BusMasterCleared: Function, Always;
    /// A base address register was written.
    BarWritten: Function, Always;
    /// The expansion ROM base address register was written.
    RomBarWritten: Function, Always;
    /// BIST was written.
    BistWritten: Function, Always;
    /// The Enhanced Allocation capability was written.
    EnhancedAllocationWritten: Function, Always;
    /// The Resizable BAR capability was written.
    ResizableBarWritten: Function, Always;
    /// The VF Resizable BAR capability was written: it moves the BARs of every virtual function.
    VfResizableBarWritten: FunctionAndVirtual, Always;
    /// The ARI capability was written.
    AriWritten: FunctionAndVirtual, Always;
    /// The PASID capability was written; virtual functions use the one of their physical function.
    PasidWritten: FunctionAndVirtual, Always;
    /// The Page Request capability was written; virtual functions use the one of their physical function.
    PageRequestWritten: FunctionAndVirtual, Always;
    /// The SR-IOV capability was written.
    SriovWritten: FunctionAndVirtual, Always;
    /// The Multicast capability was written.
    MulticastWritten: Function, Always;
    /// Device Control 1, 2 or 3: extended, 10-bit or 14-bit tags, phantom functions, no-snoop changed.
    DeviceControlChanged: FunctionAndVirtual, Always;
    /// A power transition that loses state.
    PowerStateLost: FunctionAndVirtual, Always;
    /// The MSI-X capability was written.
    MsixWritten: Function, MsixLocked;
    /// The requester id (the bus number) changed.
    RequesterIdChanged: FunctionAndVirtual, Always;
    /// A poisoned TLP, or a data integrity error that cannot be corrected.
    DataPoisoned: Function, Always;
    /// An unsupported request, completer abort or completion timeout that was not recovered.
    CompletionLost: Function, Always;
    /// A translation completion with T=0.
    UntrustedTranslation: Function, Always;
    /// A page request group response without T.
    UntrustedPageResponse: Function, Always;
    /// The device's own configuration of the function changed: queues, address, namespaces.
    DeviceConfigurationChanged: Function, Always;
}

/// An event of an IDE stream. Every one makes the stream insecure, and is a fault of each TDI bound to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StreamEvent {
    /// An IDE check failed.
    CheckFailed,
    /// K_SET_STOP was received.
    KeySetStopped,
    /// The keys are lost.
    KeysLost,
    /// The stream was disabled.
    Disabled,
    /// The link went down.
    LinkDown,
    /// The stream's control or association registers were written.
    RegistersWritten,
}

/// An event of the whole device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceEvent {
    /// A conventional reset: cold, warm, hot, or of the secondary bus.
    ConventionalReset,
    /// Debugging was authorised.
    DebugAuthorised,
    /// The firmware was changed by force.
    FirmwareChanged,
    /// The DSM itself failed.
    DsmFailure,
}
