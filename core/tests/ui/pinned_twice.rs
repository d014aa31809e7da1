//~ E0499 channel
use tidegate_core::{Channel, Op, engine::cpu::Cpu};
fn twice(channel: &mut Channel<Cpu>) {
    let Ok(mut outer) = channel.pin() else { return };
    let _ = channel.pin();
    let _ = outer.submit(Op::fence());
}
fn main() {
    let _ = twice;
}
