//! What runs before what.

use super::{World, collect, contents, pattern, pipe, ring_or_skip, temporary};
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use tidegate_core::engine::uring::{Fence, SqPoll, Uring, at};
use tidegate_core::{Completion, Op, Status};

#[test]
fn operations_end_in_any_order() {
    let (reader, mut writer) = pipe();
    let Some(engine) = ring_or_skip(Uring::builder().file(reader).file(temporary())) else { return };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    let tickets = world.submit([Op::read(0, handle.span(0..8)), Op::write(handle.span(8..16), at(1, 0))]);
    assert_eq!(collect(&mut world.channel, 1)[0].ticket, tickets[1]);
    writer.write_all(b"x").unwrap();
    let last = collect(&mut world.channel, 1)[0];
    assert_eq!((last.ticket, last.len), (tickets[0], 1));
}

#[test]
fn nothing_behind_a_fence_starts_before_everything_in_front_of_it_ended() {
    for sqpoll in [false, true] {
        let (reader, mut writer) = pipe();
        let file = temporary();
        let mut builder = Uring::builder().file(reader).file(file.try_clone().unwrap());
        if sqpoll {
            builder = builder.sqpoll(SqPoll { idle: Duration::from_millis(10), cpu: None });
        }
        let Some(engine) = ring_or_skip(builder) else { return };
        let mut world = World::new(engine, 4096);
        let handle = world.region.handle();
        world.region.write(8, b"behind").unwrap();
        let tickets = world.submit([
            Op::write(handle.span(0..8), at(1, 100)),
            Op::read(0, handle.span(0..8)),
            Op::fence(),
            Op::fence(),
            Op::write(handle.span(8..14), at(1, 0)),
            Op::fence(),
        ]);
        assert_eq!(collect(&mut world.channel, 1)[0].ticket, tickets[0]);
        let mut out = [Completion::EMPTY; 8];
        for _ in 0..1000 {
            assert_eq!(world.channel.pin().unwrap().poll(&mut out), 0);
        }
        assert_eq!(contents(&file)[..6], [0; 6], "the read in front still waits");
        writer.write_all(b"go").unwrap();
        let ended: Vec<_> = collect(&mut world.channel, 5).iter().map(|c| (c.ticket, c.status)).collect();
        let expect: Vec<_> = tickets[1..].iter().map(|t| (*t, Status::Done)).collect();
        assert_eq!(ended, expect);
        assert_eq!(contents(&file)[..6], *b"behind");
    }
}

#[test]
fn a_fence_waits_for_the_rest_of_what_came_short() {
    let (mut reader, writer) = pipe();
    let file = temporary();
    let Some(engine) = ring_or_skip(Uring::builder().file(writer).file(file.try_clone().unwrap())) else {
        return;
    };
    let mut world = World::new(engine, 1 << 20);
    let handle = world.region.handle();
    let bytes = pattern(1 << 20, 8);
    world.region.write(0, &bytes).unwrap();
    let half = 1 << 19;
    world.submit([
        Op::write(handle.span(0..1 << 20), 0),
        Op::fence(),
        Op::write(handle.span(0..4), at(1, 0)),
    ]);
    let mut got = vec![0; 1 << 20];
    let mut at = 0;
    let mut out = [Completion::EMPTY; 8];
    let mut ended = Vec::new();
    let since = Instant::now();
    while at < got.len() {
        assert!(since.elapsed() < super::LONG);
        let n = reader.read(&mut got[at..]).unwrap();
        at += n;
        let n = world.channel.pin().unwrap().poll(&mut out);
        ended.extend_from_slice(&out[..n]);
        if at < half {
            assert_eq!((ended.len(), contents(&file).len()), (0, 0));
        }
    }
    assert!(got == bytes);
    let rest = 3 - ended.len();
    ended.extend(collect(&mut world.channel, rest));
    assert!(ended.iter().map(|c| c.len).eq([1 << 20, 0, 4]), "{ended:?}");
}

#[test]
fn a_fence_that_syncs_ends_after_the_sync() {
    let Some(engine) =
        ring_or_skip(Uring::builder().file(temporary()).file(temporary()).fence(Fence::DataSync))
    else {
        return;
    };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    let tickets = world.submit([
        Op::fence(),
        Op::write(handle.span(0..4096), 0),
        Op::write(handle.span(0..4096), at(1, 0)),
        Op::fence(),
        Op::write(handle.span(0..4096), 4096),
        Op::fence(),
        Op::fence(),
    ]);
    let ended = collect(&mut world.channel, 7);
    assert!(ended.iter().all(|c| c.status == Status::Done));
    let place = |n: usize| ended.iter().position(|c| c.ticket == tickets[n]).unwrap();
    assert_eq!((place(0), place(3), place(4), place(5), place(6)), (0, 3, 4, 5, 6));
}

#[test]
fn more_than_the_ring_holds_is_full_and_nothing_is_lost() {
    let Some(engine) = ring_or_skip(Uring::builder().null().depth(5)) else { return };
    let mut world = World::new(engine, 4096);
    let handle = world.region.handle();
    for _ in 0..50 {
        let mut section = world.channel.pin().unwrap();
        let mut n = 0;
        while let tidegate_core::Submit::Queued(_) =
            section.submit(if n % 3 == 1 { Op::fence() } else { Op::read(n, handle.span(0..1)) })
        {
            n += 1;
        }
        assert_eq!(n, 5);
        drop(section);
        assert_eq!(collect(&mut world.channel, 5).len(), 5);
    }
}
