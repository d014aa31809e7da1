//! The hot path as functions of their own, so that its machine code can be looked at (ci/hotpath, ci/golden) and its
//! instructions counted (ci/icount).
#![expect(unsafe_code, reason = "unmangled names, for the listing")]

use std::hint::black_box;
use tidegate_bench::NoOp;
use tidegate_core::{
    Access, Channel, ChannelConfig, Completion, Fabric, Handle, Memory, Op, OpList, Pinned, Shared, Span,
    Submit,
};

/// Operations in a turn.
const BURST: usize = 32;
/// How often each function is called, so that the first call does not count.
const ROUNDS: u64 = 1000;

/// pin and unpin.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_pin(channel: &mut Channel<NoOp>) -> bool {
    channel.pin().is_ok()
}

/// One submit of a copy. True if it was queued.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_submit(
    pinned: &mut Pinned<'_, NoOp>,
    from: &Span<Shared>,
    to: &Span<Shared>,
    cookie: u64,
) -> bool {
    matches!(pinned.submit(Op::copy(*from, *to).cookie(cookie)), Submit::Queued(_))
}

/// One poll.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_poll(pinned: &mut Pinned<'_, NoOp>, out: &mut [Completion]) -> usize {
    pinned.poll(out)
}

/// Doorbell and unpin.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_ring(pinned: Pinned<'_, NoOp>) {
    pinned.ring();
}

/// One submit of a list.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_list(pinned: &mut Pinned<'_, NoOp>, list: &OpList) -> Submit {
    pinned.submit_list(list)
}

/// One turn of a poller: a burst in, all of it out, in two sections. The spans are made here, as a user would.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_turn(
    channel: &mut Channel<NoOp>,
    from: Handle<Shared>,
    to: Handle<Shared>,
    out: &mut [Completion; BURST],
) -> usize {
    if let Ok(mut pinned) = channel.pin() {
        for n in 0..BURST as u64 {
            let copy = Op::copy(from.span(n * 64..n * 64 + 64), to.span(n * 64..n * 64 + 64));
            let _ = pinned.submit(copy.cookie(n));
        }
    }
    channel.pin().map_or(0, |mut pinned| pinned.poll(out))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fabric = Fabric::builder().build()?;
    let memory = Memory::allocate("hot", 8192)?;
    let a = fabric.register(memory.slice(0..4096)?, Access::ReadWrite)?;
    let b = fabric.register(memory.slice(4096..8192)?, Access::ReadWrite)?;
    let mut channel = fabric.channel(&fabric.poller("hot"), NoOp::default(), ChannelConfig::depth(64))?;
    let mut out = [Completion::EMPTY; BURST];
    let (from, to) = (a.handle(), b.handle());
    let list = OpList::copy(&[from.span(0..64), from.span(128..192)], &[to.span(0..128)]);
    for _ in 0..ROUNDS {
        assert!(tidegate_hot_pin(black_box(&mut channel)));
        let mut pinned = channel.pin()?;
        for n in 0..BURST as u64 {
            let (from, to) = (from.span(n * 64..n * 64 + 64), to.span(n * 64..n * 64 + 64));
            assert!(tidegate_hot_submit(black_box(&mut pinned), &from, &to, n));
        }
        tidegate_hot_ring(pinned);
        let mut pinned = channel.pin()?;
        assert_eq!(tidegate_hot_poll(black_box(&mut pinned), &mut out), BURST);
        tidegate_hot_ring(pinned);
        assert_eq!(tidegate_hot_turn(black_box(&mut channel), from, to, &mut out), BURST);
        let mut pinned = channel.pin()?;
        assert!(matches!(tidegate_hot_list(&mut pinned, &list), Submit::Queued(_)));
        tidegate_hot_ring(pinned);
        assert_eq!(channel.pin()?.poll(&mut out), 1);
    }
    Ok(())
}
