//! VDM_REQUEST (0x8B) and VDM_RESPONSE (0x0B): a vendor's own messages.

use super::bytes::{Writer, prefix};
use super::{HEADER_SIZE, Head, VendorData, WireError};

macro_rules! vdm {
    ($(#[$meta:meta])* $name:ident, $view:ident, $code:expr) => {
        /// Checked view of the message: VENDOR_ID_LEN (offset 17) fits the bytes that are there.
        #[derive(Clone, Copy, Debug)]
        pub struct $view<'a>(VendorData<'a>);

        impl<'a> $view<'a> {
            /// Checks type, length and VENDOR_ID_LEN.
            pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
                let (_, payload) = prefix::<HEADER_SIZE>(message, $name::CODE)?;
                VendorData::parse(payload).map(Self)
            }

            /// REGISTRY_ID, vendor id and data (offset 16 to the end).
            pub fn vendor_data(&self) -> VendorData<'a> {
                self.0
            }
        }

        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a> {
            /// Whose message it is, and what it says.
            pub vendor_data: VendorData<'a>,
        }

        impl<'a> $name<'a> {
            /// The type byte of the message.
            pub const CODE: u8 = $code;

            /// Checks the message and takes its meaning.
            pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
                Ok($name { vendor_data: $view::new(message)?.vendor_data() })
            }

            /// Bytes of the whole message.
            pub const fn size(&self) -> usize {
                HEADER_SIZE.saturating_add(self.vendor_data.size())
            }

            /// Writes the whole message to the start of `out` and says how many bytes it has. Fails for a vendor id
            /// of more than 255 bytes.
            pub fn emit(&self, head: Head, out: &mut [u8]) -> Result<usize, WireError> {
                let len = self.vendor_data.len_field()?;
                let mut writer = Writer::begin(out, self.size(), Self::CODE, head)?;
                self.vendor_data.put(len, &mut writer);
                Ok(writer.finish())
            }
        }
    };
}

vdm! {
    /// VDM_REQUEST: a request of a vendor's own. Which states it is legal in is the vendor's business.
    VdmRequest, VdmRequestView, 0x8B
}

vdm! {
    /// VDM_RESPONSE: the answer to a VDM_REQUEST.
    VdmResponse, VdmResponseView, 0x0B
}
