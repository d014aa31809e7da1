//! The operations of requests that a DSM need not answer.

use super::operation::unexpected;
use super::{Operation, Progress, RequestError};
use crate::wire::{
    BindP2pRequest, MmioRange, Request, RequestCode, Response, SetMmioAttribute, UnbindP2pRequest,
    VdmRequest, VendorData,
};
use alloc::vec::Vec;

macro_rules! plain_operation {
    ($(#[$meta:meta])* $name:ident($body:ty) => $code:ident, $request:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub $body);

        impl Operation for $name {
            type Output = ();

            fn request(&self) -> Request<'_> {
                let body = self.0;
                Request::$code($request(body))
            }

            fn accept(&mut self, response: Response<'_>) -> Result<Progress<()>, RequestError> {
                match response {
                    Response::$code(_) => Ok(Progress::Done(())),
                    other => Err(unexpected(RequestCode::$code, &other)),
                }
            }
        }
    };
}

plain_operation! {
    /// BIND_P2P_STREAM of this stream: the TDI, which runs, may send over it.
    BindStream(u8) => BindP2p, |stream| BindP2pRequest { stream }
}

plain_operation! {
    /// UNBIND_P2P_STREAM of this stream: succeeds when nothing of the TDI is in flight on it.
    UnbindStream(u8) => UnbindP2p, |stream| UnbindP2pRequest { stream }
}

plain_operation! {
    /// SET_MMIO_ATTRIBUTE of these pages, as the report counts them. Between the request and its response they may be
    /// either; [`TagTable::change`](crate::report::TagTable::change) keeps the order that is safe.
    SetAttribute(MmioRange) => SetMmioAttribute, |range| SetMmioAttribute { range }
}

#[cfg(feature = "set-config")]
plain_operation! {
    /// SET_TDISP_CONFIG, before a LOCK.
    Configure(crate::wire::Config) => SetConfig, |config| crate::wire::SetConfig { config }
}

/// VDM: gives the vendor's data of the response, which must be of the same vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorDefined<'a>(pub VendorData<'a>);

impl Operation for VendorDefined<'_> {
    type Output = Vec<u8>;

    fn request(&self) -> Request<'_> {
        Request::Vdm(VdmRequest { vendor_data: self.0 })
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<Vec<u8>>, RequestError> {
        let Response::Vdm(answer) = response else {
            return Err(unexpected(RequestCode::Vdm, &response));
        };
        let said = answer.vendor_data;
        if (said.registry, said.vendor) != (self.0.registry, self.0.vendor) {
            return Err(RequestError::WrongVendor { registry: said.registry, vendor: said.vendor.to_vec() });
        }
        Ok(Progress::Done(said.data.to_vec()))
    }
}
