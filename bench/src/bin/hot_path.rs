//! The hot path as four functions of their own, so that its machine code can be looked at: see ci/hotpath.
#![expect(unsafe_code, reason = "unmangled names, for the listing")]

use std::hint::black_box;
use tidegate_bench::NoOp;
use tidegate_core::{Access, Channel, ChannelConfig, Completion, Fabric, Memory, Op, Pinned, Submit};

/// pin and unpin.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_pin(channel: &mut Channel<NoOp>) -> bool {
    channel.pin().is_ok()
}

/// One submit.
// SAFETY: 1. the name is this program's own.
#[unsafe(no_mangle)]
#[inline(never)]
extern "Rust" fn tidegate_hot_submit(pinned: &mut Pinned<'_, NoOp>, op: Op) -> Submit {
    pinned.submit(op)
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fabric = Fabric::builder().build()?;
    let memory = Memory::allocate("hot", 8192)?;
    let a = fabric.register(memory.slice(0..4096)?, Access::ReadWrite)?;
    let b = fabric.register(memory.slice(4096..8192)?, Access::ReadWrite)?;
    let mut channel = fabric.channel(&fabric.poller("hot"), NoOp::default(), ChannelConfig::depth(64))?;
    let mut out = [Completion::EMPTY; 32];
    assert!(tidegate_hot_pin(&mut channel));
    let mut pinned = channel.pin()?;
    let answer =
        tidegate_hot_submit(&mut pinned, black_box(Op::copy(a.handle().span(0..64), b.handle().span(0..64))));
    assert!(matches!(answer, Submit::Queued(_)), "{answer:?}");
    tidegate_hot_ring(pinned);
    let mut pinned = channel.pin()?;
    assert_eq!(tidegate_hot_poll(&mut pinned, &mut out), 1);
    tidegate_hot_ring(pinned);
    Ok(())
}
