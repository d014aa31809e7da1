//~ E0451 private
fn forge(from: tidegate_core::Op) -> tidegate_core::Op {
    tidegate_core::Op { declassified: true, ..from }
}
fn main() {
    let _ = forge;
}
