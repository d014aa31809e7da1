//! QUERY (0).

use super::exact;
use crate::wire::WireError;
use crate::wire::bytes::{At, Writer};

/// Checked view of QUERY.
#[derive(Clone, Copy, Debug)]
pub struct QueryView<'a>(&'a [u8; 3]);

impl<'a> QueryView<'a> {
    /// Checks type and exact length.
    pub fn new(message: &'a [u8]) -> Result<Self, WireError> {
        exact(message, Query::CODE).map(Self)
    }

    /// PortIndex (offset 2).
    pub fn port(&self) -> u8 {
        At::<2>::u8(self.0)
    }
}

/// QUERY: what are the IDE registers of this port?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// PortIndex.
    pub port: u8,
}

impl Query {
    /// OBJECT_ID.
    pub const CODE: u8 = 0;

    /// Checks the message and takes its meaning.
    pub fn parse(message: &[u8]) -> Result<Self, WireError> {
        Ok(Query { port: QueryView::new(message)?.port() })
    }

    /// Bytes of the whole message.
    pub const fn size(&self) -> usize {
        3
    }

    /// Writes the whole message to the start of `out` and says how many bytes it has.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, WireError> {
        let mut writer = Writer::new(out, self.size())?;
        writer.put(&[Self::CODE, 0, self.port]);
        Ok(writer.finish())
    }
}
