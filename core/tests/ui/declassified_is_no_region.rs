//~ E0277 RegionTag
use tidegate_core::{Declassified, Op, Private, Reason, Span};
fn read_into(span: Span<Private>) -> Op {
    let into: Span<Declassified> = span.declassify(Reason::Published);
    Op::read(0, into)
}
fn main() {
    let _ = read_into;
}
