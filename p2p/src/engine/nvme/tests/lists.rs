//! Lists of pieces.

use super::{NvmeRig, memory, plain, with};
use crate::engine::conformance::rig::pattern;
use crate::soft::device::nvme::{Disk, Lists};
use tidegate_core::{Flow, OpList, Status, Submit};

/// Runs it; how many commands that took.
fn run(rig: &mut NvmeRig, disk: &Disk, list: &OpList) -> u64 {
    let before = disk.commands();
    let answer = rig.channel().pin().unwrap().submit_list(list);
    assert!(matches!(answer, Submit::Queued(_)), "{answer:?}");
    let done = rig.complete(1);
    assert_eq!((done[0].status, u64::from(done[0].len)), (Status::Done, list.len()));
    disk.commands() - before
}

#[test]
fn pieces_of_any_bytes_are_one_command_where_the_controller_takes_lists() {
    let (mut rig, disk): (NvmeRig, _) = with(1, plain().lists(Lists::Bytes));
    disk.write(1024, &pattern(1, 1536));
    let to = [rig.vram(0x201, 600).span, rig.host(7, 36).span, rig.vram(0x1000, 900).span];
    assert_eq!(run(&mut rig, &disk, &OpList::read(1024, &to)), 1);
    let all = pattern(1, 1536);
    assert!(rig.peek(0x201, 600) == all[..600] && rig.read_host(7, 36) == all[600..636]);
    assert!(rig.peek(0x1000, 900) == all[636..]);
    assert_eq!(rig.confirm(), Some(Status::Done), "by the first piece's block");
    assert_eq!(run(&mut rig, &disk, &OpList::write(&to, 8192)), 1);
    assert!(disk.read(8192, 1536) == all);
}

#[test]
fn pieces_that_meet_at_pages_are_one_command_by_pages() {
    let (mut rig, disk): (NvmeRig, _) = with(1, plain().lists(Lists::None));
    disk.write(0, &pattern(1, 12_288));
    // The rest of a page, two pages, and the start of one.
    let to = [rig.vram(0xc00, 0x400).span, rig.host(0x3000, 0x2000).span, rig.vram(0x8000, 0xc00).span];
    assert_eq!(run(&mut rig, &disk, &OpList::read(0, &to)), 1);
    let all = pattern(1, 12_288);
    assert!(rig.peek(0xc00, 0x400) == all[..0x400] && rig.read_host(0x3000, 0x2000) == all[0x400..0x2400]);
    assert!(rig.peek(0x8000, 0xc00) == all[0x2400..]);
}

#[test]
fn other_pieces_are_commands_of_their_own_if_they_are_whole_blocks() {
    let (mut rig, disk): (NvmeRig, _) = with(1, plain().lists(Lists::None));
    disk.write(512, &pattern(1, 1536));
    let to = [rig.vram(0x204, 512).span, rig.host(0x400, 1024).span];
    assert_eq!(run(&mut rig, &disk, &OpList::read(512, &to)), 2);
    let all = pattern(1, 1536);
    assert!(rig.peek(0x204, 512) == all[..512] && rig.read_host(0x400, 1024) == all[512..]);
    let odd = OpList::read(512, &[rig.vram(0x204, 300).span, rig.host(0x400, 212).span]);
    let answer = rig.channel().pin().unwrap().submit_list(&odd);
    assert_eq!(answer, Submit::Denied(Flow::Unsupported));
    let copy = OpList::copy(&[rig.host(0, 512).span], &[rig.host(512, 512).span]);
    let answer = rig.channel().pin().unwrap().submit_list(&copy);
    assert_eq!(answer, Submit::Denied(Flow::Unsupported));
}

#[test]
fn a_list_longer_than_the_controller_takes_is_split() {
    for lists in [Lists::Bytes, Lists::None] {
        let (mut rig, disk): (NvmeRig, _) = with(1, plain().lists(lists));
        let (large, piece) = (memory(&rig, 512 << 10), 96 << 10);
        disk.write(1 << 20, &pattern(1, 3 * piece));
        let to: Vec<_> = (0..3).map(|n| large.handle().span(n * piece + 4..(n + 1) * piece + 4)).collect();
        assert_eq!(run(&mut rig, &disk, &OpList::read(1 << 20, &to)), 3);
        let mut bytes = vec![0; 3 * piece as usize];
        large.read(4, &mut bytes).unwrap();
        assert!(bytes == pattern(1, 3 * piece));
    }
}

#[test]
fn more_pieces_than_a_list_has_room_for_are_split() {
    let (mut rig, disk): (NvmeRig, _) = with(1, plain().lists(Lists::Bytes));
    rig.drop_channel();
    let driver = crate::engine::nvme::Nvme::namespace(1).depth(255);
    let mut channel =
        rig.initiator.channel(rig.poller(), driver, tidegate_core::ChannelConfig::default()).unwrap();
    disk.write(0, &pattern(1, 65 * 512));
    let to: Vec<_> = (0..65).map(|n| rig.host(n * 520, 512).span).collect();
    let before = disk.commands();
    assert!(matches!(channel.pin().unwrap().submit_list(&OpList::read(0, &to)), Submit::Queued(_)));
    let mut out = [tidegate_core::Completion::EMPTY; 1];
    while channel.pin().unwrap().poll(&mut out) == 0 {
        rig.world.pass();
    }
    assert_eq!((out[0].status, out[0].len, disk.commands() - before), (Status::Done, 65 * 512, 65));
    assert!(rig.read_host(64 * 520, 512) == pattern(1, 65 * 512)[64 * 512..]);
}
