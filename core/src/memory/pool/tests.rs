use super::*;
use crate::{Access, Cause, Deadline, Fabric, Memory, Shared};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::mpsc;

const SIZE: u64 = 256;

fn region(fabric: &Fabric, buffers: u64) -> Region<Shared> {
    let memory = Memory::allocate("pool", buffers * SIZE).unwrap();
    fabric.register(memory.slice(0..buffers * SIZE).unwrap(), Access::ReadWrite).unwrap()
}

fn pool(buffers: u64, magazine: usize) -> (Fabric, Pool<Shared>) {
    let fabric = Fabric::builder().regions(16).manual().build().unwrap();
    let region = region(&fabric, buffers);
    (fabric, Pool::new([region], SIZE, magazine).unwrap())
}

#[derive(Debug, Clone)]
enum Step {
    Get(usize),
    Put(usize, usize),
    /// Dropped, as by a thread without a cache.
    Drop(usize),
    GetDirect,
    /// The cache ends, and a new one begins in its place.
    End(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize).prop_map(Step::Get),
        4 => (0..3_usize, any::<usize>()).prop_map(|(cache, which)| Step::Put(cache, which)),
        1 => any::<usize>().prop_map(Step::Drop),
        1 => Just(Step::GetDirect),
        1 => (0..3_usize).prop_map(Step::End),
    ]
}

proptest! {
    /// No buffer is ever handed out twice, and none is lost when caches drop: random steps over three caches.
    #[test]
    fn each_buffer_is_in_one_place_at_a_time(
        (buffers, magazine) in (1..20_u64, 1..6_usize),
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let (_fabric, pool) = pool(buffers, magazine);
        let mut caches = [pool.cache(), pool.cache(), pool.cache()];
        let mut out: Vec<Buffer<Shared>> = Vec::new();
        for step in steps {
            match step {
                Step::Get(cache) => out.extend(caches[cache].get()),
                Step::Put(cache, which) if !out.is_empty() => {
                    let buffer = out.swap_remove(which % out.len());
                    caches[cache].put(buffer);
                }
                Step::Drop(which) if !out.is_empty() => drop(out.swap_remove(which % out.len())),
                Step::Put(..) | Step::Drop(_) => {}
                Step::GetDirect => out.extend(pool.get()),
                Step::End(cache) => caches[cache] = pool.cache(),
            }
            let distinct: BTreeSet<u32> = out.iter().map(Buffer::index).collect();
            prop_assert_eq!(distinct.len(), out.len(), "handed out twice");
            let cached: usize = caches.iter().map(PoolCache::free).sum();
            prop_assert_eq!(pool.state().free + cached + out.len(), buffers as usize);
            prop_assert!(caches.iter().all(|cache| cache.free() <= 2 * magazine), "a cache hoards");
        }
        drop(caches);
        out.extend(std::iter::from_fn(|| pool.get()));
        let places: BTreeSet<(u32, u64)> = out.iter().map(|b| (b.index(), b.slot().start())).collect();
        let all: BTreeSet<(u32, u64)> = (0..buffers).map(|at| (at as u32, at * SIZE)).collect();
        prop_assert_eq!(places, all, "every buffer, at its own place");
    }
}

#[test]
fn exhaustion_is_an_answer_and_a_buffer_given_back_is_free_again() {
    let (_fabric, pool) = pool(3, 2);
    let mut cache = pool.cache();
    let all: Vec<_> = std::iter::from_fn(|| cache.get()).collect();
    assert_eq!(all.len(), 3);
    assert!(cache.get().is_none() && pool.get().is_none());
    drop(all);
    assert_eq!(pool.state().free, 3);
    assert!(cache.get().is_some());
}

#[test]
fn a_buffer_dropped_on_another_thread_goes_to_the_depot() {
    let (_fabric, pool) = pool(64, 4);
    let (send, receive) = mpsc::channel::<Buffer<Shared>>();
    let thread = std::thread::spawn(move || receive.into_iter().for_each(drop));
    let mut cache = pool.cache();
    for _ in 0..1000 {
        // With 64 buffers and a slow consumer all may be out for a while.
        if let Some(buffer) = cache.get() {
            send.send(buffer).unwrap();
        }
    }
    drop(send);
    thread.join().unwrap();
    assert_eq!(pool.state().free + cache.free(), 64);
    drop(cache);
    assert_eq!(pool.state().free, 64);
}

#[test]
fn a_thread_at_the_edge_of_a_magazine_does_not_go_to_the_depot_each_time() {
    let (_fabric, pool) = pool(16, 4);
    let mut cache = pool.cache();
    let mut held: Vec<_> = (0..5).filter_map(|_| cache.get()).collect();
    let free = pool.state().free;
    for _ in 0..10 {
        cache.put(held.pop().unwrap());
        cache.put(held.pop().unwrap());
        held.extend(cache.get());
        held.extend(cache.get());
        assert_eq!(pool.state().free, free, "to and fro over the edge");
    }
}

#[test]
fn a_span_never_reaches_the_neighbour() {
    let (_fabric, pool) = pool(4, 4);
    let buffer = pool.get().unwrap();
    let inside = buffer.span(16..SIZE);
    assert_eq!((inside.raw.start, inside.raw.len), (buffer.slot().start() + 16, SIZE - 16));
    let backwards = std::ops::Range { start: 9, end: 8 };
    for bad in [0..SIZE + 1, SIZE..SIZE + 1, backwards, u64::MAX - 8..u64::MAX] {
        assert_eq!(buffer.span(bad).raw.start, u64::MAX - 1, "no region reaches there");
    }
    assert!(matches!(buffer.write(SIZE - 1, &[1, 2]), Err(RegionError::Range { size: SIZE, .. })));
    assert!(matches!(buffer.read(u64::MAX, &mut [0]), Err(RegionError::Range { .. })));
    buffer.write(SIZE - 1, &[7]).unwrap();
}

#[test]
fn buffers_of_a_revoked_region_are_taken_out_of_use_and_the_others_stay() {
    let fabric = Fabric::builder().regions(16).manual().build().unwrap();
    let (doomed, stays) = (region(&fabric, 8), region(&fabric, 8));
    let pool = Pool::new([doomed, stays], SIZE, 4).unwrap();
    let all: Vec<_> = std::iter::from_fn(|| pool.get()).collect();
    let home = all.iter().find(|buffer| buffer.index() == 0).unwrap().slot().home.clone();
    let report = home.region.revoke(Cause::User, Deadline::millis(100, 1000)).wait().unwrap();
    assert!(report.is_clean());
    drop(home);
    // The regions' buffers are numbered one after the other, each at its own start.
    assert!(all.iter().all(|b| b.slot().start() == u64::from(b.index() % 8) * SIZE));
    let stale = all.iter().find(|buffer| buffer.index() == 3).unwrap();
    assert_eq!(stale.write(0, &[1]), Err(RegionError::Stale));
    drop(all);
    assert_eq!(pool.state(), PoolState { buffers: 16, free: 8, revoked: 8 });
    let mut cache = pool.cache();
    let left: Vec<_> = std::iter::from_fn(|| cache.get()).collect();
    assert_eq!(left.iter().map(Buffer::index).collect::<BTreeSet<_>>(), (8..16).collect());
}

#[test]
fn a_refill_sorts_out_what_was_revoked_in_the_depot() {
    let fabric = Fabric::builder().regions(16).manual().build().unwrap();
    let (stays, doomed) = (region(&fabric, 6), region(&fabric, 6));
    let pool = Pool::new([stays, doomed], SIZE, 4).unwrap();
    let mut all: Vec<_> = std::iter::from_fn(|| pool.get()).collect();
    let doomed = all.iter().position(|buffer| buffer.index() >= 6).unwrap();
    let buffer = all.swap_remove(doomed);
    drop(all);
    let revoke = buffer.slot().home.region.revoke(Cause::User, Deadline::millis(100, 1000));
    revoke.wait().unwrap();
    drop(buffer);
    let mut cache = pool.cache();
    let left: Vec<_> = std::iter::from_fn(|| cache.get()).collect();
    assert_eq!(left.iter().map(Buffer::index).collect::<BTreeSet<_>>(), (0..6).collect());
    assert_eq!(pool.state().revoked, 6);
}

#[test]
fn a_region_goes_with_its_last_buffer_and_not_before() {
    let (fabric, pool) = pool(4, 2);
    let mut cache = pool.cache();
    let (held, put) = (cache.get().unwrap(), cache.get().unwrap());
    cache.put(put);
    drop(pool);
    held.write(0, &[1]).unwrap();
    assert!(cache.get().is_some(), "what a cache holds stays good");
    drop(cache);
    let home = Arc::downgrade(&held.slot().home);
    assert!(home.upgrade().is_some());
    drop(held);
    assert!(home.upgrade().is_none(), "the depot kept it");
    drop(fabric);
}

#[test]
fn full_magazines_of_a_cache_that_outlives_its_pool_keep_no_region() {
    let (_fabric, pool) = pool(4, 2);
    let mut cache = pool.cache();
    let all: Vec<_> = std::iter::from_fn(|| cache.get()).collect();
    let home = Arc::downgrade(&all[0].slot().home);
    all.into_iter().for_each(|buffer| cache.put(buffer));
    assert_eq!(cache.free(), 4, "two full magazines");
    drop(pool);
    assert!(home.upgrade().is_some());
    drop(cache);
    assert!(home.upgrade().is_none());
}

#[test]
fn the_depot_hands_out_no_buffer_of_a_revoked_region() {
    let fabric = Fabric::builder().regions(16).manual().build().unwrap();
    let (stays, doomed) = (region(&fabric, 3), region(&fabric, 5));
    let pool = Pool::new([stays, doomed], SIZE, 4).unwrap();
    let first = pool.get().unwrap();
    assert!(first.index() >= 3, "the last put is the first to go");
    first.slot().home.region.revoke(Cause::User, Deadline::millis(100, 1000)).wait().unwrap();
    let left: Vec<_> = std::iter::from_fn(|| pool.get()).collect();
    assert_eq!(left.iter().map(Buffer::index).collect::<BTreeSet<_>>(), (0..3).collect());
    drop(first);
    assert_eq!(pool.state(), PoolState { buffers: 8, free: 0, revoked: 5 });
}

#[test]
fn a_buffer_of_another_pool_goes_home() {
    let ((_one, mine), (_other, theirs)) = (pool(4, 2), pool(4, 2));
    let mut cache = mine.cache();
    cache.put(theirs.get().unwrap());
    assert_eq!((cache.free(), mine.state().free, theirs.state().free), (0, 4, 4));
}

#[test]
fn what_makes_no_pool_is_refused() {
    let fabric = Fabric::builder().regions(16).manual().build().unwrap();
    for (size, magazine) in [(0, 4), (SIZE, 0), (4 * SIZE + 1, 4)] {
        let made = Pool::new([region(&fabric, 4)], size, magazine);
        assert_eq!(made.unwrap_err(), PoolError::Empty { size, bytes: 4 * SIZE, magazine });
    }
}

#[test]
fn the_nearest_pool_is_chosen_by_distance() {
    use crate::topology::{NodeId, Topology};
    let machine = Topology::load().unwrap();
    let here = machine.nodes()[0].id;
    let ((_one, far), (_other, near)) = (pool(1, 1), pool(2, 1));
    let pools = Pools::of([(NodeId(77), far), (here, near)]);
    assert_eq!(pools.near(&machine, here).unwrap().state().buffers, 2);
    assert_eq!(pools.near(&machine, NodeId(99)).unwrap().state().buffers, 2, "the others by number");
    assert!(pools.on(NodeId(5)).is_none());
}

#[test]
fn a_pool_on_each_node_holds_memory_of_that_node() {
    let fabric = Fabric::builder().regions(16).manual().build().unwrap();
    let machine = crate::topology::Topology::load().unwrap();
    let each = Memory::builder().name("per node").len(1 << 20);
    let mut placed = Vec::new();
    let pools: Result<Pools<Shared>, Box<dyn std::error::Error>> =
        Pools::new(&machine, &each, (2048, 32), |node, memory| {
            placed.push((node, memory.clone()));
            Ok(fabric.register(memory.backing(), Access::ReadWrite)?)
        });
    let pools = pools.unwrap();
    assert_eq!(pools.iter().count(), placed.len());
    for (node, memory) in placed {
        let nodes = memory.pages().unwrap().nodes;
        assert!(nodes.is_none_or(|nodes| nodes.keys().eq([&node])));
        assert_eq!(pools.on(node).unwrap().state().free, 512);
    }
}
