//! Lists, fences and bursts, against an engine that runs out of order and one that takes lists whole.
#![expect(
    unsafe_code,
    reason = "an engine of a test: it moves bytes between the regions it was given, as the CPU's does"
)]

use proptest::prelude::*;
use std::ops::Range;
use tidegate_core::engine::{
    AddressSpace, Cancel, Engine, ListOperation, Operation, Outcome, Push, Sink, Target,
};
use tidegate_core::{
    Access, Cause, Channel, ChannelConfig, Completion, Deadline, Fabric, Flow, Handle, Memory, Op, OpList,
    Region, Shared, Span, Status, Submit, Ticket,
};

/// One thing to do, in bytes.
#[derive(Debug, Clone)]
enum Job {
    Move(Vec<Target>, Vec<Target>),
    Fence,
}

/// Runs what was rung, from the last to the first, between fences; at most `room` at a time.
#[derive(Debug)]
struct Backwards {
    queue: Vec<(u32, Job)>,
    done: Vec<(u32, u32)>,
    /// Takes lists as a whole.
    lists: bool,
    room: usize,
    /// Takes no operation longer than this.
    longest: u64,
    /// Ends nothing.
    stuck: bool,
}

impl Backwards {
    fn new(lists: bool) -> Backwards {
        let (queue, done) = (Vec::new(), Vec::new());
        Backwards { queue, done, lists, room: 64, longest: u64::MAX, stuck: false }
    }

    fn take(&mut self, index: u32, job: Job) -> Push {
        if self.queue.len() + self.done.len() >= self.room {
            return Push::Full;
        }
        self.queue.push((index, job));
        Push::Taken
    }
}

/// The bytes of all pieces, in order.
fn bytes(side: &[Target]) -> impl Iterator<Item = *mut u8> + '_ {
    side.iter().flat_map(|t| (0..t.len).map(|i| (t.address + i) as *mut u8))
}

// SAFETY: 1. only operands of operations in flight are touched. 2. nothing runs in the background. 3. as 2.
unsafe impl Engine for Backwards {
    const SPACE: AddressSpace = AddressSpace::Cpu;
    const CONFIRMS: bool = false;

    fn depth(&self) -> u32 {
        64
    }

    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let job = match op {
            Operation::Copy { from, to } if from.len <= self.longest => Job::Move(vec![*from], vec![*to]),
            Operation::Fence => Job::Fence,
            _ => return Push::Unsupported,
        };
        self.take(index, job)
    }

    unsafe fn push_list(&mut self, index: u32, op: &ListOperation<'_>) -> Push {
        if !self.lists {
            return Push::Unsupported;
        }
        assert_eq!(op.len, op.from.iter().map(|t| t.len).sum::<u64>());
        self.take(index, Job::Move(op.from.to_vec(), op.to.to_vec()))
    }

    fn doorbell(&mut self) {}

    fn retire(&mut self, sink: &mut Sink<'_>) {
        if self.stuck {
            return;
        }
        for part in self.queue.split_inclusive(|(_, job)| matches!(job, Job::Fence)) {
            for (index, job) in part.iter().filter(|(_, job)| !matches!(job, Job::Fence)).rev() {
                let Job::Move(from, to) = job else { continue };
                let mut n = 0;
                for (from, to) in bytes(from).zip(bytes(to)) {
                    // SAFETY: 1. `from` lies in a checked operand of an operation in flight.
                    let byte = unsafe { from.read_volatile() };
                    // SAFETY: 1. so does `to`.
                    unsafe { to.write_volatile(byte) };
                    n += 1;
                }
                self.done.push((*index, n));
            }
            let fences = part.iter().filter(|(_, job)| matches!(job, Job::Fence));
            self.done.extend(fences.map(|(index, _)| (*index, 0)));
        }
        self.queue.clear();
        let n = self.done.len().min(sink.room());
        for (index, len) in self.done.drain(..n) {
            sink.complete(index, Outcome::Done, len);
        }
    }

    fn cancel(&mut self) -> Cancel {
        self.queue.clear();
        Cancel::Stopped
    }

    fn resume(&mut self) -> bool {
        self.stuck = false;
        true
    }
}

struct Rig {
    fabric: Fabric,
    regions: Vec<Region<Shared>>,
    channel: Channel<Backwards>,
}

const SIZE: u64 = 256;

impl Rig {
    fn new(engine: Backwards, depth: u32) -> Rig {
        let fabric = Fabric::builder().manual().build().unwrap();
        let regions = (0..4_u8).map(|n| {
            let memory = Memory::allocate("list", SIZE).unwrap();
            let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
            let bytes: Vec<u8> = (0..SIZE).map(|i| (i as u8) ^ (n << 6)).collect();
            region.write(0, &bytes).unwrap();
            region
        });
        let regions = regions.collect();
        let channel = fabric.channel(&fabric.poller("list"), engine, ChannelConfig::depth(depth)).unwrap();
        Rig { fabric, regions, channel }
    }

    fn span(&self, region: usize, at: Range<u64>) -> Span<Shared> {
        self.regions[region].handle().span(at)
    }

    fn bytes(&self, region: usize) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        self.regions[region].read(0, &mut bytes).unwrap();
        bytes
    }

    fn poll(&mut self) -> Vec<Completion> {
        let mut out = [Completion::EMPTY; 64];
        let n = self.channel.pin().unwrap().poll(&mut out);
        out[..n].to_vec()
    }

    /// At rest everything accepted has ended, one way or another.
    fn balanced(&mut self) {
        let c = self.channel.counters();
        let ended = c.done + c.device_errors + c.unconfirmed + c.unsupported + c.revoked + c.aborted;
        assert_eq!((c.submitted, self.channel.in_flight()), (ended, 0), "{c:?}");
    }
}

#[test]
fn without_a_fence_order_is_not_promised_and_with_one_it_is() {
    for fence in [false, true] {
        let mut rig = Rig::new(Backwards::new(false), 8);
        let (a, before) = (rig.bytes(0), rig.bytes(1));
        let first = Op::copy(rig.span(0, 0..SIZE), rig.span(1, 0..SIZE));
        let second = Op::copy(rig.span(1, 0..SIZE), rig.span(2, 0..SIZE));
        let mut pinned = rig.channel.pin().unwrap();
        assert!(matches!(pinned.submit(first), Submit::Queued(Ticket(1))));
        if fence {
            assert!(matches!(pinned.submit(Op::fence().cookie(9)), Submit::Queued(Ticket(2))));
        }
        assert!(matches!(pinned.submit(second), Submit::Queued(_)));
        drop(pinned);
        let ended = rig.poll();
        assert_eq!(ended.len(), if fence { 3 } else { 2 });
        assert_eq!(rig.bytes(2), if fence { a } else { before });
        if fence {
            assert_eq!((ended[0].ticket, ended[1].cookie, ended[2].ticket), (Ticket(1), 9, Ticket(3)));
        }
        rig.balanced();
    }
}

#[test]
fn a_list_completes_once_with_all_bytes_whether_the_engine_takes_lists_or_pieces() {
    for lists in [true, false] {
        let mut rig = Rig::new(Backwards::new(lists), 8);
        let from = [rig.span(0, 0..100), rig.span(1, 50..60)];
        let to = [rig.span(2, 0..10), rig.span(3, 0..30), rig.span(2, 100..170)];
        let list = OpList::copy(&from, &to).cookie(77);
        let (a, b) = (rig.bytes(0), rig.bytes(1));
        let Submit::Queued(ticket) = rig.channel.pin().unwrap().submit_list(&list) else {
            panic!("not queued")
        };
        let ended = rig.poll();
        assert_eq!(ended, [Completion { ticket, cookie: 77, len: 110, ..ended[0] }], "lists: {lists}");
        assert_eq!(ended[0].status, Status::Done);
        assert_eq!(rig.bytes(2)[..10], a[..10]);
        assert_eq!(rig.bytes(3)[..30], a[10..40]);
        assert_eq!(rig.bytes(2)[100..170], [&a[40..100], &b[50..60]].concat());
        rig.balanced();
        let counters = rig.channel.counters();
        assert_eq!((counters.submitted, counters.done, counters.bytes), (1, 1, 110));
        let seen = &rig.fabric.inspect().channels[0];
        let of = |n: usize| {
            let region = rig.regions[n].handle();
            let found =
                seen.regions.iter().find(|r| r.region == n as u32 && r.generation == region.generation());
            found.unwrap().used
        };
        assert_eq!((of(0).reads, of(0).read_bytes, of(2).writes, of(2).written_bytes), (1, 100, 2, 80));
    }
}

#[test]
fn a_list_is_checked_whole_before_anything_of_it_is_queued() {
    let mut rig = Rig::new(Backwards::new(false), 4);
    let good = rig.span(0, 0..8);
    let stale = rig.span(3, 0..8);
    let revoked = rig.regions[3].revoke(Cause::User, Deadline::millis(1000, 2000)).wait().unwrap();
    assert!(revoked.is_clean());
    let many: Vec<_> = (0..5).map(|_| rig.span(1, 0..1)).collect();
    let cases = [
        (OpList::copy(&[good, stale], &[rig.span(1, 0..16)]), "stale"),
        (OpList::copy(&[good], &[rig.span(1, 0..9)]), "uneven"),
        (OpList::copy(&[good, good], &[rig.span(1, 0..8), rig.span(1, 4090..4098)]), "beyond"),
        (OpList::copy::<Shared, Shared>(&[], &[]), "empty"),
        (OpList::copy(&[rig.span(0, 0..5)], &many), "pieces"),
        (OpList::read(0, &[good, good]), "unsupported"),
    ];
    for (list, why) in cases {
        let answer = rig.channel.pin().unwrap().submit_list(&list);
        match why {
            "stale" => assert!(matches!(answer, Submit::Stale(_)), "{answer:?}"),
            "uneven" | "beyond" => assert_eq!(answer, Submit::Denied(Flow::Bounds), "{why}"),
            "unsupported" => assert_eq!(answer, Submit::Denied(Flow::Unsupported)),
            _ => assert_eq!(answer, Submit::Denied(Flow::Pieces), "{why}"),
        }
    }
    assert_eq!((rig.channel.in_flight(), rig.poll().len()), (0, 0));
    let counters = rig.channel.counters();
    assert_eq!((counters.submitted, counters.stale), (0, 1));
    assert_eq!((counters.denied.bounds, counters.denied.pieces, counters.denied.unsupported), (2, 2, 1));
}

#[test]
fn a_list_that_does_not_fit_is_full_and_fits_later() {
    let mut rig = Rig::new(Backwards::new(false), 4);
    let list = OpList::copy(&[rig.span(0, 0..4), rig.span(1, 0..4)], &[rig.span(2, 0..8)]);
    let mut pinned = rig.channel.pin().unwrap();
    assert!(matches!(pinned.submit_list(&list), Submit::Queued(Ticket(2))));
    assert!(matches!(pinned.submit_list(&list), Submit::Queued(Ticket(4))));
    assert_eq!(pinned.submit_list(&list), Submit::Full);
    drop(pinned);
    assert_eq!(rig.poll().iter().map(|c| c.ticket.0).collect::<Vec<_>>(), [4, 2]);
    assert!(matches!(rig.channel.pin().unwrap().submit_list(&list), Submit::Queued(Ticket(6))));
    assert_eq!(rig.poll().len(), 1);
    rig.balanced();
}

/// Operations and bytes read from each region, in the order of the regions.
fn reads(rig: &Rig) -> Vec<(u64, u64)> {
    let mut rows = rig.fabric.inspect().channels[0].regions.clone();
    rows.retain(|row| row.used.reads > 0);
    rows.sort_by_key(|row| (row.region, row.generation));
    rows.iter().map(|row| (row.used.reads, row.used.read_bytes)).collect()
}

#[test]
fn operations_around_a_list_are_counted_to_their_regions_whether_it_was_queued_or_not() {
    for lists in [true, false] {
        let mut engine = Backwards::new(lists);
        engine.room = 1;
        let mut rig = Rig::new(engine, 8);
        let list = OpList::copy(&[rig.span(1, 0..4)], &[rig.span(2, 0..4)]);
        let copy = Op::copy(rig.span(0, 0..8), rig.span(2, 0..8));
        let mut out = [Completion::EMPTY; 8];
        let mut pinned = rig.channel.pin().unwrap();
        assert!(matches!(pinned.submit(copy), Submit::Queued(_)));
        // The ring has room and the engine has none.
        assert_eq!(pinned.submit_list(&list), Submit::Full);
        assert_eq!(pinned.poll(&mut out), 1);
        assert!(matches!(pinned.submit(copy), Submit::Queued(_)));
        assert_eq!(pinned.poll(&mut out), 1);
        assert!(matches!(pinned.submit_list(&list), Submit::Queued(_)));
        assert_eq!(pinned.poll(&mut out), 1);
        assert!(matches!(pinned.submit(copy), Submit::Queued(_)));
        drop(pinned);
        assert_eq!(rig.poll().len(), 1);
        assert_eq!(reads(&rig), [(3, 24), (1, 4)]);
        rig.balanced();
    }
}

#[test]
fn a_region_in_the_slot_of_another_is_counted_by_itself() {
    let mut rig = Rig::new(Backwards::new(true), 8);
    for round in 1..=3 {
        for _ in 0..round {
            let copy = Op::copy(rig.span(0, 0..8), rig.span(2, 0..8));
            assert!(matches!(rig.channel.pin().unwrap().submit(copy), Submit::Queued(_)));
            assert_eq!(rig.poll().len(), 1);
        }
        let old = rig.regions.remove(0);
        assert!(old.revoke(Cause::User, Deadline::millis(1000, 2000)).wait().unwrap().is_clean());
        let index = old.handle();
        drop(old);
        let memory = Memory::allocate("next", SIZE).unwrap();
        rig.regions.insert(0, rig.fabric.register(memory.backing(), Access::ReadWrite).unwrap());
        let of = |handle: Handle<Shared>| format!("{handle:?}").split('.').next().map(str::to_owned);
        assert_eq!(of(rig.regions[0].handle()), of(index), "the slot is used again");
    }
    assert_eq!(reads(&rig), [(1, 8), (2, 16), (3, 24)]);
}

#[test]
fn a_list_that_the_engine_takes_in_part_ends_once_and_not_as_done() {
    let mut engine = Backwards::new(false);
    engine.room = 2;
    let mut rig = Rig::new(engine, 8);
    let third = [rig.span(0, 0..4), rig.span(1, 0..4), rig.span(0, 8..12)];
    let list = OpList::copy(&third, &[rig.span(2, 0..12)]).cookie(5);
    let Submit::Queued(ticket) = rig.channel.pin().unwrap().submit_list(&list) else { panic!("not queued") };
    let ended = rig.poll();
    assert_eq!(ended, [Completion { ticket, cookie: 5, status: Status::Aborted, len: 8 }]);
    // The second piece is too long for it, and will be.
    let mut engine = Backwards::new(false);
    engine.longest = 6;
    let mut rig = Rig::new(engine, 8);
    let list = OpList::copy(&[rig.span(0, 0..4), rig.span(1, 0..8)], &[rig.span(2, 0..12)]);
    assert!(matches!(rig.channel.pin().unwrap().submit_list(&list), Submit::Queued(_)));
    let ended = rig.poll();
    assert_eq!((ended.len(), ended[0].status, ended[0].len), (1, Status::Unsupported, 4));
    rig.balanced();
    // The first one is: nothing happened.
    let list = OpList::copy(&[rig.span(0, 0..8), rig.span(1, 0..4)], &[rig.span(2, 0..12)]);
    assert_eq!(rig.channel.pin().unwrap().submit_list(&list), Submit::Denied(Flow::Unsupported));
    assert_eq!(rig.channel.in_flight(), 0);
}

#[test]
fn a_revoke_waits_for_a_list_by_each_region_it_names_and_withdraws_it_as_one() {
    for (lists, region) in [(true, 0), (true, 1), (true, 2), (false, 0), (false, 1), (false, 2)] {
        let mut engine = Backwards::new(lists);
        engine.stuck = true;
        let mut rig = Rig::new(engine, 8);
        let list = OpList::copy(&[rig.span(0, 0..4), rig.span(1, 0..4)], &[rig.span(2, 0..8)]).cookie(3);
        let other = Op::copy(rig.span(3, 0..4), rig.span(3, 8..12)).cookie(4);
        let mut pinned = rig.channel.pin().unwrap();
        let Submit::Queued(ticket) = pinned.submit_list(&list) else { panic!("not queued") };
        assert!(matches!(pinned.submit(other), Submit::Queued(_)));
        drop(pinned);
        let mut revoke = rig.regions[region].revoke(Cause::User, Deadline::millis(3_600_000, 3_600_000));
        for _ in 0..20 {
            let _ = revoke.turn();
            rig.fabric.turn();
        }
        assert!(revoke.report().in_flight > 0, "it is named: lists {lists}, region {region}");
        drop(revoke);
        let report = rig.regions[region].revoke(Cause::User, Deadline::millis(0, 3_600_000)).wait().unwrap();
        assert!(report.is_clean(), "{report:?}");
        let mut ended = Vec::new();
        rig.channel.reclaim(&mut ended).unwrap();
        ended.sort_by_key(|c| c.cookie);
        assert_eq!(
            (ended.len(), ended[0].ticket, ended[0].status),
            (2, ticket, Status::Revoked),
            "{ended:?}"
        );
        assert_eq!((ended[1].cookie, ended[1].status), (4, Status::Aborted));
        assert_eq!(rig.poll(), []);
        rig.balanced();
        let counters = rig.fabric.inspect().channels[0].counters;
        assert_eq!((counters.submitted, counters.revoked, counters.aborted), (2, 1, 1));
    }
}

#[test]
fn a_burst_of_any_size_says_how_much_was_taken() {
    let mut rig = Rig::new(Backwards::new(false), 3);
    let op = Op::copy(rig.span(0, 0..4), rig.span(1, 0..4));
    let mut pinned = rig.channel.pin().unwrap();
    assert_eq!(pinned.submit_all(std::iter::repeat_n(op, 2)), (2, None));
    assert_eq!(pinned.submit_all(std::iter::repeat_n(op, 10)), (1, Some(Submit::Full)));
    drop(pinned);
    assert_eq!(rig.poll().len(), 3);
    let counters = rig.channel.counters();
    assert_eq!((counters.submitted, counters.full, counters.doorbells, counters.polls), (3, 1, 1, 1));
}

/// Cuts `len` bytes of a region into pieces at random.
fn cuts(len: u64) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1..len, 0..6).prop_map(move |mut at| {
        at.extend([0, len]);
        at.sort_unstable();
        at.dedup();
        at
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// However both sides are cut, the bytes are those of one copy; by list or by pieces.
    #[test]
    fn a_list_moves_what_one_copy_of_the_whole_would(
        from in cuts(SIZE), to in cuts(SIZE), lists: bool, rounds in 1..4_usize,
    ) {
        let mut rig = Rig::new(Backwards::new(lists), 32);
        let spans = |region, cuts: &[u64]| -> Vec<_> {
            cuts.windows(2).map(|w| rig.span(region, w[0]..w[1])).collect()
        };
        let list = OpList::copy(&spans(0, &from), &spans(1, &to));
        prop_assert_eq!(list.len(), SIZE);
        for _ in 0..rounds {
            prop_assert!(matches!(rig.channel.pin().unwrap().submit_list(&list), Submit::Queued(_)));
            let ended = rig.poll();
            prop_assert_eq!(ended.len(), 1);
            prop_assert_eq!((ended[0].status, u64::from(ended[0].len)), (Status::Done, SIZE));
        }
        prop_assert_eq!(rig.bytes(1), rig.bytes(0));
        rig.balanced();
    }
}
