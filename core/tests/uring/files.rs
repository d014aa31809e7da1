//! Bytes go where they should.

use super::{World, collect, contents, file_of, pattern, pipe, ring_or_skip, skip, temporary};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use tidegate_core::engine::uring::{Builder, SqPoll, Uring, at};
use tidegate_core::{Flow, Memory, Op, OpList, Status, Submit};

/// The ways to set an engine up that must not differ in what they do.
fn ways() -> [fn(Builder) -> Builder; 4] {
    [
        |b| b,
        |b| b.buffers(0),
        |b| b.sqpoll(SqPoll { idle: Duration::from_millis(20), cpu: None }),
        |b| b.depth(1),
    ]
}

#[test]
fn what_was_written_is_read_back() {
    for way in ways() {
        for registered in [false, true] {
            let file = temporary();
            let Some(engine) = ring_or_skip(way(Uring::builder()).file(file.try_clone().unwrap())) else {
                return;
            };
            let slots = engine.features().buffer_slots;
            let buffers = engine.buffers();
            let mut world = World::new(engine, 1 << 16);
            let held = (registered && slots > 0).then(|| buffers.register(&world.memory.backing()).unwrap());
            let bytes = pattern(10_000, 7);
            world.region.write(100, &bytes).unwrap();
            let handle = world.region.handle();
            let ended = world.one(Op::write(handle.span(100..10_100), 5_000).cookie(3));
            assert_eq!((ended.status, ended.len, ended.cookie), (Status::Done, 10_000, 3));
            assert_eq!(contents(&file)[5_000..], bytes);
            let ended = world.one(Op::read(5_000, handle.span(20_001..30_001)));
            assert_eq!((ended.status, ended.len), (Status::Done, 10_000));
            assert_eq!(world.bytes(20_001, 10_000), bytes);
            drop(held);
        }
    }
}

#[test]
fn a_burst_of_32_ends_once_each_and_every_one_in_its_place() {
    for way in ways().into_iter().take(3) {
        let bytes = pattern(32 * 4096, 1);
        let Some(engine) = ring_or_skip(way(Uring::builder().depth(32)).file(file_of(&bytes))) else {
            return;
        };
        let buffers = engine.buffers();
        let mut world = World::new(engine, 32 * 4096);
        let _held = buffers.register(&world.memory.backing());
        let handle = world.region.handle();
        for round in 0..20_u64 {
            // Block n of the file to block (n + round) of the region.
            let to = |n: u64| (n + round) % 32 * 4096;
            let tickets =
                world.submit((0..32).map(|n| Op::read(n * 4096, handle.span(to(n)..to(n) + 4096)).cookie(n)));
            let mut ended = collect(&mut world.channel, 32);
            ended.sort_by_key(|c| c.ticket);
            assert_eq!(ended.iter().map(|c| c.ticket).collect::<Vec<_>>(), tickets);
            assert!(ended.iter().all(|c| (c.status, c.len) == (Status::Done, 4096)), "{ended:?}");
            for n in 0..32 {
                assert_eq!(
                    world.bytes(to(n), 4096),
                    bytes[n as usize * 4096..][..4096],
                    "block {n}, round {round}"
                );
            }
        }
    }
}

#[test]
fn a_read_at_the_end_of_the_file_says_how_much_there_was() {
    for registered in [false, true] {
        let Some(engine) = ring_or_skip(Uring::builder().file(file_of(&pattern(5_000, 2)))) else { return };
        let buffers = engine.buffers();
        let mut world = World::new(engine, 8192);
        let _held = registered.then(|| buffers.register(&world.memory.backing()));
        let handle = world.region.handle();
        let ended = world.one(Op::read(4_000, handle.span(0..8192)));
        assert_eq!((ended.status, ended.len), (Status::Done, 1_000));
        assert_eq!(world.bytes(0, 1_000), pattern(5_000, 2)[4_000..]);
        let ended = world.one(Op::read(5_000, handle.span(0..8192)));
        assert_eq!((ended.status, ended.len), (Status::Done, 0));
        let ended = world.one(Op::read(1 << 40, handle.span(0..1)));
        assert_eq!((ended.status, ended.len), (Status::Done, 0));
    }
}

#[test]
fn an_operation_that_spans_registered_and_other_memory_is_whole() {
    let bytes = pattern(64 << 10, 5);
    let Some(engine) = ring_or_skip(Uring::builder().file(file_of(&bytes))) else { return };
    let buffers = engine.buffers();
    let mut world = World::new(engine, 64 << 10);
    // Two pieces with a hole between them, and neither at the start.
    let part = |from: u64, to: u64| buffers.register(&world.memory.slice(from..to).unwrap());
    let _held = (part(4096, 12_288), part(16_384, 40_000));
    let handle = world.region.handle();
    for (from, to) in [(0, 65_536), (4096, 65_536), (12_000, 13_000), (16_383, 40_001), (8_000, 30_000)] {
        world.region.write(0, &[0; 64 << 10]).unwrap();
        let ended = world.one(Op::read(from, handle.span(from..to)));
        assert_eq!((ended.status, u64::from(ended.len)), (Status::Done, to - from));
        let mut expect = vec![0; 64 << 10];
        expect[from as usize..to as usize].copy_from_slice(&bytes[from as usize..to as usize]);
        assert!(world.bytes(0, 64 << 10) == expect, "{from}..{to}");
    }
}

#[test]
fn a_registration_may_come_and_go_under_traffic() {
    let bytes = pattern(4096 * 32, 6);
    let Some(engine) = ring_or_skip(Uring::builder().file(file_of(&bytes)).buffers(2)) else { return };
    let buffers = engine.buffers();
    let mut world = World::new(engine, 4096 * 32);
    let other = Memory::allocate("other", 4096 * 32).unwrap();
    let handle = world.region.handle();
    for round in 0..200 {
        let registered = buffers.register(&world.memory.backing()).unwrap();
        let mut section = world.channel.pin().unwrap();
        for n in 0..32 {
            assert!(matches!(
                section.submit(Op::read(n * 4096, handle.span(n * 4096..(n + 1) * 4096))),
                Submit::Queued(_)
            ));
        }
        if round % 2 == 0 {
            // Written, not rung; the same slot is somebody else's when they are.
            drop(registered);
            let _other = buffers.register(&other.backing()).unwrap();
            drop(section);
        } else {
            drop(section);
            drop(registered);
        }
        let ended = collect(&mut world.channel, 32);
        assert!(ended.iter().all(|c| (c.status, c.len) == (Status::Done, 4096)), "{ended:?}");
        assert!(world.bytes(0, 4096 * 32) == bytes);
    }
}

#[test]
fn several_files_are_told_apart_and_no_offset_leads_into_another() {
    let (a, b) = (file_of(&pattern(100, 1)), file_of(&pattern(100, 2)));
    let Some(engine) = ring_or_skip(Uring::builder().file(a).file(b)) else { return };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    for (file, seed) in [(0, 1), (1, 2)] {
        assert_eq!(world.one(Op::read(at(file, 10), handle.span(0..50))).len, 50);
        assert_eq!(world.bytes(0, 50), pattern(100, seed)[10..60]);
    }
    let refused =
        [at(2, 0), at(0, 1 << 48), at(0, u64::MAX), u64::MAX, (1 << 48) - 49, at(1, (1 << 48) - 49)];
    for position in refused {
        let answer = world.channel.pin().unwrap().submit(Op::read(position, handle.span(0..50)));
        assert_eq!(answer, Submit::Denied(Flow::Unsupported), "{position:#x}");
    }
    assert_eq!(world.one(Op::read(at(0, (1 << 48) - 50), handle.span(0..50))).len, 0, "just inside");
}

#[test]
fn copies_are_not_for_files() {
    let Some(engine) = ring_or_skip(Uring::builder().null()) else { return };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    let copy = Op::copy(handle.span(0..8), handle.span(8..16));
    assert_eq!(world.channel.pin().unwrap().submit(copy), Submit::Denied(Flow::Unsupported));
}

#[test]
fn a_pipe_gives_what_it_has_and_takes_all() {
    let (reader, mut feed) = pipe();
    let (drain, writer) = pipe();
    let Some(engine) = ring_or_skip(Uring::builder().file(reader).file(writer)) else { return };
    let mut world = World::new(engine, 1 << 20);
    let handle = world.region.handle();
    feed.write_all(b"a little").unwrap();
    let ended = world.one(Op::read(0, handle.span(0..4096)));
    assert_eq!((ended.status, ended.len), (Status::Done, 8));
    drop(feed);
    assert_eq!(world.one(Op::read(0, handle.span(0..4096))).len, 0, "closed");
    // More than a pipe holds: it goes on as the other end is read.
    let bytes = pattern(1 << 20, 9);
    world.region.write(0, &bytes).unwrap();
    let other = std::thread::spawn(move || {
        let mut all = vec![0; 1 << 20];
        std::io::Read::read_exact(&mut { drain }, &mut all).unwrap();
        all
    });
    let ended = world.one(Op::write(handle.span(0..1 << 20), at(1, 0)));
    assert_eq!((ended.status, ended.len), (Status::Done, 1 << 20));
    assert!(other.join().unwrap() == bytes);
}

#[test]
fn a_list_moves_the_bytes_of_one_file_and_is_denied_where_its_pieces_have_no_place() {
    let (reader, mut feed) = pipe();
    let (first, second) = (file_of(&pattern(100, 1)), file_of(&pattern(100, 2)));
    let path = std::env::temp_dir().join(format!("tidegate-uring-append-{}", std::process::id()));
    let appended = std::fs::File::options().read(true).append(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let files = [&first, &second, &appended].map(|file| file.try_clone().unwrap());
    let builder = files.into_iter().fold(Uring::builder(), |builder, file| builder.file(file));
    let Some(engine) = ring_or_skip(builder.file(reader)) else { return };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    feed.write_all(&pattern(100, 3)).unwrap();
    let spans = [handle.span(0..20), handle.span(40..70)];
    let denied = [
        OpList::read(at(3, 0), &spans),
        OpList::write(&spans, at(2, 0)),
        // Its second piece would be at the first offset of the next file.
        OpList::write(&spans, at(0, (1 << 48) - 20)),
        OpList::write(&spans, at(0, (1 << 48) - 49)),
        OpList::read(at(4, 0), &spans),
        OpList::read(u64::MAX, &spans),
    ];
    for list in denied {
        let answer = world.channel.pin().unwrap().submit_list(&list);
        assert_eq!(answer, Submit::Denied(Flow::Unsupported), "{list:?}");
    }
    assert_eq!(world.channel.in_flight(), 0);
    assert!(contents(&first) == pattern(100, 1) && contents(&second) == pattern(100, 2));
    assert_eq!(contents(&appended), []);
    let list = OpList::read(at(1, 10), &spans);
    assert!(matches!(world.channel.pin().unwrap().submit_list(&list), Submit::Queued(_)));
    let ended = collect(&mut world.channel, 1);
    assert_eq!((ended[0].status, ended[0].len), (Status::Done, 50));
    assert_eq!([world.bytes(0, 20), world.bytes(40, 30)].concat(), pattern(100, 2)[10..60]);
    let list = OpList::read(at(0, (1 << 48) - 50), &spans);
    assert!(matches!(world.channel.pin().unwrap().submit_list(&list), Submit::Queued(_)), "just inside");
    assert_eq!(collect(&mut world.channel, 1)[0].len, 0);
}

#[test]
fn what_is_asked_for_and_refused_is_reported() {
    let Some(engine) = ring_or_skip(Uring::builder().file(temporary())) else { return };
    assert!(engine.features().registered_files);
    assert!(!engine.features().sqpoll && !engine.features().iopoll);
    // A pipe has no polled reads: the engine does without.
    let (reader, _writer) = pipe();
    let engine = Uring::builder().file(reader).iopoll().build().unwrap();
    assert!(!engine.features().iopoll);
    let idle = Duration::from_millis(1);
    let engine =
        Uring::builder().file(temporary()).sqpoll(SqPoll { idle, cpu: Some(9_999) }).build().unwrap();
    assert!(!engine.features().sqpoll, "there is no such CPU");
}

#[test]
fn direct_files_with_polled_completions() {
    let mut options = std::fs::File::options();
    let path = std::env::temp_dir().join(format!("tidegate-uring-direct-{}", std::process::id()));
    std::fs::write(&path, pattern(3 * 4096 + 100, 4)).unwrap();
    let file = options.read(true).write(true).custom_flags(libc::O_DIRECT).open(&path);
    let _ = std::fs::remove_file(&path);
    let Ok(file) = file else { return skip("no O_DIRECT in the temporary directory") };
    for iopoll in [false, true] {
        let builder = Uring::builder().file(file.try_clone().unwrap());
        let builder = if iopoll { builder.iopoll() } else { builder };
        let Some(engine) = ring_or_skip(builder) else { return };
        if iopoll && !engine.features().iopoll {
            skip("no polled completions in the temporary directory");
        }
        let buffers = engine.buffers();
        let mut world = World::new(engine, 32_768);
        let _held = buffers.register(&world.memory.backing());
        let handle = world.region.handle();
        let ended = world.one(Op::read(4096, handle.span(0..4096)));
        assert_eq!((ended.status, ended.len), (Status::Done, 4096));
        assert_eq!(world.bytes(0, 4096), pattern(3 * 4096 + 100, 4)[4096..8192]);
        // The end of the file is not at a block's end: short, not EINVAL.
        let ended = world.one(Op::read(0, handle.span(0..16_384)));
        assert_eq!((ended.status, ended.len), (Status::Done, 3 * 4096 + 100));
        let ended = world.one(Op::read(0, handle.span(0..100)));
        assert_eq!(ended.status, Status::Device(libc::EINVAL as u16), "not a block");
    }
    assert!(file.as_raw_fd() >= 0);
}

#[test]
fn the_null_medium_ends_everything_as_whole() {
    let Some(engine) = ring_or_skip(Uring::builder().null()) else { return };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    world.submit((0..100).map(|n| Op::read(n, handle.span(0..4096))));
    assert!(collect(&mut world.channel, 100).iter().all(|c| (c.status, c.len) == (Status::Done, 4096)));
}
