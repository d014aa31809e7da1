//! Time of operations on another core.
#![allow(missing_docs, reason = "criterion's macros")]

mod common;

use criterion::{Criterion, criterion_group, criterion_main};

fn worker(criterion: &mut Criterion) {
    common::groups(criterion, &["worker", "worker-copy", "copy-cold"]);
}

criterion_group!(benches, worker);
criterion_main!(benches);
