//! Any request, any response.

use super::*;

macro_rules! messages {
    ($(#[$meta:meta])* $name:ident, $code:ident {
        $($(#[doc = $doc:literal])+ $(#[cfg($($when:tt)+)])? $variant:ident($body:ty),)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name<'a> {
            $($(#[doc = $doc])+ $(#[cfg($($when)+)])? $variant($body),)+
        }

        impl<'a> $name<'a> {
            /// Checks the bytes of a message and takes header and meaning.
            pub fn parse(message: &'a [u8]) -> Result<(Head, Self), WireError> {
                let header = HeaderView::new(message)?;
                let body = match $code::from(header.code()) {
                    $($(#[cfg($($when)+)])? $code::$variant => Self::$variant(<$body>::parse(message)?),)+
                    $code::Unknown(code) => return Err(WireError::UnknownCode { code }),
                };
                Ok((header.head(), body))
            }

            /// The type of the message.
            pub const fn code(&self) -> $code {
                match self {
                    $($(#[cfg($($when)+)])? Self::$variant(_) => $code::$variant,)+
                }
            }

            /// Bytes of the whole message.
            pub const fn size(&self) -> usize {
                match self {
                    $($(#[cfg($($when)+)])? Self::$variant(body) => body.size(),)+
                }
            }

            /// Writes the whole message to the start of `out` and says how many bytes it has.
            pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
                match self {
                    $($(#[cfg($($when)+)])? Self::$variant(body) => body.emit(head, out),)+
                }
            }
        }
    };
}

messages! {
    /// A request, by type.
    Request, RequestCode {
        /// GET_TDISP_VERSION.
        GetVersion(GetVersion),
        /// GET_TDISP_CAPABILITIES.
        GetCapabilities(GetCapabilities),
        /// LOCK_INTERFACE_REQUEST.
        Lock(LockRequest),
        /// GET_DEVICE_INTERFACE_REPORT.
        GetReport(GetReport),
        /// GET_DEVICE_INTERFACE_STATE.
        GetState(GetState),
        /// START_INTERFACE_REQUEST.
        Start(StartRequest<'a>),
        /// STOP_INTERFACE_REQUEST.
        Stop(StopRequest),
        /// BIND_P2P_STREAM_REQUEST.
        BindP2p(BindP2pRequest),
        /// UNBIND_P2P_STREAM_REQUEST.
        UnbindP2p(UnbindP2pRequest),
        /// SET_MMIO_ATTRIBUTE_REQUEST.
        SetMmioAttribute(SetMmioAttribute),
        /// VDM_REQUEST.
        Vdm(VdmRequest<'a>),
        /// SET_TDISP_CONFIG_REQUEST.
        #[cfg(feature = "set-config")]
        SetConfig(SetConfig),
    }
}

messages! {
    /// A response, by type.
    Response, ResponseCode {
        /// TDISP_VERSION.
        Version(VersionResponse<'a>),
        /// TDISP_CAPABILITIES.
        Capabilities(Capabilities),
        /// LOCK_INTERFACE_RESPONSE.
        Lock(LockResponse<'a>),
        /// DEVICE_INTERFACE_REPORT.
        Report(ReportResponse<'a>),
        /// DEVICE_INTERFACE_STATE.
        State(StateResponse),
        /// START_INTERFACE_RESPONSE.
        Start(StartResponse),
        /// STOP_INTERFACE_RESPONSE.
        Stop(StopResponse),
        /// BIND_P2P_STREAM_RESPONSE.
        BindP2p(BindP2pResponse),
        /// UNBIND_P2P_STREAM_RESPONSE.
        UnbindP2p(UnbindP2pResponse),
        /// SET_MMIO_ATTRIBUTE_RESPONSE.
        SetMmioAttribute(SetMmioAttributeResponse),
        /// VDM_RESPONSE.
        Vdm(VdmResponse<'a>),
        /// SET_TDISP_CONFIG_RESPONSE.
        #[cfg(feature = "set-config")]
        SetConfig(SetConfigResponse),
        /// TDISP_ERROR.
        Error(ErrorResponse<'a>),
    }
}
