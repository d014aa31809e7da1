//! The questions.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::subject::{Capable, Stop, Subject, demand};
use super::{Case, Keys, Needs};
use crate::report::InterfaceReport;
use crate::requester::{
    GetInterfaceState, Lock, NegotiateVersion, Operation, Progress, RequestError, Start, Stop as StopTdi,
};
use crate::state::State::{self, ConfigLocked, ConfigUnlocked, Run};
use crate::wire::{ErrorCode, GetReport, Nonce, PAGE_SIZE, Request, RequestCode, Response};

const fn case(
    id: &'static str,
    promise: &'static str,
    from: State,
    pose: fn(&mut Subject<'_>) -> Result<(), Stop>,
) -> Case {
    let needs = match from {
        ConfigUnlocked => Needs::Nothing,
        _ => Needs::Keys,
    };
    Case { id, promise, from, needs, pose }
}

pub(super) const CASES: [Case; 22] = [
    case("V1.1", "GET_TDISP_VERSION lists 1.0 and changes nothing", ConfigUnlocked, version),
    case("V2.1", "GET_TDISP_CAPABILITIES has what is mandatory", ConfigUnlocked, capabilities),
    Case {
        needs: Needs::Keys,
        ..case("V3.1", "LOCK leads to CONFIG_LOCKED with a fresh nonce", ConfigUnlocked, lock)
    },
    Case {
        needs: Needs::NoKeys,
        ..case("V3.2", "LOCK without IDE keys is INVALID_REQUEST", ConfigUnlocked, lock_without_keys)
    },
    case("V3.3", "LOCK in CONFIG_LOCKED is INVALID_INTERFACE_STATE", ConfigLocked, |s| {
        lock_again(s, ConfigLocked)
    }),
    case("V3.4", "LOCK in RUN is INVALID_INTERFACE_STATE", Run, |s| lock_again(s, Run)),
    case("V4.1", "the report is read in CONFIG_LOCKED", ConfigLocked, report),
    case("V4.2", "the report is read in RUN", Run, report),
    case("V4.3", "a report offset past the end is INVALID_REQUEST", ConfigLocked, report_past_the_end),
    case("V4.4", "the report in CONFIG_UNLOCKED is INVALID_INTERFACE_STATE", ConfigUnlocked, report_unlocked),
    case(
        "V4.5",
        "the report is well formed, and its pages have the reporting offset",
        ConfigLocked,
        well_formed,
    ),
    case("V5.1", "the state of a fresh device is CONFIG_UNLOCKED", ConfigUnlocked, |s| {
        s.is_in(ConfigUnlocked)
    }),
    case("V5.2", "the state after LOCK is CONFIG_LOCKED", ConfigLocked, |s| s.is_in(ConfigLocked)),
    case("V5.3", "the state after START is RUN", Run, |s| s.is_in(Run)),
    case("V5.4", "the state after STOP is CONFIG_UNLOCKED", Run, state_after_stop),
    case("V6.1", "START with the nonce leads to RUN", ConfigLocked, start),
    case(
        "V6.2",
        "START with a wrong nonce is INVALID_NONCE and stays CONFIG_LOCKED",
        ConfigLocked,
        start_wrong,
    ),
    case("V6.3", "START in CONFIG_UNLOCKED is INVALID_INTERFACE_STATE", ConfigUnlocked, start_unlocked),
    case("V6.4", "START in RUN is INVALID_INTERFACE_STATE", Run, start_again),
    case("V7.1", "STOP leads from RUN to CONFIG_UNLOCKED", Run, |s| s.stop()),
    case("V7.2", "STOP leads from CONFIG_LOCKED to CONFIG_UNLOCKED", ConfigLocked, |s| s.stop()),
    case("V7.3", "STOP succeeds in CONFIG_UNLOCKED", ConfigUnlocked, |s| s.stop()),
];

fn version(s: &mut Subject<'_>) -> Result<(), Stop> {
    s.must(NegotiateVersion)?;
    s.headers_are_clean()?;
    let byte = s.last_version();
    demand(byte == 0x10, || format!("the response has the version {byte:#04x}"))?;
    s.is_in(ConfigUnlocked)?;
    // Where it can be brought there: the version has no side effect in the other states either.
    for state in [ConfigLocked, Run] {
        if s.bring(state).is_err() {
            break;
        }
        let before = s.must(GetInterfaceState)?;
        s.must(NegotiateVersion)?;
        s.is_in(before)?;
        if s.stop().is_err() {
            break;
        }
    }
    Ok(())
}

fn capabilities(s: &mut Subject<'_>) -> Result<(), Stop> {
    let capabilities = s.must(Capable)?;
    s.headers_are_clean()?;
    let missing: Vec<_> = capabilities.messages.missing().collect();
    demand(missing.is_empty(), || format!("{missing:?} are not supported"))?;
    let messages = capabilities.messages.0;
    demand(messages & 1 == 0, || {
        format!("REQ_MSGS_SUPPORTED {messages:#x} has bit 0, which stands for no request")
    })?;
    let last = s.last();
    demand(last.get(38..41) == Some(&[0; 3]), || format!("reserved bytes: {:02x?}", last.get(38..41)))?;
    let unknown = capabilities.lock_flags.bits() & 0xFFE0;
    demand(unknown == 0, || format!("reserved lock flags {unknown:#06x}"))?;
    let width = capabilities.address_width;
    demand(width >= 52, || format!("DEV_ADDR_WIDTH is {width}, less than 52"))?;
    let (this, all) = (capabilities.requests_this, capabilities.requests_all);
    demand(this > 0 && all > 0, || format!("NUM_REQ_THIS {this} and NUM_REQ_ALL {all} allow no request"))
}

fn lock(s: &mut Subject<'_>) -> Result<(), Stop> {
    let request = s.lock_request(0)?;
    let nonce = match s.ask(Lock(request)) {
        Ok(nonce) => nonce,
        Err(error) if s.keys() == Keys::Unknown && is_keyless(&error) => {
            let why = format!("no stream can be locked, as where none has keys: {error}");
            return Err(match s.stream_that_can_be_locked()? {
                Some(stream) => {
                    Stop::Wrong(format!("{error}, and stream {stream} without flags can be locked"))
                }
                None => Stop::Setup(why),
            });
        }
        Err(error) => return Err(Stop::Wrong(error.to_string())),
    };
    s.headers_are_clean()?;
    s.is_in(ConfigLocked)?;
    // Where it can be locked anew: with another nonce.
    if s.ask(StopTdi::new()).is_err() {
        return Ok(());
    }
    let again = s.must(Lock(request))?;
    demand(nonce != again, || "two locks have the same nonce".into())
}

/// Whether it is what a device says whose default stream has no keys.
fn is_keyless(error: &RequestError) -> bool {
    matches!(error, RequestError::Refused { code: ErrorCode::InvalidRequest, .. })
}

fn lock_without_keys(s: &mut Subject<'_>) -> Result<(), Stop> {
    let request = s.lock_request(0)?;
    if s.keys() == Keys::Unknown {
        match s.ask(Lock(request)) {
            Ok(_) => return Err(Stop::Setup("the peer can be locked, so it has keys or needs none".into())),
            Err(error) if !is_keyless(&error) => {
                return Err(Stop::setup("it is not for keys that it cannot be locked", &error));
            }
            Err(_) => {}
        }
        s.is_in(ConfigUnlocked)?;
        if let Some(stream) = s.stream_that_can_be_locked()? {
            return Err(Stop::Setup(format!("stream {stream} can be locked")));
        }
    }
    s.refused(Lock(request), ErrorCode::InvalidRequest, ConfigUnlocked)
}

fn lock_again(s: &mut Subject<'_>, state: State) -> Result<(), Stop> {
    let request = s.lock_request(0)?;
    s.refused(Lock(request), ErrorCode::InvalidInterfaceState, state)
}

fn report(s: &mut Subject<'_>) -> Result<(), Stop> {
    let report = s.report()?;
    s.headers_are_clean()?;
    demand(s.report()? == report, || "read twice, it is another one".into())
}

fn report_past_the_end(s: &mut Subject<'_>) -> Result<(), Stop> {
    let portion = Portion(GetReport { offset: 0xFFFF, length: 1 });
    s.refused(portion, ErrorCode::InvalidRequest, ConfigLocked)
}

fn report_unlocked(s: &mut Subject<'_>) -> Result<(), Stop> {
    let portion = || Portion(GetReport { offset: 0, length: 0xFFFF });
    s.refused(portion(), ErrorCode::InvalidInterfaceState, ConfigUnlocked)?;
    // Where it can be locked: the report of that lock is gone with it.
    if s.bring(ConfigLocked).is_ok() {
        // Whether it can be read, others ask.
        let _ = s.report();
        if s.ask(StopTdi::new()).is_ok() {
            s.refused(portion(), ErrorCode::InvalidInterfaceState, ConfigUnlocked)?;
        }
    }
    Ok(())
}

/// Pages that the reports are to be shifted by.
const SHIFT: u64 = 0xD_0000;

fn well_formed(s: &mut Subject<'_>) -> Result<(), Stop> {
    let bytes = s.report()?;
    let plain = parse(s, &bytes)?;
    s.headers_are_clean()?;
    demand(bytes.get(2..4) == Some(&[0; 2]), || format!("reserved bytes: {:02x?}", bytes.get(2..4)))?;
    let info = plain.info.bits() & !0x3F;
    demand(info == 0, || format!("reserved bits in INTERFACE_INFO: {info:#06x}"))?;
    for (index, range) in plain.ranges.iter().enumerate() {
        let reserved = range.flags.bits() & 0xFFF0;
        demand(reserved == 0, || format!("reserved attributes of range {index}: {reserved:#06x}"))?;
    }
    // Where it can be locked anew: with an offset.
    if s.ask(StopTdi::new()).is_err() {
        return Ok(());
    }
    let offset = i64::try_from(SHIFT.saturating_mul(PAGE_SIZE)).unwrap_or(0);
    let request = s.lock_request(offset)?;
    s.must(Lock(request))?;
    let bytes = s.report()?;
    let shifted = parse(s, &bytes)?;
    let pages =
        |report: &InterfaceReport| report.ranges.iter().map(|range| range.first_page).collect::<Vec<_>>();
    let wanted: Vec<_> = pages(&plain).into_iter().map(|page| page.saturating_add(SHIFT)).collect();
    demand(pages(&shifted) == wanted, || {
        format!("MMIO_REPORTING_OFFSET is not added: {:#x?} instead of {wanted:#x?}", pages(&shifted))
    })
}

fn parse(s: &mut Subject<'_>, bytes: &[u8]) -> Result<InterfaceReport, Stop> {
    let flags = s.lock_request(0)?.flags;
    let wrong = |error| Stop::Wrong(format!("the report is not well formed: {error}"));
    InterfaceReport::parse(bytes, flags).map_err(wrong)
}

fn state_after_stop(s: &mut Subject<'_>) -> Result<(), Stop> {
    s.ask(OneStop).map_err(|error| Stop::setup("it cannot be stopped", &error))?;
    s.is_in(ConfigUnlocked)
}

fn start(s: &mut Subject<'_>) -> Result<(), Stop> {
    let nonce = s.nonce()?;
    s.must(Start(nonce))?;
    s.headers_are_clean()?;
    s.is_in(Run)
}

fn start_wrong(s: &mut Subject<'_>) -> Result<(), Stop> {
    let nonce = s.nonce()?;
    for flipped in [0, 31] {
        let mut bytes = *nonce.borrow().bytes();
        bytes.iter_mut().skip(flipped).take(1).for_each(|byte| *byte ^= 1);
        s.refused(Start(Nonce::new(bytes)), ErrorCode::InvalidNonce, ConfigLocked)?;
    }
    Ok(())
}

fn start_unlocked(s: &mut Subject<'_>) -> Result<(), Stop> {
    s.refused(Start(Nonce::new([0; 32])), ErrorCode::InvalidInterfaceState, ConfigUnlocked)
}

fn start_again(s: &mut Subject<'_>) -> Result<(), Stop> {
    let nonce = s.nonce()?;
    s.refused(Start(nonce), ErrorCode::InvalidInterfaceState, Run)
}

/// One GET_DEVICE_INTERFACE_REPORT, whatever its portion.
struct Portion(GetReport);

impl Operation for Portion {
    type Output = ();

    fn request(&self) -> Request<'_> {
        Request::GetReport(self.0)
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<()>, RequestError> {
        match response {
            Response::Report(_) => Ok(Progress::Done(())),
            other => {
                Err(RequestError::Unexpected { request: RequestCode::GetReport, response: other.code() })
            }
        }
    }
}

/// STOP alone, without asking for the state.
struct OneStop;

impl Operation for OneStop {
    type Output = ();

    fn request(&self) -> Request<'_> {
        Request::Stop(crate::wire::StopRequest)
    }

    fn accept(&mut self, response: Response<'_>) -> Result<Progress<()>, RequestError> {
        match response {
            Response::Stop(_) => Ok(Progress::Done(())),
            other => Err(RequestError::Unexpected { request: RequestCode::Stop, response: other.code() }),
        }
    }
}
