//~ E0277 cannot be sent between threads safely
use tidegate_core::{Pinned, engine::cpu::Cpu};
fn needs_send<T: Send>() {}
fn main() {
    needs_send::<Pinned<'static, Cpu>>();
}
