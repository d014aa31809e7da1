//! Random operations against a model of the file and of memory.

use super::{World, contents, file_of, pattern, ring_or_skip};
use proptest::prelude::*;
use std::ops::Range;
use std::time::Duration;
use tidegate_core::engine::uring::{SqPoll, Uring};
use tidegate_core::{Completion, Op, Status, Submit};

const FILE: u64 = 48 << 10;
const MEMORY: u64 = 64 << 10;

#[derive(Debug, Clone)]
struct Step {
    write: bool,
    /// In the file; reads may go beyond its end.
    at: u64,
    /// In memory.
    span: Range<u64>,
}

fn step() -> impl Strategy<Value = Step> {
    (any::<bool>(), 0..MEMORY, 0..MEMORY, 1..20_000_u64).prop_map(|(write, at, start, len)| {
        let len = len.min(MEMORY - start);
        let at = if write { at.min(FILE - 1) } else { at };
        let len = if write { len.min(FILE - at) } else { len };
        Step { write, at, span: start..start + len }
    })
}

impl Step {
    fn file(&self) -> Range<u64> {
        self.at..self.at + (self.span.end - self.span.start)
    }
    /// May these two run at once, with one outcome?
    fn conflicts(&self, other: &Step) -> bool {
        let overlap = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        (self.write || other.write) && overlap(&self.file(), &other.file())
            || (!self.write || !other.write) && overlap(&self.span, &other.span)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_and_memory_are_what_the_operations_make_of_them(
        steps in proptest::collection::vec(step(), 1..60),
        registered in proptest::collection::vec((0..MEMORY, 1..MEMORY), 0..4),
        depth in 1..40_u32,
        sqpoll in any::<bool>(),
    ) {
        let mut file = pattern(FILE as usize, 1);
        let mut memory = pattern(MEMORY as usize, 2);
        let on_disk = file_of(&file);
        let mut builder = Uring::builder().file(on_disk.try_clone().unwrap()).depth(depth);
        if sqpoll {
            builder = builder.sqpoll(SqPoll { idle: Duration::from_millis(5), cpu: None });
        }
        let Some(engine) = ring_or_skip(builder) else { return Ok(()) };
        let buffers = engine.buffers();
        let mut world = World::new(engine, MEMORY);
        world.region.write(0, &memory).unwrap();
        let pieces = registered.into_iter().map(|(start, len)| start..(start + len).min(MEMORY));
        let _held: Vec<_> =
            pieces.map(|piece| buffers.register(&world.memory.slice(piece).unwrap()).unwrap()).collect();
        let handle = world.region.handle();
        // Runs of steps that do not conflict, with fences between.
        let mut ops = Vec::new();
        let mut run: Vec<&Step> = Vec::new();
        for step in &steps {
            if run.iter().any(|earlier| earlier.conflicts(step)) {
                ops.push((Op::fence(), 0));
                run.clear();
            }
            run.push(step);
            let span = handle.span(step.span.clone());
            let range = step.span.start as usize..step.span.end as usize;
            let at = step.at as usize;
            if step.write {
                file[at..at + range.len()].copy_from_slice(&memory[range.clone()]);
                ops.push((Op::write(span, step.at), range.len()));
            } else {
                let n = range.len().min(file.len().saturating_sub(at));
                let from = at.min(file.len());
                memory[range.start..range.start + n].copy_from_slice(&file[from..from + n]);
                ops.push((Op::read(step.at, span), n));
            }
        }
        let mut ended = vec![None; ops.len()];
        let mut out = [Completion::EMPTY; 7];
        let mut next = 0;
        while ended.iter().any(Option::is_none) {
            // As many as fit, then what has ended.
            let mut section = world.channel.pin().unwrap();
            while let Some((op, _)) = ops.get(next) {
                match section.submit(op.cookie(next as u64)) {
                    Submit::Queued(_) => next += 1,
                    Submit::Full => break,
                    refused => panic!("{refused:?}"),
                }
            }
            drop(section);
            let n = world.channel.pin().unwrap().poll(&mut out);
            for c in &out[..n] {
                let before = ended[c.cookie as usize].replace((c.status, c.len));
                prop_assert_eq!(before, None, "twice");
            }
        }
        let expect: Vec<_> = ops.iter().map(|(_, len)| Some((Status::Done, *len as u32))).collect();
        prop_assert_eq!(ended, expect);
        prop_assert!(contents(&on_disk) == file);
        prop_assert!(world.bytes(0, MEMORY as usize) == memory);
    }
}
