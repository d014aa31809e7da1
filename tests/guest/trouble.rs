//! Traffic under way, deadlines that force, devices that can't be had.

use crate::guest::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate::core::drain::{HeldWhy, Outcome, Phase, Report};
use tidegate::core::tdi::{Event, Host, PageTag, TdiState};
use tidegate::core::{
    Access, Cause, ChannelConfig, Deadline, FlowsTo, Handle, Memory, Op, QuiesceError, Region, RegionTag,
    Shared, Status, Submit, Ticket,
};
use tidegate::p2p::backend::{BackendError, DeviceProblem};
use tidegate::p2p::device::{DeviceError, Written};
use tidegate::p2p::engine::edu::Edu;
use tidegate::p2p::vfio::Vfio;
use tidegate::p2p::{Domain, DomainError, ExportError, ImportError, Want};
use tidegate::tdisp::tdi::UnbindOutcome;

/// Chunks of the file that is streamed.
const CHUNKS: usize = 10;

/// Sends the chunks of `todo` until they are done or the channel or window is gone; returns those that are not.
fn stream<T: RegionTag>(
    channel: &mut EduChannel,
    file: &Region<Shared>,
    window: Handle<T>,
    mut todo: Vec<usize>,
    done: &AtomicUsize,
) -> Vec<usize>
where
    Shared: FlowsTo<T>,
{
    let (mut in_flight, mut open) = (Vec::new(), true);
    while !in_flight.is_empty() || (open && !todo.is_empty()) {
        for completion in poll(channel) {
            let chunk = completion.cookie as usize;
            in_flight.retain(|c| *c != chunk);
            match completion.status {
                Status::Done => drop(done.fetch_add(1, Ordering::Release)),
                _ => todo.push(chunk),
            }
        }
        while let Some(chunk) = todo.first().copied().filter(|_| open && in_flight.len() < 3) {
            let at = chunk as u64 * CHUNK..(chunk as u64 + 1) * CHUNK;
            let op = Op::copy(file.handle().span(at.clone()), window.span(at)).cookie(chunk as u64);
            let Ok(mut pinned) = channel.pin() else { break };
            match pinned.submit(op) {
                Submit::Queued(_) => in_flight.push(todo.remove(0)),
                Submit::Full => break,
                Submit::Stale(_) | Submit::Closed(_) => open = false,
                answer @ Submit::Denied(_) => panic!("{answer:?}"),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    todo
}

/// Runs a poller over the whole file, and `act` once two chunks are done and others are in flight.
fn under_traffic<T: RegionTag, R>(
    channel: &mut EduChannel,
    file: &Region<Shared>,
    window: Handle<T>,
    act: impl FnOnce() -> R,
) -> (R, Vec<usize>)
where
    Shared: FlowsTo<T>,
{
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let poller = scope.spawn(|| stream(channel, file, window, (0..CHUNKS).collect(), &done));
        while done.load(Ordering::Acquire) < 2 {
            assert!(!poller.is_finished(), "the poller ended early");
            std::thread::sleep(Duration::from_millis(1));
        }
        let result = act();
        (result, poller.join().unwrap())
    })
}

fn assert_drained(report: &Report) {
    assert!(report.is_clean(), "{report:?}");
    assert!(report.in_flight > 0 && report.drained > 0, "{report:?}");
    assert_eq!(report.in_flight, report.drained + report.revoked + report.failed, "{report:?}");
    assert!(!report.phases[Phase::Drain as usize].is_zero(), "{report:?}");
}

#[test]
fn unbind_under_traffic_drains_and_the_bytes_are_the_files() {
    let Some(bed) = Bed::emulated() else { return };
    let (target, provider) = (bed.attach(BOCHS), provider());
    let mut target_tdi = bind(&target, &provider, BOCHS.bar, PageTag::Private, || 0);
    let mut edu_tdi = bind(&bed.edu, &provider, 0, PageTag::Shared, || 0);
    let len = CHUNKS as u64 * CHUNK;
    let export = target.export(BOCHS.bar, AT..AT + len).unwrap();
    let link = provider.link(&edu_tdi.run, &target_tdi.run).unwrap();
    let import = bed.domain.import_private(&export, &link).unwrap();
    let file = bed.host(len);
    file.write(0, &pattern(80, len)).unwrap();
    let mut channel = bed.channel();
    let window = import.region().handle();
    let (quiet_target, todo) = under_traffic(&mut channel, &file, window, || {
        let quiesced = target.quiesce(Cause::Unbind, BY).unwrap().wait().unwrap();
        assert_drained(quiesced.report());
        let report = target_tdi.tdi.unbind(quiesced, BY).wait();
        let UnbindOutcome::Unbound(quiesced) = report.outcome else { panic!("{report:?}") };
        quiesced
    });
    assert_eq!((target.state(), target.gate().in_flight()), (TdiState::Unlocked, 0));
    assert!(!todo.is_empty() && todo.len() < CHUNKS, "in the middle of it: {todo:?}");
    // A clean drain proves what came before it.
    assert!(channel.confirmed() >= Ticket((CHUNKS - todo.len()) as u64));
    // The initiator too, since T=1 reaches no shared window; then the rest goes into the recovered one.
    let report = edu_tdi.tdi.unbind(quiet(&bed.edu, Cause::Unbind), BY).wait();
    let UnbindOutcome::Unbound(quiet_edu) = report.outcome else { panic!("{report:?}") };
    quiet_target.restore();
    quiet_edu.restore();
    let seen_first = seen(&target, BOCHS.bar, (CHUNKS - todo.len()) as u64 * CHUNK);
    assert_eq!(seen_first, pattern(80, len)[..seen_first.len()]);
    let import = import.recover().unwrap();
    let mut channel = bed.channel();
    let done = AtomicUsize::new(0);
    assert_eq!(stream(&mut channel, &file, import.region().handle(), todo, &done), [0_usize; 0]);
    assert_eq!(confirm(&mut channel).status, Status::Done);
    assert_eq!(seen(&target, BOCHS.bar, len), pattern(80, len));
}

#[test]
fn bus_mastering_and_memory_of_an_initiator_go_away_only_after_its_traffic() {
    let Some(bed) = Bed::open() else { return };
    let target = bed.attach(IVSHMEM);
    let (_export, import) = bed.window(&target, IVSHMEM.bar, CHUNKS as u64 * CHUNK);
    let file = bed.host(CHUNKS as u64 * CHUNK);
    file.write(0, &pattern(81, CHUNKS as u64 * CHUNK)).unwrap();
    for (bit, expect) in [(BME, Event::BusMasterDisable), (MSE, Event::MemoryDisable)] {
        let command = bed.edu.config_read(COMMAND, 2).unwrap();
        let mut channel = bed.channel();
        let window = import.region().handle();
        let (quiesced, todo) = under_traffic(&mut channel, &file, window, || {
            let written = bed.edu.config_write(COMMAND, 2, command & !bit, BY).unwrap();
            let Written::Intercepted { event, quiesced } = written else { panic!("{written:?}") };
            assert_eq!(event, expect);
            quiesced
        });
        assert_drained(quiesced.report());
        assert!(!todo.is_empty());
        assert!(!import.region().is_revoked(), "another device's window");
        // The queue is closed, and no register of it was touched since: memory is off.
        let memory = Memory::allocate("host", CHUNK).unwrap();
        let refused = bed.domain.register(memory.backing(), Access::ReadWrite);
        assert!(matches!(refused, Err(DomainError::Gate(_))), "{refused:?}");
        let op = Op::copy(file.handle().span(0..CHUNK), window.span(0..CHUNK));
        assert_eq!(submit(&mut channel, op), Submit::Closed(Cause::Config));
        drop(channel);
        assert!(matches!(bed.edu.config_write(COMMAND, 2, command, BY), Ok(Written::Plain)));
        quiesced.restore();
    }
    bed.assert_alive(&mut bed.channel(), import.region().handle().span(0..CHUNK), 82);
}

#[test]
fn a_deadline_that_forces_is_kept_and_what_it_could_not_stop_is_not_reused() {
    let Some(mut bed) = Bed::open() else { return };
    // An edu of its own: one that did not stop is lost to this process.
    bed.loses_a_device();
    let at = bed.vfio.by_id(EDU.0, EDU.1).unwrap()[1];
    let lost = bed.domain.attach(at).unwrap();
    // No window: the exporter of one that the lost engine may touch is held open with it.
    let (from, host) = (bed.host(16 * CHUNK), bed.host(16 * CHUNK));
    from.write(0, &pattern(90, 16 * CHUNK)).unwrap();
    let by = Deadline::millis(0, 2);
    // 3.2 s of transfers; should one end within these very 2 ms, the quiesce is clean, and is tried again.
    let quiesced = (0..5).find_map(|_| {
        host.write(0, &vec![0x5a; 16 * CHUNK as usize]).unwrap();
        let mut channel = channel_of(&lost);
        let op = Op::copy(from.span(), host.span()).cookie(5);
        assert!(matches!(submit(&mut channel, op), Submit::Queued(_)));
        let until = Instant::now() + Duration::from_millis(450);
        while Instant::now() < until {
            assert_eq!(poll(&mut channel).len(), 0);
            std::thread::sleep(Duration::from_millis(1));
        }
        let since = Instant::now();
        let quiesced = lost.quiesce(Cause::Doubt, by).unwrap().wait().unwrap();
        let took = since.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}: the deadline was 2 ms");
        let ended = poll(&mut channel);
        assert_eq!(ended.len(), 1, "its operation ended for the user");
        assert_eq!((ended[0].cookie, ended[0].status), (5, Status::Aborted));
        assert_eq!((quiesced.report().in_flight, quiesced.report().revoked), (1, 1));
        match &quiesced.report().outcome {
            Outcome::Forced(held) => {
                assert!(held.iter().any(|h| h.why == HeldWhy::NotStopped), "{held:?}");
                Some(quiesced)
            }
            outcome => {
                assert_eq!(*outcome, Outcome::Clean);
                assert_eq!(bed.domain.fabric().inspect().quarantine, [""; 0]);
                quiesced.restore();
                None
            }
        }
    });
    let quiesced = quiesced.expect("forced in one of five tries");
    // Its transfer ends without reaching memory: the address space is gone.
    let snapshot = || {
        let mut bytes = vec![0; 16 * CHUNK as usize];
        host.read(0, &mut bytes).unwrap();
        bytes
    };
    let before = snapshot();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(snapshot(), before);
    // What it may still touch is held back when its owner lets go of it.
    let held = bed.domain.fabric().inspect().quarantine;
    assert_eq!(held.len(), 1, "its engine: {held:?}");
    let report = host.revoke(Cause::User, BY).wait().unwrap();
    let Outcome::Forced(why) = &report.outcome else { panic!("{report:?}") };
    assert!(why.iter().all(|h| h.why == HeldWhy::Initiator), "{report:?}");
    assert_eq!(bed.domain.fabric().inspect().quarantine.len(), 2, "and its memory");
    assert_eq!(bed.domain.fabric().release(lost.gate()), 0, "nothing proves that it stopped");

    // Restored it is still cut off, which would be silent: so it says so.
    quiesced.restore();
    let poller = bed.domain.fabric().poller("again");
    let refused = lost.channel(&poller, Edu::default(), ChannelConfig::default()).err().unwrap();
    assert_eq!(refused, DeviceError::Detached);
    drop(lost);
    // The rest of the machine goes on.
    for (seed, kind) in (90..).zip([IVSHMEM, BOCHS]) {
        let target = bed.attach(kind);
        let (_export, import) = bed.window(&target, kind.bar, CHUNK);
        bed.assert_alive(&mut bed.channel(), import.region().span(), seed);
    }
}

#[test]
fn what_can_not_be_attached_is_named_and_nothing_stays_open() {
    let Some(bed) = Bed::open() else { return };
    let fails = |domain: &Domain<Vfio>, at| match domain.attach(at) {
        Err(DomainError::Backend(error)) => error,
        other => panic!("{other:?}"),
    };
    let missing = "0000:7f:1f.7".parse().unwrap();
    assert_eq!(
        fails(&bed.domain, missing),
        BackendError::Device { at: missing, what: DeviceProblem::Missing }
    );
    let igb = bed.find(IGB);
    unbind_driver(igb);
    let unbound = fails(&bed.domain, igb);
    bind_driver(igb);
    assert_eq!(unbound, BackendError::Device { at: igb, what: DeviceProblem::NotVfio });
    assert!(unbound.to_string().contains("driver_override"), "says what to do: {unbound}");
    drop(bed.domain.attach(igb).unwrap());
    let devices = || open_files().into_iter().filter(|name| name.contains("/vfio/")).count();
    let files = devices();
    // A second owner: of the same domain, of another iommufd.
    let edu = bed.edu.address();
    let stranger = Domain::new(bed.domain.fabric(), Vfio::new().unwrap()).unwrap();
    for domain in [&bed.domain, &stranger] {
        let error = fails(domain, edu);
        let BackendError::GroupBusy { at, members, .. } = &error else { panic!("{error}") };
        assert_eq!(*at, edu);
        assert!(members.iter().any(|m| m.at == edu && m.driver.as_deref() == Some("vfio-pci")), "{error}");
    }
    assert!(devices() <= files, "at once, not later");
    drop(stranger);
    // And the owner was not disturbed.
    let host = bed.host(CHUNK);
    let back = bed.host(CHUNK);
    host.write(0, &pattern(95, CHUNK)).unwrap();
    assert_eq!(copy(&mut bed.channel(), host.span(), back.span()).status, Status::Done);
    let mut bytes = vec![0; CHUNK as usize];
    back.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, pattern(95, CHUNK));
}

#[test]
fn everything_is_closed_when_the_last_user_goes() {
    let Some(bed) = Bed::open() else { return };
    let at = bed.find(IVSHMEM.id);
    let is_held =
        || matches!(bed.domain.attach(at), Err(DomainError::Backend(BackendError::GroupBusy { .. })));
    let target = bed.attach(IVSHMEM);
    let mut bound = bind(&target, &provider(), IVSHMEM.bar, PageTag::Shared, || 0);
    let (gate, run) = (target.gate().clone(), bound.run.clone());
    let unbind = bound.tdi.unbind(quiet(&target, Cause::User), BY).wait();
    let UnbindOutcome::Unbound(quiesced) = unbind.outcome else { panic!("{unbind:?}") };
    drop((target, bound));
    assert!(!is_held(), "a gate, a proof and a stale run hold nothing open");
    drop((gate, run, quiesced));
    let target = bed.attach(IVSHMEM);
    let (export, import) = bed.window(&target, IVSHMEM.bar, CHUNK);
    drop(target);
    assert!(is_held(), "by the export and the import");
    quiet(export.device(), Cause::User).restore();
    drop((export, import));
    assert!(!is_held());
    // A channel keeps its device.
    let mut channel = bed.channel();
    let (host, back) = (bed.host(CHUNK), bed.host(CHUNK));
    host.write(0, &pattern(96, CHUNK)).unwrap();
    let edu = bed.edu.address();
    let bed = bed.without_edu();
    let busy = bed.domain.attach(edu);
    assert!(matches!(busy, Err(DomainError::Backend(BackendError::GroupBusy { .. }))), "{busy:?}");
    assert_eq!(copy(&mut channel, host.span(), back.span()).status, Status::Done);
    let mut bytes = vec![0; CHUNK as usize];
    back.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, pattern(96, CHUNK));
    drop((channel, host, back));
    drop(attach(&bed.domain, edu));
}

#[test]
fn a_request_for_the_device_closes_the_gate_before_anything_else() {
    let Some(bed) = Bed::open() else { return };
    let igb = bed.domain.attach(bed.find(IGB)).unwrap();
    let at = igb.address();
    let msix_free = (0..6_u8).find(|bar| igb.export(*bar, 0..CHUNK).is_ok()).unwrap();
    let export = igb.export(msix_free, 0..CHUNK).unwrap();
    let import = bed.domain.import(&export, Want::default()).unwrap();
    assert!(igb.watch(BY).is_none());
    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Sleeps until the function was let go.
        scope.spawn(|| {
            unbind_driver(at);
            gone.store(true, Ordering::Release);
        });
        let since = Instant::now();
        let (event, quiesce) = loop {
            assert!(since.elapsed() < Duration::from_secs(30), "no notice");
            match igb.watch(BY) {
                Some(noticed) => break noticed,
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        assert_eq!(event, Event::Requested);
        assert!(matches!(igb.export(msix_free, 0..CHUNK), Err(ExportError::Gate(_))));
        let quiesced = quiesce.unwrap().wait().unwrap();
        assert!(quiesced.report().is_clean(), "{:?}", quiesced.report());
        assert_eq!(igb.gate().windows(), 0);
        assert!(matches!(igb.quiesce(Cause::User, BY), Err(QuiesceError::Busy { .. })));
        let import = import.recover().unwrap_err();
        assert!(matches!(import.why, ImportError::Gate(_)));
        assert!(!gone.load(Ordering::Acquire), "the kernel waits for us");
        drop((quiesced, import, export, igb));
    });
    bind_driver(at);
    drop(bed.domain.attach(at).unwrap());
}
