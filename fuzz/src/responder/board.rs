//! The device below the DSM, and its random numbers.

use std::cell::Cell;
use tidegate_tdisp::report::{InterfaceInfo, InterfaceReport, MmioRange};
use tidegate_tdisp::responder::{Device, Entropy, Ide, NoEntropy, Objection, Scrub, VendorRefusal};
use tidegate_tdisp::state::State;
use tidegate_tdisp::state::event::SessionId;
use tidegate_tdisp::wire::{FunctionId, LockFlags, LockRequest, MmioRange as Range, RangeFlags, VendorData};

/// Stands for every function.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) ide: Ide,
    pub(crate) idle: bool,
    pub(crate) scrub: Scrub,
    /// Whose keys the streams 8 to 15 have, which may be bound for P2P.
    pub(crate) p2p: Option<SessionId>,
    pub(crate) objection: Option<Objection>,
    vendor: Result<(), VendorRefusal>,
}

impl Default for Board {
    fn default() -> Self {
        let (ide, scrub, vendor) = (Ide::NotRequired, Scrub::Done, Ok(()));
        Board { ide, idle: true, scrub, p2p: None, objection: None, vendor }
    }
}

impl Board {
    /// What one byte says: three bits say which of it changes, four to what.
    pub(crate) fn change(&mut self, what: u8, session: SessionId) {
        let to = what >> 3 & 0xF;
        match what & 7 {
            0 => self.ide = Ide::NotRequired,
            1 => self.ide = Ide::Unkeyed,
            2 => self.ide = Ide::Keyed { stream: to, session },
            3 => self.idle = to & 1 == 0,
            4 => self.scrub = if to & 1 == 0 { Scrub::Done } else { Scrub::Pending },
            5 => self.p2p = (to & 1 == 0).then_some(session),
            6 => {
                let all = [Objection::Request, Objection::Configuration, Objection::Busy];
                self.objection = all.get(usize::from(to)).copied();
            }
            _ => {
                let all = [
                    VendorRefusal::Unsupported,
                    VendorRefusal::Request,
                    VendorRefusal::State,
                    VendorRefusal::Busy,
                    VendorRefusal::Vendor,
                ];
                self.vendor = all.get(usize::from(to)).copied().map_or(Ok(()), Err);
            }
        }
    }

    fn in_flight(&self) -> u64 {
        u64::from(!self.idle)
    }
}

impl Device for Board {
    fn ide(&self, _: FunctionId) -> Ide {
        self.ide
    }

    fn check_lock(&self, _: FunctionId, _: &LockRequest) -> Result<(), Objection> {
        self.objection.map_or(Ok(()), Err)
    }

    fn describe(&self, function: FunctionId, _: LockFlags) -> InterfaceReport {
        let msix = MmioRange { flags: RangeFlags::MSIX_TABLE, ..MmioRange::private(0, 0x1010, 1) };
        let updatable = MmioRange { flags: RangeFlags::UPDATABLE, ..MmioRange::private(2, 0x2000, 16) };
        InterfaceReport {
            info: InterfaceInfo::DMA_WITHOUT_PASID,
            msix_control: 0x8000,
            ranges: vec![MmioRange::private(0, 0x1000, 16), msix, updatable],
            device_info: function.to_bits().to_le_bytes().to_vec(),
            ..InterfaceReport::default()
        }
    }

    fn outstanding(&self, _: FunctionId) -> u64 {
        self.in_flight()
    }

    fn scrub(&mut self, _: FunctionId) -> Scrub {
        assert!(self.idle, "wiped while something is in flight");
        self.scrub
    }

    fn p2p_stream(&self, _: FunctionId, stream: u8) -> Option<SessionId> {
        self.p2p.filter(|_| (8..16).contains(&stream))
    }

    fn check_attribute(&self, _: FunctionId, range: &Range) -> Result<(), Objection> {
        let pages = range.page_span().expect("pages of the report");
        assert!(0x2000 <= pages.start && pages.end <= 0x2010, "{range:?} may not change");
        self.objection.map_or(Ok(()), Err)
    }

    fn vendor_defined(
        &mut self,
        _: FunctionId,
        _: State,
        request: VendorData<'_>,
        data: &mut Vec<u8>,
    ) -> Result<(), VendorRefusal> {
        data.extend(request.data);
        self.vendor
    }
}

/// No two nonces are the same, and there is none while `fails`.
pub(crate) struct Counter<'a> {
    fails: &'a Cell<bool>,
    given: u64,
}

impl<'a> Counter<'a> {
    pub(crate) fn new(fails: &'a Cell<bool>) -> Self {
        Counter { fails, given: 0 }
    }
}

impl Entropy for Counter<'_> {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        if self.fails.get() {
            return Err(NoEntropy);
        }
        self.given += 1;
        out.iter_mut().zip(self.given.to_le_bytes()).for_each(|(to, from)| *to = from);
        Ok(())
    }
}
