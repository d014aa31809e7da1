//! VDM: what a vendor's request means, the device knows.

use alloc::vec;
use alloc::vec::Vec;

use super::{Device, Entropy, Refusal, Responder, VendorRefusal, put, unsupported};
use crate::wire::{
    ErrorCode, ErrorResponse, Head, RequestCode, Response, VdmRequest, VdmResponse, VendorData,
};

impl<D: Device, E: Entropy> Responder<D, E> {
    pub(super) fn vendor_defined(
        &mut self,
        head: Head,
        request: &VdmRequest<'_>,
        response: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let tdi = self.tdi(head.interface.function).ok_or(ErrorCode::InvalidInterface)?;
        let (function, state) = (tdi.function(), tdi.state());
        let mut data = Vec::new();
        let answered = self.device.vendor_defined(function, state, request.vendor_data, &mut data);
        let vendor_data = VendorData { data: &data, ..request.vendor_data };
        match answered {
            Ok(()) => put(response, head, &Response::Vdm(VdmResponse { vendor_data })),
            Err(VendorRefusal::Unsupported) => return Err(unsupported(RequestCode::Vdm.into())),
            Err(VendorRefusal::Request) => return Err(ErrorCode::InvalidRequest.into()),
            Err(VendorRefusal::State) => return Err(ErrorCode::InvalidInterfaceState.into()),
            Err(VendorRefusal::Busy) => return Err(ErrorCode::Busy.into()),
            Err(VendorRefusal::Vendor) => {
                let mut extended = vec![0; vendor_data.size()];
                vendor_data.emit(&mut extended).map_err(|_| ErrorCode::Unspecified)?;
                let data = u32::try_from(extended.len()).map_err(|_| ErrorCode::Unspecified)?;
                let error = ErrorResponse { code: ErrorCode::VendorSpecific, data, extended: &extended };
                put(response, head, &Response::Error(error));
            }
        }
        Ok(())
    }
}
