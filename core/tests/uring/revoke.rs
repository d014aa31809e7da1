//! Revokes, quiesces and drops with operations in flight.

use super::{
    CANCEL, LONG, World, collect, contents, file_of, pattern, pipe, ring_or_skip, skip, submit, temporary,
};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidegate_core::drain::HeldWhy;
use tidegate_core::engine::uring::{Builder, SqPoll, Uring, at};
use tidegate_core::{
    Access, Cause, Channel, ChannelConfig, Completion, Deadline, Fabric, Memory, Op, Status, Submit,
};

fn polling(builder: Builder) -> Builder {
    builder.sqpoll(SqPoll { idle: Duration::from_millis(10), cpu: None })
}

/// Waits for something that another thread brings about.
fn until(what: impl Fn() -> bool) {
    let since = Instant::now();
    while !what() {
        assert!(since.elapsed() < LONG);
        std::thread::yield_now();
    }
}

#[test]
fn a_read_that_would_wait_for_ever_is_withdrawn_and_the_channel_goes_on() {
    for (sqpoll, registered) in [(false, false), (false, true), (true, false), (true, true)] {
        let (reader, mut writer) = pipe();
        let builder = Uring::builder().file(reader);
        let Some(engine) = ring_or_skip(if sqpoll { polling(builder) } else { builder }) else { return };
        let buffers = engine.buffers();
        let mut world = World::new(engine, 4096);
        let _held = registered.then(|| buffers.register(&world.memory.backing()));
        let other = world.fabric.register(world.memory.backing(), Access::ReadWrite).unwrap();
        let tickets = world.submit([
            Op::read(0, world.region.span()),
            Op::read(0, other.span()),
            Op::read(0, world.region.span()),
        ]);
        let report = world.region.revoke(Cause::User, CANCEL).wait().unwrap();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.in_flight, report.revoked, report.aborted), (2, 2, 1));
        let mut ended = Vec::new();
        world.channel.reclaim(&mut ended).unwrap();
        ended.sort_by_key(|c| c.ticket);
        let expect = [Status::Revoked, Status::Aborted, Status::Revoked];
        assert!(
            ended.iter().map(|c| (c.ticket, c.status)).eq(tickets.iter().copied().zip(expect)),
            "{ended:?}"
        );
        let stale = world.channel.pin().unwrap().submit(Op::read(0, world.region.span()));
        assert!(matches!(stale, Submit::Stale(_)));
        writer.write_all(b"for the next").unwrap();
        submit(&mut world.channel, [Op::read(0, other.span())]);
        let next = collect(&mut world.channel, 1)[0];
        assert_eq!((next.status, next.len), (Status::Done, 12), "the withdrawn reads took nothing");
        assert_eq!(world.channel.counters().spurious, 0);
    }
}

#[test]
fn what_the_kernel_has_not_got_is_never_issued() {
    let (reader, mut writer) = pipe();
    let file = temporary();
    let Some(engine) = ring_or_skip(Uring::builder().file(reader).file(file.try_clone().unwrap())) else {
        return;
    };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    // The fence holds the write back.
    world.submit([Op::read(0, handle.span(0..8)), Op::fence(), Op::write(handle.span(0..8), at(1, 0))]);
    let report = world.region.revoke(Cause::User, CANCEL).wait().unwrap();
    assert!(report.is_clean());
    assert_eq!((report.revoked, report.aborted), (2, 1));
    let other = world.fabric.register(world.memory.backing(), Access::ReadWrite).unwrap();
    writer.write_all(b"x").unwrap();
    submit(&mut world.channel, [Op::read(0, other.span()), Op::fence()]);
    let ended = collect(&mut world.channel, 5);
    assert_eq!(ended.iter().filter(|c| c.status == Status::Done).count(), 2);
    assert_eq!(contents(&file), b"");
}

#[test]
fn every_ticket_ends_once_when_regions_go_while_bursts_are_in_flight() {
    for sqpoll in [false, true] {
        let builder = Uring::builder().file(file_of(&pattern(1 << 20, 3))).depth(64);
        let Some(engine) = ring_or_skip(if sqpoll { polling(builder) } else { builder }) else { return };
        let buffers = engine.buffers();
        let world = World::new(engine, 1 << 20);
        let _held = buffers.register(&world.memory.backing());
        let (fabric, memory) = (world.fabric.clone(), world.memory.clone());
        let live = Arc::new(std::sync::Mutex::new(world.region.handle()));
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), 150);
        let poller = {
            let (live, stop, mut channel) = (live.clone(), stop.clone(), world.channel);
            std::thread::spawn(move || run(&mut channel, &stop, || *live.lock().unwrap()))
        };
        let mut region = world.region;
        for n in 0..rounds {
            let next = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
            *live.lock().unwrap() = next.handle();
            let by = if n % 2 == 0 { CANCEL } else { Deadline { cancel: LONG, force: LONG } };
            let report = region.revoke(Cause::User, by).wait().unwrap();
            assert!(report.is_clean(), "{report:?}");
            region = next;
        }
        stop.store(true, Ordering::Relaxed);
        let (submitted, ended) = poller.join().unwrap();
        assert_eq!(submitted, ended, "each once");
    }
}

/// Reads until told to stop; says how many were accepted, and how many ended.
fn run(
    channel: &mut Channel<Uring>,
    stop: &AtomicBool,
    live: impl Fn() -> tidegate_core::Handle<tidegate_core::Shared>,
) -> (u64, u64) {
    let mut out = [Completion::EMPTY; 32];
    let (mut submitted, mut ended, mut seen) = (0, 0, std::collections::HashSet::new());
    let since = Instant::now();
    while !stop.load(Ordering::Relaxed) || submitted > ended {
        assert!(since.elapsed() < LONG, "{submitted} submitted, {ended} ended");
        let Ok(mut section) = channel.pin() else { continue };
        if !stop.load(Ordering::Relaxed) {
            let handle = live();
            for n in 0..16 {
                let span = handle.span(n * 65_536..(n + 1) * 65_536);
                submitted +=
                    u64::from(matches!(section.submit(Op::read(n * 65_536, span)), Submit::Queued(_)));
            }
        }
        let n = section.poll(&mut out);
        for c in &out[..n] {
            assert!(matches!(c.status, Status::Done | Status::Revoked | Status::Aborted), "{c:?}");
            assert!(seen.insert(c.ticket), "twice: {c:?}");
        }
        ended += n as u64;
    }
    (submitted, ended)
}

#[test]
fn operations_of_a_thread_that_is_gone_are_not_lost() {
    let (reader, mut writer) = pipe();
    let Some(engine) = ring_or_skip(Uring::builder().file(reader)) else { return };
    let mut world = World::new(engine, 4096);
    let op = Op::read(0, world.region.span());
    // The kernel cancels what a thread had in flight when it exits.
    let mut channel = std::thread::spawn(move || {
        submit(&mut world.channel, [op]);
        world
    })
    .join()
    .unwrap();
    writer.write_all(b"later").unwrap();
    let ended = collect(&mut channel.channel, 1)[0];
    assert_eq!((ended.status, ended.len), (Status::Done, 5));
}

#[test]
fn a_dropped_channel_gives_its_memory_back() {
    let (reader, _writer) = pipe();
    let Some(engine) = ring_or_skip(Uring::builder().file(reader)) else { return };
    let mut world = World::new(engine, 4096);
    world.submit([Op::read(0, world.region.span())]);
    let World { fabric, memory, region, channel } = world;
    drop(channel);
    drop(region);
    until(|| Arc::strong_count(&memory) == 1);
    assert!(fabric.inspect().quarantine.is_empty());
}

#[test]
fn a_fabric_that_nobody_turns_ends_what_is_in_flight_when_it_goes() {
    let (mut reader, mut writer) = pipe();
    let Some(engine) = ring_or_skip(Uring::builder().file(reader.try_clone().unwrap())) else { return };
    let fabric = Fabric::builder().manual().build().unwrap();
    let memory = Memory::allocate("kept", 4096).unwrap();
    let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    let mut channel = fabric.channel(&fabric.poller("t"), engine, ChannelConfig::default()).unwrap();
    submit(&mut channel, [Op::read(0, region.span())]);
    drop((channel, region, fabric));
    // Cancelled, and the kernel's last word waited for.
    until(|| Arc::strong_count(&memory) == 1);
    // And the read is over: what comes now is nobody's but ours.
    writer.write_all(b"ours").unwrap();
    let mut bytes = [0; 4];
    reader.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"ours");
}

/// Memory whose pages are not there until the test brings them: whoever touches it waits.
struct Hung {
    fd: OwnedFd,
    range: [u64; 2],
}

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;

impl Hung {
    fn new(memory: &Arc<Memory>) -> Option<Hung> {
        // SAFETY: 1. takes no memory.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if fd < 0 {
            return None;
        }
        // SAFETY: 1. just made; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let range = [memory.backing().cpu().as_ptr() as u64, memory.len()];
        let mut api = [0xaa_u64, 0, 0];
        let mut register = [range[0], range[1], 1, 0];
        // SAFETY: 1. struct uffdio_api is three words.
        if unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: 1. struct uffdio_register is four words: range, mode (missing pages), ioctls.
        let registered = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_REGISTER, register.as_mut_ptr()) } == 0;
        registered.then_some(Hung { fd, range })
    }

    /// Has somebody touched it?
    fn is_waited_for(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: 1. one struct.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    }

    fn let_go(self) {
        let mut zero = [self.range[0], self.range[1], 0, 0];
        // SAFETY: 1. struct uffdio_zeropage is four words. 2. no reference points into the memory (M1).
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_ZEROPAGE, zero.as_mut_ptr()) };
        assert_eq!(done, 0);
    }
}

#[test]
fn what_can_not_be_cancelled_goes_to_quarantine_until_its_completion_comes() {
    let Some(engine) = ring_or_skip(polling(Uring::builder().file(file_of(&pattern(4096, 1))))) else {
        return;
    };
    if !engine.features().sqpoll {
        return skip("no SQPOLL");
    }
    let fabric = Fabric::builder().regions(2).build().unwrap();
    let memory = Memory::allocate("hung", 4096).unwrap();
    let Some(hung) = Hung::new(&memory) else { return skip("no userfaultfd") };
    let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    let bystander_memory = Memory::allocate("bystander", 4096).unwrap();
    let bystander = fabric.register(bystander_memory.backing(), Access::ReadWrite).unwrap();
    let mut channel = fabric.channel(&fabric.poller("t"), engine, ChannelConfig::default()).unwrap();
    submit(&mut channel, [Op::read(0, region.span()).cookie(1), Op::read(0, bystander.span()).cookie(2)]);
    until(|| hung.is_waited_for());
    // The kernel's thread is stuck in the page fault, and holds the ring's lock: nothing of this may wait for it.
    let since = Instant::now();
    let report = region.revoke(Cause::User, Deadline::millis(10, 60)).wait().unwrap();
    assert!(since.elapsed() < LONG / 2, "{:?}", since.elapsed());
    let why = |report: &tidegate_core::drain::Report, what: &str| match &report.outcome {
        tidegate_core::drain::Outcome::Forced(held) => {
            held.iter().filter(|h| h.what.contains(what)).map(|h| h.why).collect::<Vec<_>>()
        }
        _ => Vec::new(),
    };
    assert_eq!(why(&report, channel.name()), [HeldWhy::NotStopped]);
    assert_eq!(why(&report, "region"), [HeldWhy::Initiator]);
    // For the owner both have ended.
    let mut ended = Vec::new();
    channel.reclaim(&mut ended).unwrap();
    ended.sort_by_key(|c| c.cookie);
    assert!(ended.iter().map(|c| c.status).eq([Status::Revoked, Status::Aborted]), "{ended:?}");
    // The other operation's region may be written too.
    let report = bystander.revoke(Cause::User, CANCEL).wait().unwrap();
    assert_eq!(why(&report, "region"), [HeldWhy::Initiator]);
    drop((region, bystander, channel));
    for _ in 0..10 {
        assert_eq!(fabric.inspect().quarantine.len(), 3, "engine and regions");
        std::thread::yield_now();
    }
    assert!(Arc::strong_count(&memory) > 1 && Arc::strong_count(&bystander_memory) > 1);
    hung.let_go();
    until(|| fabric.inspect().quarantine.is_empty());
    until(|| Arc::strong_count(&memory) == 1 && Arc::strong_count(&bystander_memory) == 1);
}
