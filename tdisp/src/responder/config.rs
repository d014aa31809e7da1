//! SET_TDISP_CONFIG (PCIe 7.0; see [`crate::wire::SetConfig`] on how sure its layout is).

use alloc::vec::Vec;

use super::{Device, Effect, Entropy, Refusal, Responder, put};
use crate::wire::{Config, ErrorCode, Head, Response, SetConfig, SetConfigResponse};

impl<D: Device, E: Entropy> Responder<D, E> {
    /// Reserved bits are ignored; a known one that the settings do not have is refused.
    pub(super) fn set_config(
        &mut self,
        head: Head,
        SetConfig { config }: SetConfig,
        response: &mut Vec<u8>,
    ) -> Result<Effect, Refusal> {
        let config = config & Config::all();
        if !self.settings.config.contains(config) {
            return Err(ErrorCode::InvalidRequest.into());
        }
        let tdi = self.tdi_mut(head.interface)?;
        tdi.config = config;
        let function = tdi.function();
        put(response, head, &Response::SetConfig(SetConfigResponse));
        Ok(Effect::Configured { function, config })
    }
}
