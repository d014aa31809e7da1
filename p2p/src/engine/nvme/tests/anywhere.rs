//! What holds on the model and on QEMU's controller alike.

use super::{plain, with};
use crate::backend::{Backend, Function, Registers};
use crate::device::Driver;
use crate::engine::code;
use crate::engine::conformance::rig::{AT_ONCE, DEPTH, PLACE, Rig, pattern};
use crate::engine::conformance::{On, Subject};
use crate::engine::nvme::{Fences, Nvme, Range, deallocate};
use crate::soft::Soft;
use tidegate_core::drain::Progress;
use tidegate_core::{
    Access, Cause, Channel, ChannelConfig, Completion, Deadline, Memory, Op, OpList, Status, Submit,
};

type AnyRig<B> = Rig<B, Nvme>;

fn on_soft(test: impl Fn(&mut AnyRig<Soft>)) {
    for seed in 1..4 {
        let (mut rig, _) = with(seed, plain());
        test(&mut rig);
    }
}

/// Runs operations of a channel that is not the rig's to their ends, in order of ending.
fn run<B: Backend>(
    rig: &AnyRig<B>,
    channel: &mut Channel<<Nvme as Driver<B>>::Engine>,
    ops: &[Op],
) -> Vec<Completion> {
    {
        let mut pinned = channel.pin().unwrap();
        for op in ops {
            assert!(matches!(pinned.submit(*op), Submit::Queued(_)));
        }
    }
    let mut done = Vec::new();
    rig.until_mut("all end", || {
        let mut out = [Completion::EMPTY; 8];
        let n = channel.pin().unwrap().poll(&mut out);
        done.extend_from_slice(&out[..n]);
        done.len() == ops.len()
    });
    done
}

fn fences_flush_in_order<B: Backend>(rig: &mut AnyRig<B>)
where
    Nvme: On<B>,
{
    let driver = Nvme::namespace(1).queue(2).fences(Fences::Flush);
    let mut channel = rig.another(driver).unwrap();
    rig.fill_host(0, &pattern(1, 4096));
    let write = Op::write(rig.host(0, 4096).span, 0);
    let read = Op::read(0, rig.vram(0, 4096).span);
    let ops = [write, Op::fence(), read, Op::fence(), Op::fence()];
    let ops: Vec<Op> = (0..).zip(ops).map(|(n, op)| op.cookie(n)).collect();
    let done = run(rig, &mut channel, &ops);
    assert!(done.iter().all(|c| c.status == Status::Done), "{done:?}");
    assert_eq!(done.iter().map(|c| c.cookie).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(rig.peek(0, 4096) == pattern(1, 4096));
}

/// What deallocated blocks read is the controller's business: QEMU's keep their bytes if its file can't give them back.
fn deallocation_leaves_the_blocks_that_are_not_listed<B: Backend>(rig: &mut AnyRig<B>)
where
    Nvme: On<B>,
{
    let block = block(rig);
    Nvme::stock(rig, 0, &pattern(1, 8 * block));
    rig.fill_host(64, &Range { block: 1, blocks: 2 }.encode());
    rig.fill_host(80, &Range { block: 6, blocks: 1 }.encode());
    rig.run_well(deallocate(rig.host(64, 32).span));
    let read = Nvme::load(rig, 0, rig.host(0x4000, 8 * block));
    rig.run_well(read);
    let (now, before) = (rig.read_host(0x4000, 8 * block), pattern(1, 8 * block));
    for n in 0..8 {
        let at = (n * block) as usize..((n + 1) * block) as usize;
        let (now, before) = (&now[at.clone()], &before[at]);
        let listed = matches!(n, 1 | 2 | 6) && now.iter().all(|byte| *byte == 0);
        assert!(now == before || listed, "block {n}");
    }
}

fn block<B: Backend>(rig: &AnyRig<B>) -> u64
where
    Nvme: On<B>,
{
    let driver = Nvme::namespace(1).queue(7);
    drop(rig.another(driver.clone()).unwrap());
    driver.seen().unwrap().1.block
}

fn a_list_reaches_windows_and_memory<B: Backend>(rig: &mut AnyRig<B>)
where
    Nvme: On<B>,
{
    Nvme::stock(rig, 0, &pattern(1, 4096));
    let to = [rig.vram(0x201, 600).span, rig.host(7, 1000).span, rig.vram(0x1000, 2496).span];
    for list in [OpList::read(0, &to), OpList::write(&to, PLACE), OpList::read(PLACE, &to)] {
        assert!(matches!(rig.channel().pin().unwrap().submit_list(&list), Submit::Queued(_)));
        assert_eq!(rig.complete(1)[0].status, Status::Done);
    }
    let all = pattern(1, 4096);
    assert!(rig.peek(0x201, 600) == all[..600] && rig.read_host(7, 1000) == all[600..1600]);
    assert!(rig.peek(0x1000, 2496) == all[1600..]);
    assert!(Nvme::stored(rig, 1, 4096) == all);
    assert_eq!(rig.confirm(), Some(Status::Done));
}

/// Somebody stops the controller: the engine says so, and a cancel brings it up again.
fn a_controller_that_was_stopped_is_brought_up_again<B: Backend>(rig: &mut AnyRig<B>)
where
    Nvme: On<B>,
{
    let memory = Memory::allocate("to be revoked", 4096).unwrap();
    let other = rig.domain.register(memory.backing(), Access::ReadWrite).unwrap();
    let bar = rig.initiator.function().map_bar(0).unwrap();
    bar.write32(0x14, 0);
    rig.until("CSTS.RDY", |_| bar.read32(0x1c) & 1 == 0);
    let lost = Op::read(0, other.handle().span(0..512));
    rig.submit(lost);
    (0..70_000).for_each(|_| assert!(rig.poll().is_empty()));
    let late = Op::read(0, rig.host(0, 512).span);
    assert_eq!(rig.run(late).status, Status::Device(code::FAILED));
    let (report, _) = rig.finish(other.revoke(Cause::User, AT_ONCE), false);
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(rig.complete(1)[0].status, Status::Revoked);
    let fine = Op::read(0, rig.host(0, 512).span);
    rig.run_well(fine);
}

/// Quiesced with work in flight, reset, restored: a new channel works, and the window to the exporter is still there.
fn a_device_that_was_reset_serves_a_new_channel<B: Backend>(rig: &mut AnyRig<B>)
where
    Nvme: On<B>,
{
    for round in 0..2 {
        Nvme::stock(rig, 0, &pattern(round, 4096));
        let to = rig.vram(0, 4096);
        let load = Nvme::load(rig, 0, to);
        rig.submit(load);
        let by = Deadline::millis(0, 20_000);
        let mut quiesce = rig.initiator.quiesce(Cause::Reset, by).unwrap();
        rig.until_mut("quiet", || quiesce.turn() == Progress::Done);
        let quiesced = quiesce.wait().unwrap();
        assert!(quiesced.report().is_clean(), "{:?}", quiesced.report());
        let (_, quiesced) = rig.initiator.reset(quiesced, by).unwrap();
        quiesced.restore();
        rig.drop_channel();
        rig.until("nothing of the engine is mapped", Rig::is_bare);
        rig.open(DEPTH);
        let load = Nvme::load(rig, 0, to);
        rig.run_well(load);
        assert!(rig.peek(0, 4096) == pattern(round, 4096));
        assert_eq!(rig.confirm(), Some(Status::Done));
    }
}

/// Work in several queues of one controller, whose engines come and go.
fn queues_share_a_controller<B: Backend>(rig: &mut AnyRig<B>)
where
    Nvme: On<B>,
{
    Nvme::stock(rig, 0, &pattern(1, 4096));
    for queue in 2..5 {
        let cfg = ChannelConfig::default();
        let driver = Nvme::namespace(1).queue(queue);
        let mut channel = rig.initiator.channel(rig.poller(), driver, cfg).unwrap();
        let at = u64::from(queue) * 0x1000;
        let ops: Vec<Op> = (0..8).map(|n| Op::read(512 * n, rig.vram(at + 512 * n, 512).span)).collect();
        let done = run(rig, &mut channel, &ops);
        assert!(done.iter().all(|c| c.status == Status::Done));
        assert!(rig.peek(at, 4096) == pattern(1, 4096));
        let load = Nvme::load(rig, 0, rig.host(0, 4096));
        rig.run_well(load);
    }
}

macro_rules! anywhere {
    ($($name:ident)+) => {
        mod soft {
            $(#[test] fn $name() { super::on_soft(super::$name); })+
        }
        mod guest {
            $(#[test] fn $name() { crate::engine::conformance::guest::one(super::$name); })+
        }
    };
}

anywhere! {
    fences_flush_in_order
    deallocation_leaves_the_blocks_that_are_not_listed
    a_list_reaches_windows_and_memory
    a_controller_that_was_stopped_is_brought_up_again
    a_device_that_was_reset_serves_a_new_channel
    queues_share_a_controller
}
