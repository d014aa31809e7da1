//! BIND_P2P_STREAM and UNBIND_P2P_STREAM.

use alloc::vec::Vec;

use super::{Device, Effect, Entropy, Refusal, Responder, put};
use crate::wire::{
    BindP2pRequest, BindP2pResponse, ErrorCode, Head, LockFlags, Response, UnbindP2pRequest,
    UnbindP2pResponse,
};

impl<D: Device, E: Entropy> Responder<D, E> {
    pub(super) fn bind_p2p(
        &mut self,
        head: Head,
        BindP2pRequest { stream }: BindP2pRequest,
        response: &mut Vec<u8>,
    ) -> Result<Effect, Refusal> {
        let tdi = self.tdi(head.interface.function).ok_or(ErrorCode::InvalidInterface)?;
        let (function, lock) = (tdi.function, tdi.lock().ok_or(ErrorCode::InvalidInterfaceState)?);
        let bindable = lock.request.flags.contains(LockFlags::BIND_P2P)
            && !tdi.bound_to(stream)
            // The keys must have come through the session that the TDI was locked through.
            && self.device.p2p_stream(function, stream) == Some(lock.session);
        if !bindable {
            return Err(ErrorCode::InvalidRequest.into());
        }
        let lock = self.tdi_mut(head.interface)?.lock_mut().ok_or(ErrorCode::InvalidInterfaceState)?;
        lock.p2p_streams.push(stream);
        put(response, head, &Response::BindP2p(BindP2pResponse));
        Ok(Effect::StreamBound { function, stream })
    }

    pub(super) fn unbind_p2p(
        &mut self,
        head: Head,
        UnbindP2pRequest { stream }: UnbindP2pRequest,
        response: &mut Vec<u8>,
    ) -> Result<Effect, Refusal> {
        let tdi = self.tdi(head.interface.function).ok_or(ErrorCode::InvalidInterface)?;
        let (function, lock) = (tdi.function, tdi.lock().ok_or(ErrorCode::InvalidInterfaceState)?);
        if !lock.p2p_streams.contains(&stream) {
            return Err(ErrorCode::InvalidRequest.into());
        }
        if self.device.outstanding_on(function, stream) > 0 {
            return Err(ErrorCode::Busy.into());
        }
        let lock = self.tdi_mut(head.interface)?.lock_mut().ok_or(ErrorCode::InvalidInterfaceState)?;
        lock.p2p_streams.retain(|&bound| bound != stream);
        put(response, head, &Response::UnbindP2p(UnbindP2pResponse));
        Ok(Effect::StreamReleased { function, stream })
    }
}
