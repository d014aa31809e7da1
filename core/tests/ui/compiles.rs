// The control: what is right compiles.
use tidegate_core::{Op, Private, Reason, Region, Shared};
fn flows(private: &Region<Private>, shared: &Region<Shared>) -> [Op; 3] {
    let declassified = private.span().declassify(Reason::Encrypted);
    [Op::copy(shared.span(), private.span()), Op::copy(declassified, shared.span()), Op::write(declassified, 0)]
}
fn main() {
    let _ = flows;
}
