//! An owner that died inside its section, and whoever got its channel.

use super::{Memory, check};
use crate::epoch::{Barrier, Epoch, Grace, Line, Lines};
use crate::region::Class;
use crate::region::slot::word;
use crate::region::table::{Place, Table};
use crate::sync::{AtomicU64, Ordering, fence};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const PLACE: Place = Place {
    class: Class::Host,
    domain: 1,
    readable: true,
    writable: true,
    device: Some(0),
    cpu: None,
    len: 1,
};

/// Submit's check, and the device's access.
fn touch(table: &Table, memory: &Memory) {
    let seen = table.slot(0).unwrap().word.load(Ordering::Acquire);
    if seen & word::LIVE != 0 {
        memory.touch();
    }
}

/// The dead thread's section is past once the kernel said so (a flag behind a full barrier, as `exit_mm` has it); the
/// section of its heir is not.
#[test]
fn model_dead_owner() {
    check(2, || {
        let epoch = Arc::new(Epoch::new(Barrier::Fence));
        let table = Arc::new(Table::new(1, 1));
        table.publish(PLACE).unwrap();
        let line = Arc::new(Line::new());
        assert!(epoch.register(&line));
        let memory = Arc::new(Memory { taken: UnsafeCell::new(false), touched: AtomicBool::new(false) });
        let gone = Arc::new(AtomicU64::new(0));
        let owner = {
            let (epoch, table, line) = (epoch.clone(), table.clone(), line.clone());
            let (memory, gone) = (memory.clone(), gone.clone());
            thread::spawn(move || {
                line.thread.store(1, Ordering::Release);
                let _ = epoch.enter(&line, true);
                touch(&table, &memory);
                // Never left. Its heir:
                let heir = {
                    let (epoch, table, line, memory) = (epoch, table, line, memory);
                    thread::spawn(move || {
                        line.thread.store(2, Ordering::Release);
                        let entered = epoch.enter(&line, true);
                        touch(&table, &memory);
                        epoch.leave(&line, entered);
                    })
                };
                fence(Ordering::SeqCst);
                gone.store(1, Ordering::Relaxed);
                heir.join().unwrap();
            })
        };
        table.mark(0);
        let lines: Lines = Arc::new([line]);
        let mut grace = Grace::begin(&epoch, || lines);
        for _ in 0..3 {
            let over = grace.turn(&epoch) || {
                grace.bury(&epoch, |who| who.serial == 1 && gone.load(Ordering::Relaxed) == 1);
                grace.pending().is_empty()
            };
            if over {
                memory.reuse();
                break;
            }
            thread::yield_now();
        }
        owner.join().unwrap();
    });
}
