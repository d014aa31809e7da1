//! LOCK_INTERFACE: what the table says that it needs, in its order, and then the state.

use alloc::vec::Vec;
use zeroize::Zeroize;

use super::tdi::Lock;
use super::{Device, Effect, Entropy, Ide, Refusal, Responder, put};
use crate::report::{InterfaceReport, PAGE_SIZE, RangeFlags};
use crate::state::event::SessionId;
use crate::state::{Need, Trigger};
use crate::wire::{
    ErrorCode, FunctionId, Head, LockFlags, LockRequest, LockResponse, NONCE_SIZE, Nonce, Response,
};

impl<D: Device, E: Entropy> Responder<D, E> {
    pub(super) fn lock(
        &mut self,
        session: SessionId,
        head: Head,
        request: &LockRequest,
        response: &mut Vec<u8>,
    ) -> Result<Effect, Refusal> {
        let tdi = self.tdi(head.interface.function).ok_or(ErrorCode::InvalidInterface)?;
        let function = tdi.function();
        let needs = tdi.needs(Trigger::Lock).ok_or(ErrorCode::InvalidInterfaceState)?;
        let mut request = *request;
        let mut report = Vec::new();
        let mut nonce = None;
        for need in needs {
            match need {
                Need::Flags => {
                    let honoured = request.honoured(self.settings.lock_flags);
                    request = honoured.map_err(|_| ErrorCode::InvalidRequest)?;
                }
                Need::Keyed => self.keyed(function, request.stream, session)?,
                Need::Configuration => {
                    self.device.check_lock(function, &request).map_err(ErrorCode::from)?;
                    report = self.frozen_report(function, &request)?;
                }
                Need::FreshNonce => nonce = Some(self.fresh_nonce()?),
                // Not to be met here.
                _ => return Err(ErrorCode::Unspecified.into()),
            }
        }
        let nonce = nonce.ok_or(ErrorCode::InsufficientEntropy)?;
        let lock = Lock { request, report, nonce: Some(nonce.clone()) };
        let tdi = self.tdi_mut(head.interface)?;
        let effect = tdi.take_lock(session, lock).ok_or(ErrorCode::InvalidInterfaceState)?;
        put(response, head, &Response::Lock(LockResponse { nonce: nonce.borrow() }));
        Ok(effect)
    }

    fn keyed(&self, function: FunctionId, asked: u8, by: SessionId) -> Result<(), ErrorCode> {
        match self.device.ide(function) {
            Ide::NotRequired => Ok(()),
            Ide::Keyed { stream, session } if stream == asked && session == by => Ok(()),
            Ide::Keyed { .. } | Ide::Unkeyed => Err(ErrorCode::InvalidRequest),
        }
    }

    fn fresh_nonce(&mut self) -> Result<Nonce, ErrorCode> {
        let mut bytes = [0; NONCE_SIZE];
        let filled = self.entropy.fill(&mut bytes);
        let nonce = Nonce::new(bytes);
        bytes.zeroize();
        filled.map_err(|_| ErrorCode::InsufficientEntropy)?;
        Ok(nonce)
    }

    /// The bytes of the report for as long as the lock lasts.
    fn frozen_report(&self, function: FunctionId, lock: &LockRequest) -> Result<Vec<u8>, ErrorCode> {
        let mut report = self.device.describe(function, lock.flags);
        if !lock.flags.contains(LockFlags::LOCK_MSIX) {
            report
                .ranges
                .retain(|range| !range.flags.intersects(RangeFlags::MSIX_TABLE | RangeFlags::MSIX_PBA));
            (report.msix_control, report.tph_control) = (0, 0);
        }
        #[cfg(feature = "set-config")]
        report.info.set(
            crate::report::InterfaceInfo::XT_MODE,
            self.tdi(function).is_some_and(|tdi| tdi.config.contains(crate::wire::Config::XT_MODE)),
        );
        report.check(lock.flags).map_err(|_| ErrorCode::InvalidDeviceConfiguration)?;
        add_offset(&mut report, lock.reporting_offset).ok_or(ErrorCode::InvalidRequest)?;
        report.emit().map_err(|_| ErrorCode::InvalidDeviceConfiguration)
    }
}

/// Adds the offset to the address of every range; `None` where one would leave the 64-bit address space.
fn add_offset(report: &mut InterfaceReport, offset: i64) -> Option<()> {
    for range in &mut report.ranges {
        let pages = range.page_span()?;
        let address = pages.start.checked_mul(PAGE_SIZE)?.checked_add_signed(offset)?;
        // The address of the last page must exist as well.
        let last = pages.end.checked_sub(1)?.checked_mul(PAGE_SIZE)?.checked_add_signed(offset)?;
        last.checked_add(PAGE_SIZE.checked_sub(1)?)?;
        range.first_page = address.checked_div(PAGE_SIZE)?;
    }
    Some(())
}
