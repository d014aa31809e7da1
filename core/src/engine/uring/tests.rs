//! What needs the inside of the engine.

use super::*;

/// The engine, or a line that says why not.
pub(super) fn ring_or_skip(builder: Builder) -> Option<Uring> {
    match builder.build() {
        Ok(uring) => Some(uring),
        Err(UringError::Disabled { .. }) => {
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                b"skipped: io_uring is not available here\n",
            );
            None
        }
        Err(error) => panic!("{error}"),
    }
}

use super::book::TRIES;
use super::entry::{Medium, Place, SYNC};
use crate::channel::{Names, Ring};
use crate::engine::Sink;
use crate::op::{Completion, Status};

/// The channel's side: what was accepted, and what ended. (All that this file knows of rings and sinks.)
struct Owner(Ring);

impl Owner {
    fn new() -> Owner {
        Owner(Ring::new(8))
    }

    /// The index of the next operation, which `push` pushes.
    fn submit(&mut self, push: impl FnOnce(u32) -> Push) -> u32 {
        let index = self.0.index(self.0.last + 1);
        assert_eq!(push(index), Push::Taken);
        self.0.accept(Names::in_flight(1, 1), 0);
        index
    }

    /// What `retire` reported, with room for so many.
    fn poll(&mut self, room: usize, retire: impl FnOnce(&mut Sink<'_>)) -> Vec<Completion> {
        let mut out = vec![Completion::EMPTY; room];
        let mut sink = Sink::new(&mut self.0, &mut out, 0);
        retire(&mut sink);
        let n = sink.n;
        out.truncate(n);
        out
    }

    fn spurious(&self) -> u64 {
        self.0.tally.counters(self.0.last).spurious
    }
}

/// A book, and its owner; results come from the test.
struct Desk {
    book: Book,
    owner: Owner,
}

fn medium(seekable: bool, direct: bool) -> Medium {
    Medium { place: Place::Fixed(0), seekable, direct, ..Medium::null() }
}

impl Desk {
    fn new(medium: Medium, fence: Fence) -> Desk {
        Desk { book: Book::new(4, vec![medium], fence), owner: Owner::new() }
    }

    /// Accepts an operation of 4096 bytes at offset 0, as the channel would.
    fn push(&mut self, kind: Kind) -> u32 {
        let operand = Target { address: 0x10_0000, len: 4096, region: 1, window: false };
        self.push_to(kind, &operand)
    }

    fn push_to(&mut self, kind: Kind, operand: &Target) -> u32 {
        let entry = match kind {
            Kind::Fence => Entry::FENCE,
            _ => self.book.check(kind, operand, 0).unwrap(),
        };
        self.owner.submit(|index| self.book.enqueue(index, entry))
    }

    /// Gives what waits to a kernel that takes all; says which.
    fn issue(&mut self, lookup: &mut Lookup) -> Vec<u32> {
        self.book.rung = self.book.queue.len();
        let mut given = Vec::new();
        while let Some((index, entry, medium)) = self.book.next(given.len()) {
            assert!(entry.build(medium, lookup, index, |_| true));
            given.push(index);
        }
        given.iter().for_each(|index| self.book.sent(*index));
        self.book.forget(given.len());
        self.book.took(given.len());
        given
    }

    fn result(&mut self, data: u64, result: i32) -> Option<(Status, u32)> {
        let ended = self.owner.poll(2, |sink| {
            if !self.book.whole(data, result, sink) {
                self.book.odd(data, result, Some(sink));
            }
        });
        assert!(ended.len() <= 1);
        ended.first().map(|c| (c.status, c.len))
    }
}

fn lookup() -> Option<Lookup> {
    Some(ring_or_skip(Uring::builder().null())?.buffers().lookup())
}

const fn errno(errno: i32) -> Status {
    Status::Device(errno as u16)
}

#[test]
fn what_comes_short_goes_on_with_the_rest() {
    let Some(mut lookup) = lookup() else { return };
    for kind in [Kind::Read, Kind::Write] {
        let mut desk = Desk::new(medium(true, false), Fence::Order);
        let index = desk.push(kind);
        for (left, part) in [(4096, 100), (3996, 1), (3995, 3000)] {
            assert_eq!(desk.issue(&mut lookup), [index]);
            assert_eq!(desk.book.entries[index as usize].left, left);
            assert_eq!(desk.result(u64::from(index), part), None);
        }
        assert_eq!(desk.issue(&mut lookup), [index]);
        let entry = desk.book.entries[index as usize];
        assert_eq!((entry.address, entry.at, entry.left), (0x10_0000 + 3101, 3101, 995));
        assert_eq!(desk.result(u64::from(index), 995), Some((Status::Done, 4096)));
        assert_eq!((desk.book.out, desk.book.queue.len()), (0, 0));
    }
}

#[test]
fn interruptions_are_tried_again_and_not_for_ever() {
    let Some(mut lookup) = lookup() else { return };
    for code in [libc::EINTR, libc::EAGAIN, libc::ECANCELED] {
        let mut desk = Desk::new(medium(true, false), Fence::Order);
        let index = desk.push(Kind::Write);
        for _ in 1..TRIES {
            assert_eq!(desk.issue(&mut lookup), [index]);
            assert_eq!(desk.result(u64::from(index), -code), None);
        }
        // Bytes that moved start the count again.
        desk.issue(&mut lookup);
        assert_eq!(desk.result(u64::from(index), 96), None);
        for _ in 1..TRIES {
            desk.issue(&mut lookup);
            assert_eq!(desk.result(u64::from(index), -code), None);
        }
        desk.issue(&mut lookup);
        assert_eq!(desk.result(u64::from(index), -code), Some((errno(code), 96)));
    }
}

#[test]
fn a_write_that_never_moves_a_byte_ends_as_eio() {
    let Some(mut lookup) = lookup() else { return };
    let mut desk = Desk::new(medium(true, false), Fence::Order);
    let index = desk.push(Kind::Write);
    for _ in 1..TRIES {
        desk.issue(&mut lookup);
        assert_eq!(desk.result(u64::from(index), 0), None);
    }
    desk.issue(&mut lookup);
    assert_eq!(desk.result(u64::from(index), 0), Some((errno(libc::EIO), 0)));
}

#[test]
fn efault_is_tried_without_the_registered_buffer_once() {
    let Some(uring) = ring_or_skip(Uring::builder().null()) else { return };
    let memory = crate::Memory::allocate("e", 4096).unwrap();
    let _held = uring.buffers().register(&memory.backing()).unwrap();
    let mut lookup = uring.buffers().lookup();
    lookup.refresh();
    let mut desk = Desk::new(medium(true, false), Fence::Order);
    let operand =
        Target { address: memory.backing().cpu().as_ptr() as u64, len: 4096, region: 1, window: false };
    let index = desk.push_to(Kind::Read, &operand);
    desk.issue(&mut lookup);
    assert!(desk.book.entries[index as usize].fixed);
    assert_eq!(desk.result(u64::from(index), -libc::EFAULT), None);
    desk.issue(&mut lookup);
    assert!(!desk.book.entries[index as usize].fixed);
    assert_eq!(desk.result(u64::from(index), -libc::EFAULT), Some((errno(libc::EFAULT), 0)));
}

#[test]
fn completions_of_nothing_are_counted_and_end_nothing() {
    let Some(mut lookup) = lookup() else { return };
    let mut desk = Desk::new(medium(true, false), Fence::Order);
    let index = desk.push(Kind::Read);
    // The kernel has not got it; it has no such index; it had it, and twice.
    for data in [u64::from(index), 77] {
        assert_eq!(desk.result(data, 4096), None);
    }
    desk.issue(&mut lookup);
    assert_eq!(desk.result(u64::from(index), 4096), Some((Status::Done, 4096)));
    assert_eq!(desk.result(u64::from(index), 4096), None);
    assert_eq!(desk.owner.spurious(), 3);
    assert_eq!(desk.book.out, 0);
}

#[test]
fn a_direct_read_past_the_last_block_is_the_end_of_the_file() {
    let Some(mut lookup) = lookup() else { return };
    for (direct, part, expect) in [
        (true, 700, Some((Status::Done, 700))),
        (true, 512, Some((errno(libc::EINVAL), 512))),
        (false, 700, Some((errno(libc::EINVAL), 700))),
    ] {
        let mut desk = Desk::new(medium(true, direct), Fence::Order);
        let index = desk.push(Kind::Read);
        desk.issue(&mut lookup);
        assert_eq!(desk.result(u64::from(index), part), None);
        desk.issue(&mut lookup);
        assert_eq!(desk.result(u64::from(index), -libc::EINVAL), expect, "direct: {direct}, after {part}");
    }
}

#[test]
fn a_sync_that_fails_is_the_fences_errno_and_the_next_fence_syncs_again() {
    let Some(mut lookup) = lookup() else { return };
    let mut desk = Desk::new(medium(true, false), Fence::DataSync);
    let write = desk.push(Kind::Write);
    desk.issue(&mut lookup);
    desk.book.media[0].dirty = true;
    desk.push(Kind::Fence);
    desk.book.rung = 1;
    assert!(!desk.book.at_fence(), "the write is out");
    assert_eq!(desk.result(u64::from(write), 4096), Some((Status::Done, 4096)));
    assert!(desk.book.at_fence() && desk.book.wants_sync());
    desk.book.media[0].dirty = false;
    desk.book.sync_began(1);
    desk.book.took(1);
    assert!(!desk.book.at_fence(), "the sync is out");
    assert_eq!(desk.result(SYNC, -libc::EIO), None);
    let ended = desk.owner.poll(1, |sink| desk.book.report_ready(sink));
    assert_eq!(ended[0].status, errno(libc::EIO));
    assert!(desk.book.wants_sync());
}

#[test]
fn a_ring_that_died_ends_what_it_never_took_with_its_errno() {
    let Some(mut lookup) = lookup() else { return };
    let mut desk = Desk::new(medium(true, false), Fence::Order);
    // One the kernel has, two that lie in the submission queue, one behind.
    let all: Vec<u32> = (0..4).map(|_| desk.push(Kind::Write)).collect();
    desk.book.rung = 4;
    for n in 0..3 {
        let (index, entry, medium) = desk.book.next(n).unwrap();
        assert!(entry.build(medium, &mut lookup, index, |_| true));
        desk.book.sent(index);
    }
    desk.book.forget(3);
    desk.book.took(1);
    let mut ended = Vec::new();
    for n in [2, 1, 0] {
        let some = desk.owner.poll(2, |sink| desk.book.fail(libc::EOWNERDEAD, sink));
        assert_eq!(some.len(), n);
        ended.extend(some);
    }
    assert!(ended.iter().all(|c| c.status == errno(libc::EOWNERDEAD)));
    assert!(ended.iter().map(|c| c.ticket.0).eq([2, 3, 4]));
    assert_eq!(desk.result(u64::from(all[0]), 4096), Some((Status::Done, 4096)));
}

#[test]
fn a_ring_that_died_waits_only_for_what_the_kernel_took() {
    let Some(mut uring) = ring_or_skip(Uring::builder().null()) else { return };
    // Two syncs and a cancel were written; the kernel took the first and died.
    uring.book.sync_began(2);
    uring.book.cancel_began();
    uring.book.took(1);
    uring.refused(&std::io::Error::from_raw_os_error(libc::EOWNERDEAD));
    assert_eq!(uring.cancel(), Cancel::Pending, "one sync is out");
    uring.book.odd(SYNC, 0, None);
    assert_eq!(uring.cancel(), Cancel::Stopped);
}

#[test]
fn a_fence_whose_sync_a_dead_ring_holds_ends_with_its_errno_and_is_not_waited_for() {
    let mut desk = Desk::new(medium(true, false), Fence::DataSync);
    desk.push(Kind::Fence);
    desk.book.rung = 1;
    desk.book.sync_began(1);
    let ended = desk.owner.poll(2, |sink| desk.book.fail(libc::EOWNERDEAD, sink));
    assert_eq!((ended.len(), ended[0].status), (1, errno(libc::EOWNERDEAD)));
    assert_eq!((desk.book.out, desk.book.waiting()), (0, 0));
}

fn poll(uring: &mut Uring, owner: &mut Owner) -> Vec<Status> {
    owner.poll(4, |sink| uring.retire(sink)).iter().map(|c| c.status).collect()
}

const NOWHERE: Target = Target { address: 0x1000, len: 1, region: 1, window: false };

/// For the null medium only.
fn nothing(uring: &mut Uring, index: u32) -> Push {
    // SAFETY: 1. the null medium moves no bytes.
    unsafe { uring.push(index, &Operation::Read { at: 0, to: NOWHERE }) }
}

#[test]
fn what_the_kernel_did_not_take_at_the_doorbell_is_offered_again_by_polls() {
    let Some(mut uring) = ring_or_skip(Uring::builder().null()) else { return };
    let mut owner = Owner::new();
    owner.submit(|index| nothing(&mut uring, index));
    assert_eq!(poll(&mut uring, &mut owner), [], "not rung");
    // As after a doorbell that met EAGAIN.
    uring.refused(&std::io::Error::from_raw_os_error(libc::EAGAIN));
    uring.stuck = true;
    assert_eq!(poll(&mut uring, &mut owner), []);
    assert_eq!(poll(&mut uring, &mut owner), [Status::Done]);
    assert!(!uring.stuck);
}

#[test]
fn a_ring_that_died_answers_everything_with_its_errno() {
    let Some(mut uring) = ring_or_skip(Uring::builder().null()) else { return };
    let mut owner = Owner::new();
    uring.refused(&std::io::Error::from_raw_os_error(libc::EOWNERDEAD));
    for _ in 0..3 {
        for op in [Operation::Read { at: 0, to: NOWHERE }, Operation::Fence] {
            // SAFETY: 1. the null medium moves no bytes.
            owner.submit(|index| unsafe { uring.push(index, &op) });
        }
        uring.doorbell();
        assert_eq!(poll(&mut uring, &mut owner), [errno(libc::EOWNERDEAD); 2]);
    }
    assert_eq!((uring.cancel(), uring.resume()), (Cancel::Stopped, false));
}

#[test]
fn what_was_never_taken_is_withdrawn_and_the_ring_is_not_used_again() {
    let Some(mut uring) = ring_or_skip(Uring::builder().null()) else { return };
    assert_eq!(nothing(&mut uring, 1), Push::Taken);
    assert_eq!(uring.cancel(), Cancel::Stopped);
    assert!(!uring.resume(), "its entry lies in the submission queue");
    uring.doorbell();
    let mut owner = Owner::new();
    assert_eq!(poll(&mut uring, &mut owner), []);
    assert_eq!(owner.spurious(), 0, "it was not issued");
}

/// What `fence` has sent to the kernel when a write before it ended.
fn behind_a_write(fence: Fence) -> Option<u32> {
    let path = std::env::temp_dir().join(format!("tidegate-uring-sync-{}-{fence:?}", std::process::id()));
    let file = std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let mut uring = ring_or_skip(Uring::builder().file(file).fence(fence))?;
    let memory = crate::Memory::allocate("s", 4096).unwrap();
    let mut owner = Owner::new();
    let from =
        Target { address: memory.backing().cpu().as_ptr() as u64, len: 4096, region: 1, window: false };
    for op in [Operation::Write { from, at: 0 }, Operation::Fence] {
        // SAFETY: 1. `memory` lives until both have ended, and the kernel only reads it.
        owner.submit(|index| unsafe { uring.push(index, &op) });
    }
    uring.doorbell();
    while owner.poll(1, |sink| uring.retire(sink)).is_empty() {}
    let sent = uring.book.out;
    while owner.poll(1, |sink| uring.retire(sink)).is_empty() {}
    Some(sent)
}

#[test]
fn a_fence_syncs_if_it_is_told_to() {
    assert_eq!(behind_a_write(Fence::Order).unwrap_or(0), 0);
    assert_eq!(behind_a_write(Fence::DataSync).unwrap_or(1), 1);
}

#[test]
fn a_sync_that_found_no_room_is_made_before_the_fence_ends() {
    let mut desk = Desk::new(medium(true, false), Fence::DataSync);
    desk.push(Kind::Fence);
    desk.book.rung = 1;
    desk.book.media[0].dirty = true;
    assert!(desk.book.at_fence() && desk.book.wants_sync());
    // Another file's sync was written; for this one there was no room.
    desk.book.sync_began(1);
    desk.book.took(1);
    assert_eq!(desk.result(SYNC, 0), None);
    assert!(!desk.book.has_ready() && desk.book.at_fence() && desk.book.wants_sync());
}

#[test]
fn nothing_is_the_kernels_before_the_doorbell() {
    for sqpoll in [false, true] {
        let mut builder = Uring::builder().null();
        if sqpoll {
            builder = builder.sqpoll(SqPoll { idle: std::time::Duration::from_millis(1), cpu: None });
        }
        let Some(mut uring) = ring_or_skip(builder) else { return };
        let mut owner = Owner::new();
        for _ in 0..3 {
            owner.submit(|index| nothing(&mut uring, index));
        }
        // What lies in the submission queue a thread of the kernel's may take.
        assert_eq!(uring.book.waiting(), if uring.features.sqpoll { 0 } else { 3 });
        assert_eq!(poll(&mut uring, &mut owner), []);
        uring.doorbell();
        let mut ended = Vec::new();
        while ended.len() < 3 {
            ended.extend(poll(&mut uring, &mut owner));
        }
        assert_eq!(ended, [Status::Done; 3]);
    }
}
