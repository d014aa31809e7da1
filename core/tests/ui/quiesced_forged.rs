//~ E0451 private
use tidegate_core::drain::{Quiesced, Report};
fn forge(gate: tidegate_core::Gate, report: Box<Report>) -> Quiesced {
    Quiesced { gate, generation: 1, report, restored: false }
}
fn main() {
    let _ = forge;
}
