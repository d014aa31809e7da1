//! A window into a device's BAR that nothing reaches, and that says when it is unmapped.
#![expect(unsafe_code, reason = "a region needs a mapping, and the promise is the implementer's")]

use super::tdi::{Log, Rig};
use std::sync::Arc;
use tidegate_core::tdi::BarRange;
use tidegate_core::{Access, Class, Extent, MapError, Mapping, Region, Shared};

#[derive(Debug)]
struct Window {
    log: Log,
    bytes: BarRange,
    /// The errno of its unmap.
    fails: Option<i32>,
}

// SAFETY: 1. the extent is one that nothing reaches: no device, no CPU. 2. and 3. so nothing is left after `unmap`.
unsafe impl Mapping for Window {
    fn extent(&self) -> Extent {
        Extent { device: 0x1000, cpu: None, len: 0x1000 }
    }
    fn unmap(&self) -> Result<(), MapError> {
        self.log.say(format!("unmap {}:{:#x}", self.bytes.bar, self.bytes.range.start));
        self.fails.map_or(Ok(()), |errno| Err(MapError { op: "unmap", errno }))
    }
    fn detach(&self) -> Result<(), MapError> {
        Ok(())
    }
    fn read_back(&self) -> bool {
        false
    }
    fn stopped(&self) -> bool {
        self.fails.is_none()
    }
    fn window(&self) -> Option<BarRange> {
        Some(self.bytes.clone())
    }
}

impl Rig {
    /// A window into the device, of somebody in a domain of its own.
    pub(crate) fn window(&self, bytes: BarRange, fails: Option<i32>) -> Region<Shared> {
        let window = Arc::new(Window { log: self.log.clone(), bytes, fails });
        let (domain, gate) = (self.fabric.domain().unwrap(), Some(self.gate()));
        self.fabric.adopt(domain, Class::SharedWindow, Access::ReadWrite, window, None, gate).unwrap()
    }
}
