//! A device whose every answer a test can set, and a client that speaks bytes to its DSM.
#![allow(dead_code)]

use std::cell::Cell;
use std::rc::Rc;

use tidegate_tdisp::report::{InterfaceInfo, InterfaceReport, MmioRange, RangeFlags};
use tidegate_tdisp::responder::*;
use tidegate_tdisp::state::State;
use tidegate_tdisp::state::event::SessionId;
use tidegate_tdisp::wire::*;

pub(crate) const GPU: FunctionId = FunctionId::new(0x100);
pub(crate) const NIC: FunctionId = FunctionId::new(0x200);
pub(crate) const SESSION: SessionId = SessionId(7);

#[derive(Debug)]
pub(crate) struct TestDevice {
    pub(crate) ide: Ide,
    pub(crate) refusal: Option<Objection>,
    pub(crate) outstanding: u64,
    /// The session of the keys of each direct P2P stream.
    pub(crate) streams: Vec<(u8, SessionId)>,
    /// In flight on each direct P2P stream; `None` for as many as are outstanding.
    pub(crate) on_stream: Option<u64>,
    pub(crate) vendor: Result<Vec<u8>, (VendorRefusal, Vec<u8>)>,
    pub(crate) scrub: Scrub,
    pub(crate) scrubs: u32,
    pub(crate) report: InterfaceReport,
}

impl Default for TestDevice {
    fn default() -> Self {
        let msix = MmioRange { flags: RangeFlags::MSIX_TABLE, ..MmioRange::private(0, 0x1010, 1) };
        let report = InterfaceReport {
            info: InterfaceInfo::NO_FW_UPDATE | InterfaceInfo::DMA_WITHOUT_PASID,
            msix_control: 0x8003,
            tph_control: 0x5,
            ranges: vec![MmioRange::private(0, 0x1000, 16), msix, MmioRange::shared(2, 0x2000, 4)],
            device_info: b"a device of a test".to_vec(),
            ..InterfaceReport::default()
        };
        TestDevice {
            ide: Ide::NotRequired,
            refusal: None,
            outstanding: 0,
            streams: Vec::new(),
            on_stream: None,
            vendor: Err((VendorRefusal::Unsupported, Vec::new())),
            scrub: Scrub::Done,
            scrubs: 0,
            report,
        }
    }
}

impl Device for TestDevice {
    fn ide(&self, _: FunctionId) -> Ide {
        self.ide
    }

    fn check_lock(&self, _: FunctionId, _: &LockRequest) -> Result<(), Objection> {
        self.refusal.map_or(Ok(()), Err)
    }

    fn describe(&self, _: FunctionId, _: LockFlags) -> InterfaceReport {
        self.report.clone()
    }

    fn outstanding(&self, _: FunctionId) -> u64 {
        self.outstanding
    }

    fn scrub(&mut self, _: FunctionId) -> Scrub {
        self.scrubs += 1;
        self.scrub
    }

    fn p2p_stream(&self, _: FunctionId, stream: u8) -> Option<SessionId> {
        self.streams.iter().find(|(id, _)| *id == stream).map(|(_, session)| *session)
    }

    fn outstanding_on(&self, _: FunctionId, _: u8) -> u64 {
        self.on_stream.unwrap_or(self.outstanding)
    }

    fn check_attribute(&self, _: FunctionId, _: &MmioRange) -> Result<(), Objection> {
        self.refusal.map_or(Ok(()), Err)
    }

    fn vendor_defined(
        &mut self,
        _: FunctionId,
        _: State,
        _: VendorData<'_>,
        data: &mut Vec<u8>,
    ) -> Result<(), VendorRefusal> {
        let (Ok(said) | Err((_, said))) = &self.vendor;
        data.extend(said);
        self.vendor.as_ref().map(|_| ()).map_err(|(refusal, _)| *refusal)
    }
}

/// Counts, and can be told to fail.
pub(crate) struct TestEntropy {
    pub(crate) fails: Rc<Cell<bool>>,
    next: u8,
}

impl Entropy for TestEntropy {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), NoEntropy> {
        if self.fails.get() {
            return Err(NoEntropy);
        }
        self.next += 1;
        out.fill(self.next);
        Ok(())
    }
}

/// What an answer means: its type, and the error code if it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Ok(ResponseCode),
    Error(ErrorCode),
}

/// A DSM with a GPU and a NIC.
pub(crate) struct Bench {
    pub(crate) dsm: Responder<TestDevice, TestEntropy>,
    pub(crate) no_entropy: Rc<Cell<bool>>,
    /// The last answer.
    pub(crate) response: Vec<u8>,
    /// The effects of the last request.
    pub(crate) effects: Vec<Effect>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let no_entropy = Rc::new(Cell::new(false));
        let entropy = TestEntropy { fails: no_entropy.clone(), next: 0 };
        let mut dsm = Responder::new(settings, TestDevice::default(), entropy);
        dsm.add(GPU, None).unwrap();
        dsm.add(NIC, None).unwrap();
        Bench { dsm, no_entropy, response: Vec::new(), effects: Vec::new() }
    }

    pub(crate) fn raw(&mut self, request: &[u8]) -> Meaning {
        self.raw_in(SESSION, request)
    }

    pub(crate) fn raw_in(&mut self, session: SessionId, request: &[u8]) -> Meaning {
        self.effects = self.dsm.handle(session, request, &mut self.response);
        meaning(&self.response)
    }

    pub(crate) fn ask(&mut self, function: FunctionId, request: &Request<'_>) -> Meaning {
        let mut bytes = vec![0; request.size()];
        request.emit(Head::v1_0(function), &mut bytes).unwrap();
        self.raw(&bytes)
    }

    pub(crate) fn state(&mut self, function: FunctionId) -> State {
        assert_eq!(self.ask(function, &Request::GetState(GetState)), Meaning::Ok(ResponseCode::State));
        let state = StateResponse::parse(&self.response).unwrap().state;
        let state = State::try_from(state).unwrap();
        assert_eq!(self.dsm.state(function), Some(state), "the wire and the accessor disagree");
        state
    }

    /// LOCK with this request; gives the nonce.
    pub(crate) fn lock_with(&mut self, function: FunctionId, lock: LockRequest) -> Result<Nonce, ErrorCode> {
        match self.ask(function, &Request::Lock(lock)) {
            Meaning::Ok(ResponseCode::Lock) => Ok(LockResponse::parse(&self.response).unwrap().nonce.keep()),
            Meaning::Error(code) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn lock(&mut self, function: FunctionId) -> Nonce {
        self.lock_with(function, lock_request()).unwrap()
    }

    pub(crate) fn start(&mut self, function: FunctionId, nonce: &Nonce) -> Meaning {
        self.ask(function, &Request::Start(StartRequest { nonce: nonce.borrow() }))
    }

    pub(crate) fn stop(&mut self, function: FunctionId) -> Meaning {
        self.ask(function, &Request::Stop(StopRequest))
    }

    pub(crate) fn report(&mut self, function: FunctionId, offset: u16, length: u16) -> Meaning {
        self.ask(function, &Request::GetReport(GetReport { offset, length }))
    }

    /// Brings a TDI to a state by messages and, for ERROR, by an event.
    pub(crate) fn bring(&mut self, function: FunctionId, to: State) -> Option<Nonce> {
        use tidegate_tdisp::state::event::{Event, FunctionEvent};
        assert_eq!(self.state(function), State::ConfigUnlocked);
        let nonce = (to != State::ConfigUnlocked).then(|| self.lock(function));
        if let (State::Run, Some(nonce)) = (to, &nonce) {
            assert_eq!(self.start(function, nonce), Meaning::Ok(ResponseCode::Start));
        }
        if to == State::Error {
            self.dsm.event(Event::Function(function, FunctionEvent::BarWritten));
        }
        assert_eq!(self.state(function), to);
        nonce
    }
}

pub(crate) fn lock_request() -> LockRequest {
    let flags = LockFlags::NO_FW_UPDATE | LockFlags::LOCK_MSIX;
    LockRequest { flags, stream: 3, reporting_offset: 0xD000_0000, p2p_address_mask: 0 }
}

pub(crate) fn meaning(response: &[u8]) -> Meaning {
    match Response::parse(response).unwrap_or_else(|error| panic!("{error}: {response:x?}")) {
        (_, Response::Error(error)) => Meaning::Error(error.code),
        (_, other) => Meaning::Ok(other.code()),
    }
}
