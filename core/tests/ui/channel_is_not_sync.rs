//~ E0277 cannot be shared between threads safely
use tidegate_core::{Channel, engine::cpu::Cpu};
fn needs_sync<T: Sync>() {}
fn main() {
    needs_sync::<Channel<Cpu>>();
}
