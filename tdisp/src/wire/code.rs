//! Open enums: message types, error codes, TDI states. A value without a name is kept.

macro_rules! open_enum {
    ($(#[$meta:meta])* $name:ident: $raw:ty {
        $($(#[doc = $doc:literal])+ $(#[cfg($($when:tt)+)])? $variant:ident = $value:literal,)+
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
        GetVersion = 0x81,
        /// GET_TDISP_CAPABILITIES.
        GetCapabilities = 0x82,
        /// LOCK_INTERFACE_REQUEST.
        Lock = 0x83,
        /// GET_DEVICE_INTERFACE_REPORT.
        GetReport = 0x84,
        /// GET_DEVICE_INTERFACE_STATE.
        GetState = 0x85,
        /// START_INTERFACE_REQUEST.
        Start = 0x86,
        /// STOP_INTERFACE_REQUEST.
        Stop = 0x87,
        /// BIND_P2P_STREAM_REQUEST.
        BindP2p = 0x88,
        /// UNBIND_P2P_STREAM_REQUEST.
        UnbindP2p = 0x89,
        /// SET_MMIO_ATTRIBUTE_REQUEST.
        SetMmioAttribute = 0x8A,
        /// VDM_REQUEST.
        Vdm = 0x8B,
        /// SET_TDISP_CONFIG_REQUEST.
        #[cfg(feature = "set-config")]
        SetConfig = 0x8C,
    }
}

open_enum! {
    /// The type byte of a response (chapter 11, "TDISP response codes").
    ResponseCode: u8 {
        /// TDISP_VERSION.
        Version = 0x01,
        /// TDISP_CAPABILITIES.
        Capabilities = 0x02,
        /// LOCK_INTERFACE_RESPONSE.
        Lock = 0x03,
        /// DEVICE_INTERFACE_REPORT.
        Report = 0x04,
        /// DEVICE_INTERFACE_STATE.
        State = 0x05,
        /// START_INTERFACE_RESPONSE.
        Start = 0x06,
        /// STOP_INTERFACE_RESPONSE.
        Stop = 0x07,
        /// BIND_P2P_STREAM_RESPONSE.
        BindP2p = 0x08,
        /// UNBIND_P2P_STREAM_RESPONSE.
        UnbindP2p = 0x09,
        /// SET_MMIO_ATTRIBUTE_RESPONSE.
        SetMmioAttribute = 0x0A,
        /// VDM_RESPONSE.
        Vdm = 0x0B,
        /// SET_TDISP_CONFIG_RESPONSE.
        #[cfg(feature = "set-config")]
        SetConfig = 0x0C,
        /// TDISP_ERROR.
        Error = 0x7F,
    }
}

open_enum! {
    /// ERROR_CODE of TDISP_ERROR.
    ErrorCode: u32 {
        /// A field or the length of the request is wrong, or the request is impossible now.
        InvalidRequest = 0x0001,
        /// Not now; the same request may work later.
        Busy = 0x0003,
        /// The TDI is in a state in which the request is not legal.
        InvalidInterfaceState = 0x0004,
        /// No reason given.
        Unspecified = 0x0005,
        /// The responder does not know the request; ERROR_DATA is its code.
        UnsupportedRequest = 0x0007,
        /// The version in the header is not the negotiated one.
        VersionMismatch = 0x0041,
        /// EXTENDED_ERROR_DATA says it; ERROR_DATA is its length.
        VendorSpecific = 0x00FF,
        /// The INTERFACE_ID names no TDI of this device.
        InvalidInterface = 0x0101,
        /// START with a nonce that is not the one of the last LOCK.
        InvalidNonce = 0x0102,
        /// No random numbers for a nonce.
        InsufficientEntropy = 0x0103,
        /// The configuration of the device forbids a LOCK.
        InvalidDeviceConfiguration = 0x0104,
    }
}

open_enum! {
    /// TDI_STATE as DEVICE_INTERFACE_STATE carries it.
    TdiState: u8 {
        /// Not locked; nothing is TEE memory. The state after a reset.
        ConfigUnlocked = 0,
        /// Locked, the report can be read; no DMA and no TEE memory access yet.
        ConfigLocked = 1,
        /// Started: trusted DMA and access to TEE memory.
        Run = 2,
        /// Something changed that must not; left by STOP or a reset only.
        Error = 3,
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
}
