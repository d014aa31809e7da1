//~ E0382 pinned
use tidegate_core::{Channel, Op, engine::cpu::Cpu};
fn late(channel: &mut Channel<Cpu>) {
    let Ok(mut pinned) = channel.pin() else { return };
    pinned.ring();
    let _ = pinned.submit(Op::fence());
}
fn main() {
    let _ = late;
}
