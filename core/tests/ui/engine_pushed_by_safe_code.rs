//~ E0133 unsafe
use tidegate_core::engine::{Engine, Operation, Target, cpu::Cpu};
fn forge() {
    let to = Target { address: 8, len: 8, region: 0, window: false };
    let mut engine = Cpu::new(1);
    let _ = engine.push(0, &Operation::Fill { to, pattern: 0 });
    engine.doorbell();
}
fn main() {
    forge();
}
