//! What a worker promises beyond `cpu/tests.rs`: stops, several engines a thread, ends.

use super::*;
use crate::engine::copy::{Copier, Table};
use crate::engine::cpu::tests as shared;
use crate::engine::cpu::tests::Rig;
use crate::{Access, Cause, ChannelConfig, Completion, Deadline, Fabric, Memory, Op, Seized, Status, Submit};
use proptest::prelude::*;

/// Two CPUs are enough for these tests, and one that is taken away is.
fn napping() -> ThreadConfig {
    let idle = Idle::Nap { after: Duration::from_micros(20), nap: Duration::from_micros(100) };
    ThreadConfig { idle, ..ThreadConfig::default() }
}

fn worker(chunk: u64) -> Worker {
    Worker::spawn(napping(), shared::config(chunk)).unwrap()
}

#[test]
fn overlapping_copies_are_moves_beside() {
    shared::overlapping_copies_are_moves(worker(4096));
}

#[test]
fn operations_are_done_in_order_beside() {
    shared::operations_are_done_in_order(worker(4096));
    shared::operations_are_done_in_order(
        Worker::spawn(ThreadConfig::default(), CpuConfig::depth(6)).unwrap(),
    );
}

#[test]
fn a_cancel_withdraws_what_is_not_done_beside() {
    for chunk in [4096, 64 << 10] {
        shared::a_cancel_withdraws_what_is_not_done(worker(chunk));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn random_operations_beside(
        ops in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>()), 1..20),
    ) {
        shared::random_operations(worker(8192), &ops);
    }
}

#[test]
fn a_ring_goes_round_and_answers_full_when_it_is() {
    let mut rig = Rig::new(Worker::spawn(napping(), CpuConfig::depth(5)).unwrap(), 1, 4096);
    for round in 0..200_u64 {
        let mut queued = 0;
        {
            let mut pinned = rig.channel.pin().unwrap();
            for i in 0..=5 {
                match pinned.submit(Op::fence().cookie(round * 5 + i)) {
                    Submit::Queued(_) => queued += 1,
                    answer => assert_eq!((answer, i), (Submit::Full, 5)),
                }
            }
        }
        assert_eq!(queued, 5);
        let cookies: Vec<u64> = rig.complete(5).iter().map(|c| c.cookie).collect();
        assert!(cookies.into_iter().eq(round * 5..round * 5 + 5));
    }
}

#[test]
fn nothing_is_done_before_the_doorbell() {
    const LEN: u64 = 64;
    let mut rig = Rig::new(worker(4096), 2, LEN);
    rig.regions[0].write(0, &shared::noise(LEN)).unwrap();
    let ops = [rig.copy(0, 1), Op::fence(), Op::fence()];
    let mut pinned = rig.channel.pin().unwrap();
    for op in ops {
        assert!(matches!(pinned.submit(op), Submit::Queued(_)));
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(5) {
        assert_eq!(pinned.poll(&mut [Completion::EMPTY; 4]), 0);
    }
    drop(pinned);
    rig.complete(3);
    assert!(rig.bytes(1) == shared::noise(LEN));
}

#[test]
fn one_thread_serves_several_engines() {
    let thread = WorkerThread::spawn(napping()).unwrap();
    let mut rigs: Vec<_> = (0..3).map(|_| Rig::new(thread.engine(shared::config(4096)), 2, 65_536)).collect();
    // Its engines keep it going.
    drop(thread);
    for (i, rig) in rigs.iter_mut().enumerate() {
        rig.regions[0].write(i as u64, &[i as u8 + 1; 100]).unwrap();
        rig.submit(&vec![rig.copy(0, 1); 20]);
    }
    // One that goes takes nothing from the others.
    drop(rigs.remove(1));
    for rig in &mut rigs {
        rig.complete(20);
        assert!(rig.bytes(0) == rig.bytes(1));
    }
}

#[test]
fn a_dropped_engine_touches_nothing_any_more() {
    let mut bytes = vec![0_u8; 8 << 20];
    for _ in 0..20 {
        // A turn long enough to be noticed.
        let mut worker = worker(64 << 20);
        let to =
            Target { address: bytes.as_mut_ptr() as u64, len: bytes.len() as u64, region: 0, window: false };
        for index in 0..8 {
            let fill = Operation::Fill { to, pattern: !0 };
            // SAFETY: 1. `bytes` outlives the engine and is not looked at before it was dropped.
            assert_eq!(unsafe { worker.push(index, &fill) }, Push::Taken);
        }
        worker.doorbell();
        drop(worker);
        bytes.fill(0x55);
        for _ in 0..1000 {
            std::hint::spin_loop();
        }
        assert!(bytes.iter().all(|b| *b == 0x55), "written after it was dropped");
    }
}

#[test]
fn a_cpu_that_may_not_be_used_is_an_error() {
    for cpu in [8191, 1 << 20] {
        let config = ThreadConfig { cpu: Some(cpu), ..napping() };
        let refused = WorkerThread::spawn(config).err();
        assert_eq!(refused, Some(WorkerError::Os { op: "sched_setaffinity", errno: libc::EINVAL }));
    }
}

fn fence(worker: &mut Worker, index: u32) -> Push {
    // SAFETY: 1. a fence has no operands.
    unsafe { worker.push(index, &Operation::Fence) }
}

#[test]
fn a_full_queue_that_is_stopped_takes_nothing_until_it_is_resumed() {
    let mut worker = worker(4096);
    assert_eq!(fence(&mut worker, 0), Push::Taken);
    worker.doorbell();
    while worker.cancel() == Cancel::Pending {}
    assert_eq!(fence(&mut worker, 1), Push::Full);
    assert!(worker.resume());
    assert_eq!(fence(&mut worker, 1), Push::Taken);
}

#[test]
fn a_condemned_engine_leaves_quarantine_once_its_thread_has_obeyed() {
    // A thread that gets no CPU: it is started later.
    let inbox = Mutex::new(Inbox { lanes: Vec::new(), closed: false });
    let shared = Arc::new(Shared { news: AtomicU64::new(0), inbox });
    let thread = WorkerThread { shared: shared.clone(), thread: std::thread::current() };
    let fabric = Fabric::builder().manual().build().unwrap();
    let memory = Memory::allocate("condemned", 4096).unwrap();
    let region = fabric.register(memory.backing(), Access::ReadWrite).unwrap();
    let engine = thread.engine(shared::config(4096));
    let mut channel = fabric.channel(&fabric.poller("test"), engine, ChannelConfig::default()).unwrap();
    let fill = Op::fill(region.handle().span(0..4096), !0);
    assert!(matches!(channel.pin().unwrap().submit(fill), Submit::Queued(_)));
    let report = region.revoke(Cause::User, Deadline::millis(0, 0)).wait().unwrap();
    assert!(!report.is_clean(), "{report:?}");
    for _ in 0..100 {
        fabric.turn();
    }
    assert!(!fabric.inspect().quarantine.is_empty(), "the thread has not obeyed yet");
    drop(thread);
    let thread = std::thread::spawn(move || work(&shared, napping().idle));
    let begun = Instant::now();
    while !fabric.inspect().quarantine.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", fabric.inspect().quarantine);
        fabric.turn();
        std::thread::yield_now();
    }
    thread.join().unwrap();
    let mut bytes = [1; 4096];
    memory.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4096], "it was withdrawn");
}

/// Revokes at random while a poller copies into regions that come and go: what was revoked is not written any more,
/// and every operation completes once.
#[test]
fn no_write_lands_after_a_revoke_of_what_a_worker_copies_to() {
    const LEN: u64 = 256 << 10;
    let fabric = Fabric::builder().build().unwrap();
    let memory = Memory::allocate("worker", 2 * LEN).unwrap();
    let source = fabric.register(memory.slice(0..LEN).unwrap(), Access::Read).unwrap();
    memory.write(0, &vec![1; LEN as usize]).unwrap();
    let mut config = CpuConfig { depth: 64, chunk: 16 << 10, copier: Copier::with(Table::detect()) };
    config.copier = config.copier.temporal(crate::engine::copy::Temporal::Cold);
    let engine = Worker::spawn(napping(), config).unwrap();
    let mut channel = fabric.channel(&fabric.poller("test"), engine, ChannelConfig::depth(64)).unwrap();
    let (mut sent, mut ended) = (0_u64, 0_u64);
    let (mut done, mut revoked) = (0, 0);
    let mut out = [Completion::EMPTY; 64];
    for round in 0..60_u64 {
        let target = fabric.register(memory.slice(LEN..2 * LEN).unwrap(), Access::ReadWrite).unwrap();
        let handle = target.handle();
        std::thread::scope(|s| {
            let revoker = s.spawn(|| {
                for _ in 0..round * 300 {
                    std::hint::spin_loop();
                }
                let report = target.revoke(Cause::User, Deadline::millis(0, 60_000)).wait().unwrap();
                assert!(report.is_clean());
                // Ours again.
                let mine = vec![round as u8 | 0x80; LEN as usize];
                memory.write(LEN, &mine).unwrap();
                for _ in 0..2000 {
                    std::hint::spin_loop();
                }
                let mut back = vec![0; LEN as usize];
                memory.read(LEN, &mut back).unwrap();
                assert!(back == mine, "written after its revoke");
            });
            let mut stale = false;
            let mut left = Vec::new();
            while !stale || ended < sent {
                left.clear();
                let _ = channel.reclaim(&mut left);
                match channel.pin() {
                    Ok(mut pinned) => {
                        while !stale {
                            match pinned.submit(Op::copy(source.span(), handle.span(0..LEN))) {
                                Submit::Queued(_) => sent += 1,
                                Submit::Full => break,
                                answer => {
                                    assert!(matches!(answer, Submit::Stale(_)), "{answer:?}");
                                    stale = true;
                                }
                            }
                        }
                        let n = pinned.poll(&mut out);
                        left.extend_from_slice(&out[..n]);
                    }
                    Err(Seized) => std::hint::spin_loop(),
                }
                ended += left.len() as u64;
                done += left.iter().filter(|c| c.status == Status::Done).count();
                revoked += left.iter().filter(|c| c.status == Status::Revoked).count();
                if left.is_empty() {
                    std::thread::yield_now();
                }
            }
            revoker.join().unwrap();
        });
    }
    assert_eq!((sent, ended as usize), (ended, done + revoked));
    assert!(revoked > 0);
}
