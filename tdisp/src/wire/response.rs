//! Any response.

use super::{
    Capabilities, ErrorResponse, Head, HeaderView, LockResponse, ReportResponse, ResponseCode, StartResponse,
    StateResponse, StopResponse, VersionResponse, WireError,
};

/// A response, by type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Response<'a> {
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
    /// TDISP_ERROR.
    Error(ErrorResponse<'a>),
}

impl<'a> Response<'a> {
    /// Checks the bytes of a response and takes header and meaning.
    pub fn parse(message: &'a [u8]) -> Result<(Head, Self), WireError> {
        let header = HeaderView::new(message)?;
        let body = match ResponseCode::from(header.code()) {
            ResponseCode::Version => Self::Version(VersionResponse::parse(message)?),
            ResponseCode::Capabilities => Self::Capabilities(Capabilities::parse(message)?),
            ResponseCode::Lock => Self::Lock(LockResponse::parse(message)?),
            ResponseCode::Report => Self::Report(ReportResponse::parse(message)?),
            ResponseCode::State => Self::State(StateResponse::parse(message)?),
            ResponseCode::Start => Self::Start(StartResponse::parse(message)?),
            ResponseCode::Stop => Self::Stop(StopResponse::parse(message)?),
            ResponseCode::Error => Self::Error(ErrorResponse::parse(message)?),
            ResponseCode::Unknown(code) => return Err(WireError::UnknownCode { code }),
        };
        Ok((header.head(), body))
    }

    /// The type of the response.
    pub const fn code(&self) -> ResponseCode {
        match self {
            Self::Version(_) => ResponseCode::Version,
            Self::Capabilities(_) => ResponseCode::Capabilities,
            Self::Lock(_) => ResponseCode::Lock,
            Self::Report(_) => ResponseCode::Report,
            Self::State(_) => ResponseCode::State,
            Self::Start(_) => ResponseCode::Start,
            Self::Stop(_) => ResponseCode::Stop,
            Self::Error(_) => ResponseCode::Error,
        }
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        match self {
            Self::Version(body) => body.size(),
            Self::Capabilities(body) => body.size(),
            Self::Lock(body) => body.size(),
            Self::Report(body) => body.size(),
            Self::State(body) => body.size(),
            Self::Start(body) => body.size(),
            Self::Stop(body) => body.size(),
            Self::Error(body) => body.size(),
        }
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        match self {
            Self::Version(body) => body.emit(head, out),
            Self::Capabilities(body) => body.emit(head, out),
            Self::Lock(body) => body.emit(head, out),
            Self::Report(body) => body.emit(head, out),
            Self::State(body) => body.emit(head, out),
            Self::Start(body) => body.emit(head, out),
            Self::Stop(body) => body.emit(head, out),
            Self::Error(body) => body.emit(head, out),
        }
    }
}
