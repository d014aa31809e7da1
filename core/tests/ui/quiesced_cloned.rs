//~ E0599 clone
fn copy(proof: tidegate_core::Quiesced) -> (tidegate_core::Quiesced, tidegate_core::Quiesced) {
    (proof.clone(), proof)
}
fn main() {
    let _ = copy;
}
