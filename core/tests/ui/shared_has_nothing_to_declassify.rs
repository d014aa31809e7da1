//~ E0599 declassify
use tidegate_core::{Reason, Region, Shared};
fn pointless(shared: &Region<Shared>) {
    let _ = shared.span().declassify(Reason::Published);
}
fn main() {
    let _ = pointless;
}
