//! Time of grace periods.
#![allow(missing_docs, reason = "criterion's macros")]

mod common;

use criterion::{Criterion, criterion_group, criterion_main};

fn grace(criterion: &mut Criterion) {
    common::groups(criterion, &["grace-busy", "grace-idle"]);
}

criterion_group!(benches, grace);
criterion_main!(benches);
