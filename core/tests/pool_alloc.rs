//! A pool's cache allocates when it is made and never later, also when it exchanges magazines.

use tidegate_core::memory::{Buffer, Pool};
use tidegate_core::{Access, Fabric, Memory, Shared};

#[test]
fn a_cache_allocates_nothing_once_it_is_made() {
    const BUFFERS: usize = 1000;
    let fabric = Fabric::builder().regions(16).manual().build().unwrap();
    let memory = Memory::allocate("pool", (BUFFERS * 256) as u64).unwrap();
    let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    let pool = Pool::new([region], 256, 32).unwrap();
    let mut caches = [pool.cache(), pool.cache()];
    let mut held: Vec<Buffer<Shared>> = Vec::with_capacity(2 * BUFFERS);
    let mut round = |n: usize| {
        // All that there is from one cache into the other, and back: every exchange there can be.
        while let Some(buffer) = caches[n % 2].get() {
            held.push(buffer);
        }
        assert!(held.len() > BUFFERS - 64);
        while let Some(buffer) = held.pop() {
            caches[(n + 1) % 2].put(buffer);
        }
    };
    let used = allocation_counter::measure(|| (0..1000).for_each(&mut round));
    assert_eq!((used.count_total, used.count_current), (0, 0), "allocated; left");
    let counts = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1_u64))));
    assert_eq!(counts.count_total, 1, "the counter counts");
}
