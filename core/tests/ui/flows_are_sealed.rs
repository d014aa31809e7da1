//~ E0117
use tidegate_core::{FlowsTo, Private, Shared};
impl FlowsTo<Shared> for Private {}
fn main() {}
