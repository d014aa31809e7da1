//! Positions, sizes, Flush, Dataset Management.

use super::{NvmeRig, memory, plain, with};
use crate::engine::conformance::rig::pattern;
use crate::engine::conformance::soft::DEVICE;
use crate::engine::nvme::{Features, Fences, Namespace, Nvme, Range, Sgl, deallocate};
use crate::soft::device::nvme::{self as model, Lists};
use tidegate_core::{ChannelConfig, Flow, Op, Status, Submit};

#[test]
fn blocks_are_where_their_position_says() {
    for (shift, lists) in [(9, Lists::Bytes), (9, Lists::None), (12, Lists::Dwords), (12, Lists::None)] {
        let block = 1 << shift;
        let model = model::Nvme::new((4 << 20) >> shift, shift).lists(lists);
        let (mut rig, disk): (NvmeRig, _) = with(1, model);
        disk.write(5 * block, &pattern(1, 2 * block));
        let op = Op::read(5 * block, rig.vram(0x104, 2 * block).span);
        rig.run_well(op);
        assert!(rig.peek(0x104, 2 * block) == pattern(1, 2 * block));
        let op = Op::write(rig.vram(0x104, 2 * block).span, (4 << 20) - 2 * block);
        rig.run_well(op);
        assert!(disk.read((4 << 20) - 2 * block, 2 * block) == pattern(1, 2 * block), "the last blocks");
        assert_eq!(rig.confirm(), Some(Status::Done));
        let beyond = Op::read((4 << 20) - block, rig.vram(0, 2 * block).span);
        assert_eq!(rig.channel().pin().unwrap().submit(beyond), Submit::Denied(Flow::Unsupported));
    }
}

/// 128 KiB, which is what the model takes at once: 33 pages.
#[test]
fn operations_of_many_pages_reach_each_of_them_and_longer_ones_are_refused() {
    for lists in [Lists::None, Lists::Bytes] {
        let (mut rig, disk): (NvmeRig, _) = with(2, plain().lists(lists));
        let large = memory(&rig, 512 << 10);
        let (len, start) = (128 << 10, 0xabc);
        large.write(start, &pattern(7, len)).unwrap();
        let op = Op::write(large.handle().span(start..start + len), 1 << 20);
        assert_eq!(rig.run(op).len, len as u32);
        assert!(disk.read(1 << 20, len) == pattern(7, len));
        let to = 256 << 10;
        let op = Op::read(1 << 20, large.handle().span(to + 4..to + 4 + len));
        rig.run_well(op);
        let mut back = vec![0; len as usize];
        large.read(to + 4, &mut back).unwrap();
        assert!(back == pattern(7, len));
        let longer = Op::read(0, large.handle().span(0..len + 512));
        assert_eq!(rig.channel().pin().unwrap().submit(longer), Submit::Denied(Flow::Unsupported));
    }
}

#[test]
fn addresses_that_pages_can_not_say_are_refused() {
    let (mut rig, _): (NvmeRig, _) = with(1, plain().lists(Lists::None));
    for op in [Op::read(0, rig.host(2, 512).span), Op::write(rig.vram(0x1001, 512).span, 0)] {
        assert_eq!(rig.channel().pin().unwrap().submit(op), Submit::Denied(Flow::Unsupported));
    }
    let (mut rig, _): (NvmeRig, _) = with(1, plain().lists(Lists::Dwords));
    let op = Op::read(0, rig.host(2, 512).span);
    assert_eq!(rig.channel().pin().unwrap().submit(op), Submit::Denied(Flow::Unsupported));
}

#[test]
fn a_driver_tells_what_it_found() {
    let driver = Nvme::namespace(1).queue(2);
    assert_eq!(driver.seen(), None);
    let (rig, _): (NvmeRig, _) = with(1, plain());
    let _channel = rig.another(driver.clone()).unwrap();
    let features =
        Features { most: 128 << 10, sgl: Some(Sgl::Bytes), compare: true, deallocate: true, cache: true };
    assert_eq!(driver.seen(), Some((features, Namespace { id: 1, blocks: 8192, block: 512 })));
}

/// A fence that flushes: what completed before it lasts, and what follows it starts after that.
#[test]
fn a_fence_that_flushes_makes_what_was_before_it_last() {
    for seed in 1..8 {
        let (mut rig, disk): (NvmeRig, _) = with(seed, plain());
        rig.fill_host(0, &pattern(1, 512));
        rig.fill_host(512, &pattern(2, 512));
        let op = Op::write(rig.host(0, 512).span, 0);
        rig.run_well(op);
        rig.run_well(Op::fence());
        assert_eq!((disk.lasting(0, 512), disk.flushes()), (vec![0; 512], 0), "order only");
        rig.drop_channel();
        let driver = Nvme::namespace(1).depth(15).fences(Fences::Flush);
        let mut channel = rig.initiator.channel(rig.poller(), driver, ChannelConfig::default()).unwrap();
        let ops = [
            Op::write(rig.host(512, 512).span, 512),
            Op::fence(),
            Op::write(rig.host(0, 512).span, 512),
            Op::fence(),
            Op::fence(),
        ];
        {
            let mut pinned = channel.pin().unwrap();
            for (n, op) in (0..).zip(ops) {
                assert!(matches!(pinned.submit(op.cookie(n)), Submit::Queued(_)));
            }
        }
        let mut order = Vec::new();
        while order.len() < 5 {
            rig.world.pass();
            let mut out = [tidegate_core::Completion::EMPTY; 1];
            if channel.pin().unwrap().poll(&mut out) == 1 {
                assert_eq!(out[0].status, Status::Done);
                order.push(out[0].cookie);
                if out[0].cookie == 1 {
                    assert!(disk.lasting(0, 512) == pattern(1, 512) && disk.flushes() == 1);
                    assert!(disk.lasting(512, 512) == pattern(2, 512), "and not what comes behind");
                }
            }
        }
        assert_eq!((order, disk.flushes()), (vec![0, 1, 2, 3, 4], 3));
        assert!(disk.lasting(512, 512) == pattern(1, 512));
    }
}

#[test]
fn deallocated_blocks_are_those_of_the_list() {
    let (mut rig, disk): (NvmeRig, _) = with(1, plain());
    disk.write(0, &pattern(1, 8 * 512));
    rig.fill_host(64, &Range { block: 1, blocks: 2 }.encode());
    rig.fill_host(80, &Range { block: 6, blocks: 1 }.encode());
    rig.run_well(deallocate(rig.host(64, 32).span));
    let left = pattern(1, 8 * 512);
    for n in 0..8 {
        let bytes = disk.read(n * 512, 512);
        let gone = matches!(n, 1 | 2 | 6);
        assert!(
            bytes == if gone { vec![0; 512] } else { left[n as usize * 512..][..512].to_vec() },
            "block {n}"
        );
    }
    // The controller looks at the ranges; the engine at the list's size.
    rig.fill_host(64, &Range { block: 8190, blocks: 3 }.encode());
    let end = rig.run(deallocate(rig.host(64, 16).span));
    assert_eq!(end.status, Status::Device(0x80), "LBA Out of Range");
    for len in [8, 24, 257 * 16] {
        let op = deallocate(rig.host(64, len).span);
        let answer = rig.channel().pin().unwrap().submit(op);
        assert_eq!(answer, Submit::Denied(Flow::Unsupported), "{len} bytes");
    }
    assert_eq!(rig.initiator.address(), DEVICE);
}
