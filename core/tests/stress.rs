//! Real threads: pollers against revokers, with memory that tells. After a clean revoke nothing lands in the
//! region's memory any more, which is at once given to somebody else.

#![expect(unsafe_code, reason = "an engine that writes to the regions it was given")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_core::engine::{AddressSpace, Cancel, Engine, Operation, Outcome, Push, Sink};
use tidegate_core::{
    Access, BarrierMode, Cause, ChannelConfig, Completion, Deadline, Fabric, Handle, Memory, Op, Shared,
    Status, Submit,
};

const LEN: u64 = 4096;
/// What pollers write, and what the memory's next user writes.
const WRITTEN: u64 = 0x5a5a_5a5a_5a5a_5a5a;
const POISON: u64 = 0x00ba_dbad_badb_ad00;
const REVOKES: u64 = 20_000;
const TARGETS: usize = 4;

/// Writes while the descriptor is being made: between the check of the region and the moment at which the ring names
/// it, when nothing but the grace period protects the memory.
#[derive(Default)]
struct Eager(VecDeque<u32>);

// SAFETY: 1. only the operand of the accepted operation is written, before `push` returns. 2. nothing runs later.
unsafe impl Engine for Eager {
    const SPACE: AddressSpace = AddressSpace::Cpu;
    const CONFIRMS: bool = false;
    fn depth(&self) -> u32 {
        32
    }
    unsafe fn push(&mut self, index: u32, op: &Operation) -> Push {
        let Operation::Fill { to, pattern } = *op else { return Push::Unsupported };
        for at in (0..to.len).step_by(8) {
            let at = (to.address + at) as *mut u64;
            // SAFETY: 1. inside the operand, which is aligned and a multiple of 8 bytes long here.
            unsafe { at.write_volatile(pattern) };
        }
        self.0.push_back(index);
        Push::Taken
    }
    fn doorbell(&mut self) {}
    fn retire(&mut self, sink: &mut Sink<'_>) {
        while sink.room() > 0 {
            let Some(index) = self.0.pop_front() else { break };
            sink.complete(index, Outcome::Done, 0);
        }
    }
    fn cancel(&mut self) -> Cancel {
        Cancel::Stopped
    }
    fn resume(&mut self) -> bool {
        true
    }
}

/// What pollers may use now.
type Published = Arc<[Mutex<Option<Handle<Shared>>>; TARGETS]>;

fn look(slot: &Mutex<Option<Handle<Shared>>>) -> Option<Handle<Shared>> {
    *slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(barrier: BarrierMode, pollers: usize) {
    let fabric = Fabric::builder().barrier(barrier).regions(16).build().unwrap();
    let published: Published = Arc::new(std::array::from_fn(|_| Mutex::new(None)));
    let stop = AtomicBool::new(false);
    let (accepted, stale) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|s| {
        for n in 0..pollers {
            let (fabric, published, stop, accepted, stale) =
                (fabric.clone(), published.clone(), &stop, &accepted, &stale);
            s.spawn(move || {
                let poller = fabric.poller(&format!("poller {n}"));
                let mut channel =
                    fabric.channel(&poller, Eager::default(), ChannelConfig::depth(32)).unwrap();
                let mut out = [Completion::EMPTY; 32];
                let mut handles = [None; TARGETS];
                let (mut sent, mut ended) = (0, 0);
                for turn in 0_u64.. {
                    if turn % 8 == 0 {
                        // Old handles are used on purpose until then.
                        handles = std::array::from_fn(|i| look(&published[i]));
                    }
                    let Ok(mut pinned) = channel.pin() else { continue };
                    for handle in handles.iter().flatten() {
                        match pinned.submit(Op::fill(handle.span(0..LEN), WRITTEN)) {
                            Submit::Queued(_) => sent += 1,
                            Submit::Stale(_) => {
                                stale.fetch_add(1, Ordering::Relaxed);
                            }
                            Submit::Full => break,
                            other => panic!("{other:?}"),
                        }
                    }
                    pinned.ring();
                    if let Ok(mut pinned) = channel.pin() {
                        let n = pinned.poll(&mut out);
                        ended += n as u64;
                        assert!(
                            out[..n].iter().all(|c| c.status == Status::Done || c.status == Status::Revoked)
                        );
                    }
                    if turn % 64 == n as u64 {
                        channel.park();
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // A core shared with others: let them.
                    if turn % 32 == 0 {
                        std::thread::yield_now();
                    }
                }
                let mut left = Vec::new();
                while ended < sent {
                    left.clear();
                    let _ = channel.reclaim(&mut left);
                    ended += left.len() as u64;
                    if let Ok(mut pinned) = channel.pin() {
                        ended += pinned.poll(&mut out) as u64;
                    }
                }
                assert_eq!(ended, sent, "every ticket completes once");
                accepted.fetch_add(sent, Ordering::Relaxed);
            });
        }
        let revokers: Vec<_> = (0..2_usize)
            .map(|half| {
                let (fabric, published) = (fabric.clone(), published.clone());
                s.spawn(move || {
                    let mut done = 0;
                    while done < REVOKES / 2 && begun.elapsed() < Duration::from_secs(20) {
                        let mine = [half * 2, half * 2 + 1];
                        let made = mine.map(|n| {
                            let memory = Memory::allocate("stress", LEN).unwrap();
                            let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
                            *published[n].lock().unwrap_or_else(PoisonError::into_inner) =
                                Some(region.handle());
                            (memory, region)
                        });
                        std::hint::black_box((0..done % 200).sum::<u64>());
                        // Alternately one by one, in a batch, and by two revokers at once.
                        let by = Deadline::millis(5_000, 10_000);
                        let (a, b) = (&made[0].1, &made[1].1);
                        match done % 3 {
                            0 => {
                                assert!(a.revoke(Cause::User, by).wait().unwrap().is_clean());
                                assert!(b.revoke(Cause::User, by).wait().unwrap().is_clean());
                            }
                            1 => {
                                let batch = [a.revocable(), b.revocable()];
                                assert!(fabric.revoke(&batch, Cause::User, by).wait().unwrap().is_clean());
                            }
                            _ => {
                                let (first, second) = (a.revoke(Cause::User, by), a.revoke(Cause::User, by));
                                assert!(second.wait().unwrap().is_clean());
                                assert!(first.wait().unwrap().is_clean());
                                assert!(b.revoke(Cause::User, by).wait().unwrap().is_clean());
                            }
                        }
                        done += 2;
                        for (memory, _) in &made {
                            let first = memory.load64(0).unwrap();
                            assert!(first == 0 || first == WRITTEN, "torn: {first:#x}");
                            for at in (0..LEN).step_by(8) {
                                assert!(memory.store64(at, POISON));
                            }
                        }
                        // Time for a late write to show itself.
                        for _ in 0..200 {
                            std::hint::spin_loop();
                        }
                        for (memory, _) in &made {
                            for at in (0..LEN).step_by(8) {
                                assert_eq!(memory.load64(at), Some(POISON), "written after its revoke");
                            }
                        }
                    }
                    done
                })
            })
            .collect();
        let done: u64 = revokers.into_iter().map(|r| r.join().unwrap()).sum();
        stop.store(true, Ordering::Relaxed);
        assert!(done >= 100, "{done} revokes in {:?}", begun.elapsed());
    });
    assert!(accepted.load(Ordering::Relaxed) > 0 && stale.load(Ordering::Relaxed) > 0);
    assert!(fabric.inspect().quarantine.is_empty());
}

#[test]
fn no_write_lands_after_a_clean_revoke_with_membarrier() {
    run(BarrierMode::Auto, 2);
}

#[test]
fn no_write_lands_after_a_clean_revoke_with_fences() {
    run(BarrierMode::Never, 1);
}
