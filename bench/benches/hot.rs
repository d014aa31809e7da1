//! Time of the hot path: sections, no-ops, beside other channels, over many regions.
#![allow(missing_docs, reason = "criterion's macros")]

mod common;

use criterion::{Criterion, criterion_group, criterion_main};

fn hot(criterion: &mut Criterion) {
    common::groups(criterion, &["pin", "inline", "scale", "regions"]);
}

criterion_group!(benches, hot);
criterion_main!(benches);
