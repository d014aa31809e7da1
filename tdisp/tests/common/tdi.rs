//! A host that is no device, and what to bind it with: a real gate of a real fabric, a scripted in-flight count, a
//! device model, and a log of all that the coordinator does, in order.
#![allow(dead_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tidegate_core::tdi::*;
use tidegate_core::{Cause, Deadline, Fabric, Gate, Quiesced};
use tidegate_tdisp::platform::PlatformKind;
use tidegate_tdisp::requester::TransportError;
use tidegate_tdisp::tdi::*;
use tidegate_tdisp::wire::{ErrorCode, ErrorResponse, FunctionId, Head};

pub(crate) const HOME: TrustDomain = TrustDomain(7);
/// Never reached by a test that does not want it to be.
pub(crate) const BY: Deadline = Deadline::millis(5_000, 20_000);
/// Always reached by a device that stays BUSY.
pub(crate) const SOON: Deadline = Deadline::millis(20, 40);
/// BAR 0: eight private pages, eight shared ones. BAR 2 is in no range of the report.
pub(crate) const BARS: BarSizes = [0x1_0000, 0, 0x4000, 0, 0, 0];

pub(crate) fn layout() -> Vec<TaggedRange> {
    vec![range(0, 0..0x8000, PageTag::Private), range(0, 0x8000..0x1_0000, PageTag::Shared)]
}

pub(crate) fn range(bar: u8, range: Range<u64>, tag: PageTag) -> TaggedRange {
    TaggedRange { bar, range, tag }
}

/// What happened, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn say(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    /// What was logged since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[derive(Clone)]
pub(crate) struct Mock(Arc<MockInner>);

impl std::fmt::Debug for Mock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mock({:?})", self.0.gate)
    }
}

struct MockInner {
    gate: Gate,
    function: u32,
    log: Log,
    in_flight: AtomicU64,
    trust: Mutex<(TdiState, Option<TrustDomain>)>,
    tags: Mutex<Vec<TaggedRange>>,
    refuse_tags: Mutex<Option<TagError>>,
    observer: Mutex<Option<Arc<dyn Observer>>>,
    reset: Mutex<Result<Event, HostError>>,
    page: AtomicU64,
}

impl Mock {
    pub(crate) fn new(fabric: &Fabric, name: &str, function: u32, log: &Log) -> Mock {
        Mock(Arc::new(MockInner {
            gate: fabric.gate(name, None),
            function,
            log: log.clone(),
            in_flight: AtomicU64::new(0),
            trust: Mutex::default(),
            tags: Mutex::default(),
            refuse_tags: Mutex::default(),
            observer: Mutex::default(),
            reset: Mutex::new(Ok(Event::Flr)),
            page: AtomicU64::new(0x1000),
        }))
    }

    pub(crate) fn set_in_flight(&self, n: u64) {
        self.0.in_flight.store(n, Ordering::SeqCst);
    }

    pub(crate) fn refuse_tags(&self, error: Option<TagError>) {
        *self.0.refuse_tags.lock().unwrap() = error;
    }

    pub(crate) fn set_reset(&self, result: Result<Event, HostError>) {
        *self.0.reset.lock().unwrap() = result;
    }

    pub(crate) fn set_page(&self, bytes: u64) {
        self.0.page.store(bytes, Ordering::SeqCst);
    }

    pub(crate) fn tags(&self) -> Vec<TaggedRange> {
        self.0.tags.lock().unwrap().clone()
    }

    /// State and domain.
    pub(crate) fn trust(&self) -> (TdiState, Option<TrustDomain>) {
        *self.0.trust.lock().unwrap()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.gate.check().is_ok()
    }

    pub(crate) fn quiet(&self) -> Quiesced {
        self.quiesce(Cause::Unbind, BY).unwrap().wait().unwrap()
    }

    /// To see whether it is still kept alive.
    pub(crate) fn weak(&self) -> Weak<impl Sized + use<>> {
        Arc::downgrade(&self.0)
    }

    fn observer(&self) -> Arc<dyn Observer> {
        self.0.observer.lock().unwrap().clone().unwrap()
    }

    /// What the intercept does: asks, does, tells.
    pub(crate) fn intercept(&self, event: Event, q: Quiesced) -> Result<Quiesced, Refused> {
        let q = self.before(event, q, BY)?;
        self.0.log.say(format!("event {event:?}"));
        self.after(event);
        Ok(q)
    }

    pub(crate) fn before(&self, event: Event, q: Quiesced, by: Deadline) -> Result<Quiesced, Refused> {
        self.observer().before(event, q, by)
    }

    pub(crate) fn after(&self, event: Event) {
        self.observer().after(event);
    }
}

impl Host for Mock {
    fn gate(&self) -> &Gate {
        &self.0.gate
    }
    fn function_id(&self) -> u32 {
        self.0.function
    }
    fn bars(&self) -> BarSizes {
        BARS
    }
    fn host_page(&self) -> u64 {
        self.0.page.load(Ordering::SeqCst)
    }
    fn in_flight(&self) -> u64 {
        self.0.in_flight.load(Ordering::SeqCst)
    }
    fn set_state(&self, state: TdiState, domain: Option<TrustDomain>) {
        let old = std::mem::replace(&mut *self.0.trust.lock().unwrap(), (state, domain));
        if old != (state, domain) {
            self.0.log.say(format!("host {state:?}"));
        }
    }
    fn state(&self) -> TdiState {
        self.trust().0
    }
    fn set_tags(&self, ranges: &[TaggedRange]) -> Result<(), TagError> {
        if let Some(error) = self.0.refuse_tags.lock().unwrap().clone() {
            return Err(error);
        }
        let old = std::mem::replace(&mut *self.0.tags.lock().unwrap(), ranges.to_vec());
        if old != ranges {
            self.0.log.say(format!("tags {}", ranges.len()));
        }
        Ok(())
    }
    fn observe(&self, observer: Option<Arc<dyn Observer>>) {
        *self.0.observer.lock().unwrap() = observer;
    }
    fn reset(&self, q: &Quiesced) -> Result<Event, HostError> {
        assert!(q.is_for(self.gate()));
        let event = self.0.reset.lock().unwrap().clone()?;
        self.after(event);
        Ok(event)
    }
}

#[derive(Debug)]
pub(crate) struct MockModel {
    log: Log,
    outstanding: AtomicU64,
    /// How many more questions until nothing is outstanding any more.
    ends_after: AtomicU64,
    pub(crate) state: Mutex<(TdiState, Option<TrustDomain>)>,
    pub(crate) pages: Mutex<Vec<TaggedRange>>,
}

impl MockModel {
    pub(crate) fn set_outstanding(&self, n: u64) {
        self.set_outstanding_for(n, u64::MAX);
    }

    pub(crate) fn set_outstanding_for(&self, n: u64, questions: u64) {
        self.outstanding.store(n, Ordering::SeqCst);
        self.ends_after.store(questions, Ordering::SeqCst);
    }
}

impl Model for MockModel {
    fn set_state(&self, state: TdiState, domain: Option<TrustDomain>) {
        self.log.say(format!("model {state:?}"));
        *self.state.lock().unwrap() = (state, domain);
    }
    fn set_pages(&self, ranges: &[TaggedRange]) {
        self.log.say(format!("pages {}", ranges.len()));
        *self.pages.lock().unwrap() = ranges.to_vec();
    }
    fn outstanding(&self) -> u64 {
        let one_less = |n: u64| n.checked_sub(1);
        match self.ends_after.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less) {
            Ok(_) => self.outstanding.load(Ordering::SeqCst),
            Err(_) => 0,
        }
    }
}

type Session = dyn FnMut(&[u8], &mut dyn FnMut(&[u8]) -> Vec<u8>) -> Result<Vec<u8>, TransportError> + Send;

/// A device with a TDI, a provider, and the coordinator between them.
pub(crate) struct Rig {
    pub(crate) fabric: Fabric,
    pub(crate) log: Log,
    pub(crate) host: Mock,
    pub(crate) model: Arc<MockModel>,
    pub(crate) dsm: SoftDsm,
    pub(crate) provider: Provider,
    pub(crate) tdi: Tdi<Mock>,
    session: Arc<Mutex<Option<Box<Session>>>>,
}

pub(crate) fn fabric() -> Fabric {
    Fabric::builder().manual().build().unwrap()
}

pub(crate) fn provider(platform: PlatformKind) -> Provider {
    Provider::soft(platform, HOME, |_| true)
}

impl Rig {
    pub(crate) fn new(platform: PlatformKind) -> Rig {
        Rig::of(&fabric(), provider(platform), layout(), 0x100)
    }

    pub(crate) fn of(fabric: &Fabric, provider: Provider, layout: Vec<TaggedRange>, function: u32) -> Rig {
        let log = Log::default();
        let host = Mock::new(fabric, "device", function, &log);
        let (outstanding, ends_after) = (AtomicU64::new(0), AtomicU64::new(0));
        let (state, pages) = (Mutex::default(), Mutex::default());
        let model = Arc::new(MockModel { log: log.clone(), outstanding, ends_after, state, pages });
        let session: Arc<Mutex<Option<Box<Session>>>> = Arc::default();
        let (through, said) = (session.clone(), log.clone());
        // BAR 0 can change, whole range by range; what else there is can't.
        let dsm = SoftDsm::new(function, model.clone(), layout).updatable(|piece| piece.bar == 0);
        let dsm = dsm.between(move |request, device| {
            match request[1] {
                0x83 => said.say("LOCK"),
                0x86 => said.say("START"),
                0x87 => said.say("STOP"),
                0x8a => said.say(if request[28] & 4 != 0 { "SET shared" } else { "SET private" }),
                _ => {}
            }
            match &mut *through.lock().unwrap() {
                Some(session) => session(request, device),
                None => Ok(device(request)),
            }
        });
        let tdi = Tdi::new(host.clone(), provider.clone(), dsm.clone()).unwrap();
        Rig { fabric: fabric.clone(), log, host, model, dsm, provider, tdi, session }
    }

    pub(crate) fn gate(&self) -> &Gate {
        self.host.gate()
    }

    /// From now on the session with the DSM is this one.
    pub(crate) fn session(
        &self,
        session: impl FnMut(&[u8], &mut dyn FnMut(&[u8]) -> Vec<u8>) -> Result<Vec<u8>, TransportError>
        + Send
        + 'static,
    ) {
        *self.session.lock().unwrap() = Some(Box::new(session));
    }

    /// An honest one again.
    pub(crate) fn heal(&self) {
        *self.session.lock().unwrap() = None;
    }

    /// Requests of this code are not answered; `reach`: they get to the device all the same.
    pub(crate) fn lose(&self, code: u8, reach: bool) {
        self.session(move |request, device| {
            if request[1] != code {
                return Ok(device(request));
            }
            if reach {
                device(request);
            }
            Err(TransportError::TimedOut)
        });
    }

    /// Requests of this code are answered with a TDISP_ERROR and don't get to the device.
    pub(crate) fn refuse(&self, code: u8, with: ErrorCode) {
        self.refuse_times(code, with, u64::MAX);
    }

    /// The first few.
    pub(crate) fn refuse_times(&self, code: u8, with: ErrorCode, mut times: u64) {
        let function = FunctionId::new(0x100);
        self.session(move |request, device| {
            if request[1] != code || times == 0 {
                return Ok(device(request));
            }
            times -= 1;
            let error = ErrorResponse::new(with, 0);
            let mut response = vec![0; error.size()];
            error.emit(Head::v1_0(function), &mut response).unwrap();
            Ok(response)
        });
    }

    /// The device's report, rewritten.
    pub(crate) fn lie(&self, lie: impl Fn(&mut Vec<u8>) + Send + 'static) {
        self.session(move |request, device| {
            let mut response = device(request);
            if request[1] == 0x84 && response[1] == 0x04 {
                let mut report = response.split_off(20);
                lie(&mut report);
                response[16..18].copy_from_slice(&(report.len() as u16).to_le_bytes());
                response.extend(report);
            }
            Ok(response)
        });
    }

    pub(crate) fn lock(&mut self) -> Locked<Mock> {
        self.tdi.lock(LockParams::default()).unwrap()
    }

    pub(crate) fn start(&mut self) -> Run {
        let locked = self.lock();
        let acceptance = self.provider.accept(&locked).unwrap();
        let run = locked.start(acceptance).unwrap();
        self.log.take();
        run
    }

    pub(crate) fn unbind(&mut self) -> UnbindReport {
        let q = self.host.quiet();
        self.tdi.unbind(q, BY).wait()
    }

    /// What the host and the device think: must be the same.
    pub(crate) fn state(&self) -> TdiState {
        let model = *self.model.state.lock().unwrap();
        assert_eq!(model.0, self.host.state(), "device and host disagree");
        model.0
    }

    /// Nothing is bound, nothing is private, and a LOCK is possible.
    pub(crate) fn assert_free(&mut self) {
        assert_eq!(self.state(), TdiState::Unlocked);
        assert_eq!(self.host.trust(), (TdiState::Unlocked, None));
        assert_eq!((self.host.tags(), self.model.pages.lock().unwrap().clone()), (Vec::new(), Vec::new()));
        if !self.host.is_open() {
            self.host.quiet().restore();
        }
        drop(self.lock());
        let report = self.unbind();
        assert!(matches!(report.outcome, UnbindOutcome::Unbound(_)), "{report:?}");
    }
}

pub(crate) fn names(report: &UnbindReport) -> Vec<&'static str> {
    report.steps.iter().map(|step| step.step.name()).collect()
}

#[track_caller]
pub(crate) fn unbound(report: UnbindReport) -> Quiesced {
    match report.outcome {
        UnbindOutcome::Unbound(q) => q,
        other => panic!("{other:?}"),
    }
}

/// Step and code of a failure, and the proof.
#[track_caller]
pub(crate) fn failed(report: UnbindReport) -> (&'static str, u32, Quiesced) {
    match report.outcome {
        UnbindOutcome::Failed { step, code, back: Some(q) } => (step, code, q),
        other => panic!("{other:?}"),
    }
}
