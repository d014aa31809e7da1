//! Bounces over the soft fabric: two NICs with a GPU each, below switches of their own, and a root complex that hands
//! nothing on between them.

use super::*;
use crate::engine::softnic::{SoftNic, SoftNicEngine};
use crate::import::Import;
use crate::pci::PciAddress;
use crate::soft::{FaultKind, Nic, Peers, Route, Soft};
use crate::{Device, Domain, Want};
use std::os::unix::fs::FileExt;
use tidegate_core::memory::{Memory, Pool};
use tidegate_core::{Access, Cause, ChannelConfig, Deadline, Fabric, Handle, Poller, drain};

const fn at(bus: u8) -> PciAddress {
    PciAddress { segment: 0, bus, device: 0, function: 0 }
}
const NIC: PciAddress = at(1);
const GPU: PciAddress = at(2);
const FAR_NIC: PciAddress = at(0x81);
const FAR_GPU: PciAddress = at(0x82);
const LEN: u64 = 1 << 18;
const PIECE: u64 = 4096;

type Channels = (Channel<SoftNicEngine<Soft>>, Channel<SoftNicEngine<Soft>>);

struct Rig {
    source: Import<Soft, Shared>,
    target: Import<Soft, Shared>,
    nic: Device<Soft>,
    far_nic: Device<Soft>,
    far_gpu: Device<Soft>,
    here: Domain<Soft>,
    there: Domain<Soft>,
    poller: std::sync::Arc<Poller>,
    soft: Soft,
    fabric: Fabric,
}

/// Time for each KiB on the NICs' links.
fn soft(seed: u64, (first, second): (u64, u64), nic: fn() -> Nic) -> Soft {
    Soft::builder(seed)
        .switch(Route::Direct)
        .nic_with(NIC, nic())
        .gpu(GPU, LEN)
        .switch(Route::Direct)
        .nic_with(FAR_NIC, nic())
        .gpu(FAR_GPU, LEN)
        .peers(Peers::Refused)
        .pace(NIC, first)
        .pace(FAR_NIC, second)
        .build()
        .unwrap()
}

impl Rig {
    /// With NICs that tell of failed reads.
    fn new(seed: u64, pace: (u64, u64)) -> Rig {
        Rig::on(soft(seed, pace, || Nic::default().strict()))
    }

    fn on(soft: Soft) -> Rig {
        // Turned by hand: no thread of the fabric's makes runs differ.
        let fabric = Fabric::builder().manual().build().unwrap();
        let here = Domain::new(&fabric, soft.clone()).unwrap();
        let there = Domain::new(&fabric, soft.clone()).unwrap();
        let (nic, gpu) = (here.attach(NIC).unwrap(), here.attach(GPU).unwrap());
        let (far_nic, far_gpu) = (there.attach(FAR_NIC).unwrap(), there.attach(FAR_GPU).unwrap());
        let source = here.import(&gpu.export(0, 0..LEN).unwrap(), Want::default()).unwrap();
        let target = there.import(&far_gpu.export(0, 0..LEN).unwrap(), Want::default()).unwrap();
        soft.vram_file(GPU).unwrap().write_all_at(&contents(), 0).unwrap();
        let poller = fabric.poller("bounce");
        Rig { source, target, nic, far_nic, far_gpu, here, there, poller, soft, fabric }
    }

    fn channels(&self) -> Channels {
        let open = |nic: &Device<Soft>| {
            nic.channel(&self.poller, SoftNic::queue(0), ChannelConfig::depth(16)).unwrap()
        };
        (open(&self.nic), open(&self.far_nic))
    }

    fn bounce(&self, buffers: usize) -> Bounce<SoftNicEngine<Soft>, SoftNicEngine<Soft>> {
        let (first, second) = self.channels();
        let buffers = Buffers::new(&self.here, &self.there, buffers, PIECE, None).unwrap();
        let (from, to) = (self.source.region().handle(), self.target.region().handle());
        Bounce::two(buffers, first, second, reader(from), writer(to))
    }

    /// Turns to the end; the modelled time that it took.
    fn run<A: Engine, B: Engine>(&self, bounce: &mut Bounce<A, B>) -> u64 {
        let before = self.soft.now();
        for _ in 0..200_000 {
            if bounce.turn() == Progress::Done {
                return self.soft.now() - before;
            }
            assert!(
                self.soft.step() || bounce.end().is_some() || bounce.turn() != Progress::Waiting,
                "stuck: {bounce:?}"
            );
        }
        panic!("no end: {bounce:?}");
    }

    fn far(&self) -> Vec<u8> {
        let mut bytes = vec![0; LEN as usize];
        self.soft.vram_file(FAR_GPU).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

fn reader(from: Handle<Shared>) -> impl FnMut(u64, Span<Shared>) -> Op + Send + 'static {
    move |at, into| Op::copy(from.span(at..at + PIECE), into)
}

fn writer(to: Handle<Shared>) -> impl FnMut(u64, Span<Shared>) -> Op + Send + 'static {
    move |at, piece| Op::copy(piece, to.span(at..at + PIECE))
}

fn contents() -> Vec<u8> {
    (0..LEN as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// What must hold of an account when nothing is in flight.
fn balances(account: &Account) {
    assert_eq!(account.fill.submitted, account.fill.completed, "{account:?}");
    assert_eq!(account.drain.submitted, account.drain.completed, "{account:?}");
    assert_eq!(account.fill.bytes, account.drain.bytes + account.lost, "{account:?}");
    assert_eq!(account.foreign, 0, "{account:?}");
}

#[test]
fn the_stream_arrives_and_every_byte_is_counted_once() {
    let rig = Rig::new(1, (0, 0));
    let mut bounce = rig.bounce(4).confirming();
    assert_eq!((bounce.turn(), bounce.end()), (Progress::Done, None), "nothing was begun");
    for round in 1..=2 {
        bounce.begin(LEN).unwrap();
        assert_eq!(bounce.begin(1), Err(Running));
        rig.run(&mut bounce);
        assert_eq!(bounce.end(), Some(End::Finished { confirmed: true }));
        let account = bounce.account();
        balances(&account);
        assert_eq!((account.fill.bytes, account.drain.submitted), (round * LEN, round * LEN / PIECE));
        assert_eq!((account.lost, account.again), (0, 0));
        assert!(rig.far() == contents());
    }
    bounce.begin(0).unwrap();
    rig.run(&mut bounce);
    assert!(matches!(bounce.into_legs(), Ok(Legs::Two(..))));
    assert_eq!(rig.soft.violations(), []);
}

/// The direct way is measured first; it drops everything, and the NIC calls it done.
#[test]
fn the_bounce_goes_where_the_direct_way_was_measured_not_to() {
    use crate::probe::{Outcome, Plan, Probe};
    let rig = Rig::new(2, (0, 0));
    let direct = rig.here.import(&rig.far_gpu.export(0, 0..LEN).unwrap(), Want::default()).unwrap();
    let (mut first, second) = rig.channels();
    let mut probe = Probe::new(&mut first, &direct, Plan::scratch(0..PIECE)).unwrap();
    while probe.turn() != Progress::Done {
        rig.soft.step();
    }
    assert!(matches!(probe.report().unwrap().outcome, Outcome::Drops { .. }));
    drop(probe);
    let (from, to) = (rig.source.region().handle(), rig.target.region().handle());
    let buffers = Buffers::new(&rig.here, &rig.there, 4, PIECE, None).unwrap();
    let mut bounce = Bounce::two(buffers, first, second, reader(from), writer(to)).confirming();
    bounce.begin(LEN).unwrap();
    rig.run(&mut bounce);
    assert_eq!(bounce.end(), Some(End::Finished { confirmed: true }));
    assert!(rig.far() == contents());
}

/// Modelled time of one leg by itself, with as many operations in flight as the bounce has buffers.
fn alone(
    rig: &Rig,
    channel: &mut Channel<SoftNicEngine<Soft>>,
    mut op: impl FnMut(u64) -> Op,
    depth: u64,
) -> u64 {
    let (mut sent, mut done, before) = (0, 0, rig.soft.now());
    let mut out = [Completion::EMPTY; 16];
    while done < LEN / PIECE {
        let mut pinned = channel.pin().unwrap();
        done += pinned.poll(&mut out) as u64;
        while sent < LEN / PIECE && sent - done < depth {
            assert!(matches!(pinned.submit(op(sent * PIECE)), Submit::Queued(_)));
            sent += 1;
        }
        drop(pinned);
        rig.soft.step();
    }
    rig.soft.now() - before
}

fn legs_alone(pace: (u64, u64), depth: u64) -> (u64, u64) {
    let rig = Rig::new(3, pace);
    let (mut first, mut second) = rig.channels();
    let host = |domain: &Domain<Soft>| {
        let memory = Memory::allocate("alone", depth * PIECE).unwrap();
        domain.register(memory.backing(), Access::ReadWrite).unwrap()
    };
    let (near, far) = (host(&rig.here), host(&rig.there));
    let buffer = |region: &tidegate_core::Region<Shared>, at: u64| {
        let start = at / PIECE % depth * PIECE;
        region.handle().span(start..start + PIECE)
    };
    let (from, to) = (rig.source.region().handle(), rig.target.region().handle());
    let fill = alone(&rig, &mut first, |at| Op::copy(from.span(at..at + PIECE), buffer(&near, at)), depth);
    let drain = alone(&rig, &mut second, |at| Op::copy(buffer(&far, at), to.span(at..at + PIECE)), depth);
    (fill, drain)
}

#[test]
fn throughput_is_nine_tenths_of_the_slower_leg() {
    let paces = [(64, 64), (32, 96), (96, 32), (256, 256), (256, 16)];
    for (pace, buffers) in paces.into_iter().flat_map(|pace| [(pace, 2), (pace, 4)]) {
        let (fill, drain) = legs_alone(pace, 4);
        let rig = Rig::new(3, pace);
        let mut bounce = rig.bounce(buffers);
        bounce.begin(LEN).unwrap();
        let time = rig.run(&mut bounce);
        let ratio = fill.max(drain) as f64 / time as f64;
        assert!(rig.far() == contents());
        assert!(
            ratio >= 0.9,
            "{pace:?}, {buffers} buffers: {time} steps; alone {fill} and {drain}: {ratio:.3}"
        );
        assert!(ratio <= 1.02, "{pace:?}: faster than a leg by itself? {ratio:.3}");
    }
}

/// One device does both: its link carries all, so the time is that of both legs one after the other.
#[test]
fn one_engine_does_both_legs_in_little_more_than_the_sum() {
    let rig = Rig::new(5, (64, 64));
    let (mut channel, _other) = rig.channels();
    let (from, to) = (rig.source.region().handle(), rig.source.region().handle());
    let host = rig
        .here
        .register(Memory::allocate("alone", 4 * PIECE).unwrap().backing(), Access::ReadWrite)
        .unwrap();
    let buffer = |at: u64| host.handle().span(at / PIECE % 4 * PIECE..at / PIECE % 4 * PIECE + PIECE);
    let fill = alone(&rig, &mut channel, |at| Op::copy(from.span(at..at + PIECE), buffer(at)), 4);
    // Back to where they came from: the bytes stay.
    let memory = Memory::allocate("pool", 8 * PIECE).unwrap();
    let pool =
        Pool::new([rig.here.register(memory.backing(), Access::ReadWrite).unwrap()], PIECE, 2).unwrap();
    let mut bounce = Bounce::one(Buffers::of_pool(&pool, 4).unwrap(), channel, reader(from), writer(to));
    bounce.begin(LEN).unwrap();
    let time = rig.run(&mut bounce);
    assert_eq!(bounce.end(), Some(End::Finished { confirmed: false }));
    balances(&bounce.account());
    assert!(time as f64 * 0.9 <= 2.0 * fill as f64, "{time} steps; one leg alone {fill}");
    assert!(matches!(bounce.into_legs(), Ok(Legs::One(_))));
    assert_eq!(pool.state().free, 8, "the buffers went back");
}

/// Whatever is revoked, whenever: the account balances, and nothing is in flight at the end.
#[test]
fn every_ticket_ends_once_over_revokes_and_quiesces() {
    let mut seen = std::collections::BTreeMap::<&str, u32>::new();
    for seed in 0..60 {
        let rig = Rig::new(seed, (8, 8));
        let mut bounce = rig.bounce(4).confirming();
        bounce.begin(LEN).unwrap();
        let when = 50 + seed * 67;
        while rig.soft.now() < when && bounce.turn() != Progress::Done {
            rig.soft.step();
        }
        let by = Deadline::millis(0, 60_000);
        let end = match seed % 4 {
            0 => during(&rig, &mut bounce, |turn| {
                let mut revoke = rig.target.region().revoke(Cause::User, by);
                turn(&mut || revoke.turn() == drain::Progress::Done);
            }),
            1 => during(&rig, &mut bounce, |turn| {
                let mut revoke = rig.source.region().revoke(Cause::User, by);
                turn(&mut || revoke.turn() == drain::Progress::Done);
            }),
            2 => during(&rig, &mut bounce, |turn| {
                let mut quiesce = rig.far_nic.quiesce(Cause::Reset, by).unwrap();
                turn(&mut || quiesce.turn() == drain::Progress::Done);
            }),
            _ => during(&rig, &mut bounce, |turn| {
                let mut quiesce = rig.far_gpu.quiesce(Cause::Reset, by).unwrap();
                turn(&mut || quiesce.turn() == drain::Progress::Done);
            }),
        };
        balances(&bounce.account());
        rig.soft.run_until_idle(100_000);
        let (far, sent) = (rig.far(), contents());
        let pieces = far.chunks(PIECE as usize).zip(sent.chunks(PIECE as usize));
        let there = pieces.filter(|(there, sent)| there == sent).count() as u64;
        assert!(there * PIECE >= bounce.account().drain.bytes, "seed {seed}: counted, and not there");
        let kind = match end {
            End::Finished { .. } => "finished",
            End::Stopped { leg: Leg::Fill, .. } => "fill",
            End::Stopped { leg: Leg::Drain, .. } => "drain",
        };
        *seen.entry(kind).or_default() += 1;
        assert_eq!(rig.soft.violations(), [], "seed {seed}");
    }
    assert!(
        seen.get("fill").is_some_and(|n| *n > 5) && seen.get("drain").is_some_and(|n| *n > 5),
        "{seen:?}"
    );
}

type Turn<'a> = &'a mut dyn FnMut(&mut dyn FnMut() -> bool);

/// Turns the bounce and what `begins` hands in, until both are over.
fn during(
    rig: &Rig,
    bounce: &mut Bounce<SoftNicEngine<Soft>, SoftNicEngine<Soft>>,
    begins: impl FnOnce(Turn<'_>),
) -> End {
    begins(&mut |drain| {
        let mut drained = false;
        for _ in 0..1_000_000 {
            drained = drained || drain();
            let _ = rig.fabric.turn();
            if bounce.turn() == Progress::Done && drained {
                return;
            }
            rig.soft.step();
        }
        panic!("no end: {bounce:?}");
    });
    bounce.end().unwrap()
}

#[test]
fn a_failed_read_stops_the_stream_and_nothing_of_it_is_drained() {
    let rig = Rig::new(9, (0, 0));
    let mut bounce = rig.bounce(4);
    bounce.begin(LEN).unwrap();
    while bounce.account().drain.completed < 3 {
        let _ = bounce.turn();
        rig.soft.step();
    }
    // The kernel's revoke, of which no importer hears: the strict NIC reports that its reads were refused.
    let exporter = rig.source.export().device().function().clone();
    use crate::backend::Function;
    exporter.config_write(4, 2, 4).unwrap();
    rig.run(&mut bounce);
    let Some(End::Stopped { leg: Leg::Fill, why: Why::Device(_), at }) = bounce.end() else {
        panic!("{:?}", bounce.end())
    };
    balances(&bounce.account());
    assert!(at >= 3 * PIECE && bounce.account().drain.bytes <= at + 4 * PIECE);
    let drained =
        rig.far().chunks(PIECE as usize).filter(|piece| piece.iter().any(|byte| *byte != 0)).count();
    assert_eq!(drained as u64, bounce.account().drain.bytes / PIECE, "no garbage went on");
}

/// Neither by a NIC that tells that its read-back was refused, nor by one that takes ones for bytes.
#[test]
fn a_dead_target_is_not_called_finished() {
    use crate::backend::Function;
    use crate::engine::{code, softnic::abi};
    let nics: [(fn() -> Nic, u16); 2] =
        [(|| Nic::default().strict(), abi::Status::ReadFailed as u16), (Nic::default, code::DEAD_WINDOW)];
    for (nic, code) in nics {
        let rig = Rig::on(soft(11, (0, 0), nic));
        let mut bounce = rig.bounce(2).confirming();
        bounce.begin(LEN).unwrap();
        while bounce.account().drain.completed < 3 {
            let _ = bounce.turn();
            rig.soft.step();
        }
        rig.far_gpu.function().config_write(4, 2, 4).unwrap();
        rig.run(&mut bounce);
        let (leg, at, why) = (Leg::Drain, LEN, Why::Unconfirmed(code));
        assert_eq!(bounce.end(), Some(End::Stopped { leg, at, why }));
        balances(&bounce.account());
    }
}

/// Zeros could be a dead mapping's.
#[test]
fn bytes_that_prove_nothing_are_not_called_confirmed() {
    let rig = Rig::new(12, (0, 0));
    rig.soft.vram_file(GPU).unwrap().write_all_at(&vec![0; LEN as usize], 0).unwrap();
    let mut bounce = rig.bounce(2).confirming();
    bounce.begin(LEN).unwrap();
    rig.run(&mut bounce);
    assert_eq!(bounce.end(), Some(End::Finished { confirmed: false }));
}

#[test]
fn frames_that_are_shorter_than_a_buffer_go_on_as_they_are() {
    let rig = Rig::new(13, (0, 0));
    let (first, second) = rig.channels();
    let to = rig.target.region().handle();
    let fill = |_, into| Op::read(0, into);
    let drain = move |at, piece| Op::copy(piece, to.span(at..at + 5));
    let make = || Buffers::new(&rig.here, &rig.there, 2, PIECE, None).unwrap();
    let mut bounce = Bounce::two(make(), first, second, fill, drain).partial();
    bounce.begin(4 * PIECE).unwrap();
    let wire = rig.soft.wire(NIC).unwrap();
    for frame in [b"first", b"secnd", b"third", b"forth"] {
        wire.send(frame).unwrap();
    }
    rig.run(&mut bounce);
    assert_eq!(bounce.end(), Some(End::Finished { confirmed: false }));
    assert_eq!((bounce.account().fill.bytes, bounce.account().drain.bytes), (20, 20));
    rig.soft.run_until_idle(100_000);
    let far = rig.far();
    let piece = |n: usize| &far[n * PIECE as usize..n * PIECE as usize + 5];
    assert_eq!([piece(0), piece(1), piece(2), piece(3)], [b"first", b"secnd", b"third", b"forth"]);
}

#[test]
fn a_short_piece_stops_a_stream_that_does_not_allow_it() {
    let rig = Rig::new(15, (0, 0));
    let (first, second) = rig.channels();
    let to = rig.target.region().handle();
    let buffers = Buffers::new(&rig.here, &rig.there, 2, PIECE, None).unwrap();
    let mut bounce = Bounce::two(buffers, first, second, |_, into| Op::read(0, into), writer(to));
    bounce.begin(PIECE).unwrap();
    rig.soft.wire(NIC).unwrap().send(b"short").unwrap();
    rig.run(&mut bounce);
    let why = Why::Short { asked: PIECE as u32, moved: 5 };
    assert_eq!(bounce.end(), Some(End::Stopped { leg: Leg::Fill, at: 0, why }));
    assert_eq!((bounce.account().fill.bytes, bounce.account().in_flight()), (0, 0));
}

#[test]
fn a_stop_lets_what_is_in_flight_end() {
    let rig = Rig::new(17, (16, 16));
    let mut bounce = rig.bounce(4);
    bounce.begin(LEN).unwrap();
    while bounce.account().fill.bytes < 8 * PIECE {
        let _ = bounce.turn();
        rig.soft.step();
    }
    bounce.stop();
    rig.run(&mut bounce);
    assert!(matches!(bounce.end(), Some(End::Stopped { why: Why::Asked, .. })));
    balances(&bounce.account());
    assert!(bounce.account().drain.bytes < LEN);
}

#[test]
fn buffers_of_a_pool_are_not_handed_out_while_a_device_may_write_them() {
    let rig = Rig::new(19, (0, 0));
    let (channel, _other) = rig.channels();
    let memory = Memory::allocate("pool", 4 * PIECE).unwrap();
    let pool =
        Pool::new([rig.here.register(memory.backing(), Access::ReadWrite).unwrap()], PIECE, 2).unwrap();
    assert!(matches!(Buffers::of_pool(&pool, 5), Err(BuffersError::Pool { count: 5, had: 4 })));
    assert!(matches!(Buffers::of_pool(&pool, 1), Err(BuffersError::Shape { count: 1, .. })));
    let (from, to) = (rig.source.region().handle(), rig.source.region().handle());
    let mut bounce = Bounce::one(Buffers::of_pool(&pool, 2).unwrap(), channel, reader(from), writer(to));
    rig.soft.misbehave(NIC, FaultKind::LoseCompletions(1));
    bounce.begin(PIECE).unwrap();
    for _ in 0..1000 {
        let _ = bounce.turn();
        rig.soft.step();
    }
    assert_eq!(bounce.account().in_flight(), 1);
    drop(bounce);
    assert_eq!(pool.state().free, 2);
}
