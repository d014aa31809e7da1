//! Criterion measures the driver's own closures, ours and the peers', one after the other.

use criterion::Criterion;
use std::time::Duration;
use tidegate_bench::children::Children;
use tidegate_bench::ids;
use tidegate_bench::rig::Rig;
use tidegate_bench::round::Round;

/// Every contender of these groups. What needs a build or a distribution of its own is left to ci/bench.
pub(crate) fn groups(criterion: &mut Criterion, names: &[&str]) {
    let rig = Rig::new(true, Children::default()).expect("a CPU");
    for name in names {
        let mut group = ids::group(name).unwrap_or_else(|why| panic!("{name}: {why}"));
        let mut round = Round::handing(|contender| {
            let series = contender.series().to_owned();
            criterion.bench_function(&series, |bench| {
                bench.iter_custom(|n| {
                    let n = n.max(1);
                    Duration::from_nanos((contender.slice(&rig, n) * n as f64) as u64)
                });
            });
        });
        group.round(&rig, &mut round).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}
