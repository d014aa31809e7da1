//! Loom models of the lane: the production code, jobs that touch a cell which loom watches.

use super::lane::{Serve, Server, Submitter, Turn, lane};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

/// What the jobs write: one cell for each number.
struct Memory(Vec<UnsafeCell<u32>>);

// SAFETY: 1. loom's cell reports every unordered access.
#[expect(unsafe_code, reason = "loom checks it")]
unsafe impl Sync for Memory {}
// SAFETY: 1. plain data.
#[expect(unsafe_code, reason = "loom checks it")]
unsafe impl Send for Memory {}

impl Memory {
    fn new(cells: u32) -> Arc<Memory> {
        Arc::new(Memory((0..cells).map(|_| UnsafeCell::new(0)).collect()))
    }

    #[expect(unsafe_code, reason = "the access that loom checks")]
    fn touch(&self, cell: u32) -> u32 {
        // SAFETY: 1. loom checks that nobody else touches it meanwhile.
        self.0[cell as usize].with_mut(|p| unsafe {
            *p += 1;
            *p
        })
    }
}

/// Writes a cell a job, in `pieces` turns.
struct Toucher {
    memory: Arc<Memory>,
    pieces: u32,
    left: u32,
}

impl Serve<u32> for Toucher {
    fn begin(&mut self) {}
    fn run(&mut self, cell: &u32) -> bool {
        self.memory.touch(*cell);
        self.left -= 1;
        if self.left == 0 {
            self.left = self.pieces;
        }
        self.left == self.pieces
    }
    fn publish(&mut self) {}
    fn abandon(&mut self) {
        self.left = self.pieces;
    }
}

/// A worker of `turns` turns, or fewer if the submitter goes.
fn serve(mut server: Server<u32>, memory: &Arc<Memory>, pieces: u32, turns: u32) -> thread::JoinHandle<()> {
    let mut with = Toucher { memory: memory.clone(), pieces, left: pieces };
    thread::spawn(move || {
        for _ in 0..turns {
            match server.turn(&mut with) {
                Turn::Busy => {}
                Turn::Idle => thread::yield_now(),
                Turn::Gone => return,
            }
        }
    })
}

fn push(submitter: &mut Submitter<u32>, cells: &[u32]) {
    for cell in cells {
        submitter.push(*cell);
    }
    submitter.ring();
}

/// A burst is run whole and in order, and what it did comes with the count.
#[test]
fn model_worker_burst() {
    loom::model(|| {
        let memory = Memory::new(2);
        let (mut submitter, server) = lane(1, u32::MAX);
        let worker = serve(server, &memory, 1, 3);
        push(&mut submitter, &[0, 1]);
        for _ in 0..2 {
            for cell in 0..submitter.done() as u32 {
                memory.touch(cell);
            }
            thread::yield_now();
        }
        worker.join().unwrap();
    });
}

/// A slot is written again only when its job is over.
#[test]
fn model_worker_slot_reuse() {
    loom::model(|| {
        let memory = Memory::new(3);
        // Two slots.
        let (mut submitter, server) = lane(1, u32::MAX);
        let worker = serve(server, &memory, 1, 4);
        push(&mut submitter, &[0]);
        push(&mut submitter, &[1]);
        for _ in 0..3 {
            if submitter.done() >= 1 {
                push(&mut submitter, &[2]);
                break;
            }
            thread::yield_now();
        }
        worker.join().unwrap();
    });
}

/// After a stop nothing is touched, also by a job that was begun; what was not done never runs.
#[test]
fn model_worker_stop() {
    loom::model(|| {
        let memory = Memory::new(2);
        let (mut submitter, server) = lane(1, u32::MAX);
        let worker = serve(server, &memory, 2, 4);
        push(&mut submitter, &[0, 1]);
        for _ in 0..3 {
            if submitter.stop() {
                // The memory is somebody else's.
                memory.touch(0);
                memory.touch(1);
                submitter.resume();
                break;
            }
            thread::yield_now();
        }
        worker.join().unwrap();
    });
}

/// After a stop and a resume only what was pushed since is run.
#[test]
fn model_worker_resume() {
    loom::model(|| {
        let memory = Memory::new(3);
        let (mut submitter, server) = lane(1, u32::MAX);
        let worker = serve(server, &memory, 1, 4);
        push(&mut submitter, &[0]);
        for _ in 0..3 {
            if submitter.stop() {
                let done = submitter.done();
                let before = memory.touch(0);
                submitter.resume();
                push(&mut submitter, &[2]);
                for _ in 0..2 {
                    if submitter.done() > done {
                        assert_eq!(memory.touch(0), before + 1, "a job that was withdrawn was run");
                        memory.touch(2);
                        break;
                    }
                    thread::yield_now();
                }
                break;
            }
            thread::yield_now();
        }
        worker.join().unwrap();
    });
}

/// The submitter goes while a job runs.
#[test]
fn model_worker_leave() {
    loom::model(|| {
        let memory = Memory::new(1);
        let (mut submitter, server) = lane(1, u32::MAX);
        let worker = serve(server, &memory, 2, 4);
        push(&mut submitter, &[0]);
        for _ in 0..3 {
            if submitter.leave() {
                memory.touch(0);
                break;
            }
            thread::yield_now();
        }
        worker.join().unwrap();
    });
}

/// The answer to one stop is no answer to the next.
#[test]
fn model_worker_stop_again() {
    loom::model(|| {
        let memory = Memory::new(1);
        let (mut submitter, server) = lane(1, u32::MAX);
        let worker = serve(server, &memory, 2, 4);
        let _ = submitter.stop();
        thread::yield_now();
        if submitter.stop() {
            submitter.resume();
            push(&mut submitter, &[0]);
            for _ in 0..2 {
                if submitter.stop() {
                    memory.touch(0);
                    break;
                }
                thread::yield_now();
            }
        }
        worker.join().unwrap();
    });
}
