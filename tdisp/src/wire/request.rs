//! Any request.

use super::{
    GetCapabilities, GetReport, GetState, GetVersion, Head, HeaderView, LockRequest, RequestCode,
    StartRequest, StopRequest, WireError,
};

/// A request, by type.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request<'a> {
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
}

impl<'a> Request<'a> {
    /// Checks the bytes of a request and takes header and meaning.
    pub fn parse(message: &'a [u8]) -> Result<(Head, Self), WireError> {
        let header = HeaderView::new(message)?;
        let body = match RequestCode::from(header.code()) {
            RequestCode::GetVersion => Self::GetVersion(GetVersion::parse(message)?),
            RequestCode::GetCapabilities => Self::GetCapabilities(GetCapabilities::parse(message)?),
            RequestCode::Lock => Self::Lock(LockRequest::parse(message)?),
            RequestCode::GetReport => Self::GetReport(GetReport::parse(message)?),
            RequestCode::GetState => Self::GetState(GetState::parse(message)?),
            RequestCode::Start => Self::Start(StartRequest::parse(message)?),
            RequestCode::Stop => Self::Stop(StopRequest::parse(message)?),
            RequestCode::Unknown(code) => return Err(WireError::UnknownCode { code }),
        };
        Ok((header.head(), body))
    }

    /// The type of the request.
    pub const fn code(&self) -> RequestCode {
        match self {
            Self::GetVersion(_) => RequestCode::GetVersion,
            Self::GetCapabilities(_) => RequestCode::GetCapabilities,
            Self::Lock(_) => RequestCode::Lock,
            Self::GetReport(_) => RequestCode::GetReport,
            Self::GetState(_) => RequestCode::GetState,
            Self::Start(_) => RequestCode::Start,
            Self::Stop(_) => RequestCode::Stop,
        }
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        match self {
            Self::GetVersion(body) => body.size(),
            Self::GetCapabilities(body) => body.size(),
            Self::Lock(body) => body.size(),
            Self::GetReport(body) => body.size(),
            Self::GetState(body) => body.size(),
            Self::Start(body) => body.size(),
            Self::Stop(body) => body.size(),
        }
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
        match self {
            Self::GetVersion(body) => body.emit(head, out),
            Self::GetCapabilities(body) => body.emit(head, out),
            Self::Lock(body) => body.emit(head, out),
            Self::GetReport(body) => body.emit(head, out),
            Self::GetState(body) => body.emit(head, out),
            Self::Start(body) => body.emit(head, out),
            Self::Stop(body) => body.emit(head, out),
        }
    }
}
