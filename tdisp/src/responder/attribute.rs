//! SET_MMIO_ATTRIBUTE: part of one updatable range becomes private or shared.

use alloc::vec::Vec;

use super::{Device, Effect, Entropy, Refusal, Responder, put};
use crate::report::ReportView;
use crate::state::{Need, Trigger};
use crate::wire::{
    ErrorCode, Head, MmioRange, PAGE_SHIFT, RangeFlags, Response, SetMmioAttribute, SetMmioAttributeResponse,
};

impl<D: Device, E: Entropy> Responder<D, E> {
    pub(super) fn set_attribute(
        &mut self,
        head: Head,
        SetMmioAttribute { range }: SetMmioAttribute,
        response: &mut Vec<u8>,
    ) -> Result<Effect, Refusal> {
        let tdi = self.tdi(head.interface.function).ok_or(ErrorCode::InvalidInterface)?;
        let (function, lock) = (tdi.function(), tdi.lock().ok_or(ErrorCode::InvalidInterfaceState)?);
        let report = ReportView::new(&lock.report).map_err(|_| ErrorCode::Unspecified)?;
        for need in tdi.needs(Trigger::SetMmioAttribute).ok_or(ErrorCode::InvalidInterfaceState)? {
            match need {
                Need::Updatable if report.ranges().any(|whole| is_updatable_part(range, whole)) => {}
                // It is not; and a need that is not to be met here.
                _ => return Err(ErrorCode::InvalidRequest.into()),
            }
        }
        let range = physical(range, lock.request.reporting_offset).ok_or(ErrorCode::InvalidRequest)?;
        self.device.check_attribute(function, &range).map_err(ErrorCode::from)?;
        put(response, head, &Response::SetMmioAttribute(SetMmioAttributeResponse));
        Ok(Effect::AttributeChanged { function, range })
    }
}

/// Whether the pages are a part of this range of the report, and may change.
fn is_updatable_part(part: MmioRange, whole: MmioRange) -> bool {
    let msix = RangeFlags::MSIX_TABLE | RangeFlags::MSIX_PBA;
    let (Some(pages), Some(all)) = (part.page_span(), whole.page_span()) else { return false };
    !part.flags.intersects(msix)
        && whole.flags.contains(RangeFlags::UPDATABLE)
        && part.id == whole.id
        && all.start <= pages.start
        && pages.end <= all.end
}

/// The pages as the device counts them, with the one attribute that the request sets.
fn physical(reported: MmioRange, offset: i64) -> Option<MmioRange> {
    // An address of whole pages moves by the offset rounded down to pages.
    let pages = offset >> PAGE_SHIFT;
    let first_page = reported.first_page.checked_add_signed(pages.checked_neg()?)?;
    Some(MmioRange { first_page, flags: reported.flags & RangeFlags::NON_TEE, ..reported })
}
