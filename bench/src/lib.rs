//! Tidegate's hot path measured side by side with what data planes use now.
//!
//! `ci/bench` runs the program `rounds`: every figure of ours and of its peers in turn, in each of several rounds, on
//! two cores; it writes ratios, not times. docs/benchmarks.md says what each id means; [`goals`] is the table.
//! Criterion benches (`cargo bench`) run the same closures one by one, for work on one of them.

pub mod chart;
pub mod children;
pub mod clock;
pub mod cpus;
pub mod goals;
pub mod guest;
pub mod ids;
pub mod line;
pub mod missing;
mod noop;
pub mod peers;
pub mod probe;
pub mod report;
pub mod rig;
pub mod round;
pub mod seams;
pub mod shapes;
pub mod stats;
pub mod tdisp;
pub mod watch;

pub use noop::NoOp;
