//! Random schedules against a reference model: submit, complete out of order, twice or never, revoke, quiesce, cancel,
//! sleep, park, drop, make anew. One thread plays them, so a seed is a schedule: proptest shrinks what fails and prints
//! it. (Threads at the same time: `core/examples/soak`.)

#[path = "../common/mod.rs"]
mod common;
mod model;
mod owner;
mod play;
mod step;

use proptest::prelude::*;
use tidegate_core::BarrierMode;

/// Schedules; `PROPTEST_CASES` asks for more or fewer.
const CASES: u32 = 1000;

fn config() -> ProptestConfig {
    // What fails is printed, shrunk; a file of seeds would go stale with every new kind of step.
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    if asked { default } else { ProptestConfig { cases: CASES, ..default } }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_schedule_keeps_to_the_model(steps in prop::collection::vec(step::step(), 1..120), fences: bool) {
        let barrier = if fences { BarrierMode::Never } else { BarrierMode::Auto };
        let mut play = play::Play::new(barrier);
        for step in &steps {
            play.step(step);
        }
        play.end();
    }
}
