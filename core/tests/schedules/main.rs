//! Random schedules against a reference model: submit one or a list of several, complete out of order, twice or never, revoke, quiesce, cancel,
//! sleep, die, park, drop, make anew. One thread plays them, so a seed is a schedule: proptest shrinks what fails and prints
//! it. (Threads at the same time: `core/examples/soak`.)

mod ask;
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

/// The drain that closes a channel behind a stuck owner has it in hand after the quiesce that gave up on it.
#[test]
fn a_channel_that_a_quiesce_gave_up_on_may_be_seized_after_it() {
    use step::{By, Step, What};
    let steps = [
        Step::Quiesce(0, By::Force),
        Step::Sleep(0),
        Step::Restore(0),
        Step::OnCancel(0, 1),
        Step::Submit(0, What::Fill, 0, 0, 1),
        Step::Control,
        Step::Restore(0),
    ];
    let mut play = play::Play::new(BarrierMode::Auto);
    steps.iter().for_each(|step| play.step(step));
    play.end();
}
