//! Open enums: message types, error codes, TDI states. A value without a name is kept.

macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident: $raw:ty {
        $($(#[doc = $doc:literal])+ $(#[cfg($($when:tt)+)])? $variant:ident = $value:literal $text:literal,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[doc = $doc])+ $(#[cfg($($when)+)])? $variant,)+
            /// A value that has no name here; kept as it came.
            Unknown($raw),
        }

        impl $name {
            /// Every value that has a name.
            pub const NAMED: &'static [Self] = &[$($(#[cfg($($when)+)])? Self::$variant),+];

            /// The name in the specification.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $($(#[cfg($($when)+)])? Self::$variant => Some($text),)+
                    Self::Unknown(_) => None,
                }
            }
        }

        impl From<$raw> for $name {
            fn from(raw: $raw) -> Self {
                match raw {
                    $($(#[cfg($($when)+)])? $value => Self::$variant,)+
                    other => Self::Unknown(other),
                }
            }
        }

        impl From<$name> for $raw {
            fn from(code: $name) -> $raw {
                match code {
                    $($(#[cfg($($when)+)])? $name::$variant => $value,)+
                    $name::Unknown(raw) => raw,
                }
            }
        }
    };
}
pub(super) use open_enum;

open_enum! {
    /// The type byte of a request (chapter 11, "TDISP request codes"). Without the feature `set-config` 0x8C, which
    /// PCIe 7.0 adds, has no name.
    RequestCode: u8 {
        /// GET_TDISP_VERSION.
        GetVersion = 0x81 "GET_TDISP_VERSION",
        /// GET_TDISP_CAPABILITIES.
        GetCapabilities = 0x82 "GET_TDISP_CAPABILITIES",
        /// LOCK_INTERFACE_REQUEST.
        Lock = 0x83 "LOCK_INTERFACE_REQUEST",
        /// GET_DEVICE_INTERFACE_REPORT.
        GetReport = 0x84 "GET_DEVICE_INTERFACE_REPORT",
        /// GET_DEVICE_INTERFACE_STATE.
        GetState = 0x85 "GET_DEVICE_INTERFACE_STATE",
        /// START_INTERFACE_REQUEST.
        Start = 0x86 "START_INTERFACE_REQUEST",
        /// STOP_INTERFACE_REQUEST.
        Stop = 0x87 "STOP_INTERFACE_REQUEST",
        /// BIND_P2P_STREAM_REQUEST.
        BindP2p = 0x88 "BIND_P2P_STREAM_REQUEST",
        /// UNBIND_P2P_STREAM_REQUEST.
        UnbindP2p = 0x89 "UNBIND_P2P_STREAM_REQUEST",
        /// SET_MMIO_ATTRIBUTE_REQUEST.
        SetMmioAttribute = 0x8A "SET_MMIO_ATTRIBUTE_REQUEST",
        /// VDM_REQUEST.
        Vdm = 0x8B "VDM_REQUEST",
        /// SET_TDISP_CONFIG_REQUEST.
        #[cfg(feature = "set-config")]
        SetConfig = 0x8C "SET_TDISP_CONFIG_REQUEST",
    }
}

open_enum! {
    /// The type byte of a response (chapter 11, "TDISP response codes").
    ResponseCode: u8 {
        /// TDISP_VERSION.
        Version = 0x01 "TDISP_VERSION",
        /// TDISP_CAPABILITIES.
        Capabilities = 0x02 "TDISP_CAPABILITIES",
        /// LOCK_INTERFACE_RESPONSE.
        Lock = 0x03 "LOCK_INTERFACE_RESPONSE",
        /// DEVICE_INTERFACE_REPORT.
        Report = 0x04 "DEVICE_INTERFACE_REPORT",
        /// DEVICE_INTERFACE_STATE.
        State = 0x05 "DEVICE_INTERFACE_STATE",
        /// START_INTERFACE_RESPONSE.
        Start = 0x06 "START_INTERFACE_RESPONSE",
        /// STOP_INTERFACE_RESPONSE.
        Stop = 0x07 "STOP_INTERFACE_RESPONSE",
        /// BIND_P2P_STREAM_RESPONSE.
        BindP2p = 0x08 "BIND_P2P_STREAM_RESPONSE",
        /// UNBIND_P2P_STREAM_RESPONSE.
        UnbindP2p = 0x09 "UNBIND_P2P_STREAM_RESPONSE",
        /// SET_MMIO_ATTRIBUTE_RESPONSE.
        SetMmioAttribute = 0x0A "SET_MMIO_ATTRIBUTE_RESPONSE",
        /// VDM_RESPONSE.
        Vdm = 0x0B "VDM_RESPONSE",
        /// SET_TDISP_CONFIG_RESPONSE.
        #[cfg(feature = "set-config")]
        SetConfig = 0x0C "SET_TDISP_CONFIG_RESPONSE",
        /// TDISP_ERROR.
        Error = 0x7F "TDISP_ERROR",
    }
}

open_enum! {
    /// ERROR_CODE of TDISP_ERROR.
    ErrorCode: u32 {
        /// A field or the length of the request is wrong, or the request is impossible now.
        InvalidRequest = 0x0001 "INVALID_REQUEST",
        /// Not now; the same request may work later.
        Busy = 0x0003 "BUSY",
        /// The TDI is in a state in which the request is not legal.
        InvalidInterfaceState = 0x0004 "INVALID_INTERFACE_STATE",
        /// No reason given.
        Unspecified = 0x0005 "UNSPECIFIED",
        /// The responder does not know the request; ERROR_DATA is its code.
        UnsupportedRequest = 0x0007 "UNSUPPORTED_REQUEST",
        /// The version in the header is not the negotiated one.
        VersionMismatch = 0x0041 "VERSION_MISMATCH",
        /// EXTENDED_ERROR_DATA says it; ERROR_DATA is its length.
        VendorSpecific = 0x00FF "VENDOR_SPECIFIC_ERROR",
        /// The INTERFACE_ID names no TDI of this device.
        InvalidInterface = 0x0101 "INVALID_INTERFACE",
        /// START with a nonce that is not the one of the last LOCK.
        InvalidNonce = 0x0102 "INVALID_NONCE",
        /// No random numbers for a nonce.
        InsufficientEntropy = 0x0103 "INSUFFICIENT_ENTROPY",
        /// The configuration of the device forbids a LOCK.
        InvalidDeviceConfiguration = 0x0104 "INVALID_DEVICE_CONFIGURATION",
    }
}

open_enum! {
    /// TDI_STATE as DEVICE_INTERFACE_STATE carries it.
    TdiState: u8 {
        /// Not locked; nothing is TEE memory. The state after a reset.
        ConfigUnlocked = 0 "CONFIG_UNLOCKED",
        /// Locked, the report can be read; no DMA and no TEE memory access yet.
        ConfigLocked = 1 "CONFIG_LOCKED",
        /// Started: trusted DMA and access to TEE memory.
        Run = 2 "RUN",
        /// Something changed that must not; left by STOP or a reset only.
        Error = 3 "ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_way_through_the_open_enum() {
        for raw in 0..=u8::MAX {
            assert_eq!(u8::from(RequestCode::from(raw)), raw);
            assert_eq!(u8::from(ResponseCode::from(raw)), raw);
            assert_eq!(u8::from(TdiState::from(raw)), raw);
        }
        for raw in (0..0x400).chain([u32::MAX]) {
            assert_eq!(u32::from(ErrorCode::from(raw)), raw);
        }
        assert_eq!(ErrorCode::from(2), ErrorCode::Unknown(2));
    }

    #[test]
    fn what_has_a_name_is_named_as_the_specification_does() {
        assert_eq!(RequestCode::Lock.name(), Some("LOCK_INTERFACE_REQUEST"));
        assert_eq!(ErrorCode::VendorSpecific.name(), Some("VENDOR_SPECIFIC_ERROR"));
        assert_eq!(TdiState::Unknown(7).name(), None);
    }
}
