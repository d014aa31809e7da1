//~ E0277 must not flow to
use tidegate_core::{Op, Private, Region};
fn leak(private: &Region<Private>) -> Op {
    Op::write(private.span(), 0)
}
fn main() {
    let _ = leak;
}
