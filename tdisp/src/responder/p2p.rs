//! BIND_P2P_STREAM and UNBIND_P2P_STREAM.

use alloc::vec::Vec;

use super::{Device, Effect, Entropy, Refusal, Responder, put};
use crate::state::{Need, Trigger};
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
        let (function, lock) = (tdi.function(), tdi.lock().ok_or(ErrorCode::InvalidInterfaceState)?);
        let bond = tdi.bond().ok_or(ErrorCode::InvalidInterfaceState)?;
        for need in tdi.needs(Trigger::BindP2p).ok_or(ErrorCode::InvalidInterfaceState)? {
            let met = match need {
                Need::P2pAllowed => {
                    lock.request.flags.contains(LockFlags::BIND_P2P) && !bond.holds_to(stream)
                }
                // The keys must have come through the session that the TDI was locked through.
                Need::Keyed => self.device.p2p_stream(function, stream) == Some(bond.session),
                // Not to be met here.
                _ => false,
            };
            if !met {
                return Err(ErrorCode::InvalidRequest.into());
            }
        }
        self.tdi_mut(head.interface)?.set_p2p(stream, true).ok_or(ErrorCode::InvalidInterfaceState)?;
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
        let (function, bond) = (tdi.function(), tdi.bond().ok_or(ErrorCode::InvalidInterfaceState)?);
        for need in tdi.needs(Trigger::UnbindP2p).ok_or(ErrorCode::InvalidInterfaceState)? {
            match need {
                Need::P2pBound if bond.p2p.contains(stream) => {}
                Need::Idle if self.device.outstanding_on(function, stream) == 0 => {}
                Need::Idle => return Err(ErrorCode::Busy.into()),
                // Not bound; and a need that is not to be met here.
                _ => return Err(ErrorCode::InvalidRequest.into()),
            }
        }
        self.tdi_mut(head.interface)?.set_p2p(stream, false).ok_or(ErrorCode::InvalidInterfaceState)?;
        put(response, head, &Response::UnbindP2p(UnbindP2pResponse));
        Ok(Effect::StreamReleased { function, stream })
    }
}
