//~ E0277 must not flow to
use tidegate_core::{Op, Private, Region, Shared};
fn leak(private: &Region<Private>, shared: &Region<Shared>) -> Op {
    Op::copy(private.span(), shared.span())
}
fn main() {
    let _ = leak;
}
