//! The targets under libFuzzer: `TIDEGATE_FUZZ=NAME fuzz [libFuzzer's options] DIRECTORY..`; see `ci/fuzz`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use tidegate_fuzz::{Target, targets};

static TARGET: OnceLock<Target> = OnceLock::new();

/// The target that the environment names. Asked once: libFuzzer has no place for an argument of ours.
fn target() -> Target {
    *TARGET.get_or_init(|| {
        let name = std::env::var("TIDEGATE_FUZZ").unwrap_or_default();
        targets().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name:?}"))
    })
}

fuzz_target!(|input: &[u8]| {
    (target().run)(input);
});
