//! Exports: ranges of a BAR that leave a device as a dma-buf.

use crate::backend::{Backend, BackendError};
use crate::device::{Device, Taken};
use crate::mapping::Exported;
use std::ops::Range;
use std::sync::Arc;
use tidegate_core::GateClosed;
use tidegate_core::tdi::{BarRange, PageTag, TdiState};

/// A page-aligned range of one BAR, exported once, importable any number of times. Cheap to clone. It stays good
/// over resets of its device (imports do not) and dies with the last [`Device`] clone's close.
#[derive(Debug)]
pub struct Export<B: Backend>(Arc<Inner<B>>);

impl<B: Backend> Clone for Export<B> {
    fn clone(&self) -> Self {
        Export(self.0.clone())
    }
}

struct Inner<B: Backend> {
    device: Device<B>,
    bar: u8,
    range: Range<u64>,
    buffer: Arc<Buffer<B>>,
}

/// Open as long as the export or a window of it: until then peers may reach the range.
pub(crate) struct Buffer<B: Backend> {
    dmabuf: B::DmaBuf,
    _taken: Taken,
}

impl<B: Backend> std::fmt::Debug for Inner<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BAR {} {:#x?} of {}", self.bar, self.range, self.device.address())
    }
}

/// A range was not exported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// It touches a page of the MSI-X table or PBA: whoever writes there chooses the device's interrupts.
    #[error("BAR {bar} {range:#x?} touches the MSI-X table or pending bits (see Device::export_with_msix)")]
    Msix {
        /// BAR index.
        bar: u8,
        /// The range.
        range: Range<u64>,
    },
    /// An engine of the device has something of its own there: whoever writes there drives the device.
    #[error(
        "BAR {bar} {range:#x?} meets {kept:#x?}, where an engine of the device keeps its queues: close its channel, or export beside it"
    )]
    Withheld {
        /// BAR index.
        bar: u8,
        /// The range.
        range: Range<u64>,
        /// What is kept.
        kept: Range<u64>,
    },
    /// No such BAR, not page-aligned, empty or past its end.
    #[error("{range:#x?} is no page-aligned range of BAR {bar} of {size:#x} bytes")]
    Range {
        /// BAR index.
        bar: u8,
        /// The range.
        range: Range<u64>,
        /// Bytes of the BAR, 0 where there is none.
        size: u64,
    },
    /// The device is being quiesced, or is quiet.
    #[error(transparent)]
    Gate(#[from] GateClosed),
    /// The backend refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl<B: Backend> Export<B> {
    pub(crate) fn new(
        device: &Device<B>,
        bar: u8,
        range: Range<u64>,
        dmabuf: B::DmaBuf,
        taken: Taken,
    ) -> Self {
        let buffer = Arc::new(Buffer { dmabuf, _taken: taken });
        Export(Arc::new(Inner { device: device.clone(), bar, range, buffer }))
    }

    /// Its device.
    pub fn device(&self) -> &Device<B> {
        &self.0.device
    }

    /// BAR index.
    pub fn bar(&self) -> u8 {
        self.0.bar
    }

    /// Bytes of the BAR.
    pub fn range(&self) -> Range<u64> {
        self.0.range.clone()
    }

    /// Bytes. Never 0.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.0.range.end - self.0.range.start
    }

    pub(crate) fn dmabuf(&self) -> &B::DmaBuf {
        &self.0.buffer.dmabuf
    }

    /// What a window made of it leads to.
    pub(crate) fn exported(&self) -> Exported<B> {
        Exported {
            function: self.0.device.function().clone(),
            bytes: BarRange { bar: self.0.bar, range: self.range() },
            _buffer: self.0.buffer.clone(),
        }
    }

    /// Physical offset that an importer should be congruent with.
    pub(crate) fn congruence(&self) -> u64 {
        use crate::backend::Function;
        let base = self.0.device.function().bar_congruence(self.0.bar);
        base.wrapping_add(self.0.range.start) & !0xfff
    }

    /// Is every page of it tagged `tag`? Without a bound TDI everything is shared.
    pub(crate) fn check_tag(&self, tag: PageTag) -> Result<(), crate::import::ImportError> {
        let wrong = |at, found| Err(crate::import::ImportError::Tag { bar: self.0.bar, at, found });
        match self.0.device.trust().0 {
            TdiState::Unlocked if tag == PageTag::Shared => return Ok(()),
            TdiState::Unlocked => return wrong(self.0.range.start, PageTag::Shared),
            TdiState::Error => return wrong(self.0.range.start, PageTag::Inaccessible),
            TdiState::Locked | TdiState::Run => {}
        }
        let mut at = self.0.range.start;
        while at < self.0.range.end {
            let (found, end) = self.0.device.tag_at(self.0.bar, at);
            if found != tag {
                return wrong(at, found);
            }
            at = end;
        }
        Ok(())
    }
}
