//! Time of reads and no-ops through the kernel's ring.
#![allow(missing_docs, reason = "criterion's macros")]

mod common;

use criterion::{Criterion, criterion_group, criterion_main};

fn uring(criterion: &mut Criterion) {
    common::groups(criterion, &["uring"]);
}

criterion_group!(benches, uring);
criterion_main!(benches);
