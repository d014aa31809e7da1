//! What `ci/tsan` runs, without a test harness. In any other build the same are unit tests (`epoch::race`).

fn main() {
    #[cfg(tidegate_tsan)]
    tidegate_core::races();
}
