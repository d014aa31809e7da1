//~ E0382 proof
fn twice(proof: tidegate_core::Quiesced) {
    let _ = proof.restore();
    let _ = proof.restore();
}
fn main() {
    let _ = twice;
}
