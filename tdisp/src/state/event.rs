//! What happens to a device from outside TDISP, and which TDIs it hits (chapter 11, "events that lead to ERROR").
//!
//! Whoever watches the device (configuration space, IDE, SPDM) reports an [`Event`]; the tables here say what it
//! means. Configuration writes that a lock allows (cache line size, interrupt line, AER and such) are no events.
//! A happening that hits more than one thing is more than one event: a reset of function 0 which ends SPDM
//! sessions is reported as the function's FLR *and* as the end of each session.

use crate::wire::FunctionId;

use super::Trigger;

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

/// Which TDIs an event of a function hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hits {
    /// The TDI of the function alone.
    Function,
    /// The TDI of the function, and those of its virtual functions.
    FunctionAndVirtual,
}

/// What must hold for an event to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// The lock holds the MSI-X table.
    MsixLocked,
}

macro_rules! function_events {
    ($($(#[$doc:meta])* $event:ident: $hits:ident, $when:ident;)+) => {
        /// An event of one function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum FunctionEvent {
            $($(#[$doc])* $event,)+
        }

        /// Each event of a function, whom it hits, and under which condition. All of them are faults.
        pub const FUNCTION_EVENTS: &[FunctionRule] = &[
            $(FunctionRule { event: FunctionEvent::$event, hits: Hits::$hits, when: When::$when },)+
        ];
    };
}

/// One line of [`FUNCTION_EVENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionRule {
    /// What happened.
    pub event: FunctionEvent,
    /// Whom it hits.
    pub hits: Hits,
    /// Under which condition.
    pub when: When,
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

impl FunctionEvent {
    /// The line of the event in [`FUNCTION_EVENTS`].
    pub fn rule(self) -> FunctionRule {
        let found = FUNCTION_EVENTS.iter().copied().find(|rule| rule.event == self);
        // The table is made together with the enum, so the line is there; without it the event would hit all.
        found.unwrap_or(FunctionRule { event: self, hits: Hits::FunctionAndVirtual, when: When::Always })
    }
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

/// Each event of the device and what it does to every TDI.
pub const DEVICE_EVENTS: [(DeviceEvent, Trigger); 4] = [
    (DeviceEvent::ConventionalReset, Trigger::Reset),
    (DeviceEvent::DebugAuthorised, Trigger::Fault),
    (DeviceEvent::FirmwareChanged, Trigger::Fault),
    (DeviceEvent::DsmFailure, Trigger::Fault),
];

impl DeviceEvent {
    /// What the event does to every TDI. An event without a line in [`DEVICE_EVENTS`] would be a fault.
    pub fn trigger(self) -> Trigger {
        let found = DEVICE_EVENTS.iter().find(|(event, _)| *event == self);
        found.map_or(Trigger::Fault, |&(_, trigger)| trigger)
    }
}
