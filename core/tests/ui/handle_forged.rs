//~ E0616 private
fn forge(mut handle: tidegate_core::Handle<tidegate_core::Shared>) {
    handle.index = 3;
}
fn main() {
    let _ = forge;
}
