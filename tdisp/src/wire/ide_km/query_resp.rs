//! QUERY_RESP (1).

use crate::wire::WireError;
use crate::wire::bytes::{At, Writer, typed};

/// Bytes in front of the registers.
const FIXED: usize = 7;

/// Checked view of QUERY_RESP: what follows the fixed part is a whole number of registers.
#[derive(Clone, Copy, Debug)]
pub struct QueryRespView<'a> {
    fixed: &'a [u8; FIXED],
    registers: &'a [u8],
}

impl<'a> QueryRespView<'a> {
    /// Checks type and length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        let code = QueryResp::CODE;
        typed::<0>(message, code, 1)?;
        let got = message.len();
        let split = message.split_first_chunk::<FIXED>();
        let (fixed, registers) = split.ok_or(WireError::Length { code, expected: FIXED, got })?;
        match registers.len() % 4 {
            0 => Ok(QueryRespView { fixed, registers }),
            rest => Err(WireError::Length { code, expected: got.saturating_sub(rest), got }),
        }
    }

    /// PortIndex (offset 2).
    pub fn port(&self) -> u8 {
        At::<2>::u8(self.fixed)
    }

    /// Device and function of the port (offset 3).
    pub fn devfn(&self) -> u8 {
        At::<3>::u8(self.fixed)
    }

    /// Bus of the port (offset 4).
    pub fn bus(&self) -> u8 {
        At::<4>::u8(self.fixed)
    }

    /// Segment of the port (offset 5).
    pub fn segment(&self) -> u8 {
        At::<5>::u8(self.fixed)
    }

    /// The highest PortIndex that the device has (offset 6).
    pub fn max_port(&self) -> u8 {
        At::<6>::u8(self.fixed)
    }

    /// The bytes of the registers (offset 7).
    pub fn register_bytes(&self) -> &'a [u8] {
        self.registers
    }
}

/// QUERY_RESP: where the port is, and its IDE extended capability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryResp<'a> {
    /// PortIndex.
    pub port: u8,
    /// Device and function of the port.
    pub devfn: u8,
    /// Bus of the port.
    pub bus: u8,
    /// Segment of the port.
    pub segment: u8,
    /// The highest PortIndex that the device has.
    pub max_port: u8,
    /// The capability's registers from offset 4 on, four bytes each.
    pub registers: &'a [u8],
}

impl<'a> QueryResp<'a> {
    /// OBJECT_ID.
    pub const CODE: u8 = 1;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &'a [u8]) -> Result<Self, WireError> {
        let view = QueryRespView::new(message)?;
        Ok(QueryResp {
            port: view.port(),
            devfn: view.devfn(),
            bus: view.bus(),
            segment: view.segment(),
            max_port: view.max_port(),
            registers: view.register_bytes(),
        })
    }

    /// The registers as numbers.
    pub fn registers(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.registers.chunks_exact(4).map(|word| u32::from_le_bytes(*word.first_chunk().unwrap_or(&[0; 4])))
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        FIXED.saturating_add(self.registers.len())
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has. Fails where the registers are
    /// not a multiple of four bytes.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let got = self.size();
        match self.registers.len() % 4 {
            0 => {}
            rest => {
                let expected = got.saturating_sub(rest);
                return Err(WireError::Length { code: Self::CODE, expected, got });
            }
        }
        let mut writer = Writer::new(out, got)?;
        writer.put(&[Self::CODE, 0, self.port, self.devfn, self.bus, self.segment, self.max_port]);
        writer.put(self.registers);
        Ok(writer.finish())
    }
}
