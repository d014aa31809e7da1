//! cross: one 8-byte element from core to core, against rings.

use super::Group;
use crate::cpus::beside;
use crate::missing::Missing;
use crate::rig::Rig;
use crate::round::Round;
use crate::stats::Sorted;
use crossbeam_queue::ArrayQueue;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use tidegate_core::spsc;

/// Elements that each ring holds.
const SIZE: usize = 1024;

/// Sends `n` elements over, in bursts; both sides run until all have come. Nanoseconds an element. Whoever has handles
/// moves each to its side: left on the caller's stack, two that are small share a line.
fn stream(rig: &Rig, n: u64, produce: impl FnOnce(u64), consume: impl FnOnce(u64) -> u64 + Send) -> f64 {
    let (done, go) = (AtomicBool::new(false), AtomicBool::new(false));
    let consumer = |beat: &crate::cpus::Beat| {
        beat.ready();
        while !go.load(Ordering::Acquire) {
            spin_loop();
        }
        let sum = consume(n);
        assert_eq!(sum, n * (n - 1) / 2, "every element once");
        done.store(true, Ordering::Release);
    };
    beside(rig.worker, consumer, || {
        let time = rig.clock.time(|| {
            go.store(true, Ordering::Release);
            produce(n);
            while !done.load(Ordering::Acquire) {
                spin_loop();
            }
        });
        time / n as f64
    })
}

/// Calls `push` with slices of `burst` consecutive numbers until each is taken.
fn produce(n: u64, burst: usize, mut push: impl FnMut(&[u64]) -> usize) {
    let mut values = [0; 32];
    let mut sent = 0;
    while sent < n {
        for (i, value) in values[..burst].iter_mut().enumerate() {
            *value = sent + i as u64;
        }
        let mut at = 0;
        while at < burst {
            let pushed = push(&values[at..burst]);
            if pushed == 0 {
                spin_loop();
            }
            at += pushed;
        }
        sent += burst as u64;
    }
}

/// Calls `pop` until `n` came; their sum.
fn consume(n: u64, burst: usize, mut pop: impl FnMut(&mut [u64]) -> usize) -> u64 {
    let mut values = [0; 32];
    let (mut got, mut sum) = (0, 0);
    while got < n {
        let popped = pop(&mut values[..burst]);
        if popped == 0 {
            spin_loop();
        }
        sum += values[..popped].iter().sum::<u64>();
        got += popped as u64;
    }
    sum
}

fn ours(rig: &Rig, n: u64, burst: usize) -> f64 {
    let (mut producer, mut consumer) = spsc::ring(SIZE);
    // One at a time has a path of its own, as in every peer.
    let push = move |n| {
        produce(n, burst, |values| match values {
            [one] => usize::from(producer.push(*one).is_ok()),
            many => producer.push_slice(many),
        });
    };
    let pop = move |n| {
        consume(n, burst, |values| match values {
            [one] => consumer.pop().map_or(0, |value| {
                *one = value;
                1
            }),
            many => consumer.pop_slice(many),
        })
    };
    stream(rig, n, push, pop)
}

fn rte_ring(rig: &Rig, n: u64, burst: usize) -> Result<f64, Missing> {
    let mut ring = rig.dpdk.as_ref().map_err(Clone::clone)?.ring(SIZE as u32)?;
    let (mut producer, mut consumer) = ring.sides();
    let burst = burst as u32;
    Ok(stream(rig, n, |n| producer.produce(n, burst), move |n| consumer.consume(n, burst)))
}

fn rtrb(rig: &Rig, n: u64, burst: usize) -> f64 {
    let (mut producer, mut consumer) = rtrb::RingBuffer::new(SIZE);
    let push = move |n| {
        produce(n, burst, |values| match values {
            [one] => usize::from(producer.push(*one).is_ok()),
            many => producer.push_partial_slice(many).0.len(),
        });
    };
    let pop = move |n| {
        consume(n, burst, |values| match values {
            [one] => consumer.pop().map_or(0, |value| {
                *one = value;
                1
            }),
            many => consumer.pop_partial_slice(many).0.len(),
        })
    };
    stream(rig, n, push, pop)
}

fn queue(rig: &Rig, n: u64, burst: usize) -> f64 {
    let queue = ArrayQueue::new(SIZE);
    let push = |n| produce(n, burst, |values| values.iter().take_while(|v| queue.push(**v).is_ok()).count());
    let pop = |n| {
        consume(n, burst, |values| {
            let mut popped = 0;
            for (slot, value) in values.iter_mut().zip(std::iter::from_fn(|| queue.pop())) {
                *slot = value;
                popped += 1;
            }
            popped
        })
    };
    stream(rig, n, push, pop)
}

pub(super) struct Cross;

/// Slices of each contender a round, in turn.
const SLICES: usize = 5;

impl Group for Cross {
    fn crosses(&self) -> bool {
        true
    }

    fn round(&mut self, rig: &Rig, round: &mut Round<'_>) -> Result<(), Missing> {
        for (series, burst) in [("cross/burst-32", 32), ("cross/burst-1", 1)] {
            let n = 32 * rig.samples(40_000) as u64;
            type Race<'a> = (&'a str, &'a dyn Fn() -> Result<f64, Missing>);
            let contenders: [Race<'_>; 4] = [
                ("", &|| Ok(ours(rig, n, burst))),
                ("@rte_ring", &|| rte_ring(rig, n, burst)),
                ("@rtrb", &|| Ok(rtrb(rig, n, burst))),
                ("@crossbeam-queue", &|| Ok(queue(rig, n / 4, burst))),
            ];
            let mut figures = [const { Vec::new() }; 4];
            for _ in 0..SLICES {
                for ((peer, run), figures) in contenders.iter().zip(&mut figures) {
                    match run() {
                        Ok(figure) => figures.push(figure),
                        Err(why) => round.miss(&format!("{series}{peer}"), &why),
                    }
                }
            }
            for ((peer, _), figures) in contenders.iter().zip(figures) {
                if !figures.is_empty() {
                    round.put(&format!("{series}{peer}"), Sorted::new(figures).median());
                }
            }
        }
        Ok(())
    }
}
