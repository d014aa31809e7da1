//~ E0277 Sealed
#[derive(Debug, Clone, Copy)]
struct Mine;
impl tidegate_core::Tag for Mine {}
fn main() {}
