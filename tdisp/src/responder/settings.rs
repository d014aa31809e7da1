//! What the DSM says of itself in TDISP_CAPABILITIES.

use bitflags::bitflags;

use crate::wire::{Capabilities, LockFlags, MessageSet, RequestCode};

bitflags! {
    /// The requests that a DSM need not answer. Which ones it does, its device must be made for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct OptionalRequests: u8 {
        /// BIND_P2P_STREAM and UNBIND_P2P_STREAM.
        const P2P_STREAMS = 1 << 0;
        /// SET_MMIO_ATTRIBUTE.
        const MMIO_ATTRIBUTE = 1 << 1;
        /// VDM.
        const VENDOR_DEFINED = 1 << 2;
    }
}

/// What the DSM says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which flags of a LOCK are honoured; a LOCK that asks for another known one is refused.
    pub lock_flags: LockFlags,
    /// The requests that are answered beyond the mandatory ones.
    pub optional: OptionalRequests,
    /// DEV_ADDR_WIDTH.
    pub address_width: u8,
    /// The most bytes of a report in one response; at least one.
    pub portion: u16,
    /// NUM_REQ_THIS: requests that may be outstanding for one TDI; at least one.
    pub requests_this: u8,
    /// NUM_REQ_ALL: requests that may be outstanding for all TDIs together; at least one.
    pub requests_all: u8,
    /// What SET_TDISP_CONFIG may ask for; where it is empty, that request is not answered.
    #[cfg(feature = "set-config")]
    pub config: crate::wire::Config,
}

impl Default for Settings {
    /// The mandatory requests with every lock flag, one at a time; 52 address bits; the report in one portion.
    fn default() -> Self {
        Settings {
            lock_flags: LockFlags::all(),
            optional: OptionalRequests::empty(),
            address_width: 52,
            portion: u16::MAX,
            requests_this: 1,
            requests_all: 1,
            #[cfg(feature = "set-config")]
            config: crate::wire::Config::empty(),
        }
    }
}

impl Settings {
    /// The requests that are answered.
    pub(super) fn messages(&self) -> MessageSet {
        let optional = [
            (OptionalRequests::P2P_STREAMS, RequestCode::BindP2p),
            (OptionalRequests::P2P_STREAMS, RequestCode::UnbindP2p),
            (OptionalRequests::MMIO_ATTRIBUTE, RequestCode::SetMmioAttribute),
            (OptionalRequests::VENDOR_DEFINED, RequestCode::Vdm),
        ];
        let asked = optional.iter().filter(|(flag, _)| self.optional.contains(*flag));
        let messages = asked.fold(MessageSet::MANDATORY, |all, (_, code)| all.with((*code).into()));
        #[cfg(feature = "set-config")]
        if !self.config.is_empty() {
            return messages.with(RequestCode::SetConfig.into());
        }
        messages
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        #[cfg(feature = "set-config")]
        let dsm_caps = self.config.contains(crate::wire::Config::XT_MODE).into();
        #[cfg(not(feature = "set-config"))]
        let dsm_caps = 0;
        Capabilities {
            dsm_caps,
            messages: self.messages(),
            lock_flags: self.lock_flags,
            address_width: self.address_width,
            requests_this: self.requests_this.max(1),
            requests_all: self.requests_all.max(1),
        }
    }
}
