//! Requests and their answers, checked in this order: type and length, version, interface, how many wait already,
//! state, fields, entropy.

use alloc::vec::Vec;

use super::{Device, Effect, Entropy, Objection, Refusal, Responder, Scrub, Tdi, put, unsupported};
use crate::state::event::SessionId;
use crate::state::{Closed, Need, Trigger};
use crate::wire::{
    ErrorCode, ErrorResponse, FunctionId, GetReport, Head, HeaderView, ReportResponse, Request, Response,
    StartRequest, StartResponse, StateResponse, StopResponse, Version, VersionResponse,
};

impl From<Objection> for ErrorCode {
    fn from(objection: Objection) -> Self {
        match objection {
            Objection::Request => ErrorCode::InvalidRequest,
            Objection::Configuration => ErrorCode::InvalidDeviceConfiguration,
            Objection::Busy => ErrorCode::Busy,
        }
    }
}

impl<D: Device, E: Entropy> Responder<D, E> {
    /// Answers one request that came through `session`. `response` is overwritten; it stays empty where no answer
    /// is possible (fewer bytes than a header).
    ///
    /// The effects are to be acted on before the response is sent. BUSY where as many requests wait as may be
    /// outstanding (see [`take`](Self::take)). Cost: one allocation where there is an effect.
    pub fn handle(&mut self, session: SessionId, request: &[u8], response: &mut Vec<u8>) -> Vec<Effect> {
        response.clear();
        let Ok(header) = HeaderView::new(request) else { return Vec::new() };
        match self.answer(session, request, response) {
            Ok(effect) => effect.into_iter().collect(),
            Err(Refusal(code, data)) => {
                // Which version an error carries is not specified; the request's is the one its sender reads.
                put(response, header.head(), &Response::Error(ErrorResponse::new(code, data)));
                Vec::new()
            }
        }
    }

    /// Whose the request is, if it is one that may wait: well formed, and not the version.
    pub(super) fn waits(&self, request: &[u8]) -> Option<FunctionId> {
        match self.check(request) {
            Ok((_, Request::GetVersion(_))) | Err(_) => None,
            Ok((head, _)) => Some(head.interface.function),
        }
    }

    /// What does not depend on the state.
    fn check<'a>(&self, request: &'a [u8]) -> Result<(Head, Request<'a>), Refusal> {
        let code = HeaderView::new(request).map_err(|_| ErrorCode::InvalidRequest)?.code();
        if !self.settings.messages().has(code) {
            return Err(unsupported(code));
        }
        let (head, request) = Request::parse(request).map_err(|_| ErrorCode::InvalidRequest)?;
        let version = matches!(request, Request::GetVersion(_));
        let known = match version {
            // Any version of major 1 must be told which versions there are.
            true => head.version.major() == Version::V1_0.major(),
            false => head.version == Version::V1_0,
        };
        if !known {
            return Err(ErrorCode::VersionMismatch.into());
        }
        let head = Head { version: Version::V1_0, ..head };
        let tdi = self.tdi(head.interface.function).ok_or(ErrorCode::InvalidInterface)?;
        // The version is told at any time: before it a TSM knows no limits.
        if !version && self.waiting.is_full(&self.settings, tdi.function()) {
            return Err(ErrorCode::Busy.into());
        }
        Ok((head, request))
    }

    fn answer(
        &mut self,
        session: SessionId,
        request: &[u8],
        response: &mut Vec<u8>,
    ) -> Result<Option<Effect>, Refusal> {
        let (head, request) = self.check(request)?;
        let tdi = self.tdi(head.interface.function).ok_or(ErrorCode::InvalidInterface)?;
        tdi.admits(request.code()).map_err(|closed| match closed {
            Closed::State => ErrorCode::InvalidInterfaceState,
            Closed::Wiping => ErrorCode::Busy,
        })?;
        let effect = match request {
            Request::GetVersion(_) => {
                put(response, head, &Response::Version(VersionResponse { entries: &[Version::V1_0.0] }));
                None
            }
            Request::GetCapabilities(_) => {
                put(response, head, &Response::Capabilities(self.settings.capabilities()));
                None
            }
            Request::Lock(lock) => Some(self.lock(session, head, &lock, response)?),
            Request::GetReport(portion) => {
                self.report(tdi, head, portion, response)?;
                None
            }
            Request::GetState(_) => {
                put(response, head, &Response::State(StateResponse { state: tdi.state().into() }));
                None
            }
            Request::Start(start) => Some(self.start(head, &start, response)?),
            Request::Stop(_) => self.stop(head, response)?,
            Request::BindP2p(bind) => Some(self.bind_p2p(head, bind, response)?),
            Request::UnbindP2p(unbind) => Some(self.unbind_p2p(head, unbind, response)?),
            Request::SetMmioAttribute(set) => Some(self.set_attribute(head, set, response)?),
            Request::Vdm(vdm) => {
                self.vendor_defined(head, &vdm, response)?;
                None
            }
            #[cfg(feature = "set-config")]
            Request::SetConfig(set) => Some(self.set_config(head, set, response)?),
        };
        Ok(effect)
    }

    fn report(&self, tdi: &Tdi, head: Head, asked: GetReport, response: &mut Vec<u8>) -> Result<(), Refusal> {
        let lock = tdi.lock().ok_or(ErrorCode::Unspecified)?;
        let rest = lock.report.get(usize::from(asked.offset)..).unwrap_or(&[]);
        if rest.is_empty() || asked.length == 0 {
            return Err(ErrorCode::InvalidRequest.into());
        }
        let most = asked.length.min(self.settings.portion.max(1));
        let (portion, rest) = rest.split_at_checked(usize::from(most)).unwrap_or((rest, &[]));
        // The report was made to fit 16 bits when it was locked.
        let remainder = u16::try_from(rest.len()).map_err(|_| ErrorCode::Unspecified)?;
        put(response, head, &Response::Report(ReportResponse { portion, remainder }));
        Ok(())
    }

    fn start(&mut self, head: Head, start: &StartRequest<'_>, out: &mut Vec<u8>) -> Result<Effect, Refusal> {
        let tdi = self.tdi_mut(head.interface)?;
        for need in tdi.needs(Trigger::Start).ok_or(ErrorCode::InvalidInterfaceState)? {
            match need {
                Need::Nonce if tdi.nonce_is(start.nonce) => {}
                Need::Nonce => return Err(ErrorCode::InvalidNonce.into()),
                // Not to be met here.
                _ => return Err(ErrorCode::Unspecified.into()),
            }
        }
        let effect = tdi.advance(Trigger::Start).ok_or(ErrorCode::InvalidInterfaceState)?;
        put(out, head, &Response::Start(StartResponse));
        Ok(effect)
    }

    fn stop(&mut self, head: Head, response: &mut Vec<u8>) -> Result<Option<Effect>, Refusal> {
        let tdi = self.tdi(head.interface.function).ok_or(ErrorCode::InvalidInterface)?;
        let function = tdi.function();
        for need in tdi.needs(Trigger::Stop).ok_or(ErrorCode::InvalidInterfaceState)? {
            match need {
                Need::Idle if self.device.outstanding(function) == 0 => {}
                Need::Scrubbed if self.device.scrub(function) == Scrub::Done => {}
                Need::Scrubbed => {
                    self.tdi_mut(head.interface)?.begin_wipe();
                    return Err(ErrorCode::Busy.into());
                }
                // Later, perhaps; and a need that is not to be met here never.
                _ => return Err(ErrorCode::Busy.into()),
            }
        }
        let effect = self.tdi_mut(head.interface)?.advance(Trigger::Stop);
        put(response, head, &Response::Stop(StopResponse));
        Ok(effect)
    }
}
