//! A pool's cache allocates when it is made and never later, also when it exchanges magazines.
#![expect(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use tidegate_core::memory::{Buffer, Pool};
use tidegate_core::{Access, Fabric, Memory, Shared};

struct Counting;

thread_local!(static CALLS: Cell<u64> = const { Cell::new(0) });

fn count() {
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: 1. everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: 1. the caller's own promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count();
        // SAFETY: 1. the caller's own promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_cache_allocates_nothing_once_it_is_made() {
    const BUFFERS: usize = 1000;
    let fabric = Fabric::builder().regions(16).manual().build().unwrap();
    let memory = Memory::allocate("pool", (BUFFERS * 256) as u64).unwrap();
    let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    let pool = Pool::new([region], 256, 32).unwrap();
    let mut caches = [pool.cache(), pool.cache()];
    let mut held: Vec<Buffer<Shared>> = Vec::with_capacity(2 * BUFFERS);
    let before = CALLS.with(Cell::get);
    for round in 0..1000 {
        // All that there is from one cache into the other, and back: every exchange there can be.
        while let Some(buffer) = caches[round % 2].get() {
            held.push(buffer);
        }
        assert!(held.len() > BUFFERS - 64);
        while let Some(buffer) = held.pop() {
            caches[(round + 1) % 2].put(buffer);
        }
    }
    assert_eq!(CALLS.with(Cell::get) - before, 0);
    drop(std::hint::black_box(Box::new(1_u64)));
    assert!(CALLS.with(Cell::get) - before >= 2, "the counter counts");
}
