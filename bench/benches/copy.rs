//! Time of copy kernels.
#![allow(missing_docs, reason = "criterion's macros")]

mod common;

use criterion::{Criterion, criterion_group, criterion_main};

fn copy(criterion: &mut Criterion) {
    common::groups(criterion, &["copy"]);
}

criterion_group!(benches, copy);
criterion_main!(benches);
